package projection

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
)

// until waits until done is true, for 20 s at most.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// TestLaneForgets: what a lane remembers of the records that it has fetched does not grow with each fetch because one of the builds that it
// feeds goes no further.
func TestLaneForgets(t *testing.T) {
	const fetches = 300
	for _, tc := range []struct {
		name  string
		stops func(t *testing.T, r *rig) (fed string) // returns a build whose lane goes on
	}{
		{"paused", func(t *testing.T, r *rig) string {
			r.start(r.views()[:2]...)
			r.wait("orders", "customers")
			if err := r.p.Pause("orders"); err != nil {
				t.Fatal(err)
			}
			return "customers"
		}},
		{"dropped", func(t *testing.T, r *rig) string {
			r.cfg.Manual = true
			second := func(p *Projector) error { return Add(p, version(2), Input[change]{r.log.topic, r.dec}) }
			r.start(r.views()[0])
			r.wait("orders")
			r.close()
			r.start(r.views()[0], second)
			r.wait("orders", "orders/v2-1")
			if _, err := r.p.Switch("orders", "v2-1", false); err != nil {
				t.Fatal(err)
			}
			if err := r.p.Drop("orders", "v1-1"); err != nil {
				t.Fatal(err)
			}
			return "orders"
		}},
		{"halted", func(t *testing.T, r *rig) string {
			r.start(r.views()[0])
			r.wait("orders")
			bad := r.log.add(0, change{Kind: "poison", Order: "o-1"})
			if _, err := r.p.List(t.Context(), "orders", Query{}, es.Positions{bad}); !errors.Is(err, ErrNotCaughtUp) {
				t.Fatalf("%v, want halted", err)
			}
			return "orders"
		}},
		{"at its end in one partition, and halted in another", func(t *testing.T, r *rig) string {
			bad := r.log.add(1, change{Kind: "poison", Order: "o-2"})
			end := r.log.last()
			r.start(r.views()[0])
			if _, err := r.p.List(t.Context(), "orders", Query{}, es.Positions{bad}); !errors.Is(err, ErrNotCaughtUp) {
				t.Fatalf("%v, want halted", err)
			}
			if _, err := r.p.Rebuild(t.Context(), "orders", Rebuild{Until: end, Force: true}); err != nil {
				t.Fatal(err)
			}
			if _, err := r.p.List(t.Context(), "orders/v1-2", Query{}, es.Positions{bad}); !errors.Is(err, ErrNotCaughtUp) {
				t.Fatalf("%v, want halted", err)
			}
			return "orders/v1-2"
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, 2)
			r.log.add(0, change{Kind: "placed", Order: "o-1", Customer: "c"})
			g, err := r.p.live(tc.stops(t, r))
			if err != nil {
				t.Fatal(err)
			}
			tp := es.TopicPartition{Topic: r.log.topic.Name, Partition: 0}
			pt := g.parts[g.slot(tp)].Load()
			fetched := func() (end int64, stretches int) {
				pt.mu.Lock()
				defer pt.mu.Unlock()
				return pt.end, len(pt.pending)
			}
			for range fetches {
				at := r.log.add(0, change{Kind: "placed", Order: "o-1", Customer: "c"})
				until(t, "fetched", func() bool { end, _ := fetched(); return end > at.Offset })
			}
			until(t, "forgotten", func() bool { _, n := fetched(); return n < fetches/10 })
		})
	}
}

// TestLaneBeginsWithoutBrokers: a lane that is to begin while no broker answers waits for one, and says so. It ends neither Run nor, with that,
// the views that would have gone on, it can be stopped meanwhile, and a reason that does not pass still ends it.
func TestLaneBeginsWithoutBrokers(t *testing.T) {
	gone := fault.New(fault.Unavailable, "log_unreadable", "no broker answers")
	for _, tc := range []struct {
		name string
		set  func(l *memLog, err error)
	}{
		{"for the ends", func(l *memLog, err error) { l.fail = err }},
		{"for the records", func(l *memLog, err error) { l.shut = err }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, 1)
			set := func(err error) {
				r.log.mu.Lock()
				defer r.log.mu.Unlock()
				tc.set(r.log, err)
			}
			orders := func() BuildStatus {
				st, err := r.p.StatusOf("orders")
				if err != nil {
					t.Fatal(err)
				}
				return st.Builds[0]
			}
			r.start(r.views()[:2]...)
			r.log.add(0, change{Kind: "placed", Order: "o-1", Customer: "c"})
			r.wait("orders", "customers")
			set(gone)
			r.log.add(0, change{Kind: "poison", Order: "o-1", Customer: "c"}) // has orders read anew, carefully
			until(t, "stalled", func() bool { return orders().State == Stalled })
			if st := orders(); st.Records != 1 {
				t.Errorf("%+v, want one record that is not applied", st)
			}
			r.log.add(0, change{Kind: "placed", Order: "o-2", Customer: "c"})
			r.wait("customers")
			if err := r.p.Pause("orders"); err != nil {
				t.Fatal(err)
			}
			if err := r.p.Resume("orders"); err != nil {
				t.Fatal(err)
			}
			until(t, "stalled again", func() bool { return orders().State == Stalled })
			set(nil)
			until(t, "halted", func() bool { return orders().State == Halted })

			set(eventlog.ErrCursor.Because("the log lost its end"))
			if err := r.p.Resume("orders"); err != nil { // has orders read anew
				t.Fatal(err)
			}
			if err := waitRun(t, r); !errors.Is(err, eventlog.ErrCursor) {
				t.Errorf("Run: %v, want ErrCursor", err)
			}
		})
	}
}
