package command

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/eventlog"
)

// idle returns an engine of a group that does not run: who owns what is the test's to say.
func idle(t *testing.T) *Engine[account, cmd, event] {
	t.Helper()
	codec, err := contract.Bind(t.Context(), accounts, contract.NewMemory())
	if err != nil {
		t.Fatal(err)
	}
	return New[account, cmd, event](Config{
		Topic: eventlog.Topic{Name: accounts.Topic, Partitions: 1}, Group: "g", Identity: eventlog.Identity{Instance: "me", Address: "me:1"},
	}, decider, codec)
}

// TestOpenStaysOpen: once an attempt may have taken effect, no later one that only says "not now" makes the answer certain.
//
// G10: A caller that is told that its command will not take effect can rely on it; where that is not certain, the answer is outcome_unknown.
func TestOpenStaysOpen(t *testing.T) {
	other := eventlog.Identity{Instance: "other", Address: "other:1"}
	broken := errors.New("the connection broke")
	for name, tc := range map[string]struct {
		first, second error // of the owner there, then of this process or, if that is other, of the next owner
		here          bool
		want          error
	}{
		"overloaded here":             {broken, ErrOverloaded, true, ErrOutcome},
		"not in time here":            {broken, ErrUnavailable, true, ErrOutcome},
		"not in time there":           {ErrMoved, ErrUnavailable, false, ErrOutcome},
		"refused here":                {broken, errOverdrawn, true, errOverdrawn},
		"overloaded here, but before": {ErrElsewhere, ErrOverloaded, true, ErrOverloaded},
	} {
		t.Run(name, func(t *testing.T) {
			e := idle(t)
			e.partitions[0].route.set(false, other)
			asked := 0
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			err := e.Dispatch(ctx, "a", func(bool) error {
				return tc.second
			}, func(context.Context, eventlog.Identity, bool) error {
				if asked++; asked > 1 {
					return tc.second
				}
				e.partitions[0].route.set(tc.here, eventlog.Identity{Instance: "next", Address: "next:1"})
				return tc.first
			})
			if !errors.Is(err, tc.want) || ctx.Err() != nil {
				t.Errorf("got %v, want %v at once", err, tc.want)
			}
		})
	}
	t.Run("stopped", func(t *testing.T) {
		e := idle(t)
		e.partitions[0].route.set(false, other)
		err := e.Dispatch(t.Context(), "a", nil, func(context.Context, eventlog.Identity, bool) error {
			close(e.stopped)
			return broken
		})
		if !errors.Is(err, ErrOutcome) {
			t.Errorf("got %v, want ErrOutcome", err)
		}
	})
}

// TestSuspectWanted: what the group says is not made a guess by a suspicion.
func TestSuspectWanted(t *testing.T) {
	other := eventlog.Identity{Instance: "other", Address: "other:1"}
	for _, state := range []int32{unwanted, wanted} {
		e := idle(t)
		p := e.partitions[0]
		p.route.set(false, other)
		p.wish.set(state)
		e.Suspect("a", other)
		e.scans.Wait()
		if got, want := p.wish.state.Load(), max(state, guessed); got != want {
			t.Errorf("wish %d, want %d", got, want)
		}
	}
}

// TestReadElsewhere: an instance that knows that another one has the partition answers no read from its own store, whenever it was the owner.
func TestReadElsewhere(t *testing.T) {
	e := idle(t)
	p := e.partitions[0]
	p.wish.set(wanted)
	p.proven.Store(time.Now().UnixNano())
	p.route.set(false, eventlog.Identity{Instance: "other", Address: "other:1"})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if s, v, err := e.State(ctx, "a", nil); !errors.Is(err, ErrElsewhere) {
		t.Errorf("%+v at %d, %v; want ErrElsewhere", s, v, err)
	}
}
