package projection

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/platform/es"
)

// TestRateOfOnePoll builds a view with a bound on its pace from a log that one poll brings whole.
func TestRateOfOnePoll(t *testing.T) {
	r := newRig(t, 2)
	r.log.most = 5 * chunkEvents
	history(rand.New(rand.NewPCG(5, 6)), r.log, 4*chunkEvents, 300)
	r.start(r.views()[0])
	r.wait("orders")
	const rate = 5000
	began := time.Now()
	id, err := r.p.Rebuild(t.Context(), "orders", Rebuild{Rate: rate})
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(time.Minute); ; {
		st, err := r.p.StatusOf("orders")
		if err != nil {
			t.Fatal(err)
		}
		if i := slices.IndexFunc(st.Builds, func(b BuildStatus) bool { return b.ID == id }); st.Builds[i].CaughtUp {
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the build does not catch up")
		}
	}
	// Each chunk but the last one takes its time; a slow machine only adds to that.
	if took, least := time.Since(began), 3*chunkEvents*time.Second/rate; took < least {
		t.Errorf("%d events took %v, at %d a second it must be %v at least", 4*chunkEvents, took, rate, least)
	}
}

// TestPacerThatFallsBehind yields less and less if that is what it takes to catch up, and not at all in the end.
func TestPacerThatFallsBehind(t *testing.T) {
	now := time.Now()
	p := pacer{yields: true}
	left := int64(1_000_000)
	step := func(read int64) int {
		left -= read
		now = now.Add(lookEvery)
		p.look(left, now)
		return yielding >> p.less
	}
	for range 50 {
		if got := step(10_000); got != yielding {
			t.Fatalf("%d left, and it yields %d times as long as it decodes, though it comes nearer", left, got)
		}
	}
	for _, tc := range []struct{ read, want int64 }{{-1000, 4}, {0, 2}, {100_000, 2}, {10, 1}, {-5, 0}, {-5, 0}} {
		if got := step(tc.read); int64(got) != tc.want {
			t.Errorf("%d left, %d less than before: it yields %d times as long as it decodes, want %d", left, tc.read, got, tc.want)
		}
	}
}

// TestPacer holds reading back: not at all for the build that answers, to a share of the time for one beside it, to a rate if there is one.
func TestPacer(t *testing.T) {
	for name, tc := range map[string]struct {
		rate   int
		beside bool
		behind bool
		want   time.Duration // for 1,000 events that took 2 ms
		held   bool
	}{
		"the first build":          {0, false, true, 0, false},
		"beside":                   {0, true, true, yielding * 2 * time.Millisecond, true},
		"beside, and at the end":   {0, true, false, 0, true},
		"with a rate":              {10_000, true, true, 100 * time.Millisecond, true},
		"with a rate, and alone":   {10_000, false, true, 100 * time.Millisecond, true},
		"with a rate, and at ends": {10_000, true, false, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pacer{rate: tc.rate}
				if held := p.begin(tc.beside); held != tc.held {
					t.Errorf("held back: %v", held)
				}
				for range 2 {
					time.Sleep(2 * time.Millisecond)
					began := time.Now()
					if err := p.wait(context.Background(), 1000, tc.behind); err != nil {
						t.Fatal(err)
					}
					took := time.Since(began)
					if tc.rate > 0 && tc.want > 0 {
						took = tc.want // counted from the chunk before; see TestRateOfOnePoll
					}
					if took != tc.want {
						t.Errorf("it waits %v, want %v", took, tc.want)
					}
				}
			})
		})
	}
}

// TestGathers: a build that is far behind commits seldom, so that a row that many events change is written once; one that has caught up commits
// at once, whatever there is.
func TestGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		r.log.most = chunkEvents / 4
		const polls = 40
		history(rand.New(rand.NewPCG(9, 9)), r.log, polls*chunkEvents/4, 50)
		r.start(r.views()[0])
		r.ready()
		g, _ := r.p.byName["orders"].serving()
		if n := g.shown.Load().number; n > 3 {
			t.Errorf("%d commits for %d fetches while it was behind", n, polls)
		}
		began := time.Now()
		at := r.log.add(0, change{Kind: "placed", Order: "o-1", Customer: "c-1", Amount: 1})
		if _, err := r.p.Get(t.Context(), "orders", "o-1", es.Positions{at}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took >= grace {
			t.Errorf("an event took %v to be visible", took)
		}
		r.close()
	})
}

// TestGathersNotForLong: what is applied is committed after a while, though the log has more and does not come.
func TestGathersNotForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		r.log.add(0, change{Kind: "placed", Order: "o-1", Customer: "c-1", Amount: 1})
		r.log.hide(1) // the log says that it is there
		hidden := r.log.add(1, change{Kind: "placed", Order: "o-2", Customer: "c-1", Amount: 1})
		r.start(r.views()[0])
		began := time.Now()
		if _, err := r.p.Get(t.Context(), "orders", "o-1", es.Positions{{TopicPartition: es.TopicPartition{Topic: "orders.events"}, Offset: 0}}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != holdTime {
			t.Errorf("it took %v until it was visible, want %v", took, holdTime)
		}
		if r.p.CaughtUp() {
			t.Errorf("it has caught up without %s", hidden)
		}
		r.close()
	})
}
