package sim

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/platform/estest/check"
)

var (
	simSeed  = flag.Uint64("sim.seed", 1, "first seed; 0 takes one from the clock")
	simN     = flag.Int("sim.n", 25, "how many schedules are run")
	simUntil = flag.String("sim.until", "", "end the process with status 3 at the first violation that this checker finds")
	simLog   = flag.Bool("sim.log", false, "print the schedules and what the instances log")
)

// TestSchedules plays seeded schedules of faults; -sim.seed N -sim.n 1 replays one. A seed decides commands, faults and their times; the
// order of what happens at one moment is Go's, so that a rare finding may take some replays.
func TestSchedules(t *testing.T) {
	seed := *simSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	var sum totals
	t.Cleanup(func() { sum.print(t) })
	for i := range *simN {
		seed := seed + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			var report *Report
			dir := t.TempDir()
			began := time.Now()
			synctest.Test(t, func(t *testing.T) {
				logger := slog.New(slog.DiscardHandler)
				if *simLog {
					logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
				}
				plan := newSchedule(seed)
				if *simLog {
					for _, s := range plan.steps {
						t.Log(s)
					}
				}
				var err error
				report, err = run(context.Background(), plan, dir, logger)
				if err != nil {
					t.Fatal(err)
				}
			})
			report.judge()
			if *simLog {
				t.Logf("%v: %+v", time.Since(began), *report)
			}
			sum.add(report)
			for _, v := range report.Violations {
				if v.Checker == *simUntil {
					fmt.Printf("\nfound: seed %d, %s\n", seed, v)
					os.Exit(foundCode)
				}
				t.Logf("replay: go test ./platform/estest/sim -run TestSchedules -sim.seed %d -sim.n 1 -sim.log", seed)
				t.Error(v)
			}
		})
	}
}

// totals are the sums of many reports.
type totals struct {
	mu        sync.Mutex
	schedules int
	faults    map[string]int
	outcomes  map[check.Outcome]int
	events    int
	claims    int
	rogue     int
	exits     int
	simulated time.Duration
	found     int
}

func (s *totals) add(r *Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults == nil {
		s.faults, s.outcomes = map[string]int{}, map[check.Outcome]int{}
	}
	s.schedules++
	for k, n := range r.Faults {
		s.faults[k] += n
	}
	for o, n := range r.Outcomes {
		s.outcomes[o] += n
	}
	s.events += r.Events
	s.claims += r.Claims
	s.rogue += r.Rogue
	s.exits += r.Exits
	s.simulated += r.Simulated
	s.found += len(r.Violations)
}

// print writes the sums in Markdown.
func (s *totals) print(t *testing.T) {
	var b strings.Builder
	fmt.Fprintf(&b, "| what | how often |\n|---|---|\n| schedules | %d |\n| simulated time | %v |\n", s.schedules, s.simulated.Round(time.Second))
	for _, k := range slices.Sorted(maps.Keys(s.faults)) {
		fmt.Fprintf(&b, "| fault: %s | %d |\n", k, s.faults[k])
	}
	for _, o := range slices.Sorted(maps.Keys(s.outcomes)) {
		fmt.Fprintf(&b, "| answers: %s | %d |\n", o, s.outcomes[o])
	}
	fmt.Fprintf(&b, "| events in the logs | %d |\n| claims in the logs | %d |\n| records that readers dropped, all of the test's own | %d |\n", s.events, s.claims, s.rogue)
	fmt.Fprintf(&b, "| processes that ended by themselves | %d |\n| **violations** | **%d** |\n", s.exits, s.found)
	t.Log("\n" + b.String())
}
