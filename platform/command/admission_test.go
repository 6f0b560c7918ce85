package command

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/fault"
)

// TestAdmissionUnderload lets everybody in while writes are quick.
func TestAdmissionUnderload(t *testing.T) {
	a := newAdmission(time.Second)
	for range 10_000 {
		if !a.enter(false) {
			t.Fatal("somebody was refused")
		}
		a.answered(time.Millisecond)
	}
	for range 10_000 {
		a.leave()
	}
	if a.full() || a.waiting.Load() != 0 {
		t.Errorf("%d wait for nothing", a.waiting.Load())
	}
}

// TestAdmissionOverload has five times as many callers arrive as can be answered, who give up after 5 s, at partitions of some speed. One write
// at a time takes all who wait, and as long as that many take. Without a bound, nobody would be answered in time.
func TestAdmissionOverload(t *testing.T) {
	const patience, deadline = 2.0, 5.0 // s
	for _, speed := range []float64{50, 1_000, 20_000} {
		t.Run(fmt.Sprintf("%.0f per second", speed), func(t *testing.T) {
			a := newAdmission(time.Duration(patience * float64(time.Second)))
			now, owed := 0.0, 0.0
			var waiting, flying []float64 // when each came
			served, late, longest := 0, 0, 0.0
			const warm, whole = 60.0, 300.0
			for now < whole {
				// A write of those who waited; others come meanwhile.
				flying, waiting = waiting, flying[:0]
				took := max(0.001, float64(len(flying))/speed)
				for step := 0.0; step < took; step += took / 10 {
					for owed += 5 * speed * took / 10; owed >= 1; owed-- {
						if a.enter(false) {
							waiting = append(waiting, now+step)
						}
					}
				}
				now += took
				if len(flying) > 0 {
					a.answered(time.Duration((now - flying[0]) * float64(time.Second)))
				}
				for _, since := range flying {
					a.leave()
					if now < warm {
						continue
					}
					longest = max(longest, now-since)
					if now-since > deadline {
						late++
					} else {
						served++
					}
				}
			}
			if good := float64(served) / speed / (whole - warm); good < 0.95 || late > 0 {
				t.Errorf("%.2f of what was possible was answered in time, %d came late; the longest waited %.1f s", good, late, longest)
			}
			for range len(waiting) {
				a.leave()
			}
			if a.waiting.Load() != 0 {
				t.Errorf("%d are left", a.waiting.Load())
			}
		})
	}
}

// TestAdmissionRecovers opens again after writes were slow.
func TestAdmissionRecovers(t *testing.T) {
	a := newAdmission(time.Second)
	for range 4096 {
		a.enter(false)
	}
	a.answered(time.Hour)
	if got := a.most.Load(); got != fewest {
		t.Fatalf("%d may wait after a write that took an hour, want %d", got, fewest)
	}
	if a.enter(false) || !a.enter(true) {
		t.Error("who is urgent comes in, and nobody else")
	}
	for range 100 {
		a.answered(time.Millisecond)
	}
	if got := a.most.Load(); got < 4096 {
		t.Errorf("%d may wait after 100 quick writes", got)
	}
}

// TestOverloaded asks an engine whose partitions let nobody in.
func TestOverloaded(t *testing.T) {
	r := newRig(t)
	r.mustSend("a", "1", credit{Amount: 1})
	for _, p := range r.engine.partitions {
		p.admission.most.Store(0)
	}
	_, err := r.send("a", "2", credit{Amount: 1})
	if e := fault.From(err); !errors.Is(err, ErrOverloaded) || e.RetryAfter < time.Second || e.RetryAfter > 4*time.Second {
		t.Errorf("got %+v, want to be told to come back after 1 s to 4 s", err)
	}
	if err := r.engine.Confirm(t.Context(), 0); err != nil {
		t.Errorf("whether the partition is owned must be told even then: %v", err)
	}
	for _, p := range r.engine.partitions {
		p.admission.most.Store(unbound)
	}
	if got := r.mustSend("a", "2", credit{Amount: 1}); got.Version != 2 {
		t.Errorf("got version %d, want 2", got.Version)
	}
	for _, p := range r.engine.partitions {
		if n := p.admission.waiting.Load(); n != 0 {
			t.Errorf("%s: %d are still waiting", p.at, n)
		}
	}
}
