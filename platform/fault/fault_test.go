package fault

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

var errGone = New(Conflict, "gone", "it is gone")

func TestError(t *testing.T) {
	cause := errors.New("disk on fire")
	err := fmt.Errorf("shop: %w", errGone.Because("order %d", 7).WithFix("order again").At("/a", "is bad").At("/b", "too").WithCurrent(3).After(time.Second).Wrap(cause))
	if !errors.Is(err, errGone) || !errors.Is(err, cause) || errors.Is(err, New(Conflict, "other", "")) {
		t.Error("errors.Is does not find the code and the cause")
	}
	e := From(err)
	if e == nil || KindOf(err) != Conflict || *e.Current != 3 || e.RetryAfter != time.Second || len(e.Fields) != 2 {
		t.Errorf("%+v", e)
	}
	if got, want := e.Error(), "it is gone: order 7: /a is bad; /b too: disk on fire"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := Lines(err), "error: it is gone\nwhy: order 7; /a is bad; /b too: disk on fire\nfix: order again\ncode: gone"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := Line(err), "it is gone: order 7; /a is bad; /b too: disk on fire; order again [gone]"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if errGone.Detail != "" || errGone.Fields != nil || errGone.Current != nil {
		t.Error("the sentinel changed")
	}
}

// TestCopiesShareNothing: two refusals made from one that has fields already do not write over each other.
func TestCopiesShareNothing(t *testing.T) {
	base := errGone.At("/a", "x").At("/b", "x").At("/c", "x")
	one, two := base.At("/d", "one"), base.At("/d", "two")
	if one.Fields[3].Detail != "one" || two.Fields[3].Detail != "two" {
		t.Errorf("%v %v", one.Fields, two.Fields)
	}
}

func TestPlainErrors(t *testing.T) {
	err := errors.New("plain")
	if KindOf(err) != Internal || From(err) != nil || Line(err) != "plain" || Lines(err) != "error: plain" {
		t.Errorf("%v %q %q", KindOf(err), Line(err), Lines(err))
	}
	for k := Internal; k <= Unknown; k++ {
		if k.String() == "" || k.Retryable() != (k >= Busy) {
			t.Errorf("kind %d", k)
		}
	}
	if Kind(99).String() != "kind(99)" {
		t.Error(Kind(99).String())
	}
}
