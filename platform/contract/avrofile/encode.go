package avrofile

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A Row is what is written of one row.
type Row struct {
	Key               string
	Position, EventID string // of the event that changed it last
	JSON              []byte
}

// Append appends a row in Avro's binary form. It returns ErrRow for one that the schema cannot hold.
func (f *Form) Append(dst []byte, r *Row) ([]byte, error) {
	if !json.Valid(r.JSON) {
		return nil, ErrRow.Because("the row %q is no JSON", r.Key)
	}
	dst = appendText(dst, r.Key)
	if f.explain {
		dst = appendText(appendText(dst, r.Position), r.EventID)
	}
	dst, err := f.row.append(dst, bytes.Trim(r.JSON, space))
	if err != nil {
		path := "it"
		if m := (*mismatch)(nil); errors.As(err, &m) {
			path = strings.TrimPrefix(m.path, ".")
		}
		e := ErrRow.Because("of the row %q, %s %s", r.Key, path, err)
		if errors.Is(err, errFine) {
			return nil, e.WithFix("leave it out with fields=, or ask for application/x-ndjson, which has it as it is")
		}
		return nil, e.WithFix("build the view again: its rows are of other code than the program's; or ask for application/x-ndjson, which has them as they are")
	}
	return dst, nil
}

// A mismatch is a value that is not of its type.
type mismatch struct {
	path string
	why  error
}

func (m *mismatch) Error() string { return m.why.Error() }
func (m *mismatch) Unwrap() error { return m.why }

// within says where in a row a value is.
func within(err error, format string, args ...any) error {
	m, ok := err.(*mismatch) //nolint:errorlint // nothing wraps it
	if !ok {
		m = &mismatch{why: err}
	}
	m.path = fmt.Sprintf(format, args...) + m.path
	return m
}

var errFine = errors.New("the time has more than microseconds, and Avro's timestamp-micros has not")

// wrong says that a value is not of its type.
func (r ref) wrong(v []byte) error {
	return fmt.Errorf("is %.60s, and the type of the row has %s there", v, kindNames[r.kind])
}

// append appends a value, whose JSON is valid and without space around it; nil = absent.
func (r ref) append(dst, v []byte) ([]byte, error) {
	if len(v) == 0 || v[0] == 'n' {
		return r.appendZero(dst), nil // so encoding/json reads null
	}
	if r.null {
		dst = append(dst, 1<<1)
	}
	switch r.kind {
	case boolean:
		switch v[0] {
		case 't':
			return append(dst, 1), nil
		case 'f':
			return append(dst, 0), nil
		}
	case integer, long:
		if n, err := r.whole(v); err == nil {
			return binary.AppendVarint(dst, n), nil
		}
	case decimal:
		if n, err := strconv.ParseUint(string(v), 10, 64); err == nil {
			return appendUnsigned(dst, n), nil
		}
	case float:
		if n, err := strconv.ParseFloat(string(v), 32); err == nil {
			return binary.LittleEndian.AppendUint32(dst, math.Float32bits(float32(n))), nil
		}
	case double:
		if n, err := strconv.ParseFloat(string(v), 64); err == nil {
			return binary.LittleEndian.AppendUint64(dst, math.Float64bits(n)), nil
		}
	case text:
		if s, ok := unquote(v); ok {
			return appendText(dst, s), nil
		}
	case octets:
		if s, ok := unquote(v); ok {
			if b, err := base64.StdEncoding.DecodeString(string(s)); err == nil {
				return append(binary.AppendVarint(dst, int64(len(b))), b...), nil
			}
		}
	case moment:
		var t time.Time
		if v[0] == '"' && t.UnmarshalJSON(v) == nil {
			if t.Nanosecond()%1000 != 0 {
				return nil, fmt.Errorf("is %s: %w", v, errFine)
			}
			return binary.AppendVarint(dst, t.UnixMicro()), nil
		}
	case document:
		return appendText(dst, v), nil
	case array:
		if v[0] == '[' {
			return r.appendArray(dst, v)
		}
	case mapping:
		if v[0] == '{' {
			return r.appendMap(dst, v)
		}
	case record:
		if v[0] == '{' {
			return r.appendRecord(dst, v)
		}
	}
	return nil, r.wrong(v)
}

func (r ref) whole(v []byte) (int64, error) {
	if r.signed {
		return strconv.ParseInt(string(v), 10, r.bits)
	}
	n, err := strconv.ParseUint(string(v), 10, r.bits)
	return int64(n), err
}

// appendUnsigned appends a decimal: bytes of the two's complement, the highest first.
func appendUnsigned(dst []byte, n uint64) []byte {
	var b [9]byte
	binary.BigEndian.PutUint64(b[1:], n)
	i := 0
	for i < 8 && b[i] == 0 && b[i+1] < 1<<7 {
		i++
	}
	return append(binary.AppendVarint(dst, int64(9-i)), b[i:]...)
}

func appendText[T string | []byte](dst []byte, s T) []byte {
	if !utf8.ValidString(string(s)) {
		s = T(strings.ToValidUTF8(string(s), string(utf8.RuneError))) // as encoding/json reads and writes it
	}
	return append(binary.AppendVarint(dst, int64(len(s))), s...)
}

func (r ref) appendArray(dst, v []byte) ([]byte, error) {
	n := 0
	for range elements(v) {
		n++
	}
	if r.length > 0 {
		n = r.length // of more values encoding/json reads so many, in place of fewer zero ones
	}
	if n > 0 {
		dst = binary.AppendVarint(dst, int64(n))
	}
	i := 0
	for _, value := range elements(v) {
		if i == n {
			break
		}
		var err error
		if dst, err = r.elem.append(dst, value); err != nil {
			return nil, within(err, "[%d]", i)
		}
		i++
	}
	for ; i < n; i++ {
		dst = r.elem.appendZero(dst)
	}
	return append(dst, 0), nil
}

func (r ref) appendMap(dst, v []byte) ([]byte, error) {
	n := 0
	for range elements(v) {
		n++
	}
	if n > 0 {
		dst = binary.AppendVarint(dst, int64(n))
	}
	for key, value := range elements(v) {
		name, _ := unquote(key)
		dst = appendText(dst, name)
		var err error
		if dst, err = r.elem.append(dst, value); err != nil {
			return nil, within(err, "[%q]", name)
		}
	}
	return append(dst, 0), nil
}

func (r ref) appendRecord(dst, v []byte) ([]byte, error) {
	values := make([][]byte, len(r.fields))
	for key, value := range elements(v) {
		name, _ := unquote(key)
		if i, ok := r.places[string(name)]; ok {
			values[i] = value
		}
	}
	for i := range r.fields {
		f := &r.fields[i]
		value := values[i]
		if f.quoted && len(value) > 0 && value[0] != 'n' {
			inner, ok := unquote(value)
			if !ok || !json.Valid(inner) {
				return nil, within(f.ref.wrong(value), ".%s", f.json)
			}
			value = bytes.Trim(inner, space)
		}
		var err error
		if dst, err = f.ref.append(dst, value); err != nil {
			return nil, within(err, ".%s", f.json)
		}
	}
	return dst, nil
}

// appendZero appends what an absent value is read as: null, or the zero value of its type.
func (r ref) appendZero(dst []byte) []byte {
	switch {
	case r.null:
		return append(dst, 0)
	case r.kind == decimal:
		return appendUnsigned(dst, 0)
	case r.kind == float:
		return append(dst, 0, 0, 0, 0)
	case r.kind == double:
		return append(dst, 0, 0, 0, 0, 0, 0, 0, 0)
	case r.kind == text:
		return appendText(dst, r.zero)
	case r.kind == moment:
		return binary.AppendVarint(dst, time.Time{}.UnixMicro())
	case r.kind == array:
		if r.length > 0 {
			dst = binary.AppendVarint(dst, int64(r.length))
			for range r.length {
				dst = r.elem.appendZero(dst)
			}
		}
	case r.kind == record:
		for i := range r.fields {
			dst = r.fields[i].ref.appendZero(dst)
		}
		return dst
	}
	return append(dst, 0) // false, 0, and the end of no items
}
