package projection

import (
	"context"
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
func (w *waiter) settled(s *shown) bool {
	missing := false
	for _, p := range w.need {
		at := s.parts[p.Partition]
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
func (w *waiter) reached(s *shown) (missing es.Position, ok bool) {
	for _, p := range w.need {
		if s.parts[p.Partition].next <= p.Offset {
			return p, false
		}
	}
	return es.Position{}, true
}

// grace is how long a waiter waits before it asks the log whether the positions exist at all: nearly all do, and arrive by then.
const grace = 30 * time.Millisecond

// retryAfter is what clients are told when a view is behind.
const retryAfter = time.Second

// wait returns when the view has committed all of need, or ErrForeignTopic, ErrPositionAhead, ErrNotCaughtUp, ctx's error.
func (p *Projector) wait(ctx context.Context, v *viewState, need es.Positions) error {
	if len(need) == 0 {
		return nil
	}
	for _, pos := range need {
		if pos.Topic != v.topic.Name || pos.Partition < 0 || int(pos.Partition) >= len(v.parts) {
			return ErrForeignTopic.Because("%s; the view %s reads %s with partitions 0 to %d", pos, v.name, v.topic.Name, len(v.parts)-1)
		}
	}
	w := &waiter{need: need, done: make(chan struct{})}
	if _, ok := w.reached(v.shown.Load()); ok {
		return nil
	}
	v.mu.Lock()
	// The check under the lock: what is shown after it finds the waiter.
	if w.settled(v.shown.Load()) {
		v.mu.Unlock()
		return v.verdict(w)
	}
	v.waiters[w] = struct{}{}
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.waiters, w)
	}()
	deadline := time.NewTimer(p.cfg.WaitMax)
	defer deadline.Stop()
	soon := time.NewTimer(min(grace, p.cfg.WaitMax/2))
	defer soon.Stop()
	ahead := make(chan error, 1)
	for {
		select {
		case <-w.done:
			return v.verdict(w)
		case <-soon.C:
			ctx, cancel := context.WithTimeout(ctx, p.cfg.WaitMax)
			defer cancel()
			go func() { ahead <- p.checkEnds(ctx, v, need) }()
		case err := <-ahead:
			if err != nil {
				return err
			}
		case <-deadline.C:
			return v.verdict(w)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// verdict says how the wait ended.
func (v *viewState) verdict(w *waiter) error {
	s := v.shown.Load()
	missing, ok := w.reached(s)
	if ok {
		return nil
	}
	at := s.parts[missing.Partition]
	if at.halt != nil {
		return ErrNotCaughtUp.Because("the view %s has halted: %s", v.name, at.halt).
			WithFix("correct the view's code and start it again").After(30 * time.Second)
	}
	return ErrNotCaughtUp.Because("the view %s is at %s/%d@%d, asked was %s", v.name, missing.Topic, missing.Partition, at.next-1, missing).After(retryAfter)
}

// checkEnds returns ErrPositionAhead if one of need is beyond the end of the log. If the log cannot be asked, it returns nil: then
// the wait ends as any other does.
func (p *Projector) checkEnds(ctx context.Context, v *viewState, need es.Positions) error {
	for _, pos := range need {
		if pt := v.parts[pos.Partition].Load(); pt != nil {
			if end, _ := pt.oldest(0); pos.Offset < end {
				continue
			}
		}
		ends, err := p.ends.atLeast(ctx, p.log, v.topic, pos)
		if err != nil {
			p.cfg.Logger.Warn("projection: the end of the log is not known", "topic", v.topic.Name, "error", err)
			return nil
		}
		if pos.Offset >= ends[pos.Partition] {
			return ErrPositionAhead.Because("%s; the log ends before offset %d", pos, ends[pos.Partition])
		}
		if pt := v.parts[pos.Partition].Load(); pt != nil {
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
