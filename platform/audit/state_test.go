package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
)

// some returns a state with everything in it.
func some() *state {
	s := &state{key: [16]byte{1, 2}, found: 3, first: &Finding{Code: Rogue, Position: es.Position{TopicPartition: es.TopicPartition{Topic: "t"}, Offset: 9}, Text: "it is"}, parts: map[es.TopicPartition]*part{}}
	for n := range int32(3) {
		cursor := eventlog.Topic{Name: "t", ID: [16]byte{5}}.Start(n)
		l := newLedger(cursor.TopicPartition, s.key)
		l.recall.bound(4)
		l.partitions = 1
		if n < 2 {
			for _, r := range append(good()[:9], ev(9, 8, 0, "s", "long", 4, 0, 3)) {
				l.judge(&r, func(Finding) {})
			}
			cursor.Next, cursor.ProducerID, cursor.Epoch = 10, 8, 0
		}
		s.parts[cursor.TopicPartition] = &part{cursor: cursor, ledger: l}
	}
	return s
}

func TestState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.state")
	if s, err := loadState(path); s != nil || err != nil {
		t.Fatalf("no file: %v, %v", s, err)
	}
	want := some()
	for range 2 { // the second time it is there
		if err := want.save(path); err != nil {
			t.Fatal(err)
		}
	}
	got, err := loadState(path)
	if err != nil {
		t.Fatal(err)
	}
	for tp, p := range got.parts {
		p.ledger.partitions = 1 // the topic's
		p.ledger.recall.bound(4)
		w := want.parts[tp]
		older, newer := w.ledger.recall.list()
		w.ledger.recall.order, w.ledger.recall.at = append(append([]uint64(nil), older...), newer...), 0
		if a, b := fmt.Sprintf("%+v", *p.ledger), fmt.Sprintf("%+v", *w.ledger); a != b || p.cursor != w.cursor {
			t.Errorf("%s: got %+v %s\nwant %+v %s", tp, p.cursor, a, w.cursor, b)
		}
	}
	if len(got.parts) != 3 || got.key != want.key || got.found != 3 || !reflect.DeepEqual(got.first, want.first) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	// What is judged after it is what would have been judged.
	p := got.parts[es.TopicPartition{Topic: "t"}]
	last := ev(10, 8, 0, "s", "long", 5, 1, 3)
	p.ledger.judge(&last, func(f Finding) { t.Error(f) })
	left, err := filepath.Glob(path + "*")
	if err != nil || len(left) != 1 {
		t.Errorf("the folder holds %v, %v", left, err)
	}

	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, broken := range map[string][]byte{"empty": {}, "short": text[:len(text)-1], "long": append(bytes.Clone(text), 0), "another file": []byte("millrace audit 2\n")} {
		refused(t, path, name, broken)
	}
	for i := range text {
		b := bytes.Clone(text)
		b[i] ^= 1 << (i % 8)
		refused(t, path, "a flipped bit", b)
	}
	if err := want.save(filepath.Join(path, "no", "folder")); !errors.Is(err, ErrState) {
		t.Errorf("no folder: %v", err)
	}
}

func refused(t *testing.T, path, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadState(path); !errors.Is(err, ErrState) {
		t.Errorf("%s: %v", name, err)
	}
}

// FuzzState: no file makes the audit panic or take much memory, and what is taken is what was written.
func FuzzState(f *testing.F) {
	path := filepath.Join(f.TempDir(), "audit.state")
	if err := some().save(path); err != nil {
		f.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, text []byte) {
		if s, err := decodeState(bytes.NewReader(text)); err == nil {
			if err := s.encode(&bytes.Buffer{}); err != nil {
				t.Fatal(err)
			}
		}
	})
}
