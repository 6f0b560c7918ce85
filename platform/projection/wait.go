package projection

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
)

// A waiter waits until a view has committed positions, or cannot come to have them.
type waiter struct {
	need es.Positions
	done chan struct{}
}

// settled reports whether waiting on is pointless: all positions are reached, or one lies behind an event at which the view halted.
func (w *waiter) settled(g *generation, s *shown) bool {
	missing := false
	for _, p := range w.need {
		at := s.slots[g.slot(p.TopicPartition)]
		if at.next > p.Offset {
			continue
		}
		if at.halt != nil {
			return true
		}
		missing = true
	}
	return !missing
}

// reached returns the first position that is not committed.
func (w *waiter) reached(g *generation, s *shown) (missing es.Position, ok bool) {
	for _, p := range w.need {
		if s.slots[g.slot(p.TopicPartition)].next <= p.Offset {
			return p, false
		}
	}
	return es.Position{}, true
}

// grace is how long a waiter waits before it asks the log whether the positions exist at all: nearly all do, and arrive by then.
const grace = 30 * time.Millisecond

// retryAfter is what clients are told when a view is behind.
const retryAfter = time.Second

type patienceKey struct{}

// WithPatience returns a context whose queries wait for positions for d at most, be it shorter than Config.WaitMax: who asks has another
// projector to ask then.
func WithPatience(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, patienceKey{}, d)
}

// wait returns when the view has committed all of need, or ErrForeignTopic, ErrPositionAhead, ErrBuildEnds, ErrNotCaughtUp, ctx's error.
func (p *Projector) wait(ctx context.Context, g *generation, need es.Positions) error {
	need = p.own(need)
	if len(need) == 0 {
		return nil
	}
	for _, pos := range need {
		if pos.Partition < 0 || g.slot(pos.TopicPartition) < 0 {
			return ErrForeignTopic.Because("%s; the view %s reads %d partitions of %s", pos, g.view.name, len(g.slots), strings.Join(g.shape.Topics, ", "))
		}
		if end := g.limit(g.slot(pos.TopicPartition)); pos.Offset >= end {
			return ErrBuildEnds.Because("%s; the build %s of the view %s ends before offset %d of that partition", pos, g.born.id(), g.view.name, end).
				WithFix("ask the build that answers queries, or begin one that ends later: millrace view rebuild %s --until …", g.view.name)
		}
	}
	w := &waiter{need: need, done: make(chan struct{})}
	if _, ok := w.reached(g, g.shown.Load()); ok {
		return nil
	}
	g.mu.Lock()
	// The check under the lock: what is shown after it finds the waiter.
	if w.settled(g, g.shown.Load()) {
		g.mu.Unlock()
		return g.verdict(w)
	}
	g.waiters[w] = struct{}{}
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.waiters, w)
	}()
	patience := p.cfg.WaitMax
	if d, ok := ctx.Value(patienceKey{}).(time.Duration); ok {
		patience = min(patience, d)
	}
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	soon := time.NewTimer(min(grace, patience/2))
	defer soon.Stop()
	ahead := make(chan error, 1)
	for {
		select {
		case <-w.done:
			return g.verdict(w)
		case <-soon.C:
			ctx, cancel := context.WithTimeout(ctx, p.cfg.WaitMax)
			defer cancel()
			go func() { ahead <- p.checkEnds(ctx, g, need) }()
		case err := <-ahead:
			if err != nil {
				return err
			}
		case <-deadline.C:
			return g.verdict(w)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// verdict says how the wait ended.
func (g *generation) verdict(w *waiter) error {
	s := g.shown.Load()
	missing, ok := w.reached(g, s)
	if ok {
		return nil
	}
	at := s.slots[g.slot(missing.TopicPartition)]
	if at.halt != nil {
		return ErrNotCaughtUp.Because("the view %s has halted: %s", g.view.name, at.halt).
			WithFix("correct the view's code and start it again").After(30 * time.Second)
	}
	if g.view.seen.Load().ctl.Paused {
		return ErrNotCaughtUp.Because("the view %s is paused at %s/%d@%d, asked was %s", g.view.name, missing.Topic, missing.Partition, at.next-1, missing).
			WithFix("resume it: millrace view resume %s", g.view.name).After(retryAfter)
	}
	if g.code == nil {
		return ErrNotCaughtUp.Because("the view %s is answered from version %d until its new version is built", g.view.name, g.born.Version).After(retryAfter)
	}
	return ErrNotCaughtUp.Because("the view %s is at %s/%d@%d, asked was %s", g.view.name, missing.Topic, missing.Partition, at.next-1, missing).After(retryAfter)
}

// checkEnds returns ErrPositionAhead if one of need is beyond the end of the log. If the log cannot be asked, it returns nil: then
// the wait ends as any other does.
func (p *Projector) checkEnds(ctx context.Context, g *generation, need es.Positions) error {
	for _, pos := range need {
		if pt := g.parts[g.slot(pos.TopicPartition)].Load(); pt != nil {
			if end, _ := pt.oldest(0); pos.Offset < end {
				continue
			}
		}
		ends, err := p.ends.atLeast(ctx, p.log, p.topics[pos.Topic], pos)
		if err != nil {
			p.cfg.Logger.Warn("projection: the end of the log is not known", "topic", pos.Topic, "error", err)
			return nil
		}
		if pos.Offset >= ends[pos.Partition] {
			return ErrPositionAhead.Because("%s; the log ends before offset %d", pos, ends[pos.Partition])
		}
		if pt := g.parts[g.slot(pos.TopicPartition)].Load(); pt != nil {
			pt.raise(ends[pos.Partition])
		}
	}
	return nil
}

// ends keeps the last known ends of the topics and lets only one caller at a time ask for newer ones, so that wrong positions in
// queries cost the log little.
type ends struct {
	mu    sync.Mutex
	known map[string][]int64
}

// atLeast returns the ends of the topic: known ones if they are beyond pos, else asked now.
func (e *ends) atLeast(ctx context.Context, log journal, topic eventlog.Topic, pos es.Position) ([]int64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if known := e.known[topic.Name]; int(pos.Partition) < len(known) && pos.Offset < known[pos.Partition] {
		return known, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	now, err := log.Ends(ctx, topic)
	if err != nil {
		return nil, err
	}
	if int(pos.Partition) >= len(now) {
		return nil, ErrForeignTopic.Because("%s has %d partitions now", topic.Name, len(now))
	}
	if e.known == nil {
		e.known = map[string][]int64{}
	}
	e.known[topic.Name] = now
	return now, nil
}
