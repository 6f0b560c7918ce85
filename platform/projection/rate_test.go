package projection

import (
	"context"
	"fmt"
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

// TestPacerLeavesRoom waits longer while waits end too late, for others wait for a processor then, too, and as before when they have not for a while.
func TestPacerLeavesRoom(t *testing.T) {
	p := pacer{yields: true}
	steps := func(n int, late time.Duration) {
		for range n {
			p.felt(late)
		}
	}
	for _, tc := range []struct {
		n    int
		late time.Duration
		want time.Duration
	}{
		{1000, tooLate, yielding},
		{1, tooLate + 1, 2 * yielding},
		{punctual - 1, 0, 2 * yielding},
		{1, time.Second, 4 * yielding}, // and it counts from the beginning
		{punctual - 1, 0, 4 * yielding},
		{1, 0, 2 * yielding},
		{1000, 2 * tooLate, yielding << mostBusy},
		{mostBusy * punctual, 0, yielding},
		{1000, 0, yielding},
	} {
		if steps(tc.n, tc.late); p.share() != tc.want {
			t.Fatalf("after %d waits that were %v too long it waits %d times as long as it decodes, want %d", tc.n, tc.late, p.share(), tc.want)
		}
	}
	// However little room there is, a build comes to its end.
	steps(mostBusy, 2*tooLate)
	now := time.Now()
	for range mostBusy + 1 { // the first time there is nothing to compare with
		p.look(1_000_000, now)
		now = now.Add(lookEvery)
	}
	if p.share() != yielding {
		t.Errorf("it does not get on, and waits %d times as long as it decodes", p.share())
	}
}

// TestCrowded: a projector says when a build is made beside one that answers, and when none is any more.
func TestCrowded(t *testing.T) {
	r := newRig(t, 2)
	said := make(chan bool, 10)
	r.cfg.Crowded = func(crowded bool) { said <- crowded }
	history(rand.New(rand.NewPCG(7, 7)), r.log, 3*chunkEvents, 100)
	r.start(r.views()[0])
	r.wait("orders")
	slow := Rebuild{Force: true, Rate: 1}
	build, err := r.p.Rebuild(t.Context(), "orders", slow)
	if err != nil || !<-said {
		t.Fatal("a build is made, and that is not said", err)
	}
	if err := r.p.Drop("orders", build); err != nil || <-said {
		t.Fatal("it was dropped, and that is not said", err)
	}
	if _, err := r.p.Rebuild(t.Context(), "orders", Rebuild{Force: true, Rate: 2 * chunkEvents}); err != nil || !<-said || <-said {
		t.Fatal("a build begins and catches up, and that is not said", err)
	}
	if _, err := r.p.Rebuild(t.Context(), "orders", slow); err != nil || !<-said {
		t.Fatal("a build is made, and that is not said", err)
	}
	r.close()
	if <-said || len(said) > 0 {
		t.Error("the projector has ended, and that is not said")
	}
}

// TestEstimateRate: how long a rebuild takes is told from how quickly builds were made, and not from how few events there were since.
func TestEstimateRate(t *testing.T) {
	r := newRig(t, 1)
	for i := range 3 * leastBuilt {
		r.log.add(0, change{Kind: "placed", Order: fmt.Sprintf("o-%05d", i)})
	}
	r.start(r.views()[0])
	r.wait("orders")
	r.ready()
	estimate := func() float64 {
		e, err := r.p.Estimate(t.Context(), "orders", Rebuild{})
		if err != nil {
			t.Fatal(err)
		}
		return e.Rate
	}
	built := estimate()
	if built < 1000 {
		t.Errorf("%g events a second while it was built", built)
	}
	r.close()
	r.start(r.views()[0])
	r.ready()
	if got := estimate(); got != 0 {
		t.Errorf("%g events a second, of a build that was there", got)
	}
	r.log.add(0, change{Kind: "placed", Order: "one more"})
	r.wait("orders")
	if got := estimate(); got != 0 {
		t.Errorf("%g events a second, of one event", got)
	}
}
