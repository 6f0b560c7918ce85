package command

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/es"
)

func FuzzRow(f *testing.F) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	r := row{offset: 7, index: 1, count: 3, time: at, typ: "t", meta: es.Meta{CommandID: "c", CommandHash: "h", CorrelationID: "c", Actor: "a", Time: at}, frame: []byte{0, 1}}
	f.Add(r.append(nil))
	f.Add([]byte{})
	f.Add([]byte{1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRow(b)
		if err != nil {
			return
		}
		again, err := parseRow(r.append(nil))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, again, cmp.AllowUnexported(row{})); diff != "" {
			t.Fatalf("(-first +again):\n%s", diff)
		}
	})
}

// TestKeys: the keys of a stream's events sort by version, and no stream's keys lie between those of another.
func TestKeys(t *testing.T) {
	a1, a2, a256 := eventKey(nil, 1, "a", 1), eventKey(nil, 1, "a", 2), eventKey(nil, 1, "a", 256)
	b1 := eventKey(nil, 1, "a\x01", 1)
	for i, pair := range [][2][]byte{{a1, a2}, {a2, a256}, {a256, b1}} {
		if bytes.Compare(pair[0], pair[1]) >= 0 {
			t.Errorf("pair %d is out of order", i)
		}
	}
	if bytes.HasPrefix(b1, streamPrefix(nil, 1, "a")) {
		t.Error("the prefix of one stream is a prefix of another's keys")
	}
}
