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
)

// dayView has a row for each order, with the text of its last event.
func dayView() es.View[orderRow, change] {
	return es.View[orderRow, change]{Name: "orders", Version: 1,
		Key:   func(e es.Envelope[change]) (string, bool) { return string(e.Stream), true },
		Apply: func(row orderRow, e es.Envelope[change]) orderRow { row.ID = e.Event.Day; return row }}
}

// TestLargeChunks: a view goes on after a chunk that takes most of a transaction: that the next one may be as large is no reason to wait when
// nothing is there to be committed first.
func TestLargeChunks(t *testing.T) {
	for _, size := range []int{300, 430, 490} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			r := newRig(t, 1)
			r.cfg.StoreOptions.MemTable = 8 << 20
			r.log.most = chunkEvents
			for i := range 5 * chunkEvents {
				r.log.add(0, change{Kind: "placed", Order: fmt.Sprintf("o-%06d", i), Day: strings.Repeat("x", size)})
			}
			r.start(func(p *Projector) error { return Add(p, dayView(), Input[change]{r.log.topic, r.dec}) })
			r.wait("orders")
		})
	}
	t.Run("a large row alone, then many small ones", func(t *testing.T) {
		r := newRig(t, 1)
		r.log.add(0, change{Kind: "placed", Order: "large", Day: strings.Repeat("x", 200_000)})
		r.start(func(p *Projector) error { return Add(p, dayView(), Input[change]{r.log.topic, r.dec}) })
		r.wait("orders")
		r.log.hide(0)
		for i := range 120 {
			r.log.add(0, change{Kind: "placed", Order: fmt.Sprintf("o-%06d", i)})
		}
		r.log.hide(-1)
		r.wait("orders")
		r.log.add(0, change{Kind: "placed", Order: "one more"})
		r.wait("orders")
	})
}

// TestStallEnds: a view that is paused while it waits for the registry does not say that it waits when it goes on.
func TestStallEnds(t *testing.T) {
	r := newRig(t, 1)
	var down atomic.Bool
	r.dec.down = func() error {
		if down.Load() {
			return context.DeadlineExceeded
		}
		return nil
	}
	r.start(r.views()[0])
	r.log.add(0, change{Kind: "placed", Order: "o-1"})
	r.wait("orders")
	down.Store(true)
	r.log.add(0, change{Kind: "placed", Order: "o-2"})
	state := func() string {
		st, err := r.p.StatusOf("orders")
		if err != nil {
			t.Fatal(err)
		}
		return st.Builds[0].State
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for state() != Stalled {
		<-tick.C
	}
	if err := r.p.Pause("orders"); err != nil {
		t.Fatal(err)
	}
	down.Store(false)
	if err := r.p.Resume("orders"); err != nil {
		t.Fatal(err)
	}
	r.log.add(0, change{Kind: "placed", Order: "o-3"})
	r.wait("orders")
	if got := state(); got != Running {
		t.Errorf("it has applied all, and is %s", got)
	}
}

// TestSwitchesWhenAbreast: a build that is to take over by itself does so when it has what the one has that answers, and not when it has what
// was in the log when it began: queries would go back in time.
//
// G36: A view is rebuilt beside the one that serves: queries are answered all the time, and a position that a client holds stays valid over the switch.
func TestSwitchesWhenAbreast(t *testing.T) {
	r := newRig(t, 1)
	r.cfg.WaitMax = 20 * time.Second
	r.log.most = 50
	for i := range 1000 {
		r.log.add(0, change{Kind: "placed", Order: fmt.Sprintf("o-%05d", i)})
	}
	r.start(r.views()[0])
	r.wait("orders")
	r.ready()
	if _, err := r.p.Rebuild(t.Context(), "orders", Rebuild{Rate: 500, Switch: true, Force: true}); err != nil {
		t.Fatal(err)
	}
	for i := range 1500 {
		r.log.add(0, change{Kind: "placed", Order: fmt.Sprintf("p-%05d", i)})
	}
	r.wait("orders")
	had := r.log.last()
	if _, err := r.p.Switch("orders", "v1-2", false); !errors.Is(err, ErrBuild) {
		t.Errorf("a build that is far behind is switched to: %v", err)
	}
	r.turns("orders", "v1-2")
	if _, err := r.p.Get(WithPatience(t.Context(), time.Second), "orders", "p-01499", had); err != nil {
		t.Errorf("a position that queries had before the switch: %v", err)
	}
}
