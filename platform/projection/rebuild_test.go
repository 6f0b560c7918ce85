package projection

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
)

// TestNewVersion builds a changed view from the beginning of the log, beside the rows of the old version.
func TestNewVersion(t *testing.T) {
	r := newRig(t, 2)
	history(rand.New(rand.NewPCG(1, 2)), r.log, 2000, 300)
	r.start()
	r.wait("orders")
	old, _, err := dump(t.Context(), r.p, "orders", Query{})
	if err != nil {
		t.Fatal(err)
	}
	r.close()
	changed := ordersView()
	changed.Version = 2
	apply := changed.Apply
	changed.Apply = func(row orderRow, e es.Envelope[change]) orderRow {
		row = apply(row, e)
		row.Number = 2
		return row
	}
	delete(changed.Indexes, "status")
	r.start(func(p *Projector) error { return Add(p, changed, Input[change]{r.log.topic, r.dec}) })
	r.ready()
	r.wait("orders")
	got, applied, err := dump(t.Context(), r.p, "orders", Query{})
	if err != nil {
		t.Fatal(err)
	}
	want, _ := oracle(r.log, changed, applied)
	if err := same("orders", got, want); err != nil {
		t.Error(err)
	}
	r.close()
	// Back to the old version: its rows are as they were.
	r.start()
	r.ready()
	r.wait("orders")
	got, _, err = dump(t.Context(), r.p, "orders", Query{})
	if err != nil {
		t.Fatal(err)
	}
	if err := same("orders", got, old); err != nil {
		t.Error(err)
	}
}

// TestLateView adds a view to a long log, with a bound on its pace: the others stay up to date meanwhile.
func TestLateView(t *testing.T) {
	r := newRig(t, 2)
	r.log.most = 500
	rnd := rand.New(rand.NewPCG(3, 4))
	history(rnd, r.log, laneSlack+5000, 500)
	r.cfg.WaitMax = time.Minute
	r.start(r.views()[0])
	r.wait("orders")
	r.close()
	r.cfg.CatchUpRate = 1000 // for the new views, a minute and more
	r.start(r.views()...)
	for range 10 {
		at := r.log.add(0, change{Kind: "placed", Order: "o-new", Customer: "c-new", Amount: 1})
		if _, err := r.p.Get(t.Context(), "orders", "o-new", es.Positions{at}); err != nil {
			t.Fatal(err)
		}
	}
	if st := status(t, r.p, "customers", 0); st.Next > st.End/2 {
		t.Errorf("the new view is at %d of %d already: its pace was not bounded", st.Next, st.End)
	}
	if r.p.CaughtUp() {
		t.Error("caught up while a new view is being built")
	}
	r.close()
	r.cfg.CatchUpRate = 0
	r.start(r.views()...)
	r.wait("customers", "sales")
	if !r.p.CaughtUp() {
		t.Error("not caught up, though all views are")
	}
	if err := checkAll(t.Context(), r.p, r.log); err != nil {
		t.Error(err)
	}
	if r.log.opened != 5 {
		t.Errorf("%d readers, want 1, then 2, then 2", r.log.opened)
	}
}

// TestNarrowRoom makes rows so large that few fit into one transaction: batches are cut between events.
func TestNarrowRoom(t *testing.T) {
	r := newRig(t, 2)
	wide := func(name string, size int) es.View[orderRow, change] {
		v := ordersView()
		v.Name = name
		apply := v.Apply
		v.Apply = func(row orderRow, e es.Envelope[change]) orderRow {
			row = apply(row, e)
			row.Log = []string{strings.Repeat("x", size+int(e.Position.Offset))}
			return row
		}
		return v
	}
	a, b := wide("orders", 200_000), wide("others", 400_000)
	for i := range 60 {
		r.log.add(int32(i%2), change{Kind: "placed", Order: fmt.Sprint("o-", i%50), Customer: "c-1"})
	}
	r.cfg.WaitMax, r.cfg.StoreOptions.MemTable = time.Minute, 16<<20
	r.start(func(p *Projector) error { return Add(p, a, Input[change]{r.log.topic, r.dec}) }, func(p *Projector) error { return Add(p, b, Input[change]{r.log.topic, r.dec}) })
	for _, v := range []es.View[orderRow, change]{a, b} {
		r.wait(v.Name)
		got, applied, err := dump(t.Context(), r.p, v.Name, Query{})
		if err != nil {
			t.Fatal(err)
		}
		want, _ := oracle(r.log, v, applied)
		if err := same(v.Name, got, want); err != nil {
			t.Errorf("%.300s", err)
		}
	}
	// A page ends early when its rows are large.
	page, err := r.p.List(t.Context(), "others", Query{}, nil)
	if err != nil || len(page.Rows) > 30 || page.Next == "" {
		t.Errorf("%d rows, next %v, %v: want a page of about %d bytes", len(page.Rows), page.Next != "", err, maxPageBytes)
	}
}

// A repeatingLog delivers records again that it has delivered before.
type repeatingLog struct {
	*memLog
	rnd *rand.Rand
}

func (l repeatingLog) open(ctx context.Context, from []eventlog.Cursor, fetchBytes int32) (source, error) {
	s, err := l.memLog.open(ctx, from, fetchBytes)
	if err != nil {
		return nil, err
	}
	return &repeatingSource{s.(*memSource), l.rnd}, nil
}

type repeatingSource struct {
	*memSource
	rnd *rand.Rand
}

func (s *repeatingSource) Poll(ctx context.Context) ([]eventlog.Fetched, error) {
	for i := range s.at {
		if c := &s.at[i]; s.rnd.IntN(2) == 0 {
			c.Next -= min(c.Next, s.rnd.Int64N(700))
		}
	}
	return s.memSource.Poll(ctx)
}

// TestRepeatedDelivery delivers records twice and more, also over a restart: the rows do not change.
func TestRepeatedDelivery(t *testing.T) {
	rnd := seed(t)
	dir := t.TempDir() + "/db"
	log := newLog(3)
	log.most = 400
	for range 3 {
		history(rnd, log, 1500, 200)
		p := opened(t, Config{Dir: dir, WaitMax: time.Minute}, repeatingLog{log, rand.New(rand.NewPCG(rnd.Uint64(), 0))}, testViews(log)...)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		for _, v := range []string{"orders", "customers", "sales"} {
			if _, err := p.List(ctx, v, Query{}, log.last()); err != nil {
				t.Fatal(err)
			}
		}
		if err := checkAll(ctx, p, log); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

// killEnv makes the test binary the child of TestKill: "dir seed events".
const killEnv = "MILLRACE_PROJECTION_CHILD"

// killLog makes the same log from the same seed in parent and child.
func killLog(seed uint64, events int) *memLog {
	l := newLog(4)
	l.most = 300
	history(rand.New(rand.NewPCG(seed, 7)), l, events, 900)
	// The times of appending differ between the processes; nothing of a row depends on them.
	return l
}

// TestKill kills a projecting process at random moments with SIGKILL, and compares what is stored with the fold of the log up to
// the stored positions, byte by byte, each time.
//
// G14: A row is the fold of exactly the events before the view's position, each once and in the order of its partition.
// G11: Everything kept beside the log can be lost: the stream store is rebuilt from the log with the same receipts, states and versions.
func TestKill(t *testing.T) {
	if arg := os.Getenv(killEnv); arg != "" {
		killChild(t, arg)
		return
	}
	rnd := seed(t)
	const events = 60_000
	logSeed := rnd.Uint64()
	dir := filepath.Join(t.TempDir(), "db")
	log := killLog(logSeed, events)
	killed := 0
	for killed < *kills {
		cmd := victim(t, dir, logSeed, events)
		timer := time.NewTimer(time.Duration(rnd.IntN(150_000)) * time.Microsecond)
		<-timer.C
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the child ended by itself")
		}
		killed++
		caughtUp := checkKilled(t, dir, log)
		if caughtUp {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// checkKilled compares the rows in dir with the fold, and reports whether all of the log is in them.
func checkKilled(t *testing.T, dir string, log *memLog) bool {
	t.Helper()
	p, err := newProjector(Config{Dir: dir}, log)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range testViews(log) {
		if err := f(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Open(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := checkAll(t.Context(), p, log); err != nil {
		t.Fatal(err)
	}
	n := int64(0)
	for _, at := range p.Status()[0].Builds[0].Partitions {
		n += at.Next
	}
	t.Logf("%d events were applied", n)
	page, err := p.List(t.Context(), "orders", Query{Limit: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return page.Applied.String() == log.last().String()
}

func killChild(t *testing.T, arg string) {
	f := strings.Fields(arg)
	seed, err1 := strconv.ParseUint(f[1], 10, 64)
	events, err2 := strconv.Atoi(f[2])
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	log := killLog(seed, events)
	p, err := newProjector(Config{Dir: f[0], BatchEvents: 1500, CacheBytes: 200_000}, log)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range testViews(log) {
		if err := f(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Open(); err != nil {
		t.Fatal(err)
	}
	fmt.Println("opened")
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}
