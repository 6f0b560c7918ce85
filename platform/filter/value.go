package filter

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// A record is an object of the row, or the row: its members are found when the first is asked for, and each is decoded when it is.
type record struct {
	shape   *shape
	adapter types.Adapter
	raw     []byte // valid JSON; nil = the zero value
	members []member
	indexed bool
}

type member struct {
	raw []byte // nil = absent, or null
	val ref.Val
}

var _ traits.Indexer = (*record)(nil)
var _ traits.FieldTester = (*record)(nil)

// note takes in the member at the place of a name; next is where it is to be expected, in the order in which Go writes fields.
func (r *record) note(name, value []byte, next int) int {
	fields := r.shape.fields
	at := next
	if at >= len(fields) || fields[at].name != string(name) {
		var ok bool
		if at, ok = r.shape.places[string(name)]; !ok {
			if bytes.IndexByte(name, '\\') < 0 {
				return next
			}
			if at, ok = r.shape.places[unescape(name)]; !ok {
				return next
			}
		}
	}
	if isNull(value) {
		value = nil
	}
	r.members[at].raw = value
	return at + 1
}

// index finds the members.
func (r *record) index() {
	if r.indexed {
		return
	}
	r.indexed = true
	r.members = make([]member, len(r.shape.fields))
	if r.raw == nil || r.raw[0] != '{' {
		return
	}
	next := 0
	skipObject(r.raw, 0, 0, func(name, value []byte) { next = r.note(name, value, next) })
}

// at returns the value of a field by its place.
func (r *record) at(i int) ref.Val {
	r.index()
	m, f := &r.members[i], &r.shape.fields[i]
	if m.val == nil {
		raw := m.raw
		if f.quoted && raw != nil {
			raw = unquote(raw)
		}
		m.val = f.shape.decode(raw, r.adapter)
		if types.IsError(m.val) {
			m.val = types.WrapErr(ErrRow.Because("the field %s: %v", f.name, m.val))
		}
	}
	return m.val
}

// has reports whether a field is there and not null.
func (r *record) has(i int) bool {
	r.index()
	return r.members[i].raw != nil
}

// place returns the place of the field that an index names; -1 = none.
func (r *record) place(index ref.Val) int {
	if name, ok := index.(types.String); ok {
		if i, ok := r.shape.places[string(name)]; ok {
			return i
		}
	}
	return -1
}

// Get returns the value of a field.
func (r *record) Get(index ref.Val) ref.Val {
	if i := r.place(index); i >= 0 {
		return r.at(i)
	}
	return types.NewErr("no such field: %v", index)
}

// IsSet reports whether a field is there and not null.
func (r *record) IsSet(index ref.Val) ref.Val {
	if i := r.place(index); i >= 0 {
		return types.Bool(r.has(i))
	}
	return types.NewErr("no such field: %v", index)
}

// Equal compares all fields.
func (r *record) Equal(other ref.Val) ref.Val {
	o, ok := other.(*record)
	if !ok || o.shape != r.shape {
		return types.False
	}
	if r.raw == nil && o.raw == nil {
		return types.True // and the zero value of a type that can hold itself has no end
	}
	for i := range r.shape.fields {
		switch e := r.at(i).Equal(o.at(i)); {
		case types.IsError(e):
			return e
		case e != types.True:
			return types.False
		}
	}
	return types.True
}

// ConvertToNative fails: nobody but CEL needs records.
func (r *record) ConvertToNative(t reflect.Type) (any, error) {
	return nil, ErrInvalid.Because("an object cannot become a %v", t)
}

// ConvertToType converts to the record's own type and to its type's name.
func (r *record) ConvertToType(t ref.Type) ref.Val {
	switch {
	case t.TypeName() == r.shape.cel.TypeName():
		return r
	case t == types.TypeType:
		return r.shape.cel
	}
	return types.NewErr("an object cannot become a %s", t.TypeName())
}

// Size returns what comparing the record costs, in the unit of the cost model: ten bytes of it.
func (r *record) Size() ref.Val { return types.Int(len(r.raw)/10 + 1) }

// Type returns the record's CEL type.
func (r *record) Type() ref.Type { return r.shape.cel }

// Value returns the record.
func (r *record) Value() any { return r }

// decode returns the CEL value of valid JSON, or a CEL error; nil is the zero value.
func (s *shape) decode(raw []byte, a types.Adapter) ref.Val {
	if raw == nil || isNull(raw) {
		if s.kind == object {
			return &record{shape: s, adapter: a}
		}
		return s.zero
	}
	switch s.kind {
	case boolean:
		switch raw[0] {
		case 't':
			return types.True
		case 'f':
			return types.False
		}
	case integer:
		if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
			return types.Int(n)
		}
		if raw[0] >= '0' && raw[0] <= '9' {
			return types.NewErr("%s is no integer of 64 bits", raw)
		}
	case number:
		if n, err := strconv.ParseFloat(string(raw), 64); err == nil && raw[0] != '"' {
			return types.Double(n)
		}
	case text:
		if raw[0] == '"' {
			return types.String(unescape(raw[1 : len(raw)-1]))
		}
	case octets:
		if raw[0] == '"' {
			if b, err := base64.StdEncoding.DecodeString(unescape(raw[1 : len(raw)-1])); err == nil {
				return types.Bytes(b)
			}
		}
	case moment:
		if raw[0] == '"' {
			if t, err := time.Parse(time.RFC3339Nano, unescape(raw[1:len(raw)-1])); err == nil {
				return types.Timestamp{Time: t}
			}
		}
	case list:
		if raw[0] == '[' {
			var all []ref.Val
			var broken ref.Val
			skipArray(raw, 0, 0, func(value []byte) {
				v := s.elem.decode(value, a)
				if types.IsError(v) {
					broken = v
				}
				all = append(all, v)
			})
			if broken != nil {
				return broken
			}
			return types.NewRefValList(a, all)
		}
	case mapping:
		if raw[0] == '{' {
			return s.decodeMap(raw, a)
		}
	case object:
		if raw[0] == '{' {
			return &record{shape: s, adapter: a, raw: raw}
		}
	default:
		return decodeAny(raw, a)
	}
	return types.NewErr("%.40q is no %s", raw, s.cel)
}

func (s *shape) decodeMap(raw []byte, a types.Adapter) ref.Val {
	all := map[ref.Val]ref.Val{}
	var broken ref.Val
	skipObject(raw, 0, 0, func(name, value []byte) {
		var k ref.Val = types.String(unescape(name))
		if s.key == integer {
			n, err := strconv.ParseInt(string(name), 10, 64)
			if err != nil {
				broken = types.NewErr("the key %.40q is no integer of 64 bits", name)
			}
			k = types.Int(n)
		}
		v := s.elem.decode(value, a)
		if types.IsError(v) {
			broken = v
		}
		all[k] = v
	})
	if broken != nil {
		return broken
	}
	return types.NewRefValMap(a, all)
}

// decodeAny returns what the JSON itself says: its numbers are double.
func decodeAny(raw []byte, a types.Adapter) ref.Val {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return types.WrapErr(err)
	}
	return a.NativeToValue(v)
}

// unescape returns what the inside of a JSON text that was skipped before says.
func unescape(inner []byte) string {
	if bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return string(inner)
	}
	quoted := make([]byte, 0, len(inner)+2)
	quoted = append(append(append(quoted, '"'), inner...), '"')
	var s string
	if err := json.Unmarshal(quoted, &s); err != nil {
		return strings.ToValidUTF8(string(inner), string(utf8.RuneError)) // never: what was skipped is a text
	}
	return s
}

// unquote returns the JSON inside a JSON text; what is not in one stays as it is.
func unquote(raw []byte) []byte {
	if raw[0] != '"' {
		return raw
	}
	inner := []byte(unescape(raw[1 : len(raw)-1]))
	if end, ok := skip(inner, 0, 0); !ok || end != len(inner) {
		return raw
	}
	return inner
}
