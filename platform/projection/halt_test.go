package projection

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/store"
)

// status returns the status of a view's partition.
func status(t *testing.T, p *Projector, view string, partition int) PartitionStatus {
	t.Helper()
	for _, s := range p.Status() {
		if s.Name == view {
			return s.Builds[0].Partitions[partition]
		}
	}
	t.Fatalf("no view %s in %+v", view, p.Status())
	return PartitionStatus{}
}

// TestHalt puts an event that the orders view cannot handle between others: the view stops before it in that partition, with the
// row as it was, and nothing else stops.
//
// G16: A view that cannot handle an event stops there and says so; it never skips one.
func TestHalt(t *testing.T) {
	for _, tc := range []struct {
		kind, reason string
		all          bool // all views halt
	}{
		{"poison", "cannot apply this", false},
		{"poison key", "no key for this", false},
		{"bad key", "holds a slash", false},
		{"poison json", "it has no JSON", false},
		{"poison size", "at most 524288 are allowed", false},
		{"poison index", "at most 1024 are allowed", false},
		{"split confirmed|poison", "cannot apply this", false},
		{"split confirmed|confirmed|poison size", "at most 524288 are allowed", false},
		{"split confirmed|poison key", "no key for this", false},
		{"?", "garbage", true},
	} {
		for _, behind := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s behind=%v", tc.kind, behind), func(t *testing.T) {
				r := newRig(t, 2)
				r.cfg.WaitMax = 10 * time.Second
				if !behind {
					r.start()
				}
				good := r.log.add(0, change{Kind: "placed", Order: "o-1", Customer: "c-1", Day: "d", Amount: 5})
				if !behind {
					if _, err := r.p.Get(t.Context(), "orders", "o-1", es.Positions{good}); err != nil {
						t.Fatal(err)
					}
				}
				for i := range 3 {
					r.log.add(0, change{Kind: "placed", Order: fmt.Sprint("a-", i), Customer: "c-1", Day: "d", Amount: 1})
				}
				var bad es.Position
				if tc.kind == "?" {
					bad = r.log.append(0, "o-1", "?")
				} else {
					bad = r.log.add(0, change{Kind: tc.kind, Order: "o-1", Customer: "c-1", Day: "d", Amount: 1})
				}
				later := r.log.add(0, change{Kind: "confirmed", Order: "o-1", Customer: "c-1", Day: "d"})
				other := r.log.add(1, change{Kind: "placed", Order: "o-2", Customer: "c-1", Day: "d", Amount: 7})
				if behind {
					r.start()
				}
				before := es.Position{TopicPartition: bad.TopicPartition, Offset: bad.Offset - 1}
				a, err := r.p.Get(t.Context(), "orders", "o-1", es.Positions{before, other})
				if err != nil {
					t.Fatal(err)
				}
				var row orderRow
				if err := json.Unmarshal(a.Row.JSON, &row); err != nil || row.Status != "placed" || row.Total != 5 || row.Extra["placed"] != 1 || len(row.Extra) != 1 {
					t.Errorf("row %s, %v: want it as it was before the event", a.Row.JSON, err)
				}
				if a.Row.Position != good {
					t.Errorf("row changed at %s, want %s", a.Row.Position, good)
				}
				_, err = r.p.Get(t.Context(), "orders", "o-1", es.Positions{later})
				if !errors.Is(err, ErrNotCaughtUp) || !strings.Contains(err.Error(), tc.reason) {
					t.Errorf("asked for an event after it: %v, want ErrNotCaughtUp at once with %q", err, tc.reason)
				}
				st := status(t, r.p, "orders", 0)
				if st.State != Halted || st.Next != bad.Offset || st.HaltedAt == nil || *st.HaltedAt != bad || !strings.Contains(st.Reason, tc.reason) {
					t.Errorf("status %+v, want halted at %s because of %q", st, bad, tc.reason)
				}
				if st := status(t, r.p, "orders", 1); st.State != Running || st.Next != 1 {
					t.Errorf("the other partition: %+v", st)
				}
				_, err = r.p.List(t.Context(), "customers", Query{}, es.Positions{later, other})
				if tc.all != errors.Is(err, ErrNotCaughtUp) || !tc.all && err != nil {
					t.Errorf("customers through %s: %v, want halted: %v", later, err, tc.all)
				}
				// All views have halted at the one position or are through with both partitions, so:
				for _, view := range []string{"customers", "sales"} {
					if _, err := r.p.List(t.Context(), view, Query{}, es.Positions{before, other}); err != nil {
						t.Fatal(err)
					}
					if _, err := r.p.List(t.Context(), view, Query{}, es.Positions{later}); err != nil && !tc.all {
						t.Fatal(err)
					}
				}
				if !r.p.CaughtUp() {
					t.Error("a halted partition must not keep the service from being ready")
				}
				r.close()
				r.start()
				// Tried again at the restart, from the event itself.
				more := r.log.add(1, change{Kind: "placed", Order: "o-3", Customer: "c-1", Amount: 7})
				if _, err := r.p.Get(t.Context(), "orders", "o-3", es.Positions{more}); err != nil {
					t.Error(err)
				}
				if _, err := r.p.Get(t.Context(), "orders", "o-1", es.Positions{later}); !errors.Is(err, ErrNotCaughtUp) {
					t.Errorf("after a restart: %v", err)
				}
				if st := status(t, r.p, "orders", 0); st.State != Halted || st.Next != bad.Offset {
					t.Errorf("after a restart: %+v", st)
				}
			})
		}
	}
}

// TestHaltIsMended halts at an event that a corrected program can handle.
func TestHaltIsMended(t *testing.T) {
	r := newRig(t, 1)
	r.log.add(0, change{Kind: "placed", Order: "o-1", Customer: "c-1", Amount: 5}, change{Kind: "poison", Order: "o-1", Customer: "c-1", Amount: 5},
		change{Kind: "confirmed", Order: "o-1", Customer: "c-1"})
	r.start()
	r.wait("customers")
	if _, err := r.p.List(t.Context(), "orders", Query{}, r.log.last()); !errors.Is(err, ErrNotCaughtUp) {
		t.Fatal(err)
	}
	r.close()
	fixed := ordersView()
	apply := fixed.Apply
	fixed.Apply = func(row orderRow, e es.Envelope[change]) orderRow {
		if e.Event.Kind == "poison" {
			e.Event.Kind = "mended"
		}
		return apply(row, e)
	}
	r.start(func(p *Projector) error { return Add(p, fixed, Input[change]{r.log.topic, r.dec}) })
	r.wait("orders")
	a, err := r.p.Get(t.Context(), "orders", "o-1", nil)
	if err != nil || !strings.Contains(string(a.Row.JSON), `"extra":{"confirmed":1,"mended":1,"placed":1}`) {
		t.Errorf("row %s, %v", a.Row.JSON, err)
	}
}

// TestRegistryDown makes decoding impossible for a while: nothing halts, and all goes on by itself.
func TestRegistryDown(t *testing.T) {
	r := newRig(t, 1)
	var tries atomic.Int32
	paused := make(chan struct{})
	gone := fault.New(fault.Unavailable, "registry_unreachable", "the registry cannot be reached")
	r.dec.down = func() error {
		switch n := tries.Add(1); {
		case n == 2:
			close(paused)
			return gone
		case n < 4:
			return gone
		}
		return nil
	}
	r.cfg.WaitMax = 10 * time.Second
	r.log.add(0, change{Kind: "placed", Order: "o-1", Customer: "c-1", Amount: 5})
	r.start()
	<-paused
	if st := r.p.Status()[0].Builds[0]; st.State != Stalled {
		t.Errorf("status %+v, want paused", st)
	}
	r.wait("orders", "customers", "sales")
	if st := r.p.Status()[0].Builds[0]; st.State != Running {
		t.Errorf("status %+v, want running", st)
	}
}

// TestStoreFails ends Run with the store's error.
func TestStoreFails(t *testing.T) {
	log := newLog(1)
	p := opened(t, Config{}, log, testViews(log)[:1]...)
	db := p.byName["orders"].builds["v1-1"].db
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	at := log.add(0, change{Kind: "placed", Order: "o-1", Customer: "c", Amount: 1})
	if _, err := p.Get(ctx, "orders", "o-1", es.Positions{at}); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- db.Close() }() // waits for the projector's snapshots; new ones are refused
	for {
		log.add(0, change{Kind: "placed", Order: "o-1", Customer: "c", Amount: 1})
		select {
		case err := <-done:
			if !errors.Is(err, store.ErrClosed) {
				t.Errorf("Run: %v, want store.ErrClosed", err)
			}
			if err := <-closed; err != nil {
				t.Error(err)
			}
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// TestDamagedRow flips a stored row: it is neither served nor built upon.
//
// G17: A damaged row is never served.
func TestDamagedRow(t *testing.T) {
	r := newRig(t, 1)
	r.start()
	at := r.log.add(0, change{Kind: "placed", Order: "o-1", Customer: "c-1", Amount: 5}, change{Kind: "placed", Order: "o-2", Customer: "c-1", Amount: 5})
	if _, err := r.p.Get(t.Context(), "orders", "o-1", es.Positions{at}); err != nil {
		t.Fatal(err)
	}
	r.wait("orders", "customers", "sales")
	r.close()
	// A value that is whole for the store, but no row.
	db, err := store.Open(r.dir+"/orders/v1-1", store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := db.NewBatch()
	if err := b.Set(appendRowKey(nil, "o-1"), []byte("\x01garbage")); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	r.start()
	if _, err := r.p.Get(t.Context(), "orders", "o-1", nil); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("Get: %v, want ErrDamaged", err)
	}
	if _, err := r.p.List(t.Context(), "orders", Query{}, nil); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("List: %v, want ErrDamaged", err)
	}
	if _, err := r.p.Get(t.Context(), "orders", "o-2", nil); err != nil {
		t.Error(err)
	}
	r.log.add(0, change{Kind: "confirmed", Order: "o-1", Customer: "c-1"})
	if err := waitRun(t, r); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("Run: %v, want ErrDamaged", err)
	}
}

// waitRun waits until Run ends by itself, and closes the store.
func waitRun(t *testing.T, r *rig) error {
	t.Helper()
	r.stop = nil
	var err error
	select {
	case err = <-r.done:
	case <-time.After(time.Minute):
		t.Fatal("Run goes on")
	}
	if err := r.p.Close(); err != nil {
		t.Error(err)
	}
	return err
}

// TestGap ends Run when the log cannot be read on.
func TestGap(t *testing.T) {
	r := newRig(t, 1)
	r.log.add(0, change{Kind: "placed", Order: "o-1", Customer: "c-1", Amount: 5})
	r.start()
	r.wait("orders")
	r.close()
	r.log.records[0] = nil // the log lost its end
	r.start()
	if err := waitRun(t, r); !errors.Is(err, eventlog.ErrCursor) {
		t.Errorf("Run: %v, want ErrCursor", err)
	}
}

// TestHaltSharedRow lets Apply panic after it has changed a row that another partition's events change too: what it changed must
// not show when the row is stored the next time.
func TestHaltSharedRow(t *testing.T) {
	r := newRig(t, 2)
	r.cfg.WaitMax = 10 * time.Second
	v := customersView()
	apply := v.Apply
	v.Apply = func(row sumRow, e es.Envelope[change]) sumRow {
		row = apply(row, e)
		if e.Event.Kind == "poison" {
			panic("after the damage")
		}
		return row
	}
	r.start(func(p *Projector) error { return Add(p, v, Input[change]{r.log.topic, r.dec}) })
	first := r.log.add(0, change{Kind: "placed", Order: "o-1", Customer: "c-1", Amount: 5})
	if _, err := r.p.Get(t.Context(), "customers", "c-1", es.Positions{first}); err != nil {
		t.Fatal(err)
	}
	bad := r.log.add(0, change{Kind: "poison", Order: "o-1", Customer: "c-1", Amount: 100})
	if _, err := r.p.Get(t.Context(), "customers", "c-1", es.Positions{bad}); !errors.Is(err, ErrNotCaughtUp) {
		t.Fatal(err)
	}
	other := r.log.add(1, change{Kind: "placed", Order: "o-2", Customer: "c-1", Amount: 7})
	a, err := r.p.Get(t.Context(), "customers", "c-1", es.Positions{other})
	if got, want := string(a.Row.JSON), `{"orders":2,"spent":{"USD":12}}`; err != nil || got != want {
		t.Errorf("row %s, %v, want %s", got, err, want)
	}
}

// TestDiskFull pauses while there is no room, and a batch that could not be committed before the end is a failure to those after it.
func TestDiskFull(t *testing.T) {
	log := newLog(1)
	p := opened(t, Config{}, log, testViews(log)[:1]...)
	g := p.byName["orders"].builds["v1-1"]
	if err := g.db.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if g.db, err = store.Open(g.dir, store.Options{MinFree: 1 << 62}); err != nil {
		t.Fatal(err)
	}
	b := g.db.NewBatch()
	if err := b.Set([]byte("key"), []byte("value")); err != nil {
		t.Fatal(err)
	}
	r := newRunner(g, newLane(p, 0), 0)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.commit(ctx, &handover{batches: []*store.Batch{b}}) }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for g.paused.Load() == nil {
		<-tick.C
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("commit: %v, want context.Canceled: what comes after it must not be committed", err)
	}
}

// TestSplitEvents: all parts of a record are applied in their order, and if one cannot be, none is, also not to a row that is new.
func TestSplitEvents(t *testing.T) {
	for _, careful := range []bool{false, true} {
		t.Run(fmt.Sprintf("careful=%v", careful), func(t *testing.T) {
			r := newRig(t, 2)
			r.cfg.WaitMax = 10 * time.Second
			good := r.log.add(0, change{Kind: "split placed|confirmed|shipped", Order: "o-1", Customer: "c-1", Day: "d", Amount: 5})
			if careful { // the poison makes the view apply the whole batch again, event by event
				r.log.add(0, change{Kind: "split placed|poison", Order: "o-2", Customer: "c-1", Day: "d", Amount: 5})
			}
			r.start()
			a, err := r.p.Get(t.Context(), "orders", "o-1", es.Positions{good})
			if err != nil {
				t.Fatal(err)
			}
			var row orderRow
			if err := json.Unmarshal(a.Row.JSON, &row); err != nil || row.Status != "shipped" || row.Total != 5 || len(row.Extra) != 3 || len(row.Log) != 3 {
				t.Errorf("row %s, %v: want all three parts once", a.Row.JSON, err)
			}
			if a.Row.Position != good {
				t.Errorf("row changed at %s, want %s", a.Row.Position, good)
			}
			if !careful {
				return
			}
			if a, err := r.p.Get(t.Context(), "orders", "o-2", es.Positions{good}); !errors.Is(err, ErrRowNotFound) {
				t.Errorf("a row of half a record: %s, %v", a.Row.JSON, err)
			}
		})
	}
}

// TestHaltWhileGathering lets a view come upon an event that it cannot handle in the midst of many others: it is folded again, one by one, from
// its last batch on.
func TestHaltWhileGathering(t *testing.T) {
	r := newRig(t, 2)
	r.log.most = 50
	r.cfg = Config{BatchEvents: 100, WaitMax: 20 * time.Second}
	for i := range 6000 {
		r.log.add(int32(i%2), change{Kind: "placed", Order: fmt.Sprintf("o-%04d", i), Customer: fmt.Sprint("c-", i%7), Day: "d", Amount: 1})
	}
	bad := r.log.add(1, change{Kind: "poison", Order: "o-9", Customer: "c-1", Day: "d", Amount: 100})
	for i := range 1000 {
		r.log.add(int32(i%2), change{Kind: "placed", Order: fmt.Sprintf("p-%04d", i), Customer: fmt.Sprint("c-", i%7), Day: "d", Amount: 1})
	}
	v := customersView()
	apply := v.Apply
	v.Apply = func(row sumRow, e es.Envelope[change]) sumRow {
		row = apply(row, e)
		if e.Event.Kind == "poison" {
			panic("after the damage")
		}
		return row
	}
	r.start(func(p *Projector) error {
		return Add(p, ordersViewWithout("poison"), Input[change]{r.log.topic, r.dec})
	},
		func(p *Projector) error { return Add(p, v, Input[change]{r.log.topic, r.dec}) },
		func(p *Projector) error { return Add(p, salesView(), Input[change]{r.log.topic, r.dec}) })
	r.wait("orders", "sales")
	if _, err := r.p.List(t.Context(), "customers", Query{}, es.Positions{bad}); !errors.Is(err, ErrNotCaughtUp) {
		t.Errorf("customers: %v, want halted", err)
	}
	even := es.Position{TopicPartition: es.TopicPartition{Topic: bad.Topic, Partition: 0}, Offset: 3499}
	if _, err := r.p.List(t.Context(), "customers", Query{}, es.Positions{even}); err != nil {
		t.Errorf("the other partition: %v", err)
	}
	if st := status(t, r.p, "customers", 1); st.State != Halted || st.Next != bad.Offset {
		t.Errorf("%+v, want halted at %s", st, bad)
	}
	if err := checkSums(t.Context(), r.p, r.log, customersView()); err != nil {
		t.Error(err)
	}
	if err := checkSums(t.Context(), r.p, r.log, salesView()); err != nil {
		t.Error(err)
	}
}

// ordersViewWithout is the orders view without use for one kind.
func ordersViewWithout(kind string) es.View[orderRow, change] {
	v := ordersView()
	key := v.Key
	v.Key = func(e es.Envelope[change]) (string, bool) {
		if e.Event.Kind == kind {
			return "", false
		}
		return key(e)
	}
	return v
}

// A hooked is a log that calls opened when somebody reads a little at a time, and hook, once, before a record is read for a retry.
type hooked struct {
	*memLog
	opened func()
	hook   atomic.Pointer[func()]
}

func (h *hooked) open(ctx context.Context, from []eventlog.Cursor, fetchBytes int32) (source, error) {
	if fetchBytes == besideBytes && h.opened != nil {
		h.opened()
	}
	return h.memLog.open(ctx, from, fetchBytes)
}

func (h *hooked) RecordAt(ctx context.Context, topic eventlog.Topic, at es.Position) (eventlog.Record, error) {
	if hook := h.hook.Swap(nil); hook != nil {
		(*hook)()
	}
	return h.memLog.RecordAt(ctx, topic, at)
}

// TestRetryWhileParking: an event that is parked while the one before it is being retried is retried, too, and can be discarded.
func TestRetryWhileParking(t *testing.T) {
	for _, discard := range []bool{false, true} {
		l := newLog(1)
		h := &hooked{memLog: l}
		var broken atomic.Bool
		broken.Store(true)
		v := ordersView()
		v.OnError = es.Park
		apply := v.Apply
		v.Apply = func(row orderRow, e es.Envelope[change]) orderRow {
			if broken.Load() && e.Event.Kind == "cancelled" {
				panic("not yet")
			}
			return apply(row, e)
		}
		p := opened(t, Config{WaitMax: 5 * time.Second}, h, func(p *Projector) error { return Add(p, v, Input[change]{l.topic, &jsonDecoder{}}) })
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		l.add(0, change{Kind: "placed", Order: "o-1"})
		first := l.add(0, change{Kind: "cancelled", Order: "o-1"})
		if _, err := p.List(ctx, "orders", Query{}, l.last()); err != nil {
			t.Fatal(err)
		}
		broken.Store(discard)
		var second es.Position
		hook := func() {
			second = l.add(0, change{Kind: "confirmed", Order: "o-1"})
			if _, err := p.List(ctx, "orders", Query{}, l.last()); err != nil {
				t.Error(err)
			}
		}
		h.hook.Store(&hook)
		got, err := p.Retry(ctx, "orders", "")
		switch {
		case !discard && (err != nil || got.Applied != 2 || got.Left != 0):
			t.Errorf("%+v, %v; want both applied", got, err)
		case discard && (err != nil || got.Applied != 0 || got.Left != 2):
			t.Errorf("%+v, %v; want both to be there", got, err)
		case discard:
			if _, err := p.Discard(ctx, "orders", second, "no"); !errors.Is(err, ErrLetterOrder) {
				t.Errorf("the second is discarded before the first: %v", err)
			}
			for _, at := range []es.Position{first, second} {
				if _, err := p.Discard(ctx, "orders", at, "no"); err != nil {
					t.Errorf("%s is discarded: %v", at, err)
				}
			}
		}
		cancel()
		<-done
	}
}

// TestDropEndsSample: whoever drops a build does not wait for a sample of its rows to be compared, which takes as long as the whole log does.
func TestDropEndsSample(t *testing.T) {
	l := newLog(1)
	begun := make(chan struct{})
	h := &hooked{memLog: l, opened: sync.OnceFunc(func() { close(begun) })}
	for i := range 5000 {
		l.add(0, change{Kind: "placed", Order: fmt.Sprintf("o-%05d", i)})
	}
	p := opened(t, Config{WaitMax: 5 * time.Second}, h, viewsOf(l, &jsonDecoder{})[0])
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	if _, err := p.List(ctx, "orders", Query{}, l.last()); err != nil {
		t.Fatal(err)
	}
	sampled := make(chan error, 1)
	go func() {
		_, err := p.VerifySample(ctx, "orders", 1, 1, 50) // 100 s
		sampled <- err
	}()
	<-begun
	if _, err := p.Reset("orders"); err != nil {
		t.Fatal(err)
	}
	if err := <-sampled; !errors.Is(err, errClosing) {
		t.Errorf("the sample ended with %v, want %v", err, errClosing)
	}
	cancel()
	<-done
}
