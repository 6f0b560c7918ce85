package rest

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/millrace/millrace/platform/fault"
)

// ErrBody is returned for a body that is not exactly one JSON value of the expected shape; its fields point at all that is wrong.
var ErrBody = fault.New(fault.Invalid, "invalid_body", "the request body is not what is expected here")

const (
	maxFindings = 32 // how many faults of one input are reported
	maxDepth    = 32 // how deep objects and arrays may be nested
)

// DecodeJSON decodes the one JSON value in data into v, a non-nil pointer, following the json tags of its type as encoding/json does,
// but strictly. It refuses, with ErrBody and a JSON pointer for each place: unknown, duplicate and differently cased names, wrong types
// (null for anything but a pointer or any), numbers that the type cannot hold exactly, what is not UTF-8, lone surrogates, U+0000,
// more than 32 levels, anything after the value. What it accepts encoding/json accepts too, with the same result. It keeps
// nothing of data. After an error the content of v is unspecified. A type that it does not know how to decode is a bug and panics.
func DecodeJSON(data []byte, v any) error {
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.IsNil() {
		panic(fmt.Sprintf("rest: DecodeJSON needs a non-nil pointer, not %T", v))
	}
	plan := planOf(p.Type().Elem())
	d := decoders.Get().(*decoder)
	d.data, d.pos, d.depth, d.findings = data, 0, 0, nil
	if plan(d, p.Elem()) {
		if d.next(); d.pos < len(d.data) {
			d.fail("the body goes on after the JSON value, at %s", d.where(d.pos))
		}
	}
	findings := d.findings
	d.data, d.findings = nil, nil
	decoders.Put(d)
	if findings == nil {
		return nil
	}
	err := *ErrBody
	err.Fields = findings
	return &err
}

var decoders = sync.Pool{New: func() any { return new(decoder) }}

// A decoder is one pass over one input.
type decoder struct {
	data     []byte
	pos      int
	depth    int // how many objects and arrays are open; path[:depth] says where in them
	path     [maxDepth]step
	scratch  []byte // where strings with escapes are put together
	findings []fault.Field
}

// A step is one level of the path to the current value.
type step struct {
	name  string // of a known field; "" = see key and index
	key   []byte // of another field; nil = index
	index int
}

// fail records a fault at the current place.
func (d *decoder) fail(format string, args ...any) {
	switch {
	case len(d.findings) < maxFindings:
		d.findings = append(d.findings, fault.Field{Pointer: d.pointer(), Detail: fmt.Sprintf(format, args...)})
	case len(d.findings) == maxFindings:
		d.findings = append(d.findings, fault.Field{Detail: "there are more faults than these"})
	}
}

// pointer returns the current place as an RFC 6901 pointer.
func (d *decoder) pointer() string {
	var b strings.Builder
	for _, s := range d.path[:d.depth] {
		if s.key == nil && s.name == "" && s.index < 0 {
			break // in an object, between its members
		}
		b.WriteByte('/')
		name := s.name
		switch {
		case s.key != nil:
			name = clip(strings.ToValidUTF8(string(s.key), "\uFFFD"))
		case name == "":
			b.WriteString(strconv.Itoa(s.index))
			continue
		}
		b.WriteString(pointerEscaper.Replace(name))
	}
	return b.String()
}

var pointerEscaper = strings.NewReplacer("~", "~0", "/", "~1")

// where names a byte of the input as people count.
func (d *decoder) where(pos int) string {
	line, start := 1, 0
	for i, c := range d.data[:min(pos, len(d.data))] {
		if c == '\n' {
			line, start = line+1, i+1
		}
	}
	return fmt.Sprintf("line %d, column %d", line, pos-start+1)
}

// next skips white space and returns the byte that follows without taking it; 0 at the end.
func (d *decoder) next() byte {
	for d.pos < len(d.data) {
		switch c := d.data[d.pos]; c {
		case ' ', '\n', '\t', '\r':
			d.pos++
		default:
			return c
		}
	}
	return 0
}

// syntax records that the input is not JSON from here on; nothing after it can be understood. It returns false for its callers to return.
func (d *decoder) syntax(wanted string) bool {
	if d.pos >= len(d.data) {
		d.pos = len(d.data)
		if strings.TrimSpace(string(d.data)) == "" {
			d.fail("the body is empty")
		} else {
			d.fail("the body ends where %s is expected", wanted)
		}
		return false
	}
	r, size := utf8.DecodeRune(d.data[d.pos:])
	if r == utf8.RuneError && size == 1 {
		d.fail("not JSON: byte 0x%02x where %s is expected, at %s", d.data[d.pos], wanted, d.where(d.pos))
	} else {
		d.fail("not JSON: %q where %s is expected, at %s", r, wanted, d.where(d.pos))
	}
	return false
}

// enter opens an object or array; false if it would be too deep.
func (d *decoder) enter(s step) bool {
	if d.depth == maxDepth {
		d.fail("the body is nested deeper than %d levels", maxDepth)
		return false
	}
	d.path[d.depth] = s
	d.depth++
	return true
}

// leave closes it.
func (d *decoder) leave() { d.depth-- }

// typeName names the type of the value that starts with c, "" if none does.
func typeName(c byte) string {
	switch {
	case c == '{':
		return "an object"
	case c == '[':
		return "an array"
	case c == '"':
		return "a string"
	case c == 't' || c == 'f':
		return "a boolean"
	case c == 'n':
		return "null"
	case c == '-' || c >= '0' && c <= '9':
		return "a number"
	}
	return ""
}

// mismatch records that the value that starts with c should be something else, and skips it.
func (d *decoder) mismatch(c byte, wanted string) bool {
	got := typeName(c)
	if got == "" {
		return d.syntax(wanted)
	}
	d.fail("must be %s, not %s", wanted, got)
	return d.skip()
}

// literal takes the rest of true, false or null.
func (d *decoder) literal(word string) bool {
	for i := range len(word) {
		if d.pos >= len(d.data) || d.data[d.pos] != word[i] {
			return d.syntax(word)
		}
		d.pos++
	}
	return true
}

// quote returns s in double quotes, shortened to what is worth repeating.
func quote(s string) string {
	if len(s) > 60 {
		s = strings.ToValidUTF8(s[:60], "") + "…"
	}
	return strconv.Quote(s)
}
