package command

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
)

// A Route says which process decides the commands of a stream, as far as this one knows.
type Route struct {
	Here    bool              // this process does, or is about to
	Owner   eventlog.Identity // else: who does; zero = nobody is known
	Changed <-chan struct{}   // closed when the route may be another
}

// Route returns which process decides the commands of a stream now.
func (e *Engine[S, C, E]) Route(id es.StreamID) Route {
	return e.partition(id).route.get()
}

// Owns reports whether a process that owns a partition, as far as this one knows, is reached at an address.
func (e *Engine[S, C, E]) Owns(address string) bool {
	return address != "" && slices.ContainsFunc(e.partitions, func(p *partition[S, C, E]) bool { return p.route.get().Owner.Address == address })
}

// Suspect says that the owner of a stream's partition does not exist any more: its machine answers, and nobody listens there. Unless
// somebody else has claimed the partition by then, this process does, without waiting for the group to notice.
func (e *Engine[S, C, E]) Suspect(id es.StreamID, owner eventlog.Identity) {
	e.partition(id).suspect(owner)
}

// A routing is what is known of a partition's owner.
type routing struct {
	mu    sync.Mutex
	route Route
	next  chan struct{}
}

func newRouting() *routing {
	r := &routing{next: make(chan struct{})}
	r.route.Changed = r.next
	return r
}

func (r *routing) get() Route {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.route
}

// set notes who owns the partition.
func (r *routing) set(here bool, owner eventlog.Identity) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if here == r.route.Here && owner == r.route.Owner {
		return
	}
	close(r.next)
	r.next = make(chan struct{})
	r.route = Route{Here: here, Owner: owner, Changed: r.next}
}

// A wish is whether this process should own a partition, and a call to look at it again.
type wish struct {
	state  atomic.Int32
	called chan struct{}
}

const (
	unwanted int32 = iota
	guessed        // nobody said that another one should: given up with the first claim that is lost
	wanted
)

func newWish() *wish { return &wish{called: make(chan struct{}, 1)} }

func (w *wish) set(state int32) {
	w.state.Store(state)
	notify(w.called)
}

func (w *wish) get() bool { return w.state.Load() != unwanted }

// sure reports whether nobody else is expected to claim the partition.
func (w *wish) sure() bool { return w.state.Load() == wanted }

// guess has the partition claimed, if it is not to be anyway.
func (w *wish) guess() {
	if w.state.CompareAndSwap(unwanted, guessed) {
		notify(w.called)
	}
}

// lost takes back what was only a guess.
func (w *wish) lost() { w.state.CompareAndSwap(guessed, unwanted) }

// suspect has the partition claimed unless its owner is another by then: those who suspect at the same time wait for different times.
func (p *partition[S, C, E]) suspect(owner eventlog.Identity) {
	if p.suspecting.Swap(true) {
		return
	}
	p.engine.scans.Go(func() {
		defer p.suspecting.Store(false)
		select {
		case <-time.After(rand.N(50 * time.Millisecond)):
		case <-p.engine.stopping:
			return
		}
		if now := p.route.get(); !now.Here && now.Owner == owner {
			p.engine.cfg.Logger.Warn("the owner of a partition is gone, claiming it", "partition", p.at.String(), "owner", owner.Address)
			p.wish.guess()
		}
	})
}

// place follows the group's hints until ctx ends: what this process should own it claims, what it should not it goes on serving until
// somebody else has claimed it.
func (e *Engine[S, C, E]) place(ctx context.Context) error {
	if e.cfg.Group == "" {
		e.assign(nil, true)
		<-ctx.Done()
		return nil
	}
	// Whoever is alone need not wait for the group to meet, which takes Kafka three seconds by default.
	asking, cancel := context.WithTimeout(ctx, 2*time.Second)
	there, err := e.cfg.Log.Members(asking, e.cfg.Group)
	cancel()
	if err == nil && len(there) == 0 {
		for _, p := range e.partitions {
			p.wish.set(guessed)
		}
	}
	member, err := e.cfg.Log.Join(e.cfg.Group, e.cfg.Topic, func(mine []int32) { e.assign(mine, false) })
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-e.leaving:
	}
	leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := member.Leave(leave); err != nil {
		e.cfg.Logger.Warn("the other instances will notice late that this one is gone", "reason", err)
	}
	close(e.left)
	<-ctx.Done()
	return nil
}

// assign notes which partitions this process should own.
func (e *Engine[S, C, E]) assign(ids []int32, all bool) {
	mine := make([]bool, len(e.partitions))
	for _, id := range ids {
		if int(id) < len(mine) {
			mine[id] = true
		}
	}
	for i, p := range e.partitions {
		if all || mine[i] {
			p.wish.set(wanted)
		} else {
			p.wish.set(unwanted)
		}
	}
}

// HandOver tells the other instances to take this one's partitions, and goes on deciding until they have or ctx ends. It returns at once
// if there are no others. After it Run should be ended.
func (e *Engine[S, C, E]) HandOver(ctx context.Context) {
	if e.cfg.Group == "" {
		return
	}
	e.leave.Do(func() { close(e.leaving) })
	select {
	case <-e.left:
	case <-e.stopped:
		return
	case <-ctx.Done():
		return
	}
	e.assign(nil, false)
	if there, err := e.cfg.Log.Members(ctx, e.cfg.Group); err != nil || len(there) == 0 {
		return
	}
	var all sync.WaitGroup
	for _, p := range e.partitions {
		all.Go(func() {
			for {
				r := p.route.get()
				if !r.Here {
					return
				}
				select {
				case <-r.Changed:
				case <-time.After(100 * time.Millisecond):
					// An idle owner whose successor could not tell it hears of it only when it writes. What this says shows in the route.
					_ = e.Confirm(ctx, p.at.Partition)
				case <-e.stopped:
					return
				case <-ctx.Done():
					return
				}
			}
		})
	}
	all.Wait()
}
