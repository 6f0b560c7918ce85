package registry

import (
	"context"
	"errors"

	"github.com/millrace/millrace/platform/eventlog"
)

// A group is the writer's way to make the writes that wait at the same time with one append. Each is planned on a state that has the
// earlier ones, so what is answered is what will be; nobody is answered before everything is in the log and read back.
type group struct {
	s     *Server
	owner *eventlog.Owner
	batch *eventlog.Batch
	ahead *state // the state with what is under way; only the writer sees it
}

// maxGroup bounds the writes of one append.
const maxGroup = 256

// restart begins again with what is in the log.
func (g *group) restart() {
	g.s.mu.RLock()
	defer g.s.mu.RUnlock()
	g.ahead = g.s.state.clone()
}

// commit makes the write and all that wait behind it, and answers them.
func (g *group) commit(ctx context.Context, first *write) {
	for first != nil {
		first = g.round(ctx, first)
	}
}

// round makes one append and returns the write that had no room in it, if there was one.
func (g *group) round(ctx context.Context, first *write) (left *write) {
	type planned struct {
		w *write
		r written
	}
	var all []planned
	broken := false
	g.batch.Reset()
	for w := first; w != nil && left == nil; {
		r, outcome := g.plan(w, len(all) > 0)
		if outcome == full {
			left = w
			break
		}
		broken = broken || outcome == unusable
		all = append(all, planned{w, r})
		if w = nil; len(all) < maxGroup {
			select {
			case w = <-g.s.writes:
			default:
			}
		}
	}
	if n := g.batch.Len(); n > 0 || broken {
		failure := refuse(codeStore, "The write failed; nothing was written.")
		if broken {
			g.restart()
		} else {
			failure = g.append(ctx, n)
		}
		if failure != nil {
			// What was answered "exists already" or refused may rest on what was not written.
			for i := range all {
				all[i].r = written{err: failure}
			}
		}
	}
	for _, p := range all {
		p.w.reply <- p.r
	}
	return left
}

// What became of a write's plan.
const (
	done     = iota
	full     // there is no room for it behind others
	unusable // the state ahead is not what it should be: nothing may be written
)

// plan adds the records of a write to the batch and to the state ahead.
func (g *group) plan(w *write, behind bool) (r written, outcome int) {
	records, answer, refusal := w.plan(g.ahead)
	if refusal != nil || len(records) == 0 {
		return written{answer: answer, err: refusal}, done
	}
	g.s.mu.RLock()
	poison := g.s.poison
	g.s.mu.RUnlock()
	if poison != nil {
		return written{err: refuse(codeStore, "The registry is read-only: %s", explain(poison))}, done
	}
	before := g.batch.Savepoint()
	for _, r := range records {
		if err := g.batch.Add(r.key, r.value, nil); err != nil {
			g.batch.Rollback(before)
			if behind && errors.Is(err, eventlog.ErrBatchFull) {
				return written{}, full
			}
			return written{err: refuse(codeSchemaTooLarge, "The request needs more than one write can hold: %s", explain(err))}, done
		}
	}
	for _, r := range records {
		if err := g.ahead.apply(r.key, r.value); err != nil { // a bug: the registry must understand itself
			g.s.cfg.Logger.Error("the registry does not understand its own record", "key", string(r.key), "error", err.Error())
			return written{}, unusable
		}
	}
	return written{answer: answer}, done
}

// append writes the batch of n records and waits until they are part of the server's state.
func (g *group) append(ctx context.Context, n int) *apiError {
	type result struct {
		base int64
		err  error
	}
	finished := make(chan result, 1)
	g.owner.Append(g.batch, func(base int64, err error) { finished <- result{base, err} })
	var r result
	select {
	case r = <-finished:
	case <-ctx.Done():
		// An append is repeated until its fate is known, for hours if the brokers are gone; nobody stops for that long.
		g.owner.Release()
		r = <-finished
	}
	if r.err == nil {
		if !g.s.awaitApplied(ctx, r.base+int64(n)-1) {
			return refuse(codeTimeout, "The registry is shutting down; the write has been made.")
		}
		return nil
	}
	g.restart()
	switch {
	case errors.Is(r.err, eventlog.ErrTooLarge):
		return refuse(codeSchemaTooLarge, "The topic takes no record of this size: %s", explain(r.err))
	case errors.Is(r.err, eventlog.ErrOutcome):
		return refuse(codeTimeout, "It is not known whether the write was made; repeat the request.")
	case errors.Is(r.err, eventlog.ErrFenced):
		return moved()
	}
	g.s.cfg.Logger.Error("a write to the registry's topic failed", "error", r.err.Error())
	return refuse(codeStore, "The write failed; nothing was written.")
}
