package eventlog

import (
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// The offsets of a topic that is not compacted are dense, and whatever is no owner's plain record is dropped, not delivered.
func TestSourceRead(t *testing.T) {
	claim := func(offset int64) *kgo.Record {
		return &kgo.Record{Topic: "t", Offset: offset, ProducerID: 7, ProducerEpoch: 1, Headers: markHeaders(nil, MarkClaim, Identity{"a", ""})}
	}
	event := func(offset int64) *kgo.Record {
		return &kgo.Record{Topic: "t", Offset: offset, ProducerID: 7, ProducerEpoch: 1, LeaderEpoch: 3, Value: []byte("x")}
	}
	special := func(offset int64, o kgo.RecordAttrsOpts) *kgo.Record {
		r := event(offset)
		r.Attrs = kgo.NewRecordAttrs(o)
		return r
	}
	for _, c := range []struct {
		name          string
		records       []*kgo.Record
		compact       bool
		gap           bool
		read, dropped int
		next          int64
	}{
		{"dense", []*kgo.Record{claim(0), event(1), event(2)}, false, false, 3, 0, 3},
		{"a hole", []*kgo.Record{claim(0), event(1), event(3)}, false, true, 2, 0, 2},
		{"a late start", []*kgo.Record{claim(1)}, false, true, 0, 0, 0},
		{"back again", []*kgo.Record{claim(0), event(1), event(1)}, false, true, 2, 0, 2},
		{"a compacted hole", []*kgo.Record{claim(4), event(9)}, true, false, 2, 0, 10},
		{"back again, compacted", []*kgo.Record{claim(4), event(3)}, true, true, 1, 0, 5},
		{"a control record", []*kgo.Record{claim(0), special(1, kgo.RecordAttrsOpts{Control: true}), event(2)}, false, false, 2, 1, 3},
		{"a record of a transaction", []*kgo.Record{claim(0), special(1, kgo.RecordAttrsOpts{Transactional: true}), event(2)}, false, false, 2, 1, 3},
	} {
		cfg, err := Config{Brokers: []string{"127.0.0.1:1"}}.defaults()
		if err != nil {
			t.Fatal(err)
		}
		s := &Source{client: &Client{cfg: cfg}}
		f, err := s.client.read(&part{cursor: Topic{Name: "t"}.Start(0), compact: c.compact}, c.records)
		if errors.Is(err, ErrGap) != c.gap || !c.gap && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if len(f.Records) != c.read || f.Rogue != c.dropped || f.Cursor.Next != c.next {
			t.Errorf("%s: %d records, %d dropped, next %d; want %d, %d, %d", c.name, len(f.Records), f.Rogue, f.Cursor.Next, c.read, c.dropped, c.next)
		}
	}
}
