package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// A row is one line of the table: the values of all runs of one figure. reach and reached are zero for rows that only give context.
type row struct {
	what    string
	reach   string
	reached func(median float64) bool
	show    func(float64) string
	values  []float64 // one for each run
}

// median returns the middle value, the mean of the two middle ones of an even number; 0 of none.
func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	if n == 0 {
		return 0
	}
	return (s[(n-1)/2] + s[n/2]) / 2
}

// table writes rows as a Markdown table.
func table(rows []row) string {
	var b strings.Builder
	b.WriteString("| what | reach | median | min – max | |\n|---|---|---|---|---|\n")
	for _, r := range rows {
		m, verdict := median(r.values), ""
		if r.reached != nil {
			verdict = "missed"
			if r.reached(m) {
				verdict = "reached"
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s – %s | %s |\n", r.what, r.reach, r.show(m), r.show(slices.Min(r.values)), r.show(slices.Max(r.values)), verdict)
	}
	return b.String()
}

func below(limit float64) func(float64) bool   { return func(v float64) bool { return v < limit } }
func atMost(limit float64) func(float64) bool  { return func(v float64) bool { return v <= limit } }
func atLeast(limit float64) func(float64) bool { return func(v float64) bool { return v >= limit } }

func seconds(v float64) string      { return fmt.Sprintf("%.2f s", v) }
func milliseconds(v float64) string { return fmt.Sprintf("%.2f ms", v) }
func microseconds(v float64) string { return fmt.Sprintf("%.1f µs", v) }
func megabytes(v float64) string    { return fmt.Sprintf("%.0f MB", v) }
func ratio(v float64) string        { return fmt.Sprintf("%.2f ×", v) }

// perSecond returns a formatter of rates with thousands set apart.
func perSecond(unit string) func(float64) string {
	return func(v float64) string {
		s := fmt.Sprintf("%.0f", v)
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s + " " + unit + "/s"
	}
}

// quotients divides run by run: what was measured side by side is compared side by side.
func quotients(a, b []float64) []float64 {
	q := make([]float64, len(a))
	for i := range a {
		q[i] = a[i] / b[i]
	}
	return q
}

// percentile returns the value that a share of the sorted durations does not exceed, in milliseconds.
func percentile(sorted []time.Duration, share float64) float64 {
	return sorted[int(share*float64(len(sorted)-1))].Seconds() * 1e3
}

// The marks in a file between which the table stands.
const (
	beginMark = "<!-- bench: begin -->\n"
	endMark   = "<!-- bench: end -->\n"
)

// rewrite replaces what stands between the marks of a file.
func rewrite(path, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	fresh, err := between(string(old), text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(fresh), 0o644) //nolint:gosec // a document for everybody
}

func between(old, text string) (string, error) {
	before, rest, ok1 := strings.Cut(old, beginMark)
	_, after, ok2 := strings.Cut(rest, endMark)
	if !ok1 || !ok2 {
		return "", fmt.Errorf("the lines %q and %q are not there, in this order", strings.TrimSpace(beginMark), strings.TrimSpace(endMark))
	}
	return before + beginMark + text + endMark + after, nil
}
