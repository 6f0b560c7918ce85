package eventlog

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"math/bits"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A Header is one header of a record: Key is text, Value any bytes.
type Header = kgo.RecordHeader

// headLen is the length of a record batch's head (magic 2), in bytes; offsets into it are those of the Kafka protocol.
const (
	headLen         = 61
	atLength        = 8
	atLeaderEpoch   = 12
	atMagic         = 16
	atCRC           = 17
	atAttributes    = 21
	atLastDelta     = 23
	atFirstTime     = 27
	atMaxTime       = 35
	atProducerID    = 43
	atProducerEpoch = 51
	atSequence      = 53
	atCount         = 57
)

// DefaultBatchBytes is the limit of a Batch unless another is given: Kafka's default max.message.bytes is a little more.
const DefaultBatchBytes = 1_000_000

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A Batch is one Kafka record batch (magic 2, uncompressed) that is built record by record; every record is encoded once, when it is
// added. It is not safe for concurrent use, and belongs to the Owner from Append until the callback.
type Batch struct {
	buf     []byte // head and records; the head is filled in when the batch is sealed
	count   int32
	limit   int
	frame   []byte // where an event is encoded: its length comes before it in the batch
	scratch []byte // where the texts of its headers are gathered
	headers []Header
}

// NewBatch returns an empty batch of at most limit bytes; 0 means DefaultBatchBytes.
func NewBatch(limit int) *Batch {
	if limit <= 0 {
		limit = DefaultBatchBytes
	}
	return &Batch{limit: limit, buf: make([]byte, headLen, headLen+min(limit, 4096))}
}

// Len returns the number of records.
func (b *Batch) Len() int { return int(b.count) }

// Size returns the number of bytes that the batch takes in the log.
func (b *Batch) Size() int { return max(len(b.buf), headLen) }

// A Savepoint is a state of a Batch to which Rollback returns.
type Savepoint struct {
	length int
	count  int32
}

// Savepoint returns the present state.
func (b *Batch) Savepoint() Savepoint { return Savepoint{b.Size(), b.count} }

// Rollback drops the records added since s was taken. s must be of this batch and not older than the last Reset.
func (b *Batch) Rollback(s Savepoint) {
	b.buf, b.count = b.buf[:s.length], s.count
}

// Reset empties the batch and keeps its memory.
func (b *Batch) Reset() {
	if cap(b.buf) < headLen {
		b.buf = make([]byte, headLen)
	}
	b.buf, b.count = b.buf[:headLen], 0
}

// detach gives the memory away: a request that was abandoned may still be reading it.
func (b *Batch) detach() {
	b.buf, b.count = make([]byte, headLen), 0
}

// Add encodes a record at the end of the batch. A nil key or value is Kafka's null. It returns ErrBatchFull if the record does not
// fit any more and ErrTooLarge if it would not fit into an empty batch either; the batch is unchanged then.
func (b *Batch) Add(key, value []byte, headers []Header) error {
	if len(b.buf) < headLen {
		b.Reset()
	}
	body := 1 + 1 + varintLen(int64(b.count)) + bytesLen(key) + bytesLen(value) + varintLen(int64(len(headers)))
	for i := range headers {
		body += varintLen(int64(len(headers[i].Key))) + len(headers[i].Key) + bytesLen(headers[i].Value)
	}
	size := varintLen(int64(body)) + body
	if len(b.buf)+size > b.limit || b.count == math.MaxInt32 {
		if b.count == 0 || headLen+size-varintLen(int64(b.count))+1 > b.limit {
			return ErrTooLarge.Because("the record has %d bytes, a batch holds %d", size, b.limit-headLen)
		}
		return ErrBatchFull
	}
	d := b.buf
	d = binary.AppendVarint(d, int64(body))
	d = append(d, 0, 0) // attributes, timestamp delta: the broker stamps the batch
	d = binary.AppendVarint(d, int64(b.count))
	d = appendBytes(d, key)
	d = appendBytes(d, value)
	d = binary.AppendVarint(d, int64(len(headers)))
	for i := range headers {
		d = binary.AppendVarint(d, int64(len(headers[i].Key)))
		d = append(d, headers[i].Key...)
		d = appendBytes(d, headers[i].Value)
	}
	b.buf = d
	b.count++
	return nil
}

// seal fills in the head. After it the bytes must not change until the fate of the batch is known: the broker recognises a
// repetition by the sequence number, not by the content.
func (b *Batch) seal(pid int64, epoch int16, sequence int32, at time.Time) []byte {
	h := b.buf
	clear(h[:atLength])
	be := binary.BigEndian
	be.PutUint32(h[atLength:], uint32(len(h)-atLeaderEpoch)) //nolint:gosec // bounded by limit
	be.PutUint32(h[atLeaderEpoch:], math.MaxUint32)          // -1: the broker's to fill in
	h[atMagic] = 2
	be.PutUint16(h[atAttributes:], 0)
	be.PutUint32(h[atLastDelta:], uint32(b.count-1)) //nolint:gosec // count > 0
	be.PutUint64(h[atFirstTime:], uint64(at.UnixMilli()))
	be.PutUint64(h[atMaxTime:], uint64(at.UnixMilli()))
	be.PutUint64(h[atProducerID:], uint64(pid))
	be.PutUint16(h[atProducerEpoch:], uint16(epoch))
	be.PutUint32(h[atSequence:], uint32(sequence))
	be.PutUint32(h[atCount:], uint32(b.count))
	be.PutUint32(h[atCRC:], crc32.Checksum(h[atAttributes:], castagnoli))
	return h
}

// nextSequence returns the sequence number after count records from sequence on: Kafka wraps from 2^31-1 to 0.
func nextSequence(sequence, count int32) int32 {
	return int32((int64(sequence) + int64(count)) & math.MaxInt32) //nolint:gosec // masked
}

func varintLen(v int64) int {
	zigzag := uint64(v)<<1 ^ uint64(v>>63)
	return (bits.Len64(zigzag|1) + 6) / 7
}

func bytesLen(b []byte) int {
	if b == nil {
		return 1
	}
	return varintLen(int64(len(b))) + len(b)
}

func appendBytes(d, b []byte) []byte {
	if b == nil {
		return append(d, 1) // -1
	}
	d = binary.AppendVarint(d, int64(len(b)))
	return append(d, b...)
}
