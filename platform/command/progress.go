package command

import (
	"context"
	"sync"
	"time"
)

// A progress is an offset that only grows, and that one can wait for.
type progress struct {
	mu    sync.Mutex
	value int64
	grown chan struct{} // closed and replaced when value grows
}

func newProgress() *progress { return &progress{grown: make(chan struct{})} }

func (p *progress) get() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.value
}

func (p *progress) set(v int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if v > p.value {
		p.value = v
		close(p.grown)
		p.grown = make(chan struct{})
	}
}

// wait returns nil once the value has reached v; the storer's end or ctx's ends it early.
func (p *progress) wait(ctx context.Context, v int64, s *storer) error {
	for {
		p.mu.Lock()
		value, grown := p.value, p.grown
		p.mu.Unlock()
		if value >= v {
			return nil
		}
		s.hurry()
		select {
		case <-grown:
		case <-s.failed:
			return s.err
		case <-ctx.Done():
			return ErrUnavailable.Because("the stream store is behind").After(time.Second)
		}
	}
}
