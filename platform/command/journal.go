package command

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

// The stream store keeps, for each partition, under
//
//	'e' partition stream version -> one event (row)
//	'e' partition stream 0 -> nothing: there are notes about commands that had nothing to do on the stream
//	'c' partition hash(stream, command id) -> version of the command's first event, if that is above unindexed
//	'c' partition hash(stream, command id) -> version of the stream and the note (row without an event), of a command that had nothing to do
//	'p' partition -> the cursor: everything before it is in the store
//	'o' partition -> the instance and the address of the latest owner before the cursor
//	'w' partition -> nothing: written to see whether the store takes writes
//
// All of it is derived from the log and is written in one transaction with the cursor.

// unindexed is how many versions at the beginning of each stream have no index entries: most streams are short, and the commands of a
// short stream are all known once it is loaded.
const unindexed = 64

func eventKey(dst []byte, partition int32, stream es.StreamID, version es.Version) []byte {
	return store.AppendUint64(streamPrefix(dst, partition, stream), uint64(version))
}

func streamPrefix(dst []byte, partition int32, stream es.StreamID) []byte {
	return store.AppendString(append(dst, 'e', byte(partition>>24), byte(partition>>16), byte(partition>>8), byte(partition)), string(stream))
}

// streamsPrefix is the prefix of all streams of a partition.
func streamsPrefix(partition int32) []byte {
	return binary.BigEndian.AppendUint32([]byte{'e'}, uint32(partition))
}

// commandKey hashes stream and command id: a hit is verified against the event it names, so a collision cannot pass for a repeat.
func commandKey(dst []byte, partition int32, stream es.StreamID, commandID string) []byte {
	dst = append(dst, 'c')
	dst = binary.BigEndian.AppendUint32(dst, uint32(partition))
	var buf [2*es.MaxIDBytes + 1]byte
	text := append(buf[:0], stream...)
	text = append(text, 0)
	text = append(text, commandID...)
	sum := sha256.Sum256(text)
	return append(dst, sum[:16]...)
}

func cursorKey(partition int32) []byte {
	return binary.BigEndian.AppendUint32([]byte{'p'}, uint32(partition))
}

// A row is one event as the stream store keeps it: the envelope's facts beside the untouched frame of the log.
type row struct {
	offset int64
	index  int
	count  int
	time   time.Time
	typ    string
	meta   es.Meta
	frame  []byte
}

const rowFormat = 1

// maxFrame is the largest framed event: with its metadata, which ids and the HTTP header limit bound, it fits in a value of the store.
const maxFrame = store.MaxValue - 8<<10

var errRow = errors.New("malformed row")

func (r *row) append(dst []byte) []byte {
	dst = append(dst, rowFormat)
	dst = binary.AppendUvarint(dst, uint64(r.offset))
	dst = binary.AppendUvarint(dst, uint64(r.index))
	dst = binary.AppendUvarint(dst, uint64(r.count))
	dst = binary.AppendVarint(dst, r.time.UnixMicro())
	correlation := r.meta.CorrelationID
	if correlation == r.meta.CommandID {
		correlation = "" // the usual case: the command started the conversation
	}
	for _, s := range [...]string{r.typ, r.meta.CommandID, r.meta.CommandHash, correlation, r.meta.CausationID, r.meta.Actor, r.meta.TraceParent} {
		dst = binary.AppendUvarint(dst, uint64(len(s)))
		dst = append(dst, s...)
	}
	return append(dst, r.frame...)
}

func parseRow(b []byte) (row, error) {
	if len(b) == 0 || b[0] != rowFormat {
		return row{}, errRow
	}
	b = b[1:]
	bad := false
	number := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > 1<<62 {
			bad = true
			return 0
		}
		b = b[n:]
		return v
	}
	text := func() string {
		n := number()
		if bad || n > uint64(len(b)) {
			bad = true
			return ""
		}
		s := string(b[:n])
		b = b[n:]
		return s
	}
	r := row{offset: int64(number()), index: int(number()), count: int(number())}
	micros, n := binary.Varint(b)
	if n <= 0 {
		return row{}, errRow
	}
	b = b[n:]
	r.time = time.UnixMicro(micros).UTC()
	r.typ = text()
	r.meta = es.Meta{CommandID: text(), CommandHash: text(), CorrelationID: text(), CausationID: text(), Actor: text(), TraceParent: text(), Time: r.time}
	if bad || r.index >= max(r.count, 1) {
		return row{}, errRow
	}
	if r.meta.CorrelationID == "" {
		r.meta.CorrelationID = r.meta.CommandID
	}
	r.frame = b
	return r, nil
}

// rowOf returns the row of an envelope read from the log.
func rowOf[E any](env *es.Envelope[E], frame []byte) row {
	return row{offset: env.Position.Offset, index: env.Index, count: env.Count, time: env.Time, typ: env.Type, meta: env.Meta, frame: frame}
}

// A rowWriter puts rows into store batches, which copy what they are given: it reuses its memory.
type rowWriter struct{ key, value []byte }

// put writes one event and, with the first of a command on a longer stream, the command's index entry.
func (w *rowWriter) put(b *store.Batch, partition int32, stream es.StreamID, version es.Version, r *row) error {
	w.key, w.value = eventKey(w.key[:0], partition, stream, version), r.append(w.value[:0])
	if err := b.Set(w.key, w.value); err != nil || r.index != 0 || version <= unindexed {
		return err
	}
	w.key, w.value = commandKey(w.key[:0], partition, stream, r.meta.CommandID), binary.AppendUvarint(w.value[:0], uint64(version))
	return b.Set(w.key, w.value)
}

// note writes that a command was decided at a version of a stream and had nothing to do.
func (w *rowWriter) note(b *store.Batch, partition int32, stream es.StreamID, version es.Version, r *row) error {
	w.key = eventKey(w.key[:0], partition, stream, 0)
	if err := b.Set(w.key, nil); err != nil {
		return err
	}
	w.key, w.value = commandKey(w.key[:0], partition, stream, r.meta.CommandID), r.append(binary.AppendUvarint(w.value[:0], uint64(version)))
	return b.Set(w.key, w.value)
}

func readRow(rd *store.Reader, key []byte) (row, error) {
	value, err := rd.Get(key)
	if err != nil {
		return row{}, err
	}
	r, err := parseRow(value)
	if err == nil && r.count < 1 {
		err = errRow
	}
	if err != nil {
		return row{}, ErrStore.Because("row %x: %v", key, err)
	}
	return r, nil
}

// A past is a command that took effect, as far as an answer to its repetition needs it.
type past struct {
	id, hash string
	first    es.Version
	offset   int64    // of its last event, or of its note; unacked until the batch is
	types    []string // of its events; none = it had nothing to do
	batch    uint64   // the batch it is in while that is unacked, else 0
	slot     int      // its place in that batch
}

// findIndexed looks a command up in the index; nil if it is not there.
func findIndexed(rd *store.Reader, partition int32, stream es.StreamID, commandID string) (*past, error) {
	value, err := rd.Get(commandKey(nil, partition, stream, commandID))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	n, size := binary.Uvarint(value)
	if size <= 0 {
		return nil, ErrStore.Because("index entry of command %q on %q is malformed", commandID, stream)
	}
	if len(value) > size {
		r, err := parseRow(value[size:])
		if err != nil || r.count != 0 {
			return nil, ErrStore.Because("the note of command %q on %q is malformed", commandID, stream)
		}
		if r.meta.CommandID != commandID {
			return nil, nil
		}
		return &past{id: commandID, hash: r.meta.CommandHash, first: es.Version(n) + 1, offset: r.offset}, nil
	}
	return readPast(rd, partition, stream, es.Version(n), commandID)
}

// findEarly looks for a command among the first versions of a stream, those without an index; nil if it is not there.
func findEarly(rd *store.Reader, partition int32, stream es.StreamID, commandID string) (*past, error) {
	for first := es.Version(1); first <= unindexed; {
		r, err := readRow(rd, eventKey(nil, partition, stream, first))
		if errors.Is(err, store.ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if r.meta.CommandID == commandID {
			return readPast(rd, partition, stream, first, commandID)
		}
		first += es.Version(r.count)
	}
	return nil, nil
}

// readPast reads a command by its first event; nil if another command is there, as after a collision in the index.
func readPast(rd *store.Reader, partition int32, stream es.StreamID, first es.Version, commandID string) (*past, error) {
	r, err := readRow(rd, eventKey(nil, partition, stream, first))
	if errors.Is(err, store.ErrNotFound) || (err == nil && r.meta.CommandID != commandID) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p := &past{id: commandID, hash: r.meta.CommandHash, first: first, types: []string{r.typ}, offset: r.offset + int64(r.count) - 1}
	for i := 1; i < r.count; i++ {
		next, err := readRow(rd, eventKey(nil, partition, stream, first+es.Version(i)))
		if err != nil {
			return nil, fmt.Errorf("command: event %d of command %q on %q: %w", i, commandID, stream, err)
		}
		p.types = append(p.types, next.typ)
	}
	return p, nil
}

func readCursor(db *store.DB, t eventlog.Topic, partition int32) (eventlog.Cursor, error) {
	cursor := t.Start(partition)
	err := db.Read(func(rd *store.Reader) error {
		value, err := rd.Get(cursorKey(partition))
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return cursor.UnmarshalBinary(value)
	})
	return cursor, err
}

func putCursor(b *store.Batch, c eventlog.Cursor) error {
	value, err := c.AppendBinary(nil)
	if err != nil {
		return err
	}
	return b.Set(cursorKey(c.TopicPartition.Partition), value)
}

func ownerKey(partition int32) []byte {
	return binary.BigEndian.AppendUint32([]byte{'o'}, uint32(partition))
}

func putOwner(b *store.Batch, partition int32, who eventlog.Identity) error {
	return b.Set(ownerKey(partition), []byte(who.Instance+"\n"+who.Address))
}

// recall notes the latest owner that the store knows of.
func (p *partition[S, C, E]) recall() error {
	return p.engine.cfg.Store.Read(func(rd *store.Reader) error {
		value, err := rd.Get(ownerKey(p.at.Partition))
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err == nil {
			instance, address, _ := strings.Cut(string(value), "\n")
			p.owned(eventlog.Identity{Instance: instance, Address: address})
		}
		return err
	})
}

// probe finds out whether the store takes writes.
func probe(db *store.DB, partition int32) error {
	b := db.NewBatch()
	defer b.Discard()
	if err := b.Set(binary.BigEndian.AppendUint32([]byte{'w'}, uint32(partition)), nil); err != nil {
		return err
	}
	return b.Commit()
}

// isFull reports whether a store batch must be committed before more can go in.
func isFull(err error) bool { return errors.Is(err, store.ErrBatchFull) }
