package contract

import (
	"encoding/binary"
	"math"
	"reflect"
	"time"
	"unicode/utf8"
	"unsafe"

	"github.com/modern-go/reflect2"
)

// Most events hold nothing but texts, numbers, times, UUIDs, enums, nullable ones of them, and arrays of records of the same. Those are checked and decoded in one
// pass. It may give up on any payload, then the walk and the library decide; it must never read one that they refuse, or read it otherwise.

// A straightOp is what is read into one place of a Go value.
type straightOp uint8

const (
	straightText straightOp = iota
	straightLong
	straightInt
	straightBool
	straightFloat
	straightDouble
	straightMillis // a time.Time
	straightMicros
	straightEnum
	straightUUID
	straightUUIDBytes
	straightRecord
	straightSlice
	straightPointer // of a nullable type
)

// A straight is a value at an offset in a Go value.
type straight struct {
	op      straightOp
	null    byte // straightPointer: the index of null as it is written
	offset  uintptr
	lo, hi  int64 // of a time
	symbols []string
	inside  []straight // straightRecord: its fields; straightSlice and straightPointer: the one item
	least   int        // straightSlice: bytes that an item has at least
	size    uintptr    // straightSlice: of an item in memory
	slice   *reflect2.UnsafeSliceType
	pointed reflect2.Type
}

// maxStraightDepth keeps a payload's work, at most two steps for each byte and level, below what the walk lets pass. It is also what ends a
// recursive type, which is not straight.
const maxStraightDepth = 8

// straightOf returns how a value of n is read into the Go type t, which match, or false if it is not straight.
func straightOf(n *node, t reflect.Type, offset uintptr, depth int) (straight, bool) {
	v := straight{offset: offset, lo: n.lo, hi: n.hi}
	if depth > maxStraightDepth || n.least == 0 { // what has no bytes is counted by the walk only
		return v, false
	}
	switch n.kind {
	case kindBoolean:
		v.op = straightBool
	case kindFloat:
		v.op = straightFloat
	case kindDouble:
		v.op = straightDouble
	case kindString:
		v.op = straightText
		if t == uuidType {
			v.op = straightUUID
		}
	case kindFixed:
		v.op = straightUUIDBytes
		return v, t == uuidType
	case kindEnum:
		v.op, v.symbols = straightEnum, n.symbols
	case kindInt:
		v.op = straightInt
		return v, t.Kind() == reflect.Int32 && !n.bounded
	case kindLong:
		switch {
		case t == timeType && n.logical == "timestamp-millis":
			v.op = straightMillis
		case t == timeType && n.logical == "timestamp-micros":
			v.op = straightMicros
		default:
			v.op = straightLong
			return v, t.Kind() == reflect.Int64 && !n.bounded
		}
	case kindRecord:
		v.op = straightRecord
		return v, v.fields(n, t, depth)
	case kindArray:
		item, ok := straightOf(n.items, t.Elem(), 0, depth+1)
		v.op, v.inside, v.least, v.size = straightSlice, []straight{item}, int(n.items.least), t.Elem().Size()
		v.slice, _ = reflect2.Type2(t).(*reflect2.UnsafeSliceType)
		return v, ok && v.slice != nil
	case kindUnion: // of null and another type, else it would have no Go type
		other := 0
		if n.branches[0].kind == kindNull {
			other = 1
		}
		item, ok := straightOf(n.branches[other], t.Elem(), 0, depth+1)
		v.op, v.inside, v.null, v.size, v.pointed = straightPointer, []straight{item}, byte(2*(1-other)), t.Elem().Size(), reflect2.Type2(t.Elem())
		return v, ok
	default:
		return v, false
	}
	return v, true
}

func (v *straight) fields(n *node, t reflect.Type, depth int) bool {
	byTag := map[string]reflect.StructField{}
	for i := range t.NumField() {
		byTag[t.Field(i).Tag.Get("avro")] = t.Field(i)
	}
	for _, f := range n.fields {
		field, ok := straightOf(f.node, byTag[f.name].Type, byTag[f.name].Offset, depth+1)
		if !ok {
			return false
		}
		v.inside = append(v.inside, field)
	}
	return true
}

// A straightReader reads one payload after the other.
type straightReader struct {
	b    []byte
	pos  int
	left int    // bytes of memory that slices and pointers may still take
	slab []byte // texts are cut from it; as with the library, one text keeps its neighbours in memory
}

const (
	slabBytes   = 1024
	maxSlabText = 256 // longer texts have memory of their own

	maxStraightBytes = 256 << 10 // what needs more memory is walked before any is taken: it may be damaged at its very end
)

// read reads a whole payload into the value at p, or returns false: it is not straight, or not valid.
func (r *straightReader) read(v *straight, p unsafe.Pointer, payload []byte) bool {
	if len(payload) > MaxPayloadBytes {
		return false
	}
	r.b, r.pos, r.left = payload, 0, maxStraightBytes
	ok := r.values(v.inside, p) && r.pos == len(payload)
	r.b = nil
	return ok
}

// values reads what belongs to one record, or the one item of a slice or pointer, at base.
func (r *straightReader) values(all []straight, base unsafe.Pointer) bool {
	b, pos := r.b, r.pos
	for i := range all {
		v := &all[i]
		p := unsafe.Add(base, v.offset)
		switch v.op {
		case straightText:
			size, next := varint(b, pos)
			if next < 0 || size < 0 || size > int64(len(b)-next) {
				return false
			}
			pos = next + int(size)
			if !ascii(b, next, pos) && !utf8.Valid(b[next:pos]) {
				return false
			}
			*(*string)(p) = r.text(b[next:pos])
		case straightLong:
			x, next := varint(b, pos)
			if next < 0 {
				return false
			}
			*(*int64)(p), pos = x, next
		case straightInt:
			x, next := varint(b, pos)
			if next < 0 || x < math.MinInt32 || x > math.MaxInt32 {
				return false
			}
			*(*int32)(p), pos = int32(x), next
		case straightBool:
			if pos >= len(b) || b[pos] > 1 {
				return false
			}
			*(*bool)(p) = b[pos] == 1
			pos++
		case straightFloat:
			if len(b)-pos < 4 {
				return false
			}
			*(*float32)(p) = math.Float32frombits(binary.LittleEndian.Uint32(b[pos:]))
			pos += 4
		case straightDouble:
			if len(b)-pos < 8 {
				return false
			}
			*(*float64)(p) = math.Float64frombits(binary.LittleEndian.Uint64(b[pos:]))
			pos += 8
		case straightMillis, straightMicros:
			x, next := varint(b, pos)
			if next < 0 || x < v.lo || x > v.hi {
				return false
			}
			if v.op == straightMillis {
				*(*time.Time)(p) = time.UnixMilli(x).UTC()
			} else {
				*(*time.Time)(p) = time.UnixMicro(x).UTC()
			}
			pos = next
		case straightEnum:
			x, next := varint(b, pos)
			if next < 0 || x < 0 || x >= int64(len(v.symbols)) {
				return false
			}
			*(*string)(p), pos = v.symbols[x], next
		case straightUUID:
			if len(b)-pos < 37 || b[pos] != 72 || !readUUID((*UUID)(p), b[pos+1:pos+37]) { // of 36 bytes
				return false
			}
			pos += 37
		case straightUUIDBytes:
			if len(b)-pos < 16 {
				return false
			}
			*(*UUID)(p) = UUID(b[pos:])
			pos += 16
		case straightPointer:
			if pos >= len(b) || b[pos]&^2 != 0 { // of two branches
				return false
			}
			null := b[pos] == v.null
			if pos++; null {
				continue // the value is new, and its pointers are nil
			}
			if r.left -= int(v.size); r.left < 0 {
				return false
			}
			to := v.pointed.UnsafeNew()
			*(*unsafe.Pointer)(p) = to
			if r.pos = pos; !r.values(v.inside, to) {
				return false
			}
			pos = r.pos
		case straightRecord:
			if r.pos = pos; !r.values(v.inside, p) {
				return false
			}
			pos = r.pos
		case straightSlice:
			if r.pos = pos; !r.items(v, p) {
				return false
			}
			pos = r.pos
		}
	}
	r.pos = pos
	return true
}

// items reads an array that is written as one block, as all writers do that know how many items there are.
func (r *straightReader) items(v *straight, p unsafe.Pointer) bool {
	count, next := varint(r.b, r.pos)
	if next < 0 || count < 0 || count > MaxItems || count*int64(v.least) > int64(len(r.b)-next) {
		return false
	}
	if r.left -= int(count) * int(v.size); r.left < 0 {
		return false
	}
	r.pos = next
	slice := (*sliceHeader)(v.slice.UnsafeMakeSlice(int(count), int(count)))
	*(*sliceHeader)(p) = *slice
	if count == 0 {
		return true
	}
	inside := v.inside
	if inside[0].op == straightRecord {
		inside = inside[0].inside
	}
	for i := range uintptr(count) {
		if !r.values(inside, unsafe.Add(slice.data, i*v.size)) {
			return false
		}
	}
	if r.pos >= len(r.b) || r.b[r.pos] != 0 { // the end, else there is another block
		return false
	}
	r.pos++
	return true
}

// A sliceHeader is a slice in memory.
type sliceHeader struct {
	data     unsafe.Pointer
	len, cap int
}

// text returns a text with memory that nobody else writes to.
func (r *straightReader) text(b []byte) string {
	switch {
	case len(b) == 0:
		return ""
	case len(b) > maxSlabText:
		return string(b)
	case len(b) > len(r.slab):
		r.slab = make([]byte, slabBytes)
	}
	n := copy(r.slab, b)
	s := unsafe.String(&r.slab[0], n)
	r.slab = r.slab[n:]
	return s
}

// varint reads a zigzag varint at pos and returns the position behind it, -1 if it is not there or has more than 64 bits.
func varint(b []byte, pos int) (x int64, next int) {
	if pos < len(b) && b[pos] < 0x80 {
		u := int64(b[pos])
		return u>>1 ^ -(u & 1), pos + 1
	}
	return varintLong(b, pos)
}

func varintLong(b []byte, pos int) (x int64, next int) {
	u, n := binary.Uvarint(b[min(pos, len(b)):])
	if n <= 0 {
		return 0, -1
	}
	return int64(u>>1) ^ -int64(u&1), pos + n //nolint:gosec // zigzag
}
