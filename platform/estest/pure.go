package estest

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
)

// Fold returns the state after events, and fails the test if the decider's Evolve changes an event or the state before it, or keeps its
// hands on memory that an earlier state still has: the engine decides on several states of a stream at the same time. A decider that
// saves its states must get back from Restore what it saved.
func Fold[S, C, E any](t testing.TB, d es.Decider[S, C, E], events []E) S {
	t.Helper()
	s, err := fold(d, *new(S), events)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Idempotent fails the test unless each of the commands, decided again on its own outcome, has nothing left to do: after the given events a
// command is refused both times for the same reason, or causes events and then none, or none at all.
func Idempotent[S, C, E any](t testing.TB, d es.Decider[S, C, E], m es.Meta, given []E, commands []C) {
	t.Helper()
	s, err := fold(d, *new(S), given)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range commands {
		events, err := decide(d, s, c, m)
		var after S
		if err == nil {
			if after, err = fold(d, s, events); err == nil {
				err = repeated(d, after, c, m)
			}
		} else if fault.From(err) != nil {
			err = nil // a refusal, the same both times
		}
		if err != nil {
			t.Errorf("%T after %d events: %v", c, len(given), err)
		}
	}
}

// repeated returns an error if a command that took effect has something left to do.
func repeated[S, C, E any](d es.Decider[S, C, E], outcome S, c C, m es.Meta) error {
	again, err := decide(d, outcome, c, m)
	if err != nil || len(again) > 0 {
		return fmt.Errorf("decided again on the outcome: got %v, %w; want no events", again, orNil(err))
	}
	return nil
}

var errNone = errors.New("no refusal")

func orNil(err error) error {
	if err == nil {
		return errNone
	}
	return err
}

// fold returns the state after events, or how the decider breaks its word.
func fold[S, C, E any](d es.Decider[S, C, E], s S, events []E) (S, error) {
	kept := snap(&events)
	for i := range events {
		next, err := evolve(d, s, events[i])
		if err != nil {
			return s, fmt.Errorf("event %d, a %T: %w", i+1, events[i], err)
		}
		s = next
	}
	if diff := kept.changed(); diff != "" {
		return s, fmt.Errorf("an event was changed by Evolve later (-before +after):\n%s", diff)
	}
	return s, nil
}

// evolve returns the state after one event.
func evolve[S, C, E any](d es.Decider[S, C, E], s S, e E) (S, error) {
	before, event := snap(&s), snap(&e)
	first := d.Evolve(s, e)
	if diff := event.changed(); diff != "" {
		return first, fmt.Errorf("the event was changed by Evolve (-before +after):\n%s", diff)
	}
	if diff := before.changed(); diff != "" {
		return first, fmt.Errorf("the state before the event was changed by Evolve, or a slice of it appended to in place; clip or clone it (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(first, d.Evolve(s, e), all, empty); diff != "" {
		return first, fmt.Errorf("the same state and event evolved differently:\n%s", diff)
	}
	return first, restored(d, first)
}

// restored returns an error if a saved state does not come back.
func restored[S, C, E any](d es.Decider[S, C, E], s S) error {
	if d.Save == nil || d.Restore == nil {
		return nil
	}
	saved, err := d.Save(s)
	if err != nil {
		return fmt.Errorf("the state cannot be saved: %w", err)
	}
	back, err := d.Restore(bytes.Clone(saved))
	if err != nil {
		return fmt.Errorf("the saved state cannot be restored: %w", err)
	}
	if diff := cmp.Diff(s, back, all, empty); diff != "" {
		return fmt.Errorf("the state does not come back as it was saved (-saved +restored):\n%s", diff)
	}
	if again, err := d.Save(back); err != nil || !bytes.Equal(saved, again) {
		return fmt.Errorf("the restored state is saved as other bytes (%w)", orNil(err))
	}
	return nil
}

// decide returns what a command causes, or the refusal, or how the decider breaks its word, which is no fault.
func decide[S, C, E any](d es.Decider[S, C, E], s S, c C, m es.Meta) (events []E, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%T: panic in Decide: %v", c, p)
		}
	}()
	state, command := snap(&s), snap(&c)
	events, err = d.Decide(s, c, m)
	again, errAgain := d.Decide(s, c, m)
	switch {
	case err != nil && len(events) > 0:
		return nil, fmt.Errorf("a refusal with %d events", len(events))
	case (err == nil) != (errAgain == nil), err != nil && err.Error() != errAgain.Error():
		// Only the texts: this is no refusal.
		return nil, fmt.Errorf("the same state and command decided differently: %s, then %s", orNil(err).Error(), orNil(errAgain).Error())
	}
	if diff := cmp.Diff(events, again, all, empty); diff != "" {
		return nil, fmt.Errorf("the same state and command decided differently:\n%s", diff)
	}
	if diff := state.changed(); diff != "" {
		return nil, fmt.Errorf("the state was changed by Decide (-before +after):\n%s", diff)
	}
	if diff := command.changed(); diff != "" {
		return nil, fmt.Errorf("the command was changed by Decide (-before +after):\n%s", diff)
	}
	return events, err
}
