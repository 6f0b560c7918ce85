// Package estest tests what authors of services write: tables for deciders, replays of real streams, golden files for views and for the
// released versions of contracts. Each check is one line, and holds the code to what the engines rely on beside what the test asks for.
package estest

import (
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/es"
)

// A Case says what a command does after some events: Then or Err.
type Case[C, E any] struct {
	Name  string
	Given []E   // the events of the stream so far
	When  C     // the command
	Then  []E   // the events it causes; none: there is nothing to do
	Err   error // the refusal, compared by errors.Is
	// Repeats says that deciding the command once more on the outcome may cause events again; by default it must not.
	Repeats bool
}

// Decide runs a table of cases against a decider. Beside the outcome it checks what each decider must keep: the same state and command
// give the same events, a refusal comes without events, nothing that it was given is changed, and a command decided again on its outcome
// has nothing left to do.
func Decide[S, C, E any](t *testing.T, d es.Decider[S, C, E], m es.Meta, cases []Case[C, E]) {
	t.Helper()
	for _, tc := range cases {
		t.Run(tc.Name, func(t *testing.T) {
			t.Helper()
			if err := try(d, m, tc); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// try returns how a case fails.
func try[S, C, E any](d es.Decider[S, C, E], m es.Meta, tc Case[C, E]) error {
	given, err := fold(d, *new(S), tc.Given)
	if err != nil {
		return err
	}
	got, err := decide(d, given, tc.When, m)
	if tc.Err != nil {
		if !errors.Is(err, tc.Err) {
			return fmt.Errorf("refusal: got %w, want %w", orNil(err), tc.Err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("refused: %w", err)
	}
	if diff := cmp.Diff(tc.Then, got, all, empty); diff != "" {
		return fmt.Errorf("events (-want +got):\n%s", diff)
	}
	outcome, err := fold(d, given, got)
	if err != nil || tc.Repeats {
		return err
	}
	return repeated(d, outcome, tc.When, m)
}

var (
	all   = cmp.Exporter(func(reflect.Type) bool { return true })
	empty = cmp.FilterValues(func(a, b any) bool {
		va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
		return va.IsValid() && vb.IsValid() && va.Kind() == reflect.Slice && vb.Kind() == reflect.Slice && va.Len() == 0 && vb.Len() == 0
	}, cmp.Comparer(func(any, any) bool { return true }))
)
