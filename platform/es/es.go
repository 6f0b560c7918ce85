// Package es holds the words of event sourcing that all of Millrace shares: deciders, views, envelopes, versions and positions.
// It is pure: no I/O, no clock, no randomness, nothing but the standard library.
package es

import (
	"crypto/sha1" //nolint:gosec // UUIDv5 is defined over SHA-1 (RFC 9562 §5.5); it names, it does not protect.
	"encoding/hex"
	"hash"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/millrace/millrace/platform/fault"
)

// A StreamID names one stream, e.g. order "o-1001"; it is the Kafka record key. ParseStreamID says what is allowed.
type StreamID string

// MaxIDBytes is the longest stream id or command id, in bytes.
const MaxIDBytes = 256

// ErrID is returned for an id that is empty, over-long or holds forbidden characters.
var ErrID = fault.New(fault.Invalid, "invalid_id", "the id is not allowed")

// ParseStreamID returns s as a StreamID, or ErrID: it must be 1 to MaxIDBytes bytes of UTF-8 without "/", control,
// space-like or bidirectional formatting characters, and not "." or "..".
func ParseStreamID(s string) (StreamID, error) {
	if err := CheckID(s); err != nil {
		return "", err
	}
	return StreamID(s), nil
}

// CheckID returns nil if s may be a stream id, a command id or a row key, else ErrID with the reason.
func CheckID(s string) error {
	if plain(s) && len(s) <= MaxIDBytes && s != "." && s != ".." {
		return nil // as most are: each event that is read comes through here
	}
	switch {
	case s == "":
		return ErrID.Because("it is empty")
	case len(s) > MaxIDBytes:
		return ErrID.Because("it has %d bytes, at most %d are allowed", len(s), MaxIDBytes)
	case !utf8.ValidString(s):
		return ErrID.Because("it is not UTF-8")
	case s == "." || s == "..":
		return ErrID.Because("%q is a path, not an id", s)
	}
	for _, r := range s {
		switch {
		case r == '/':
			return ErrID.Because("it holds a slash")
		case r < 0x20 || r == 0x7f || unicode.IsControl(r):
			return ErrID.Because("it holds the control character %U", r)
		case unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r):
			return ErrID.Because("it holds the invisible character %U", r)
		}
	}
	return nil
}

// plain reports whether s is of ASCII characters that an id may have, and not empty.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '/' {
			return false
		}
	}
	return s != ""
}

// A Version counts the events of a stream: 1 is the first event, 0 means no events.
type Version int64

// Meta is what is known of a command beside its payload; it travels with every event the command causes.
type Meta struct {
	Stream        StreamID  // the stream the command was sent to; for deciders, not kept with the events, which know their stream
	CommandID     string    // the idempotency key; never empty in an event
	CommandHash   string    // fingerprint of the command's payload: tells a repeat from a reuse of the id
	CorrelationID string    // the conversation this belongs to; the first command's id by default
	CausationID   string    // the message that caused the command; empty = a client
	Actor         string    // who asked for it; empty = unknown
	TraceParent   string    // W3C trace context of the request; empty = none
	Time          time.Time // when the command was accepted, UTC; the decider's only clock
}

// An Envelope is one event with all that is known about it.
type Envelope[E any] struct {
	ID       string   // UUIDv5 of stream, command id and index: the same on every retry
	Type     string   // the event's full Avro record name
	Stream   StreamID // the stream it belongs to
	Version  Version  // its number in the stream
	Index    int      // its number among the events of its command, from 0
	Count    int      // how many events its command caused
	Position Position // where it is in the log
	Time     time.Time
	Meta     Meta
	Event    E
	// A stored event that is read as several is Parts envelopes with the same Version and Position; Part counts them from 0.
	// Parts is 0 for all other events.
	Part, Parts int
}

// A Decider is one write model: two pure functions over a state S, a command C and an event E.
// The zero S is the state of a stream without events.
type Decider[S, C, E any] struct {
	// Decide returns the events that c causes in state s, none if there is nothing left to do, or the refusal, a fault.Error.
	// All that it may know beside state and command is in m; m.Time is its only clock.
	Decide func(s S, c C, m Meta) ([]E, error)
	// Evolve returns the state after e. It never fails, for e has happened, and never changes what s shares with other states.
	Evolve func(s S, e E) S

	// The rest is optional. It is about the states of long streams, which are kept beside their events so that loading one need not
	// fold all of them. A kept state is never the truth: whatever says that it may be wrong, it is left and the events are folded.

	// Fold counts the changes of what Evolve, or an upcaster, makes of stored events: a state that was kept under another number is not
	// used, nor one of another S or other schemas. 0 says nothing, and then no build of the program uses a state that another one kept.
	Fold int
	// Save and Restore turn a state into bytes and back, both or none of them; what Restore returns must be saved as the same bytes.
	// Without them the form is JSON, and a state that does not come back from it as it was is not kept.
	Save    func(s S) ([]byte, error)
	Restore func(data []byte) (S, error)
}

// EventID returns the id of the index-th event that command commandID caused in stream, a UUIDv5 (RFC 9562).
func EventID(stream StreamID, commandID string, index int) string {
	h := sha1.New() //nolint:gosec // see the import
	h.Write(idSpace[:])
	h.Write([]byte(stream))
	h.Write([]byte{0})
	h.Write([]byte(commandID))
	h.Write([]byte{0})
	h.Write(strconv.AppendInt(nil, int64(index), 10))
	return uuid5(h)
}

// PartID returns the id of a part of the event id that is read as several: the event's own for part 0, and a UUIDv5 that is the same on
// every reading for the others.
func PartID(id string, part int) string {
	if part == 0 {
		return id
	}
	h := sha1.New() //nolint:gosec // see the import
	h.Write(partSpace[:])
	h.Write([]byte(id))
	h.Write([]byte{0})
	h.Write(strconv.AppendInt(nil, int64(part), 10))
	return uuid5(h)
}

func uuid5(h hash.Hash) string {
	var sum [20]byte
	h.Sum(sum[:0])
	sum[6] = sum[6]&0x0f | 0x50
	sum[8] = sum[8]&0x3f | 0x80
	var b [36]byte
	hex.Encode(b[0:8], sum[0:4])
	b[8] = '-'
	hex.Encode(b[9:13], sum[4:6])
	b[13] = '-'
	hex.Encode(b[14:18], sum[6:8])
	b[18] = '-'
	hex.Encode(b[19:23], sum[8:10])
	b[23] = '-'
	hex.Encode(b[24:36], sum[10:16])
	return string(b[:])
}

// partSpace is the UUID name space of the ids of parts.
var partSpace = [16]byte{0x0d, 0x6e, 0x91, 0x3b, 0x52, 0xc7, 0x4e, 0x18, 0xa4, 0x09, 0xf3, 0x7b, 0x26, 0x8d, 0x10, 0xce}

// idSpace is the UUID name space of event ids: changing it would change every id.
var idSpace = [16]byte{0x5b, 0x1c, 0x8e, 0x02, 0x9d, 0x41, 0x4f, 0x6a, 0x8e, 0x37, 0x1d, 0x2c, 0x90, 0x55, 0xa7, 0x10}

// A TopicPartition names one partition of one topic.
type TopicPartition struct {
	Topic     string
	Partition int32
}

// String returns "topic/partition".
func (tp TopicPartition) String() string { return tp.Topic + "/" + strconv.Itoa(int(tp.Partition)) }

// Less orders by topic, then by partition.
func (tp TopicPartition) Less(o TopicPartition) bool {
	if tp.Topic != o.Topic {
		return tp.Topic < o.Topic
	}
	return tp.Partition < o.Partition
}

// A Position is where an event is in the log, inclusive.
type Position struct {
	TopicPartition
	Offset int64
}

// String returns "topic/partition@offset".
func (p Position) String() string {
	return p.TopicPartition.String() + "@" + strconv.FormatInt(p.Offset, 10)
}

// IsZero reports whether p is no position at all.
func (p Position) IsZero() bool { return p.Topic == "" }

// MarshalText returns what String returns, for JSON.
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what ParsePosition reads.
func (p *Position) UnmarshalText(text []byte) error {
	q, err := ParsePosition(string(text))
	if err == nil {
		*p = q
	}
	return err
}

// ErrPosition is returned for text that is no position.
var ErrPosition = fault.New(fault.Invalid, "invalid_position", "the position is malformed")

// ParsePosition reads "topic/partition@offset".
func ParsePosition(s string) (Position, error) {
	slash := strings.LastIndexByte(s, '/')
	at := strings.LastIndexByte(s, '@')
	if slash <= 0 || at < slash || slash > 249 {
		return Position{}, ErrPosition.Because("%.60q is not topic/partition@offset", s)
	}
	for _, r := range s[:slash] {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '_' && r != '-' {
			return Position{}, ErrPosition.Because("%.60q has no Kafka topic name", s)
		}
	}
	partition, err1 := parseNumber(s[slash+1:at], 31)
	offset, err2 := parseNumber(s[at+1:], 63)
	if err1 != nil || err2 != nil {
		return Position{}, ErrPosition.Because("%.60q is not topic/partition@offset", s)
	}
	return Position{TopicPartition{s[:slash], int32(partition)}, int64(offset)}, nil
}

// parseNumber reads plain decimal digits: the only form that String writes.
func parseNumber(s string, bits int) (uint64, error) {
	if s == "" || s[0] == '+' || s[0] == '-' || (len(s) > 1 && s[0] == '0') {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseUint(s, 10, bits)
}
