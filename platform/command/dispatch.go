package command

import (
	"context"
	"errors"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
)

// Dispatch gets a request about a stream to the process that owns its partition: it calls here if this is the one, else there, and
// repeats that while the partition changes hands, until ctx ends. Repeating a command is safe, for its id is the same each time; repeat
// is true once an earlier attempt may have taken effect.
//
// here returns what Handle and the reads return. there returns nil once the owner has answered, whatever the answer; ErrElsewhere if the
// request certainly did nothing there, ErrGone if nobody listens there any more, and any other error if that is not known. Its context
// ends also when the partition gets another owner: what the old one has not written by then, it never will.
func (e *Engine[S, C, E]) Dispatch(ctx context.Context, id es.StreamID, here func(repeat bool) error, there func(ctx context.Context, owner eventlog.Identity, repeat bool) error) error {
	var err error
	open := false
	pause := 5 * time.Millisecond
	for {
		r := e.Route(id)
		switch {
		case r.Here:
			err = here(open)
			if !errors.Is(err, ErrElsewhere) && !errors.Is(err, ErrMoved) {
				return err
			}
			open = open || errors.Is(err, ErrMoved)
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
			return errStopping
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			at := e.partition(id).at
			if open {
				return ErrOutcome.Because("%s changed hands, and the deadline passed before its new owner answered", at).
					WithFix("repeat the command with the same Idempotency-Key").After(time.Second).Wrap(err)
			}
			return ErrUnavailable.Because("no owner of %s took the command in time; it will not take effect", at).After(time.Second).Wrap(err)
		}
	}
}
