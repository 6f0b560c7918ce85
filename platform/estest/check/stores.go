package check

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"
	"strings"

	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

// A Row is one entry of a stream store.
type Row struct{ Key, Value []byte }

// The kinds of rows, each the first byte of the key.
const (
	rowEvent   = 'e' // partition stream version -> the event
	rowCommand = 'c' // partition hash -> version
	rowCursor  = 'p' // partition -> everything before it is in the store
	rowOwner   = 'o' // partition -> the latest owner before the cursor: a hint
	rowProbe   = 'w' // partition -> nothing
	rowState   = 's' // the state of a long stream at some version: a cache that differs with what was loaded when
)

// Stores checks the stream stores of instances against the log: whatever the store of an instance holds is what rebuilding it from the
// log gives, byte for byte, and everything before its cursor is in it. rebuilt is a store that was built from the whole log by an instance
// that began without one; its events are checked against the log themselves.
func (l *Log) Stores(stores map[string][]Row, rebuilt []Row) []Violation {
	f := found{checker: "Stores"}
	want := make(map[string]string, len(rebuilt))
	for _, r := range rebuilt {
		want[string(r.Key)] = string(r.Value)
	}
	due := map[int32]map[string]int64{} // the keys of events, with their offsets
	n := 0
	for p, events := range l.Events {
		due[p] = map[string]int64{}
		for _, e := range events {
			key := eventKey(p, e.Stream, e.Version)
			due[p][key] = e.Offset
			n++
			if v, ok := want[key]; !ok {
				f.add("the rebuilt store lacks version %d of %q, %v", e.Version, e.Stream, e)
			} else if !strings.HasSuffix(v, string(e.Value)) || !strings.Contains(v, e.Command) {
				f.add("the rebuilt store has something else than %v as version %d of %q", e, e.Version, e.Stream)
			}
		}
	}
	for _, r := range rebuilt {
		// Version 0 says that there are notes.
		if r.Key[0] == rowEvent && !bytes.HasSuffix(r.Key, make([]byte, 8)) {
			n--
		}
	}
	if n != 0 {
		f.add("the rebuilt store has %d events more than the log", -n)
	}
	for _, name := range slices.Sorted(maps.Keys(stores)) {
		cursors, have := map[int32]int64{}, map[string]bool{}
		for _, r := range stores[name] {
			switch r.Key[0] {
			case rowCursor:
				var c eventlog.Cursor
				if err := c.UnmarshalBinary(r.Value); err != nil {
					f.add("%s: a cursor: %v", name, err)
					continue
				}
				if p := c.TopicPartition.Partition; c.Next > l.Ends[p] {
					f.add("%s: the cursor of partition %d is %d, the log ends at %d", name, p, c.Next, l.Ends[p])
				}
				cursors[c.TopicPartition.Partition] = c.Next
			case rowEvent, rowCommand:
				have[string(r.Key)] = true
				if v, ok := want[string(r.Key)]; !ok {
					f.add("%s: row %q is not in the rebuilt store", name, r.Key)
				} else if !bytes.Equal(r.Value, []byte(v)) {
					f.add("%s: row %q is %q, rebuilt it is %q", name, r.Key, r.Value, v)
				}
			case rowOwner, rowProbe, rowState:
			default:
				f.add("%s: rows of kind %q are not known to this checker", name, r.Key[:1])
			}
		}
		for p, next := range cursors {
			for key, offset := range due[p] {
				if offset < next && !have[key] {
					f.add("%s: the cursor of partition %d is %d, and the event at %d is missing", name, p, next, offset)
				}
			}
		}
	}
	return f.list
}

func eventKey(partition int32, stream string, version int64) string {
	key := binary.BigEndian.AppendUint32([]byte{rowEvent}, uint32(partition)) //nolint:gosec // not negative
	return string(store.AppendUint64(store.AppendString(key, stream), uint64(version)))
}
