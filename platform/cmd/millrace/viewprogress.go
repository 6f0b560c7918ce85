package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/platform/projection"
)

// A progress shows how far a build is: bars that are drawn over each other on a terminal, else a line now and then.
type progress struct {
	w      io.Writer
	name   string // of what is built
	json   bool
	live   bool // w is a terminal
	drawn  int  // lines, to be drawn over
	told   time.Time
	first  int64 // records that were applied when it began
	began  time.Time
	events int64 // applied since
}

const (
	// drawEvery and tellEvery are how often bars are drawn and lines are written.
	drawEvery = 200 * time.Millisecond
	tellEvery = 5 * time.Second
	// mostBars is how many partitions have a bar: those that have the most left.
	mostBars = 16
	barWidth = 30
	rangeBar = 12 // of a range, in a table
)

// bar draws a part of a whole.
func bar(part float64, width int) string {
	full := int(min(max(part, 0), 1) * float64(width))
	return strings.Repeat("█", full) + strings.Repeat("░", width-full)
}

func newProgress(w io.Writer, name string, o output) *progress {
	return &progress{w: w, name: name, json: o == "json", live: isTerminal(w) && os.Getenv("TERM") != "dumb" && o != "json", first: -1}
}

// A progressLine is how far a build is, as JSON.
type progressLine struct {
	Instance string  `json:"instance,omitempty"` // of a range
	View     string  `json:"view"`
	Build    string  `json:"build"`
	State    string  `json:"state"`
	Progress float64 `json:"progress"`
	Records  int64   `json:"lag_records"`
	Rate     float64 `json:"rate"`
	ETA      float64 `json:"eta_seconds,omitempty"`
}

// due reports whether it is time to show something, which is done then.
func (p *progress) due(now time.Time) bool {
	every := tellEvery
	if p.live {
		every = drawEvery
	}
	if !p.told.IsZero() && now.Sub(p.told) < every {
		return false
	}
	p.told = now
	return true
}

// show shows a state, if it is time to.
func (p *progress) show(view string, b *projection.BuildStatus, now time.Time) {
	if p.first < 0 {
		p.first, p.began = applied(b), now
	}
	p.events = applied(b) - p.first
	if !b.CaughtUp && b.Records == 0 && p.events == 0 {
		return // the end of the log is not known yet
	}
	if !p.due(now) {
		return
	}
	switch {
	case p.json:
		_ = line(p.w, progressLine{View: view, Build: b.ID, State: b.State, Progress: b.Progress, Records: b.Records, Rate: math.Round(b.Rate), ETA: math.Round(b.ETASeconds)})
	case p.live:
		lines := bars(p.name, b)
		var out strings.Builder
		p.erase(&out)
		for _, l := range lines {
			out.WriteString(l + "\n")
		}
		p.drawn = len(lines)
		_, _ = io.WriteString(p.w, out.String())
	default:
		fmt.Fprintln(p.w, summary(p.name, b))
	}
}

// end leaves the last state as one line.
func (p *progress) end(b *projection.BuildStatus) {
	if p.json || b == nil {
		return
	}
	var out strings.Builder
	p.erase(&out)
	p.drawn = 0
	if p.live {
		out.WriteString(summary(p.name, b) + "\n")
	}
	_, _ = io.WriteString(p.w, out.String())
}

// showAll shows how far the ranges of a divided view are, if it is time to.
func (p *progress) showAll(all []*waiter, now time.Time) {
	if !p.due(now) {
		return
	}
	switch {
	case p.json:
		for _, w := range all {
			if b := w.last; b != nil {
				_ = line(p.w, progressLine{Instance: w.base.String(), View: w.view, Build: b.ID, State: b.State, Progress: b.Progress, Records: b.Records, Rate: math.Round(b.Rate), ETA: math.Round(b.ETASeconds)})
			}
		}
	case p.live:
		var out strings.Builder
		p.erase(&out)
		t := rangesTable()
		for _, w := range all {
			if w.last != nil {
				t.add(rangeCells(w.view, w.base.String(), "", w.last)...)
			}
		}
		t.write(&out)
		fmt.Fprintln(&out, summaryOf(p.name, all))
		p.drawn = strings.Count(out.String(), "\n")
		_, _ = io.WriteString(p.w, out.String())
	default:
		fmt.Fprintln(p.w, summaryOf(p.name, all))
	}
}

// clear removes what is drawn, for something else to be written.
func (p *progress) clear() {
	var out strings.Builder
	p.erase(&out)
	p.drawn, p.told = 0, time.Time{}
	_, _ = io.WriteString(p.w, out.String())
}

// endAll leaves the last state of all ranges as one line.
func (p *progress) endAll(all []*waiter) {
	if p.drawn > 0 {
		p.clear()
		fmt.Fprintln(p.w, summaryOf(p.name, all))
	}
}

// summaryOf says in one line how far the ranges of a view are.
func summaryOf(view string, all []*waiter) string {
	done, next, left, rate, eta := 0, int64(0), int64(0), 0.0, 0.0
	for _, w := range all {
		b := w.last
		if b == nil {
			continue
		}
		if b.CaughtUp || b.State == projection.Complete {
			done++
		}
		next, left, rate, eta = next+applied(b), left+b.Records, rate+b.Rate, max(eta, b.ETASeconds)
	}
	part := 1.0
	if next+left > 0 {
		part = float64(next) / float64(next+left)
	}
	text := fmt.Sprintf("%s: %d of %d builds have caught up, record %s of %s (%s), %s/s", view, done, len(all), count(next), count(next+left), percent(part), count(int64(rate)))
	if eta > 0 {
		text += ", " + seconds(eta) + " left"
	}
	return text
}

// erase goes back to the first line that was drawn and removes what is from there on.
func (p *progress) erase(out *strings.Builder) {
	if p.drawn > 0 {
		fmt.Fprintf(out, "\x1b[%dA\x1b[J", p.drawn)
	}
}

func applied(b *projection.BuildStatus) (n int64) {
	for _, at := range b.Partitions {
		n += at.Next
	}
	return n
}

// summary says in one line how far a build is.
func summary(name string, b *projection.BuildStatus) string {
	done, total := partitionsDone(b)
	next := applied(b)
	text := fmt.Sprintf("%s: %s, record %s of %s (%s), %d of %d partitions, %s/s", name, b.State, count(next), count(next+b.Records), percent(b.Progress), done, total, count(int64(b.Rate)))
	if b.ETASeconds > 0 {
		text += ", " + seconds(b.ETASeconds) + " left"
	}
	if b.Why != "" {
		text += ": " + b.Why
	}
	return text
}

// partitionsDone returns of how many partitions all is applied, and how many there are.
func partitionsDone(b *projection.BuildStatus) (done, total int) {
	for _, at := range b.Partitions {
		if at.Next >= at.End && at.State != projection.Halted && (at.End > 0 || b.CaughtUp) {
			done++
		}
	}
	return done, len(b.Partitions)
}

// bars returns a summary and a bar for each partition, or for those with the most left.
func bars(name string, b *projection.BuildStatus) []string {
	lines := []string{summary(name, b)}
	shown := slices.Clone(b.Partitions)
	if len(shown) > mostBars {
		slices.SortStableFunc(shown, func(x, y projection.PartitionStatus) int { return cmp.Compare(y.End-y.Next, x.End-x.Next) })
		shown = shown[:mostBars]
	}
	width, most := 0, int64(0)
	for _, at := range shown {
		width, most = max(width, len(partitionName(&at))), max(most, at.End)
	}
	for _, at := range shown {
		part := 1.0
		if at.End > at.Next {
			part = float64(at.Next) / float64(at.End)
		}
		text := fmt.Sprintf("  %-*s %s %7s  %*s of %s", width, partitionName(&at), bar(part, barWidth), percent(part),
			len(count(most)), count(at.Next), count(max(at.End, at.Next)))
		if at.State == projection.Halted {
			text += "  halted"
		}
		lines = append(lines, text)
	}
	if more := len(b.Partitions) - len(shown); more > 0 {
		lines = append(lines, fmt.Sprintf("  … and %d partitions with less left", more))
	}
	return lines
}

func partitionName(at *projection.PartitionStatus) string {
	return fmt.Sprintf("%s/%d", at.Topic, at.Partition)
}
