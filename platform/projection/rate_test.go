package projection

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
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
