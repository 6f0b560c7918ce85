package es

import (
	"encoding/binary"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/platform/fault"
)

// A View is one read model: a pure fold of the events E of many streams into one row R per key.
// The zero R is the row before its first event. R is kept as JSON, so what a query answers is what Apply returned.
type View[R, E any] struct {
	Name    string // in URLs and metrics; lower case, digits and dashes
	Version int    // counts changes of this code: a new version is built anew from the log, beside the one that serves
	// Key returns the key of the row that e belongs to; ok is false if this view has no use for e.
	Key func(e Envelope[E]) (key string, ok bool)
	// Apply returns the row after e. It owns row and may change what row holds.
	Apply func(row R, e Envelope[E]) R
	// Keys and ApplyTo stand in for Key and Apply in a view whose events may change several rows: the keys of these rows, each once, and
	// one of them after e. All of an event's rows change together or none.
	Keys    func(e Envelope[E]) []string
	ApplyTo func(key string, row R, e Envelope[E]) R
	// Gone reports that a row, as Apply returned it, is to be deleted: the next event of its key meets the zero R. nil = rows stay.
	Gone func(row R) bool
	// Stream returns the stream whose events, and no others, change the row with a key, in a view of which each row has one: such a view
	// can be divided among instances by partition. Whether it is true is checked with every event. nil = rows gather the events of any
	// streams, and every instance has all of them.
	Stream func(key string) StreamID
	// Indexes are the ways to find rows other than by key; their names are query parameters.
	Indexes map[string]Index[R]
	// OnError says what becomes of an event that the view cannot handle: its code panics, the record cannot be decoded, the row cannot be
	// stored. The zero value is Halt.
	OnError Policy
}

// SameStream is the Stream of a view whose rows have the ids of streams as keys.
func SameStream(key string) StreamID { return StreamID(key) }

// KeysOf returns the keys of the rows that e belongs to, whether the view has Key or Keys.
func (v *View[R, E]) KeysOf(e Envelope[E]) []string {
	if v.Keys != nil {
		return v.Keys(e)
	}
	if key, ok := v.Key(e); ok {
		return []string{key}
	}
	return nil
}

// Next returns the row of key after e, the zero R if it is to be deleted, which gone reports.
func (v *View[R, E]) Next(key string, row R, e Envelope[E]) (next R, gone bool) {
	if v.ApplyTo != nil {
		next = v.ApplyTo(key, row, e)
	} else {
		next = v.Apply(row, e)
	}
	if v.Gone != nil && v.Gone(next) {
		var none R
		return none, true
	}
	return next, false
}

// A Policy says what a view does with an event that it cannot handle. It is never skipped.
type Policy int

// The policies.
const (
	// Halt stops the partition at the event: nothing after it is applied until the view's code or the contract is corrected.
	Halt Policy = iota
	// Park keeps the event and the later ones of its stream as dead letters, to be retried in order; everything else goes on.
	Park
)

// An Index orders the rows of a view by what its parts take from them, one after the other. A row of which the first part is empty is
// not in the index.
type Index[R any] struct {
	Parts []Part[R]
	// Unique refuses a second row with the same parts: the event that would make it cannot be handled.
	Unique bool
}

// By returns an index over parts, at least one.
func By[R any](parts ...Part[R]) Index[R] { return Index[R]{Parts: parts} }

// UniqueBy returns an index over parts, at least one, of which no two rows have the same.
func UniqueBy[R any](parts ...Part[R]) Index[R] { return Index[R]{Parts: parts, Unique: true} }

// A Part takes one value from a row, in a form that orders as the values do.
type Part[R any] struct {
	kind Kind
	desc bool
	add  func(dst []byte, row R) (out []byte, empty bool)
}

// Kind returns of which kind the part's values are.
func (p Part[R]) Kind() Kind { return Kind{p.kind.name, p.desc} }

// Append appends the value that the part takes from row, in a form of which none begins another one, and reports whether it is empty.
func (p Part[R]) Append(dst []byte, row R) (out []byte, empty bool) {
	n := len(dst)
	out, empty = p.add(dst, row)
	if p.desc {
		invert(out[n:])
	}
	return out, empty
}

// Text returns a part of strings, in the order of their bytes; "" is empty.
func Text[R any](of func(row R) string) Part[R] {
	return Part[R]{kind: TextKind, add: func(dst []byte, row R) ([]byte, bool) {
		s := of(row)
		return appendText(dst, s), s == ""
	}}
}

// Number returns a part of integers; none is empty.
func Number[R any](of func(row R) int64) Part[R] {
	return Part[R]{kind: NumberKind, add: func(dst []byte, row R) ([]byte, bool) { return appendNumber(dst, of(row)), false }}
}

// Time returns a part of moments, whatever their zones; the zero time is empty.
func Time[R any](of func(row R) time.Time) Part[R] {
	return Part[R]{kind: TimeKind, add: func(dst []byte, row R) ([]byte, bool) {
		t := of(row)
		return appendTime(dst, t), t.IsZero()
	}}
}

// Descending returns p in the opposite order: of times, the newest first.
func Descending[R any](p Part[R]) Part[R] {
	p.desc = !p.desc
	return p
}

// A Kind says how the values of a part are written in queries.
type Kind struct {
	name string
	desc bool
}

// The kinds of parts.
var (
	TextKind   = Kind{name: "text"}
	NumberKind = Kind{name: "number"}
	TimeKind   = Kind{name: "time"}
)

// String returns "text", "number" or "time", with " descending" after it if it is.
func (k Kind) String() string {
	if k.desc {
		return k.name + " descending"
	}
	return k.name
}

// Descending reports whether the part orders from high to low.
func (k Kind) Descending() bool { return k.desc }

// IsText reports whether values are strings, which may be asked for by how they begin.
func (k Kind) IsText() bool { return k.name == TextKind.name }

// ErrValue is returned for text that is no value of a part.
var ErrValue = fault.New(fault.Invalid, "invalid_index_value", "the value does not fit the index")

// Parse appends the value that s writes, as Part.Append does: text as it is, a decimal integer, or a time as RFC 3339 has it. It returns
// ErrValue for anything else.
func (k Kind) Parse(dst []byte, s string) ([]byte, error) {
	n := len(dst)
	switch k.name {
	case TextKind.name:
		dst = appendText(dst, s)
	case NumberKind.name:
		v, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return nil, ErrValue.Because("%.60q is no integer", s)
		}
		dst = appendNumber(dst, v)
	default:
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			return nil, ErrValue.Because("%.60q is no time as in 2026-01-31T12:00:00Z", s)
		}
		dst = appendTime(dst, t)
	}
	if k.desc {
		invert(dst[n:])
	}
	return dst, nil
}

// ParsePrefix appends how all values begin that begin with the text s. It returns ErrValue for a kind that is not text.
func (k Kind) ParsePrefix(dst []byte, s string) ([]byte, error) {
	if !k.IsText() {
		return nil, ErrValue.Because("a %s has no beginning that could be asked for", k.name)
	}
	n := len(dst)
	dst = appendText(dst, s)
	dst = dst[:len(dst)-2]
	if k.desc {
		invert(dst[n:])
	}
	return dst, nil
}

// appendText writes 0x00 as 0x00 0xff and ends with 0x00 0x01: byte order is string order, and no text is the beginning of another.
func appendText(dst []byte, s string) []byte {
	for {
		i := strings.IndexByte(s, 0)
		if i < 0 {
			return append(append(dst, s...), 0, 1)
		}
		dst = append(append(dst, s[:i]...), 0, 0xff)
		s = s[i+1:]
	}
}

func appendNumber(dst []byte, n int64) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(n)^1<<63)
}

func appendTime(dst []byte, t time.Time) []byte {
	return binary.BigEndian.AppendUint32(appendNumber(dst, t.Unix()), uint32(t.Nanosecond()))
}

func invert(b []byte) {
	for i := range b {
		b[i] ^= math.MaxUint8
	}
}

// Shape returns the kinds of the index's parts.
func (x Index[R]) Shape() []Kind {
	kinds := make([]Kind, 0, len(x.Parts))
	for _, p := range x.Parts {
		kinds = append(kinds, p.Kind())
	}
	return slices.Clip(kinds)
}

// Format returns the value at the beginning of b as Parse reads it, and how many bytes it takes, or ErrValue.
func (k Kind) Format(b []byte) (s string, n int, err error) {
	if n, err = k.Len(b); err != nil {
		return "", 0, err
	}
	value := slices.Clone(b[:n])
	if k.desc {
		invert(value)
	}
	switch k.name {
	case TextKind.name:
		return strings.ReplaceAll(string(value[:n-2]), "\x00\xff", "\x00"), n, nil
	case NumberKind.name:
		return strconv.FormatInt(readNumber(value), 10), n, nil
	}
	return time.Unix(readNumber(value), int64(binary.BigEndian.Uint32(value[8:]))).UTC().Format(time.RFC3339Nano), n, nil
}

func readNumber(b []byte) int64 { return int64(binary.BigEndian.Uint64(b) ^ 1<<63) }

// ParseKind returns the kind whose String is s, or ErrValue.
func ParseKind(s string) (Kind, error) {
	name, desc := strings.CutSuffix(s, " descending")
	switch name {
	case TextKind.name, NumberKind.name, TimeKind.name:
		return Kind{name, desc}, nil
	}
	return Kind{}, ErrValue.Because("%.60q is no kind of value", s)
}

// Len returns how many bytes at the beginning of b are a value of the kind, as Part.Append writes it, or ErrValue.
func (k Kind) Len(b []byte) (int, error) {
	n := 12
	switch k.name {
	case NumberKind.name:
		n = 8
	case TextKind.name:
		zero, end := byte(0), byte(1)
		if k.desc {
			zero, end = ^zero, ^end
		}
		for i := 0; i+1 < len(b); i++ {
			if b[i] != zero {
				continue
			}
			if b[i+1] == end {
				return i + 2, nil
			}
			i++
		}
		return 0, ErrValue.Because("a text has no end")
	}
	if len(b) < n {
		return 0, ErrValue.Because("it has %d bytes, not %d", len(b), n)
	}
	return n, nil
}
