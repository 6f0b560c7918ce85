package es

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCheckID(t *testing.T) {
	for _, ok := range []string{"o-1", "a b", "ü", "日本", strings.Repeat("x", MaxIDBytes), "a..b", "%2F", "a?b#c"} {
		if err := CheckID(ok); err != nil {
			t.Errorf("%q: %v", ok, err)
		}
	}
	for _, bad := range []string{"", ".", "..", "a/b", "a\nb", "a\x00", "\x7f", "\u0085", "a\u202eb", "\ufeff", "\u2028", "\xff", strings.Repeat("x", MaxIDBytes+1)} {
		if err := CheckID(bad); !errors.Is(err, ErrID) {
			t.Errorf("%q: got %v, want ErrID", bad, err)
		}
	}
}

// TestEventID: ids are UUIDs of version 5 that never change, and differ with each part.
func TestEventID(t *testing.T) {
	got := EventID("o-1", "k-1", 0)
	if want := "8ffcaeb3-0ef1-5ee8-9759-e7fcdb5d9db6"; got != want {
		t.Errorf("the id of an event that may be in a log somewhere changed: %s, was %s", got, want)
	}
	seen := map[string]bool{}
	for _, id := range []string{got, EventID("o-2", "k-1", 0), EventID("o-1", "k-2", 0), EventID("o-1", "k-1", 1), EventID("o-1k", "-1", 0)} {
		if seen[id] || len(id) != 36 || id[14] != '5' || !strings.Contains("89ab", id[19:20]) {
			t.Errorf("id %s", id)
		}
		seen[id] = true
	}
}

func TestParsePosition(t *testing.T) {
	for _, bad := range []string{"", "a", "a/1", "a@1", "/1@2", "a/1@", "a/@1", "a/-1@1", "a/1@-1", "a/+1@1", "a/01@1", "a/1@01", "a/2147483648@1", "a/1@9223372036854775808", "a b/1@1", "a/1@1 ", strings.Repeat("a", 250) + "/1@1", "a/1@0x1"} {
		if p, err := ParsePosition(bad); !errors.Is(err, ErrPosition) {
			t.Errorf("%q: got %v, %v; want ErrPosition", bad, p, err)
		}
	}
	want := Position{TopicPartition{"orders.events", 3}, math.MaxInt64}
	if got, err := ParsePosition(want.String()); err != nil || got != want {
		t.Errorf("%v, %v", got, err)
	}
}

func TestPositions(t *testing.T) {
	ps, err := ParsePositions("b/1@5, a/2@3,b/1@4,a/10@1")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := ps.String(), "a/2@3,a/10@1,b/1@5"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if o, ok := ps.Offset(TopicPartition{"b", 1}); !ok || o != 5 {
		t.Errorf("offset %d, %v", o, ok)
	}
	if _, ok := ps.Offset(TopicPartition{"b", 2}); ok {
		t.Error("an offset that is not there")
	}
	for _, bad := range []string{"", " ", "a/1@1,", ","} {
		if _, err := ParsePositions(bad); !errors.Is(err, ErrPosition) {
			t.Errorf("%q: got %v, want ErrPosition", bad, err)
		}
	}
	var many strings.Builder
	for i := range maxPositions + 1 {
		many.WriteString(Position{TopicPartition{"a", int32(i)}, 1}.String() + ",")
	}
	if _, err := ParsePositions(strings.TrimSuffix(many.String(), ",")); !errors.Is(err, ErrPosition) {
		t.Errorf("too many positions: %v", err)
	}
}

// FuzzParsePositions: what is accepted comes back from String in one form, and means the same.
func FuzzParsePositions(f *testing.F) {
	f.Add("orders.events/3@1042")
	f.Add("a/1@1,a/1@2,b/0@0")
	f.Fuzz(func(t *testing.T, s string) {
		ps, err := ParsePositions(s)
		if err != nil {
			return
		}
		again, err := ParsePositions(ps.String())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(ps, again); diff != "" {
			t.Fatal(diff)
		}
	})
}
