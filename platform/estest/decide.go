// Package estest tests what authors of services write: tables for deciders, golden files for views.
package estest

import (
	"errors"
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
// give the same events, a refusal comes without events, and a command decided again on its outcome has nothing left to do.
func Decide[S, C, E any](t *testing.T, d es.Decider[S, C, E], m es.Meta, cases []Case[C, E]) {
	t.Helper()
	for _, tc := range cases {
		t.Run(tc.Name, func(t *testing.T) {
			t.Helper()
			fold := func(events ...[]E) (s S) {
				for _, list := range events {
					for _, e := range list {
						s = d.Evolve(s, e)
					}
				}
				return s
			}
			got, err := d.Decide(fold(tc.Given), tc.When, m)
			if tc.Err != nil {
				if !errors.Is(err, tc.Err) {
					t.Fatalf("refusal: got %v, want %v", err, tc.Err)
				}
				if len(got) > 0 {
					t.Fatalf("a refusal with %d events", len(got))
				}
				return
			}
			if err != nil {
				t.Fatalf("refused: %v", err)
			}
			if diff := cmp.Diff(tc.Then, got, all, empty); diff != "" {
				t.Fatalf("events (-want +got):\n%s", diff)
			}
			again, err := d.Decide(fold(tc.Given), tc.When, m)
			if diff := cmp.Diff(got, again, all, empty); diff != "" || err != nil {
				t.Fatalf("the same state and command decided differently (%v):\n%s", err, diff)
			}
			if tc.Repeats {
				return
			}
			again, err = d.Decide(fold(tc.Given, got), tc.When, m)
			if err != nil || len(again) > 0 {
				t.Errorf("decided again on the outcome: got %v, %v; want no events", again, err)
			}
		})
	}
}

var (
	all   = cmp.Exporter(func(reflect.Type) bool { return true })
	empty = cmp.FilterValues(func(a, b any) bool {
		va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
		return va.IsValid() && vb.IsValid() && va.Kind() == reflect.Slice && vb.Kind() == reflect.Slice && va.Len() == 0 && vb.Len() == 0
	}, cmp.Comparer(func(any, any) bool { return true }))
)
