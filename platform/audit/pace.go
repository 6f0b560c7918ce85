package audit

import (
	"context"
	"time"
)

// A pace keeps work to a number of records a second.
type pace struct {
	rate int       // 0 = as fast as possible
	due  time.Time // when the work so far should have taken up
}

// step returns how many records to do between two waits: a twentieth of a second's.
func (p *pace) step() int {
	if p.rate == 0 {
		return 1 << 16
	}
	return max(1, p.rate/20)
}

// wait waits until n more records may be done, or ctx ends. Time that was not used is not made up for.
func (p *pace) wait(ctx context.Context, n int) {
	if p.rate == 0 {
		return
	}
	now := time.Now()
	if p.due.Before(now) {
		p.due = now
	}
	sleep(ctx, p.due.Sub(now))
	p.due = p.due.Add(time.Duration(n) * time.Second / time.Duration(p.rate))
}

// sleep waits, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
