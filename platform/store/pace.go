package store

import (
	"context"
	"time"
)

// A pace keeps work to a number of bytes a second.
type pace struct {
	rate  int64 // bytes a second; 0 = any
	since time.Time
	done  int64 // bytes since then
}

// spend waits until n more bytes are within the rate, or returns the context's error.
func (p *pace) spend(ctx context.Context, n int64) error {
	if p.rate <= 0 {
		return ctx.Err()
	}
	now := time.Now()
	if p.since.IsZero() {
		p.since = now
	}
	p.done += n
	wait := p.since.Add(time.Duration(float64(p.done) / float64(p.rate) * float64(time.Second))).Sub(now)
	if wait < -time.Second {
		p.since, p.done = now, 0 // what was slow by itself is no credit for later
	}
	if wait < 5*time.Millisecond {
		return ctx.Err() // a timer would be late by as much
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
