package projection

import (
	"encoding/binary"
	"encoding/hex"

	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/store"
)

// A storedRow is a row as it is kept: what a query answers, the event that changed it last, and the index entries that it has,
// so that exactly those are removed when they change.
type storedRow struct {
	topic     int // number of its topic in the shape
	partition int32
	offset    int64
	event     eventID
	values    []string // what the parts of each index took, in the order of the index names; "" = no entry
	json      []byte
}

const rowFormat = 2

// appendBinary appends: format, topic, partition, offset, event id, number of index values, these, JSON up to the end.
func (s *storedRow) appendBinary(d []byte) []byte {
	d = append(d, rowFormat, byte(s.topic))
	d = binary.AppendUvarint(d, uint64(uint32(s.partition)))
	d = binary.AppendUvarint(d, uint64(s.offset))
	d = s.event.appendBinary(d)
	d = binary.AppendUvarint(d, uint64(len(s.values)))
	for _, v := range s.values {
		d = appendText(d, v)
	}
	return append(d, s.json...)
}

func appendText(d []byte, s string) []byte {
	return append(binary.AppendUvarint(d, uint64(len(s))), s...)
}

// parse reads what appendBinary wrote; the JSON shares b's memory. Anything else is store.ErrDamaged: the checksum was right, so
// it was another program that wrote it.
func (s *storedRow) parse(b []byte) error {
	p := parser{rest: b}
	if p.byte() != rowFormat {
		return damaged("its format is unknown")
	}
	s.topic = int(p.byte())
	partition, offset := p.uvarint(), p.uvarint()
	s.event = p.eventID()
	n := p.uvarint()
	if p.bad || partition > 1<<31-1 || offset > 1<<63-1 || n > uint64(len(p.rest)) {
		return damaged("its head is malformed")
	}
	s.partition, s.offset = int32(partition), int64(offset)
	s.values = nil
	if n > 0 {
		s.values = make([]string, n)
	}
	for i := range s.values {
		s.values[i] = string(p.text())
	}
	if p.bad || len(p.rest) == 0 {
		return damaged("it is cut off")
	}
	s.json = p.rest
	return nil
}

func damaged(why string) *fault.Error {
	return store.ErrDamaged.Because("a stored row cannot be read: %s", why).
		WithFix("stop the service, move its data directory away and start it again: it rebuilds the views from the log")
}

// A parser reads binary fields; after the first malformed one it is bad and yields zeroes.
type parser struct {
	rest []byte
	bad  bool
}

func (p *parser) byte() byte {
	if len(p.rest) == 0 {
		p.bad = true
		return 0
	}
	b := p.rest[0]
	p.rest = p.rest[1:]
	return b
}

func (p *parser) uvarint() uint64 {
	v, n := binary.Uvarint(p.rest)
	if n <= 0 {
		p.bad, p.rest = true, nil
		return 0
	}
	p.rest = p.rest[n:]
	return v
}

func (p *parser) bytes(n uint64) []byte {
	if n > uint64(len(p.rest)) {
		p.bad, p.rest = true, nil
		return nil
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

func (p *parser) text() []byte { return p.bytes(p.uvarint()) }

// An eventID is the id of an event: 16 bytes for the UUIDs that the platform makes, the text for what others made.
type eventID struct {
	uuid [16]byte
	text string // if it is no UUID in canonical form
}

// makeEventID keeps none of s's memory, which is that of the whole record.
func makeEventID(s string) eventID {
	if len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' {
		var digits [32]byte
		copy(digits[0:8], s[0:8])
		copy(digits[8:12], s[9:13])
		copy(digits[12:16], s[14:18])
		copy(digits[16:20], s[19:23])
		copy(digits[20:32], s[24:36])
		// String writes letters in lower case. Those of hexadecimal digits in upper case have bit 6, and not bit 5; without a branch, for half of
		// all digits are letters.
		upper := uint64(0)
		for i := 0; i < len(digits); i += 8 {
			w := binary.LittleEndian.Uint64(digits[i:])
			upper |= w &^ (w << 1) & 0x4040404040404040
		}
		var e eventID
		if _, err := hex.Decode(e.uuid[:], digits[:]); err == nil && e.uuid != [16]byte{} && upper == 0 {
			return e
		}
	}
	return eventID{text: string([]byte(s))}
}

// String returns the id as it stands in the record.
func (e eventID) String() string {
	if e.uuid == [16]byte{} {
		return e.text
	}
	var b [36]byte
	hex.Encode(b[0:8], e.uuid[0:4])
	hex.Encode(b[9:13], e.uuid[4:6])
	hex.Encode(b[14:18], e.uuid[6:8])
	hex.Encode(b[19:23], e.uuid[8:10])
	hex.Encode(b[24:36], e.uuid[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}

// appendBinary appends 0 and the 16 bytes, or the length of the text plus one and the text.
func (e eventID) appendBinary(d []byte) []byte {
	if e.uuid != [16]byte{} {
		return append(append(d, 0), e.uuid[:]...)
	}
	return append(binary.AppendUvarint(d, uint64(len(e.text))+1), e.text...)
}

func (p *parser) eventID() eventID {
	n := p.uvarint()
	if n == 0 {
		b := p.bytes(16)
		if p.bad {
			return eventID{}
		}
		e := eventID{uuid: [16]byte(b)}
		p.bad = p.bad || e.uuid == [16]byte{}
		return e
	}
	return eventID{text: string(p.bytes(n - 1))}
}
