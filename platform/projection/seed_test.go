package projection

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
)

// A text is a logger's output.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *text) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *text) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), what)
}

// snapshotOf returns a Snapshot of a projector.
func snapshotOf(p *Projector) Snapshot {
	return func(ctx context.Context, view string, _ int, w io.Writer) error {
		_, err := p.Backup(ctx, view, w)
		return err
	}
}

// TestSnapshots begins a view with the snapshot of another projector, after several that cannot be used: then it goes on from there, and
// reads nothing of the log before. If none can be used, it is built from the log.
func TestSnapshots(t *testing.T) {
	rnd := seed(t)
	there := newRig(t, 2)
	history(rnd, there.log, 3000, 200)
	there.start(there.views()[0])
	there.wait("orders")
	other := newRig(t, 2)
	other.log.topic.ID = [16]byte{9}
	history(rnd, other.log, 100, 20)
	other.start(other.views()[0])
	other.wait("orders")
	empty := newRig(t, 2)
	empty.start(empty.views()[0])
	later := newRig(t, 2)
	history(rnd, later.log, 100, 20)
	later.start(func(p *Projector) error { return Add(p, version(2), Input[change]{later.log.topic, later.dec}) })
	later.wait("orders")
	bad := []Snapshot{
		func(context.Context, string, int, io.Writer) error { return errors.New("nobody is there") },
		func(_ context.Context, _ string, _ int, w io.Writer) error {
			_, err := io.WriteString(w, "millrace store backup 1\n")
			return err
		},
		func(ctx context.Context, view string, _ int, w io.Writer) error {
			var b bytes.Buffer
			if _, err := there.p.Backup(ctx, view, &b); err != nil {
				return err
			}
			b.Bytes()[rnd.IntN(b.Len())] ^= 1 << rnd.IntN(8)
			_, err := w.Write(b.Bytes())
			return err
		},
		snapshotOf(empty.p), snapshotOf(other.p), snapshotOf(later.p),
	}
	for name, tc := range map[string]struct {
		snapshots []Snapshot
		live      string
		warned    int
	}{
		"a good one":           {append(slices.Clone(bad), snapshotOf(there.p)), "v1-2", len(bad)},
		"a good one, at first": {[]Snapshot{snapshotOf(there.p)}, "v1-2", 0},
		"no good one":          {bad, "v1-1", len(bad)},
	} {
		t.Run(name, func(t *testing.T) {
			here := newRig(t, 2)
			log := new(text)
			here.cfg.Logger, here.cfg.WaitMax, here.cfg.Snapshots = slog.New(slog.NewTextHandler(log, nil)), 20*time.Second, tc.snapshots
			here.log.mu.Lock()
			for n, all := range there.log.records {
				here.log.records[n] = slices.Clone(all)
				for i := range all {
					if tc.live == "v1-2" { // who reads these halts
						here.log.records[n][i].Value, here.log.records[n][i].Mark = []byte("?"), 0
					}
				}
			}
			here.log.mu.Unlock()
			here.start(here.views()[0])
			here.ready()
			after := here.log.add(1, change{Kind: "placed", Order: "o-after", Customer: "c-1", Amount: 5})
			if _, err := here.p.Get(t.Context(), "orders", "o-after", append(there.log.last()[:1:1], after)); err != nil {
				t.Fatal(err)
			}
			if got := log.count("a snapshot cannot be used"); got != tc.warned {
				t.Errorf("%d warnings, want %d: %s", got, tc.warned, log.b.String())
			}
			st, err := here.p.StatusOf("orders")
			if err != nil || st.Live != tc.live || len(st.Builds) != 1 || st.Previous != "" {
				t.Errorf("%+v, %v, want %s alone", st, err, tc.live)
			}
			there.log.mu.Lock() // the oracle reads what was there
			here.log.mu.Lock()
			for n, all := range there.log.records {
				copy(here.log.records[n], all)
			}
			here.log.mu.Unlock()
			there.log.mu.Unlock()
			if err := checkOrders(t.Context(), here.p, here.log); err != nil {
				t.Error(err)
			}
			if left, err := filepath.Glob(here.dir + "/orders/v1-*"); err != nil || len(left) != 2 { // the store and its sentinel
				t.Errorf("%v is left, %v", left, err)
			}
			// It has something now.
			here.close()
			here.cfg.Snapshots = []Snapshot{func(context.Context, string, int, io.Writer) error {
				t.Error("a view that has something begins anew")
				return errors.New("no")
			}}
			here.start(here.views()[0])
			here.wait("orders")
		})
	}
}

// TestSnapshotTakesLong: while a view waits for its snapshot it is not ready, and what happens to it then is not undone.
func TestSnapshotTakesLong(t *testing.T) {
	there := newRig(t, 1)
	there.log.add(0, change{Kind: "placed", Order: "o-1", Customer: "c-1", Amount: 5})
	there.start(there.views()[0])
	there.wait("orders")
	begin := func() (here *rig, asked, on chan struct{}) {
		here = newRig(t, 1)
		here.log.records = there.log.records
		asked, on = make(chan struct{}), make(chan struct{})
		here.cfg.Snapshots = []Snapshot{func(ctx context.Context, view string, _ int, w io.Writer) error {
			close(asked)
			select {
			case <-on:
				_, err := there.p.Backup(ctx, view, w)
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}}
		here.start(here.views()[0])
		<-asked
		return here, asked, on
	}
	here, _, on := begin()
	if here.p.CaughtUp() {
		t.Error("ready before there is anything")
	}
	if _, err := here.p.Get(t.Context(), "orders", "o-1", nil); !errors.Is(err, ErrRowNotFound) {
		t.Errorf("a row before there is any: %v", err)
	}
	id, err := here.p.Rebuild(t.Context(), "orders", Rebuild{Force: true})
	if err != nil || id != "v1-3" {
		t.Fatalf("a build meanwhile: %s, %v, want v1-3", id, err)
	}
	here.build("orders", "v1-3")
	close(on)
	here.build("orders", "v1-2")
	here.ready()
	here.wait("orders")
	if got := here.live("orders"); got != "v1-2" {
		t.Errorf("%s answers, want v1-2", got)
	}
	// Reset begins the view at once.
	here, _, on = begin()
	if id, err := here.p.Reset("orders"); err != nil || id != "v1-3" {
		t.Fatalf("reset: %s, %v", id, err)
	}
	here.wait("orders")
	close(on)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for v, seeding := here.p.byName["orders"], true; seeding; <-tick.C {
		v.mu.Lock()
		seeding = v.seed.Build != 0
		v.mu.Unlock()
	}
	here.close()
	if c, _, _, err := readControl(here.dir + "/orders"); err != nil || c.Live != "v1-3" || len(c.Generations) != 1 {
		t.Errorf("%+v, %v, want v1-3 alone", c, err)
	}
	// The end of Run ends it.
	here, _, _ = begin()
	here.close()
}

// TestScrub flips bits of tables while a view is served: a scrub finds it, Run ends, and the next start builds the view anew, or begins with
// a snapshot.
//
// G17: A damaged row is never served.
func TestScrub(t *testing.T) {
	rnd := seed(t)
	r := newRig(t, 2)
	history(rnd, r.log, 3000, 300)
	r.start(r.views()[0])
	r.wait("orders")
	var saved bytes.Buffer
	if _, err := r.p.Backup(t.Context(), "orders", &saved); err != nil {
		t.Fatal(err)
	}
	r.close()
	for _, tc := range []struct {
		snapshots []Snapshot
		live      string
	}{
		{nil, "v1-1"},
		{[]Snapshot{func(_ context.Context, _ string, _ int, w io.Writer) error {
			_, err := w.Write(saved.Bytes())
			return err
		}}, "v1-2"},
	} {
		r.cfg.Snapshots = nil
		damage(t, r, rnd)
		r.cfg.ScrubRate, r.cfg.Snapshots = 0, tc.snapshots
		r.start(r.views()[0])
		r.ready()
		r.wait("orders")
		if err := checkOrders(t.Context(), r.p, r.log); err != nil {
			t.Error(err)
		}
		if got := r.live("orders"); got != tc.live {
			t.Errorf("%s answers, want %s", got, tc.live)
		}
		if build, s, err := r.p.StoreStats("orders"); err != nil || build != tc.live || s.Logs == 0 {
			t.Errorf("%s, %+v, %v", build, s, err)
		}
		r.close()
	}
	if moved, err := filepath.Glob(r.dir + "/orders/v1-1.damaged-*"); err != nil || len(moved) != 2 {
		t.Errorf("moved aside: %v, %v", moved, err)
	}
}

// damage flips a bit of a table of a view that is served, and waits until that is found.
func damage(t *testing.T, r *rig, rnd *rand.Rand) {
	t.Helper()
	add := func(p *Projector) error {
		p.scrubEvery = time.Millisecond
		return r.views()[0](p)
	}
	r.cfg.ScrubRate = 1 << 40
	r.start(add)
	r.ready() // nobody reads but the scrub
	tables, err := filepath.Glob(r.dir + "/orders/v1-1/*.sst")
	if err != nil || len(tables) == 0 {
		t.Fatalf("%v, %v", tables, err)
	}
	// In place, for the store has it mapped, and where there are rows: whoever reads a broken index may be ended by it.
	f, err := os.OpenFile(tables[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	at, b := rnd.Int64N(4096), make([]byte, 1)
	_, err = f.ReadAt(b, at)
	b[0] ^= 1 << rnd.IntN(8)
	_, e := f.WriteAt(b, at)
	if err := errors.Join(err, e, f.Close()); err != nil {
		t.Fatal(err)
	}
	err = <-r.done
	r.stop = func() error { return nil }
	if !isRefusal(err) {
		t.Fatalf("Run: %v, want that it is damaged", err)
	}
	if _, err := os.Stat(r.dir + "/orders/v1-1.condemned"); err != nil {
		t.Errorf("it may be opened again: %v", err)
	}
	r.close()
}

// TestCursorKey: projectors with the same key take each other's cursors, others do not.
func TestCursorKey(t *testing.T) {
	log := newLog(1)
	for _, order := range []string{"o-1", "o-2", "o-3"} {
		log.add(0, change{Kind: "placed", Order: order, Customer: "c-1", Amount: 5})
	}
	begin := func(key string) *Projector {
		r := newRig(t, 1)
		r.log, r.cfg.CursorKey = log, []byte(key)
		r.start(r.views()[0])
		r.wait("orders")
		return r.p
	}
	a, b, c, d := begin("one"), begin("one"), begin("two"), begin("")
	for name, tc := range map[string]struct {
		from, to *Projector
		want     error
	}{"the same": {a, b, nil}, "another": {a, c, ErrCursor}, "none": {a, d, ErrCursor}, "none at first": {d, a, ErrCursor}} {
		page, err := tc.from.List(t.Context(), "orders", Query{Limit: 2}, nil)
		if err != nil {
			t.Fatal(err)
		}
		next, err := tc.to.List(t.Context(), "orders", Query{Limit: 2, Cursor: page.Next}, es.Positions{})
		if !errors.Is(err, tc.want) || tc.want == nil && (len(next.Rows) != 1 || next.Rows[0].Key != "o-3") {
			t.Errorf("%s: %+v, %v", name, next.Rows, err)
		}
	}
}

// TestSeedKilled: a process that is killed when a snapshot is remembered, and before it answers queries, has it do so when it is there again.
func TestSeedKilled(t *testing.T) {
	there := newRig(t, 1)
	for range 10 {
		there.log.add(0, change{Kind: "placed", Order: "o-1"})
	}
	there.start(there.views()[0])
	there.wait("orders")
	r := newRig(t, 1)
	r.log = there.log
	p := opened(t, Config{Dir: r.dir, Snapshots: []Snapshot{snapshotOf(there.p)}}, r.log, r.views()[0])
	v := p.byName["orders"]
	if !v.reserve() {
		t.Fatal("not reserved")
	}
	p.ctx = t.Context()
	if _, err := v.take(t.Context(), snapshotOf(there.p)); err != nil {
		t.Fatal(err)
	}
	v.mu.Lock()
	_, err := v.addSeed()
	v.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	r.cfg.Snapshots = []Snapshot{snapshotOf(there.p)}
	r.start(r.views()[0])
	r.turns("orders", "v1-2")
}
