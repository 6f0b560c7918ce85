package contract

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"strconv"
)

// maxDefaultSteps bounds the work for the defaults of one schema: nested unions can be tried in exponentially many ways.
const maxDefaultSteps = 1_000_000

// defaults encodes the default of every field below n, exactly: a number that does not fit is refused, not rounded.
func (b *builder) defaults(n *node, seen map[*node]bool) error {
	if seen[n] {
		return nil
	}
	seen[n] = true
	for _, f := range n.fields {
		if f.hasDef {
			if err := b.encodeField(f); err != nil {
				return err
			}
		}
		if err := b.defaults(f.node, seen); err != nil {
			return err
		}
	}
	for _, c := range n.branches {
		if err := b.defaults(c, seen); err != nil {
			return err
		}
	}
	if n.items != nil {
		return b.defaults(n.items, seen)
	}
	return nil
}

func (b *builder) encodeField(f *field) error {
	switch {
	case f.done:
		return nil
	case f.encoding:
		return at(f.pointer+"/default", "the default contains itself")
	}
	f.encoding = true
	encoded, err := b.encode(nil, f.node, f.def, f.pointer+"/default", 0)
	f.encoding = false
	if err != nil {
		return err
	}
	f.encoded, f.done = encoded, true
	return nil
}

func (b *builder) encode(dst []byte, n *node, v any, pointer string, depth int) ([]byte, error) {
	b.steps++
	if b.steps > maxDefaultSteps || depth > MaxDepth || len(dst) > MaxSchemaBytes {
		return nil, at(pointer, "the default is too large")
	}
	bad := func() ([]byte, error) {
		what := n.kind.String()
		if n.kind.named() {
			what = n.name
		}
		return nil, at(pointer, "%s is not a %s", describe(v), what)
	}
	switch n.kind {
	case kindNull:
		if v != nil {
			return bad()
		}
		return dst, nil
	case kindBoolean:
		flag, ok := v.(bool)
		switch {
		case !ok:
			return bad()
		case flag:
			return append(dst, 1), nil
		}
		return append(dst, 0), nil
	case kindInt, kindLong:
		i, ok := wholeNumber(v)
		if !ok || n.kind == kindInt && (i < math.MinInt32 || i > math.MaxInt32) {
			return bad()
		}
		return appendLong(dst, i), nil
	case kindFloat, kindDouble:
		number, ok := v.(json.Number)
		bits := 64
		if n.kind == kindFloat {
			bits = 32
		}
		x, err := strconv.ParseFloat(number.String(), bits)
		if !ok || err != nil {
			return bad()
		}
		if n.kind == kindFloat {
			return binary.LittleEndian.AppendUint32(dst, math.Float32bits(float32(x))), nil
		}
		return binary.LittleEndian.AppendUint64(dst, math.Float64bits(x)), nil
	case kindString:
		s, ok := v.(string)
		if !ok {
			return bad()
		}
		return append(appendLong(dst, int64(len(s))), s...), nil
	case kindBytes, kindFixed:
		s, ok := v.(string)
		if !ok {
			return bad()
		}
		var raw []byte // each code point is one byte
		for _, r := range s {
			if r > 0xff {
				return bad()
			}
			raw = append(raw, byte(r))
		}
		if n.kind == kindBytes {
			dst = appendLong(dst, int64(len(raw)))
		} else if len(raw) != n.size {
			return bad()
		}
		return append(dst, raw...), nil
	case kindEnum:
		s, ok := v.(string)
		for i, symbol := range n.symbols {
			if ok && symbol == s {
				return appendLong(dst, int64(i)), nil
			}
		}
		return bad()
	case kindArray:
		list, ok := v.([]any)
		if !ok {
			return bad()
		}
		if len(list) > 0 {
			dst = appendLong(dst, int64(len(list)))
		}
		var err error
		for i, item := range list {
			if dst, err = b.encode(dst, n.items, item, pointer+"/"+strconv.Itoa(i), depth+1); err != nil {
				return nil, err
			}
		}
		return append(dst, 0), nil
	case kindMap:
		o, ok := v.(*object)
		if !ok {
			return bad()
		}
		if len(o.keys) > 0 {
			dst = appendLong(dst, int64(len(o.keys)))
		}
		var err error
		for _, key := range o.keys {
			dst = append(appendLong(dst, int64(len(key))), key...)
			if dst, err = b.encode(dst, n.items, o.values[key], pointer+"/"+escapePointer(key), depth+1); err != nil {
				return nil, err
			}
		}
		return append(dst, 0), nil
	case kindUnion:
		for i, branch := range n.branches { // any branch, since Avro 1.12; before, only the first
			if out, err := b.encode(appendLong(dst, int64(i)), branch, v, pointer, depth+1); err == nil {
				return out, nil
			}
		}
		return nil, at(pointer, "%s is none of the union's types", describe(v))
	}
	o, ok := v.(*object)
	if !ok {
		return bad()
	}
	known := 0
	var err error
	for _, f := range n.fields {
		value, given := o.get(f.name)
		switch {
		case given:
			known++
			dst, err = b.encode(dst, f.node, value, pointer+"/"+escapePointer(f.name), depth+1)
		case f.hasDef:
			if err = b.encodeField(f); err == nil {
				dst = append(dst, f.encoded...)
			}
		default:
			err = at(pointer, "lacks the field %q of %s", f.name, n.name)
		}
		if err != nil {
			return nil, err
		}
	}
	if known != len(o.keys) {
		return nil, at(pointer, "has fields that %s does not have", n.name)
	}
	return dst, nil
}

// appendLong appends an Avro int or long: zigzag, then seven bits a byte.
func appendLong(dst []byte, i int64) []byte {
	return binary.AppendUvarint(dst, uint64(i)<<1^uint64(i>>63))
}
