package projection

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/store"
)

// TestHub: what came after a batch is found, of all rows and of one, and so is the batch that positions are of, as long as it is kept.
func TestHub(t *testing.T) {
	g := &generation{slots: []es.TopicPartition{{Topic: "t", Partition: 0}, {Topic: "t", Partition: 1}}}
	var h hub
	h.init()
	list := &Watch{woken: make(chan struct{}, 1)}
	h.add(list)
	h.remove(list) // as everybody below: who is not there is given all
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
		got, ok := h.since(list, n)
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
	if got, ok := h.since(list, batches); !ok || len(got) != 0 {
		t.Errorf("after the last one: %v, %v", got, ok)
	}
	for key, want := range map[string]int{"often": batches, "k7": lastOf(batches, 7)} {
		got, ok := h.since(&Watch{key: key}, batches-60)
		if !ok || len(got) != 1 || got[0].shown != states[batches] || len(got[0].changes) != 1 || got[0].changes[0].Row.Key != key || got[0].changes[0].Row.EventID != fmt.Sprint(want) {
			t.Errorf("of the row %s: %v, %v, want that of batch %d", key, got, ok, want)
		}
	}
	if got, ok := h.since(&Watch{key: "elsewhere"}, batches-1); !ok || len(got) != 1 || len(got[0].changes) != 0 {
		t.Errorf("of a row that has not changed: %v, %v", got, ok)
	}
	for _, wrong := range []string{"", "x", "t/0@6", "t/0@6,t/1@4000000", "t/0@5,t/1@" + fmt.Sprint(batches), "u/0@6,t/1@" + fmt.Sprint(batches-1)} {
		if n, ok := h.at(g, wrong); ok {
			t.Errorf("%q is batch %d", wrong, n)
		}
	}
	if got := h.rest(); got != 0 {
		t.Errorf("no watcher rests for %s", got)
	}
	for range 5000 {
		h.add(&Watch{woken: make(chan struct{}, 1)})
	}
	if got := h.rest(); got < 10*time.Millisecond || got > 100*time.Millisecond {
		t.Errorf("5,000 watchers rest for %s", got)
	}
}

// TestHubLists: who watches a list is woken by what concerns it, and has not fallen behind after much that does not.
func TestHubLists(t *testing.T) {
	var h hub
	h.init()
	n := uint64(0)
	batch := func(changes ...Change) {
		n++
		h.publish(true, changes, &shown{number: n, first: n})
	}
	row := func(key, before, after string) Change {
		c := Change{Row: Row{Key: key}, Gone: after == ""}
		if before != "" {
			c.before = []string{before}
		}
		if after != "" {
			c.values = []string{after}
		}
		return c
	}
	from := func(who string) store.Range { return store.Prefix(appendIndexKey(nil, 0, who, "")) }
	w := &Watch{woken: make(chan struct{}, 1), x: &plan{index: 0, rg: from("ann")}}
	h.add(w)
	look := func(want int) {
		t.Helper()
		got, ok := h.since(w, w.number)
		if !ok || len(got) != want {
			t.Fatalf("after %d batches %d concern it, %v; want %d", n, len(got), ok, want)
		}
		w.number = n
	}
	woken := func(want bool) {
		t.Helper()
		if got := len(w.woken) > 0; got != want {
			t.Fatalf("after %d batches it was woken: %v, want %v", n, got, want)
		}
		if want {
			<-w.woken
		}
	}
	batch(row("a", "", "bob"))
	look(1) // what came before it looked first may all concern it
	for _, c := range []Change{row("a", "bob", "ann"), row("a", "ann", "ann"), row("a", "ann", "bob"), row("b", "", "ann"), row("b", "ann", "")} {
		batch(c)
		woken(true)
		look(1)
		for range 2*keptBatches + 10 {
			batch(row("c", "bob", "cid"))
			batch()
		}
		woken(false)
		batch(row("c", "cid", "bob"), c)
		woken(true)
		look(1)
	}
	// What is not known concerns everybody.
	batch()
	n++
	h.publish(false, nil, &shown{number: n})
	batch(row("c", "bob", "cid"))
	woken(true)
	if _, ok := h.since(w, w.number); ok {
		t.Error("a batch was passed over of which nothing is known")
	}
}

// TestWatchRefused: a query that cannot be watched leaves nothing behind.
func TestWatchRefused(t *testing.T) {
	r := newRig(t, 1)
	r.start()
	r.wait("orders")
	if _, err := r.p.WatchList("orders", Query{Index: "nothing"}, nil, ""); !errors.Is(err, ErrQuery) {
		t.Errorf("%v, want ErrQuery", err)
	}
	g, err := r.p.live("orders")
	if err != nil {
		t.Fatal(err)
	}
	if g.watching.watched() {
		t.Error("changes are kept for nobody")
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
	view := parkingView(&broken)
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
	again := watch(UpdateID(u.Version, u.Applied))
	defer again.Close()
	if u, err := again.Next(ctx); err != nil || len(u.Rows) != 1 || !strings.Contains(string(u.Rows[0].JSON), "mended") {
		t.Errorf("who comes back is told %+v, %v", u, err)
	}
}
