package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/platform/estest/check"
)

// A report is what a run did and what came of it.
type report struct {
	plan       *plan
	took       time.Duration
	segments   int
	outcomes   map[check.Outcome]int
	events     int
	claims     int
	longest    [partitions]time.Duration // without an acknowledged command, by partition
	recovered  time.Duration             // after the last fault of a segment, at most
	stores     int                       // that were compared
	counts     map[string]int            // of faults
	exits      []string
	failures   []string
	violations []check.Violation
	began      time.Time
}

func newReport(p *plan, n *nemesis) *report {
	return &report{plan: p, outcomes: map[check.Outcome]int{}, began: n.began}
}

// add takes in a segment.
func (r *report) add(rec *recorder, log *check.Log, found []check.Violation) {
	r.segments++
	for i := range rec.attempts {
		r.outcomes[rec.attempts[i].Outcome]++
	}
	r.events, r.claims = 0, log.Claims
	for _, events := range log.Events {
		r.events += len(events)
	}
	for i, o := range rec.outage {
		r.longest[i] = max(r.longest[i], o.longest)
	}
	r.violations = append(r.violations, found...)
}

// finish takes in what the nemesis did.
func (r *report) finish(n *nemesis) {
	r.took = time.Since(r.began)
	r.counts, r.failures = n.counts, n.failures
	for _, i := range n.instances {
		r.exits = append(r.exits, i.exits...)
	}
}

// bad reports whether anything was found.
func (r *report) bad() bool { return len(r.violations)+len(r.failures) > 0 }

// text returns the report in Markdown.
func (r *report) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Seed %d, %d processes on %d brokers, %d segments, %v.\n\n| what | how often |\n|---|---|\n", r.plan.seed, r.plan.instances, brokers, r.segments, r.took.Round(time.Second))
	for _, f := range faults {
		if r.counts[f.name] > 0 {
			fmt.Fprintf(&b, "| %s | %d |\n", f.name, r.counts[f.name])
		}
	}
	fmt.Fprintf(&b, "| services that ended by themselves | %d |\n", len(r.exits))
	for _, o := range slices.Sorted(maps.Keys(r.outcomes)) {
		fmt.Fprintf(&b, "| answers: %s | %d |\n", o, r.outcomes[o])
	}
	fmt.Fprintf(&b, "| events in the log | %d |\n| claims in the log | %d |\n", r.events, r.claims)
	sorted := slices.Sorted(slices.Values(r.longest[:]))
	fmt.Fprintf(&b, "| longest time without an acknowledged command, best and worst partition | %v, %v |\n", sorted[0].Round(time.Millisecond), sorted[len(sorted)-1].Round(time.Millisecond))
	fmt.Fprintf(&b, "| until everything was served everywhere after the last fault, at most | %v |\n", r.recovered.Round(time.Millisecond))
	fmt.Fprintf(&b, "| stores compared with a rebuilt one | %d |\n| **violations** | **%d** |\n", r.stores, len(r.violations))
	for _, v := range r.violations {
		fmt.Fprintf(&b, "\n- %.600s", v)
	}
	for _, f := range r.failures {
		fmt.Fprintf(&b, "\n- not as it should be: %.800s", f)
	}
	for i, e := range r.exits {
		if i == 10 {
			fmt.Fprintf(&b, "\n- … and %d more", len(r.exits)-i)
			break
		}
		fmt.Fprintf(&b, "\n- ended by itself: %.600s", strings.ReplaceAll(e, "\n", " "))
	}
	b.WriteString("\n")
	return b.String()
}
