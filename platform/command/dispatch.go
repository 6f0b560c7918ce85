package command

import (
	"context"
	"errors"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
)

// Dispatch gets a request about a stream to the process that owns its partition: it calls here if this is the one, else there, and
// repeats that while the partition changes hands, until ctx ends. Repeating a command is safe, for its id is the same each time; repeat
// is true once an earlier attempt may have taken effect.
//
// here returns what Handle and the reads return. there returns nil once the owner has answered, whatever the answer; ErrElsewhere if the
// request certainly did nothing there, ErrGone if nobody listens there any more, ErrUnavailable if it is repeated and the owner does not
// take it now, and any other error if it is not known what it did. Its context ends also when the partition gets another owner: what the
// old one has not written by then, it never will.
func (e *Engine[S, C, E]) Dispatch(ctx context.Context, id es.StreamID, here func(repeat bool) error, there func(ctx context.Context, owner eventlog.Identity, repeat bool) error) error {
	var err error
	open := false
	pause := 5 * time.Millisecond
	for {
		r := e.Route(id)
		switch {
		case r.Here:
			err = here(open)
			switch {
			case errors.Is(err, ErrMoved):
				open = true
			case errors.Is(err, ErrElsewhere):
			case open && fault.KindOf(err) == fault.Unavailable:
				return e.undecided(id, err)
			default:
				return err
			}
		case r.Owner == (eventlog.Identity{}) || r.Owner.Address == "":
			// Somebody will claim the partition.
		default:
			asking, stop := context.WithCancel(ctx)
			go func() {
				select {
				case <-r.Changed:
					stop()
				case <-asking.Done():
				}
			}()
			err = there(asking, r.Owner, open)
			stop()
			if err == nil {
				return nil
			}
			switch {
			case errors.Is(err, ErrGone):
				e.Suspect(id, r.Owner)
			case open && errors.Is(err, ErrUnavailable):
				return e.undecided(id, err)
			case !errors.Is(err, ErrElsewhere):
				open = true
			}
		}
		timer := time.NewTimer(pause)
		select {
		case <-r.Changed:
		case <-timer.C:
			pause = min(2*pause, 200*time.Millisecond)
		case <-e.stopped:
			if open {
				return e.undecided(id, err)
			}
			return errStopping
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			if open {
				return e.undecided(id, err)
			}
			return ErrUnavailable.Because("no owner of %s took the command in time; it will not take effect", e.partition(id).at).After(time.Second).Wrap(err)
		}
	}
}

// undecided is the answer to a request of which an attempt may have taken effect, and which no later attempt got decided.
func (e *Engine[S, C, E]) undecided(id es.StreamID, err error) error {
	return ErrOutcome.Because("%s changed hands, and its new owner has not answered", e.partition(id).at).
		WithFix("repeat the command with the same Idempotency-Key").After(time.Second).Wrap(err)
}
