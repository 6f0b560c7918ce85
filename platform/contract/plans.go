package contract

import (
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
)

// Plans are what is known of the schemas that writers used, by what they are named with. The zero plans are none.
type plans[K comparable, E any] struct {
	all     atomic.Pointer[map[K]*plan[E]] // copied on write: a look-up costs no lock and no allocation
	mu      sync.Mutex
	loading map[K]*load[E]
}

// A load is a look-up in progress; others that need the same schema wait for it.
type load[E any] struct {
	done chan struct{}
	plan *plan[E]
	err  error
}

// known returns the plan of a key, nil if it was not seen before.
func (p *plans[K, E]) known(key K) *plan[E] {
	if all := p.all.Load(); all != nil {
		return (*all)[key]
	}
	return nil
}

// load returns the plan for a key that was not seen before; concurrent callers share one look-up.
func (p *plans[K, E]) load(ctx context.Context, key K, find func(context.Context, K) (*plan[E], error)) (*plan[E], error) {
	for {
		p.mu.Lock()
		if plan := p.known(key); plan != nil {
			p.mu.Unlock()
			return plan, nil
		}
		l := p.loading[key]
		if l == nil {
			l = &load[E]{done: make(chan struct{})}
			if p.loading == nil {
				p.loading = map[K]*load[E]{}
			}
			p.loading[key] = l
			p.mu.Unlock()
			p.fill(ctx, key, l, find)
			return l.plan, l.err
		}
		p.mu.Unlock()
		select {
		case <-l.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		// The one that looked it up may have had less time than this caller: its cancellation is not this caller's.
		if l.err == nil || !errors.Is(l.err, context.Canceled) && !errors.Is(l.err, context.DeadlineExceeded) {
			return l.plan, l.err
		}
	}
}

// fill looks the key up, publishes its plan and ends l. What may change, an error of the resolver, is not kept.
func (p *plans[K, E]) fill(ctx context.Context, key K, l *load[E], find func(context.Context, K) (*plan[E], error)) {
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.loading, key)
		if l.plan != nil {
			p.add(key, l.plan)
		} else if l.err == nil {
			l.err = ErrUndecodable.Because("the look-up of its schema ended early")
		}
		close(l.done)
	}()
	l.plan, l.err = find(ctx, key)
}

// add publishes a plan. The caller has the lock, or is alone.
func (p *plans[K, E]) add(key K, found *plan[E]) {
	all := map[K]*plan[E]{}
	if before := p.all.Load(); before != nil {
		all = maps.Clone(*before)
	}
	all[key] = found
	p.all.Store(&all)
}
