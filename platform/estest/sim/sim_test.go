package sim

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

var (
	simSeed  = flag.Uint64("sim.seed", 1, "first seed; 0 takes one from the clock")
	simN     = flag.Int("sim.n", 30, "how many schedules are run")
	simUntil = flag.String("sim.until", "", "end the process with status 3 at the first violation that this checker finds")
	simLog   = flag.Bool("sim.log", false, "print the schedules and what the instances log")
)

func TestSchedules(t *testing.T) {
	seed := *simSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
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
			t.Logf("%v: %+v", time.Since(began), *report)
			for _, v := range report.Violations {
				if v.Checker == *simUntil {
					fmt.Printf("\nfound: seed %d, %s\n", seed, v)
					os.Exit(foundCode)
				}
				t.Error(v)
			}
		})
	}
}
