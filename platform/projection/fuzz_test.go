package projection

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

// FuzzStoredRow: whatever is read as a row is written as the same row again, and nothing else than ErrDamaged comes of the rest.
func FuzzStoredRow(f *testing.F) {
	row := storedRow{partition: 3, offset: 77, event: makeEventID(es.EventID("o-1", "c", 0)), values: []string{"", "c-1"}, json: []byte(`{"a":1}`)}
	f.Add(row.appendBinary(nil))
	row.event, row.values = makeEventID("not a uuid"), nil
	f.Add(row.appendBinary(nil))
	f.Add([]byte{})
	f.Add([]byte{rowFormat, 0, 0, 0, 0})
	f.Add(bytes.Repeat([]byte{0xff}, 40))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s, again storedRow
		if err := s.parse(b); err != nil {
			if !errors.Is(err, store.ErrDamaged) {
				t.Fatalf("%v is not ErrDamaged", err)
			}
			return
		}
		form := s.appendBinary(nil)
		if err := again.parse(form); err != nil {
			t.Fatal(err)
		}
		if got, want := fmt.Sprint(again), fmt.Sprint(s); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		for n := range form {
			if n < len(form)-len(s.json) && again.parse(form[:n]) == nil {
				t.Errorf("the first %d of %d bytes pass for a row", n, len(form))
			}
		}
	})
}

// FuzzEventID: ids of any form survive.
func FuzzEventID(f *testing.F) {
	for _, s := range []string{"", "x", es.EventID("a", "b", 1), strings.ToUpper(es.EventID("a", "b", 1)), "00000000-0000-0000-0000-000000000000",
		"zzzzzzzz-0000-0000-0000-000000000000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e := makeEventID(s)
		p := parser{rest: e.appendBinary(nil)}
		if got := p.eventID(); p.bad || got.String() != s || e.String() != s {
			t.Errorf("%q became %q and %q", s, e.String(), got.String())
		}
	})
}

// FuzzCursor: no text is a valid cursor but those that were given out.
func FuzzCursor(f *testing.F) {
	p := &Projector{mac: bytes.Repeat([]byte{7}, 32)}
	q := Query{Index: "status", Equal: []string{"placed"}}
	good := p.CursorAfter("orders", 1, &q, []byte("io-1"))
	f.Add(good)
	f.Add("")
	f.Add(good + "A")
	f.Add(good[1:])
	f.Add("AQ")
	f.Add(strings.Repeat("A", 1000))
	f.Fuzz(func(t *testing.T, s string) {
		q := q
		q.Cursor = s
		last, err := p.After("orders", 1, &q)
		switch {
		case err != nil && !errors.Is(err, ErrCursor):
			t.Errorf("%q: %v is not ErrCursor", s, err)
		case err == nil && p.CursorAfter("orders", 1, &q, last) != s:
			t.Errorf("%q passes for the cursor after %q", s, last)
		}
	})
}

// TestCursorAt checks the cursors between records: a claim moves them to its owner, a closing record does not.
func TestCursorAt(t *testing.T) {
	at := func(offset int64, mark eventlog.MarkKind, pid int64, epoch int16) eventlog.Record {
		return eventlog.Record{Mark: mark, ProducerID: pid, Epoch: epoch, Position: es.Position{Offset: offset}}
	}
	p := piece{
		before:  eventlog.Cursor{Next: 10, LeaderEpoch: 4, ProducerID: 1, Epoch: 5},
		after:   eventlog.Cursor{Next: 20, LeaderEpoch: 4, ProducerID: 2, Epoch: 1},
		records: []eventlog.Record{at(10, 0, 1, 5), at(12, eventlog.MarkClose, 1, 32767), at(13, eventlog.MarkClaim, 2, 0), at(14, 0, 2, 0), at(15, eventlog.MarkBarrier, 2, 1)},
	}
	want := []eventlog.Cursor{
		{Next: 10, LeaderEpoch: 4, ProducerID: 1, Epoch: 5},
		{Next: 12, LeaderEpoch: 4, ProducerID: 1, Epoch: 5},
		{Next: 13, LeaderEpoch: 4, ProducerID: 1, Epoch: 5},
		{Next: 14, LeaderEpoch: 4, ProducerID: 2, Epoch: 0},
		{Next: 15, LeaderEpoch: 4, ProducerID: 2, Epoch: 0},
		{Next: 20, LeaderEpoch: 4, ProducerID: 2, Epoch: 1},
	}
	for i, w := range want {
		if got := p.cursorAt(i); got != w {
			t.Errorf("before record %d: %+v, want %+v", i, got, w)
		}
	}
	p.after.LeaderEpoch = 5
	if got := p.cursorAt(3).LeaderEpoch; got != -1 {
		t.Errorf("the leader changed somewhere: epoch %d, want -1", got)
	}
}
