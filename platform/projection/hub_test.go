package projection

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
)

// TestHub: what came after a batch is found, of all rows and of one, and so is the batch that positions are of, as long as it is kept.
func TestHub(t *testing.T) {
	g := &generation{slots: []es.TopicPartition{{Topic: "t", Partition: 0}, {Topic: "t", Partition: 1}}}
	var h hub
	h.init()
	list := &Watch{woken: make(chan struct{}, 1)}
	h.add(list)
	first := uint64(0)
	states := []*shown{nil}
	batch := func(moved bool, keys ...string) {
		n := uint64(len(states))
		if moved {
			first = n
		}
		s := &shown{number: n, first: first, slots: []slotShown{{next: 7}, {next: int64(first)}}}
		var changes []Change
		for _, key := range keys {
			changes = append(changes, Change{Row: Row{Key: key, EventID: fmt.Sprint(n)}})
		}
		states = append(states, s)
		h.publish(true, changes, s)
	}
	const batches = keptBatches + 100
	for n := range batches {
		batch(n%10 != 9, fmt.Sprint("k", n%50), "often") // every tenth moves no position
	}
	for n := range uint64(batches) {
		got, ok := h.since(n, "")
		if want := n >= batches-keptBatches; ok != want {
			t.Fatalf("since %d: %v, want %v", n, ok, want)
		}
		if ok && (len(got) != batches-int(n) || got[0].shown.number != n+1) {
			t.Fatalf("since %d: %d batches", n, len(got))
		}
		at, ok := h.at(g, states[n+1].text(g))
		if s := states[n+1]; ok != (s.first > batches-keptBatches) || ok && at != s.first {
			t.Fatalf("the positions of batch %d are of %d, %v; want %d", n+1, at, ok, s.first)
		}
	}
	if got, ok := h.since(batches, ""); !ok || len(got) != 0 {
		t.Errorf("after the last one: %v, %v", got, ok)
	}
	for key, want := range map[string]int{"often": batches, "k7": lastOf(batches, 7)} {
		got, ok := h.since(batches-60, key)
		if !ok || len(got) != 1 || got[0].shown != states[batches] || len(got[0].changes) != 1 || got[0].changes[0].Row.Key != key || got[0].changes[0].Row.EventID != fmt.Sprint(want) {
			t.Errorf("of the row %s: %v, %v, want that of batch %d", key, got, ok, want)
		}
	}
	if got, ok := h.since(batches-1, "elsewhere"); !ok || len(got) != 1 || len(got[0].changes) != 0 {
		t.Errorf("of a row that has not changed: %v, %v", got, ok)
	}
	for _, wrong := range []string{"", "x", "t/0@6", "t/0@6,t/1@4000000", "t/0@5,t/1@" + fmt.Sprint(batches), "u/0@6,t/1@" + fmt.Sprint(batches-1)} {
		if n, ok := h.at(g, wrong); ok {
			t.Errorf("%q is batch %d", wrong, n)
		}
	}
	if got := h.rest(); got > time.Millisecond {
		t.Errorf("one watcher rests for %s", got)
	}
	for range 5000 {
		h.add(&Watch{woken: make(chan struct{}, 1)})
	}
	if got := h.rest(); got < 10*time.Millisecond || got > 100*time.Millisecond {
		t.Errorf("5,000 watchers rest for %s", got)
	}
}

// lastOf returns the last of so many batches, the first of which is 1, that changed the row k<n> of fifty.
func lastOf(batches, n int) int {
	for (batches-1)%50 != n {
		batches--
	}
	return batches
}

// TestWatchRetried: a dead letter that is applied changes a row without moving a position. Who was away meanwhile is told.
func TestWatchRetried(t *testing.T) {
	var broken atomic.Bool
	broken.Store(true)
	r := newRig(t, 1)
	view := ordersView()
	view.OnError = es.Park
	apply := view.Apply
	view.Apply = func(row orderRow, e es.Envelope[change]) orderRow {
		if e.Event.Kind == "poison" && !broken.Load() {
			e.Event.Kind = "mended"
		}
		return apply(row, e)
	}
	r.start(func(p *Projector) error { return Add(p, view, Input[change]{r.log.topic, r.dec}) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	watch := func(resume string) *Watch {
		t.Helper()
		w, err := r.p.WatchRow("orders", "o-1", nil, resume)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	// Somebody watches, so changes are kept.
	r.wait("orders")
	other := watch("")
	defer other.Close()
	if _, err := other.Next(ctx); err != nil {
		t.Fatal(err)
	}
	r.log.add(0, change{Kind: "placed", Order: "o-1", Customer: "c-1", Amount: 5})
	r.wait("orders")
	r.log.add(0, change{Kind: "poison", Order: "o-1"}, change{Kind: "placed", Order: "o-2", Customer: "c-1", Amount: 5})
	r.wait("orders")
	list, err := r.p.WatchList("orders", Query{}, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	u, err := list.Next(ctx)
	if err != nil || len(u.Rows) != 2 || strings.Contains(string(u.Rows[0].JSON), "mended") {
		t.Fatalf("%+v, %v", u, err)
	}
	list.Close()
	broken.Store(false)
	if got, err := r.p.Retry(ctx, "orders", ""); err != nil || got.Applied != 1 {
		t.Fatalf("retried: %+v, %v", got, err)
	}
	again := watch(u.Applied.String())
	defer again.Close()
	if u, err := again.Next(ctx); err != nil || len(u.Rows) != 1 || !strings.Contains(string(u.Rows[0].JSON), "mended") {
		t.Errorf("who comes back is told %+v, %v", u, err)
	}
}
