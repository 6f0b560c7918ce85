package rest

import (
	"encoding"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/platform/fault"
)

// A plan decodes the value at the decoder's position into v, which is addressable and settable. False: the input is not JSON and
// decoding ends; a value that is merely wrong is recorded and skipped, so that later faults are found too.
type plan func(d *decoder, v reflect.Value) bool

var plans sync.Map // reflect.Type -> plan: decided once for each type

// planOf returns the plan for values of type t.
func planOf(t reflect.Type) plan {
	if p, ok := plans.Load(t); ok {
		return p.(plan)
	}
	// A type may contain itself: what refers to it while its plan is being made gets this one, which is made when first used.
	later := sync.OnceValue(func() plan { return makePlan(t) })
	waiting := plan(func(d *decoder, v reflect.Value) bool { return later()(d, v) })
	if p, loaded := plans.LoadOrStore(t, waiting); loaded {
		return p.(plan)
	}
	made := makePlan(t)
	plans.Store(t, made)
	return made
}

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	timeType        = reflect.TypeFor[time.Time]()
	numberType      = reflect.TypeFor[json.Number]()
	rawType         = reflect.TypeFor[json.RawMessage]()
)

func makePlan(t reflect.Type) plan {
	switch {
	case t == timeType:
		return decodeTime
	case t == numberType:
		return decodeNumber
	case t == rawType:
		return decodeRaw
	case t.Kind() != reflect.Pointer && reflect.PointerTo(t).Implements(jsonUnmarshaler):
		return decodeUnmarshaler
	case t.Kind() != reflect.Pointer && reflect.PointerTo(t).Implements(textUnmarshaler):
		return decodeText
	}
	switch t.Kind() {
	case reflect.Bool:
		return decodeBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return decodeInt
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return decodeUint
	case reflect.Float32, reflect.Float64:
		return decodeFloat
	case reflect.String:
		return decodeString
	case reflect.Struct:
		return structPlan(t)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 && !decodesItself(t.Elem()) {
			return decodeBytes
		}
		return slicePlan(t)
	case reflect.Array:
		return arrayPlan(t)
	case reflect.Map:
		if t.Key().Kind() == reflect.String && !decodesItself(t.Key()) {
			return mapPlan(t)
		}
	case reflect.Pointer:
		return pointerPlan(t)
	case reflect.Interface:
		if t.NumMethod() == 0 {
			return decodeAny
		}
	default: // no JSON value stands for the others
	}
	panic(fmt.Sprintf("rest: bodies cannot hold a %s", t))
}

func decodesItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(jsonUnmarshaler) || p.Implements(textUnmarshaler)
}

func decodeString(d *decoder, v reflect.Value) bool {
	if c := d.next(); c != '"' {
		return d.mismatch(c, "a string")
	}
	s, ok := d.str()
	if ok {
		v.SetString(string(s))
	}
	return ok
}

func decodeBool(d *decoder, v reflect.Value) bool {
	switch c := d.next(); c {
	case 't':
		v.SetBool(true)
		return d.literal("true")
	case 'f':
		v.SetBool(false)
		return d.literal("false")
	default:
		return d.mismatch(c, "a boolean")
	}
}

// isNumber reports whether a number starts with c.
func isNumber(c byte) bool { return c == '-' || c >= '0' && c <= '9' }

func decodeInt(d *decoder, v reflect.Value) bool {
	c := d.next()
	if !isNumber(c) {
		return d.mismatch(c, "an integer")
	}
	lit, integer, ok := d.number()
	if !ok {
		return false
	}
	switch n, err := parseInt(lit); {
	case !integer || string(lit) == "-0":
		d.fail("must be an integer written in plain digits, not %s", clip(string(lit)))
	case err != nil || v.OverflowInt(n):
		bits := v.Type().Bits()
		d.fail("must be an integer from %d to %d", int64(-1)<<(bits-1), int64(1)<<(bits-1)-1)
	default:
		v.SetInt(n)
	}
	return true
}

// parseInt is strconv.ParseInt, quicker for what most numbers are.
func parseInt(lit []byte) (int64, error) {
	if len(lit) > 18 || lit[0] == '-' {
		return strconv.ParseInt(string(lit), 10, 64)
	}
	var n int64
	for _, c := range lit {
		if c < '0' || c > '9' {
			return 0, strconv.ErrSyntax
		}
		n = n*10 + int64(c-'0')
	}
	return n, nil
}

func decodeUint(d *decoder, v reflect.Value) bool {
	c := d.next()
	if !isNumber(c) {
		return d.mismatch(c, "an integer")
	}
	lit, integer, ok := d.number()
	if !ok {
		return false
	}
	switch n, err := strconv.ParseUint(string(lit), 10, 64); {
	case !integer || string(lit) == "-0":
		d.fail("must be an integer written in plain digits, not %s", clip(string(lit)))
	case err != nil || v.OverflowUint(n):
		d.fail("must be an integer from 0 to %d", ^uint64(0)>>(64-v.Type().Bits()))
	default:
		v.SetUint(n)
	}
	return true
}

func decodeFloat(d *decoder, v reflect.Value) bool {
	c := d.next()
	if !isNumber(c) {
		return d.mismatch(c, "a number")
	}
	f, ok, fine := d.float(v.Type().Bits())
	if fine {
		v.SetFloat(f)
	}
	return ok
}

// float takes a number as a binary one; fine is false if it was recorded as out of range.
func (d *decoder) float(bits int) (f float64, ok, fine bool) {
	lit, integer, ok := d.number()
	if !ok {
		return 0, false, false
	}
	if integer {
		if n, err := parseInt(lit); err != nil || n > 1<<53 || n < -1<<53 {
			d.fail("must be from -2^53 to 2^53, beyond which integers are not exact")
			return 0, true, false
		}
	}
	f, err := strconv.ParseFloat(string(lit), bits)
	if err != nil {
		d.fail("must be a number that %d bits can hold", bits)
		return 0, true, false
	}
	return f, true, true
}

func decodeNumber(d *decoder, v reflect.Value) bool {
	c := d.next()
	if !isNumber(c) {
		return d.mismatch(c, "a number")
	}
	lit, _, ok := d.number()
	if ok {
		v.SetString(string(lit))
	}
	return ok
}

func decodeRaw(d *decoder, v reflect.Value) bool {
	d.next()
	start := d.pos
	if !d.skip() {
		return false
	}
	v.SetBytes(append([]byte(nil), d.data[start:d.pos]...))
	return true
}

func decodeTime(d *decoder, v reflect.Value) bool {
	if c := d.next(); c != '"' {
		return d.mismatch(c, "a time in a string")
	}
	start := d.pos
	if _, ok := d.str(); !ok {
		return false
	}
	if err := v.Addr().Interface().(*time.Time).UnmarshalJSON(d.data[start:d.pos]); err != nil {
		d.fail("must be a time as in RFC 3339, e.g. 1997-01-31T12:00:00Z")
	}
	return true
}

func decodeUnmarshaler(d *decoder, v reflect.Value) bool {
	d.next()
	start, faults := d.pos, len(d.findings)
	if !d.skip() {
		return false
	}
	if len(d.findings) > faults {
		return true
	}
	if err := v.Addr().Interface().(json.Unmarshaler).UnmarshalJSON(d.data[start:d.pos]); err != nil {
		d.fail("%s", reason(err))
	}
	return true
}

func decodeText(d *decoder, v reflect.Value) bool {
	if c := d.next(); c != '"' {
		return d.mismatch(c, "a string")
	}
	faults := len(d.findings)
	s, ok := d.str()
	if !ok || len(d.findings) > faults {
		return ok
	}
	if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText(s); err != nil {
		d.fail("%s", reason(err))
	}
	return true
}

// reason says why a type refused its text.
func reason(err error) string {
	if e := fault.From(err); e != nil {
		if e.Detail != "" {
			return e.Title + ": " + e.Detail
		}
		return e.Title
	}
	return "is not allowed: " + clip(err.Error())
}

func decodeBytes(d *decoder, v reflect.Value) bool {
	if c := d.next(); c != '"' {
		return d.mismatch(c, "base64 in a string")
	}
	s, ok := d.str()
	if !ok {
		return false
	}
	b := make([]byte, base64.StdEncoding.DecodedLen(len(s)))
	n, err := base64.StdEncoding.Strict().Decode(b, s)
	if err != nil || strings.ContainsAny(string(s), "\r\n") {
		d.fail("must be base64 with padding (RFC 4648 §4)")
		return true
	}
	v.SetBytes(b[:n])
	return true
}

func decodeAny(d *decoder, v reflect.Value) bool {
	x, ok := d.any()
	if ok {
		if x == nil {
			v.SetZero()
		} else {
			v.Set(reflect.ValueOf(x))
		}
	}
	return ok
}

// any takes one value as encoding/json gives it to an empty interface.
func (d *decoder) any() (any, bool) {
	switch c := d.next(); c {
	case '{':
		m := map[string]any{}
		ok := d.object(func(key []byte) bool {
			if _, twice := m[string(key)]; twice {
				d.fail("is given more than once")
			}
			x, ok := d.any()
			m[string(key)] = x
			return ok
		})
		return m, ok
	case '[':
		a := []any{}
		ok := d.array(func(int) bool {
			x, ok := d.any()
			a = append(a, x)
			return ok
		})
		return a, ok
	case '"':
		s, ok := d.str()
		return string(s), ok
	case 't':
		return true, d.literal("true")
	case 'f':
		return false, d.literal("false")
	case 'n':
		return nil, d.literal("null")
	default:
		if !isNumber(c) {
			return nil, d.syntax("a value")
		}
		f, ok, _ := d.float(64)
		return f, ok
	}
}

func pointerPlan(t reflect.Type) plan {
	elem := planOf(t.Elem())
	return func(d *decoder, v reflect.Value) bool {
		if d.next() == 'n' {
			v.SetZero()
			return d.literal("null")
		}
		if v.IsNil() {
			v.Set(reflect.New(t.Elem()))
		}
		return elem(d, v.Elem())
	}
}

func slicePlan(t reflect.Type) plan {
	elem := planOf(t.Elem())
	return func(d *decoder, v reflect.Value) bool {
		if c := d.next(); c != '[' {
			return d.mismatch(c, "an array")
		}
		v.SetZero() // so that no element shows through from what v held before
		n := 0
		ok := d.array(func(i int) bool {
			if n == v.Cap() {
				v.Grow(max(n, 4))
			}
			n++
			v.SetLen(n)
			return elem(d, v.Index(i))
		})
		if ok && n == 0 {
			v.Set(reflect.MakeSlice(t, 0, 0))
		}
		return ok
	}
}

func arrayPlan(t reflect.Type) plan {
	elem := planOf(t.Elem())
	return func(d *decoder, v reflect.Value) bool {
		if c := d.next(); c != '[' {
			return d.mismatch(c, "an array")
		}
		n := 0
		ok := d.array(func(i int) bool {
			n++
			if i >= t.Len() {
				return d.skip()
			}
			v.Index(i).SetZero()
			return elem(d, v.Index(i))
		})
		if ok && n != t.Len() {
			d.fail("must have %d elements, not %d", t.Len(), n)
		}
		return ok
	}
}

func mapPlan(t reflect.Type) plan {
	elem := planOf(t.Elem())
	return func(d *decoder, v reflect.Value) bool {
		if c := d.next(); c != '{' {
			return d.mismatch(c, "an object")
		}
		if v.IsNil() {
			v.Set(reflect.MakeMap(t))
		}
		given := map[string]bool{}
		return d.object(func(key []byte) bool {
			if given[string(key)] {
				d.fail("is given more than once")
			}
			name := string(key)
			given[name] = true
			x := reflect.New(t.Elem()).Elem()
			ok := elem(d, x)
			k := reflect.New(t.Key()).Elem()
			k.SetString(name)
			v.SetMapIndex(k, x)
			return ok
		})
	}
}
