package contract

import (
	"fmt"
	"math/big"
	"reflect"
	"time"
	"unsafe"
)

var (
	timeType     = reflect.TypeFor[time.Time]()
	durationType = reflect.TypeFor[time.Duration]()
	ratType      = reflect.TypeFor[*big.Rat]()
	uuidType     = reflect.TypeFor[UUID]()
)

// A check looks at the Go value at p before it is encoded, for what the bytes no longer show: a number that would be cut off.
type check func(p unsafe.Pointer) error

// A trim repairs the Go value at p after it was decoded.
type trim func(p unsafe.Pointer)

// A shape ties a schema to a Go type: it says whether they match exactly, and makes the functions for their values.
type shape struct {
	checks map[shapeKey]*check
	trims  map[shapeKey]*trim
}

type shapeKey struct {
	n *node
	t reflect.Type
}

// shapeOf returns the check and the trim for values of the Go type typ under the schema n, nil where there is nothing to do, or says why the
// type does not match. Only exact types match: the library writes 0 for an int of 2^40 and skips a field that the struct does not have.
func shapeOf(n *node, typ reflect.Type) (check, trim, error) {
	s := &shape{checks: map[shapeKey]*check{}, trims: map[shapeKey]*trim{}}
	return s.of(n, typ, typ.String())
}

func (s *shape) of(n *node, t reflect.Type, path string) (check, trim, error) {
	mismatch := func(want string) (check, trim, error) {
		return nil, nil, fmt.Errorf("%s is a %s, %s needs %s", path, t, describeNode(n), want)
	}
	exact := func(want reflect.Type) (check, trim, error) {
		if t != want {
			return mismatch(want.String())
		}
		return nil, nil, nil
	}
	switch n.kind {
	case kindNull:
		return mismatch("a union around it")
	case kindBoolean:
		return exact(reflect.TypeFor[bool]())
	case kindInt, kindLong:
		return s.integer(n, t, mismatch)
	case kindFloat:
		return exact(reflect.TypeFor[float32]())
	case kindDouble:
		return exact(reflect.TypeFor[float64]())
	case kindString:
		if n.logical == "uuid" && t == uuidType {
			return nil, nil, nil
		}
		return exact(reflect.TypeFor[string]())
	case kindEnum:
		if t.Kind() != reflect.String {
			return mismatch("a string type")
		}
		return nil, nil, nil
	case kindBytes, kindFixed:
		return s.bytes(n, t, mismatch)
	case kindArray:
		if t.Kind() != reflect.Slice || t.Name() != "" {
			return mismatch("a slice")
		}
		return s.slice(n, t, path)
	case kindMap:
		if t.Kind() != reflect.Map || t.Name() != "" || t.Key() != reflect.TypeFor[string]() {
			return mismatch("a map with string keys")
		}
		return s.dict(n, t, path)
	case kindUnion:
		return s.nullable(n, t, path, mismatch)
	}
	if t.Kind() != reflect.Struct || t == timeType {
		return mismatch("a struct")
	}
	return s.record(n, t, path)
}

func describeNode(n *node) string {
	switch {
	case n.kind.named():
		return n.kind.String() + " " + n.name
	case n.logical != "":
		return n.kind.String() + " " + n.logical
	}
	return n.kind.String()
}

func (s *shape) integer(n *node, t reflect.Type, mismatch func(string) (check, trim, error)) (check, trim, error) {
	unit := time.Duration(0)
	switch n.logical {
	case "local-timestamp-millis", "local-timestamp-micros":
		return mismatch("a type that does not depend on where the process runs; there is none, use UTC")
	case "timestamp-millis":
		unit = time.Millisecond
	case "timestamp-micros":
		unit = time.Microsecond
	case "date":
		if t != timeType {
			return mismatch("time.Time")
		}
		return func(p unsafe.Pointer) error {
			at := *(*time.Time)(p)
			if at.Unix()%86400 != 0 || at.Nanosecond() != 0 {
				return fmt.Errorf("the date %s is not midnight UTC", at.Format(time.RFC3339Nano))
			}
			return checkYear(at)
		}, nil, nil
	case "time-millis", "time-micros":
		if t != durationType {
			return mismatch("time.Duration")
		}
		unit = time.Microsecond
		if n.logical == "time-millis" {
			unit = time.Millisecond
		}
		return func(p unsafe.Pointer) error {
			switch d := *(*time.Duration)(p); {
			case d < 0 || d >= 24*time.Hour:
				return fmt.Errorf("the time of day %s is not within a day", d)
			case d%unit != 0:
				return fmt.Errorf("the time of day %s is finer than %s", d, unit)
			}
			return nil
		}, nil, nil
	}
	switch {
	case unit != 0 && t != timeType:
		return mismatch("time.Time")
	case unit != 0:
		return func(p unsafe.Pointer) error {
			at := *(*time.Time)(p)
			if at.Nanosecond()%int(unit) != 0 {
				return fmt.Errorf("the time %s is finer than %s: truncate it", at.Format(time.RFC3339Nano), unit)
			}
			return checkYear(at)
		}, nil, nil
	case n.kind == kindInt && t != reflect.TypeFor[int32]():
		return mismatch("int32")
	case n.kind == kindLong && t != reflect.TypeFor[int64]():
		return mismatch("int64")
	}
	return nil, nil, nil
}

// checkYear keeps times within what RFC 3339 can write: an event has to be readable as JSON.
func checkYear(at time.Time) error {
	if y := at.UTC().Year(); y < 0 || y > 9999 {
		return fmt.Errorf("the year %d is not within 0 to 9999", y)
	}
	return nil
}

func (s *shape) bytes(n *node, t reflect.Type, mismatch func(string) (check, trim, error)) (check, trim, error) {
	switch {
	case n.logical == "decimal" && t != ratType:
		return mismatch("*big.Rat")
	case n.logical == "decimal":
		factor := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n.scale)), nil)
		return func(p unsafe.Pointer) error {
			r := *(**big.Rat)(p)
			if r == nil {
				return fmt.Errorf("the decimal is nil")
			}
			i := new(big.Rat).Mul(r, new(big.Rat).SetInt(factor))
			if !i.IsInt() || i.Num().CmpAbs(n.limit) >= 0 {
				return fmt.Errorf("%s is not exact as decimal(%d, %d)", r.RatString(), n.prec, n.scale)
			}
			return nil
		}, nil, nil
	case n.kind == kindFixed && n.logical == "duration":
		return nil, nil, fmt.Errorf("%s is not supported in Go types", describeNode(n))
	case n.kind == kindFixed:
		if n.logical == "uuid" && t == uuidType {
			return nil, nil, nil
		}
		if t != reflect.ArrayOf(n.size, reflect.TypeFor[byte]()) {
			return mismatch(fmt.Sprintf("[%d]byte", n.size))
		}
		return nil, nil, nil
	case t != reflect.TypeFor[[]byte]():
		return mismatch("[]byte")
	}
	// The library cuts strings and bytes from one block of memory and leaves the rest of it as capacity:
	// an append to the bytes would overwrite the strings decoded after them.
	return nil, func(p unsafe.Pointer) {
		b := (*[]byte)(p)
		*b = (*b)[:len(*b):len(*b)]
	}, nil
}

func (s *shape) slice(n *node, t reflect.Type, path string) (check, trim, error) {
	c, f, err := s.of(n.items, t.Elem(), path+"[]")
	if err != nil {
		return nil, nil, err
	}
	size := t.Elem().Size()
	each := func(p unsafe.Pointer, do func(unsafe.Pointer) error) error {
		h := (*sliceHeader)(p)
		for i := range h.len {
			if err := do(unsafe.Add(h.data, uintptr(i)*size)); err != nil {
				return fmt.Errorf("item %d: %w", i, err)
			}
		}
		return nil
	}
	return overCheck(c, each), overTrim(f, each), nil
}

func (s *shape) dict(n *node, t reflect.Type, path string) (check, trim, error) {
	c, f, err := s.of(n.items, t.Elem(), path+"[]")
	if err != nil || c == nil && f == nil {
		return nil, nil, err
	}
	run := func(p unsafe.Pointer, do func(unsafe.Pointer) error, store bool) error {
		m := reflect.NewAt(t, p).Elem()
		for it := m.MapRange(); it.Next(); {
			v := reflect.New(t.Elem()) // values in a map have no address
			v.Elem().Set(it.Value())
			if err := do(v.UnsafePointer()); err != nil {
				return fmt.Errorf("key %q: %w", clip(it.Key().String()), err)
			}
			if store {
				m.SetMapIndex(it.Key(), v.Elem())
			}
		}
		return nil
	}
	return overCheck(c, func(p unsafe.Pointer, do func(unsafe.Pointer) error) error { return run(p, do, false) }),
		overTrim(f, func(p unsafe.Pointer, do func(unsafe.Pointer) error) error { return run(p, do, true) }), nil
}

func (s *shape) nullable(n *node, t reflect.Type, path string, mismatch func(string) (check, trim, error)) (check, trim, error) {
	other := -1
	for i, b := range n.branches {
		if b.kind != kindNull {
			other = i
		}
	}
	if len(n.branches) != 2 || other < 0 || n.branches[1-other].kind != kindNull {
		return nil, nil, fmt.Errorf("%s: only unions of null and one other type have a Go type", path)
	}
	branch := n.branches[other]
	if branch.logical == "decimal" { // *big.Rat is a pointer already
		return nil, nil, fmt.Errorf("%s: a nullable decimal has no Go type", path)
	}
	if t.Kind() != reflect.Pointer || t.Name() != "" {
		return mismatch("a pointer")
	}
	c, f, err := s.of(branch, t.Elem(), path)
	if err != nil {
		return nil, nil, err
	}
	inside := func(p unsafe.Pointer, do func(unsafe.Pointer) error) error {
		if q := *(*unsafe.Pointer)(p); q != nil {
			return do(q)
		}
		return nil
	}
	return overCheck(c, inside), overTrim(f, inside), nil
}

func (s *shape) record(n *node, t reflect.Type, path string) (check, trim, error) {
	key := shapeKey{n, t}
	if c := s.checks[key]; c != nil { // inside itself: made when its parts are
		f := s.trims[key]
		return func(p unsafe.Pointer) error {
				if *c == nil {
					return nil
				}
				return (*c)(p)
			}, func(p unsafe.Pointer) {
				if *f != nil {
					(*f)(p)
				}
			}, nil
	}
	var ownCheck check
	var ownTrim trim
	s.checks[key], s.trims[key] = &ownCheck, &ownTrim
	byTag := map[string]reflect.StructField{}
	for i := range t.NumField() {
		f := t.Field(i)
		tag, ok := f.Tag.Lookup("avro")
		if !ok || !f.IsExported() || f.Anonymous {
			return nil, nil, fmt.Errorf("%s.%s: every field is exported and has an avro tag", path, f.Name)
		}
		if _, twice := byTag[tag]; twice {
			return nil, nil, fmt.Errorf("%s has two fields with the tag %q", path, tag)
		}
		byTag[tag] = f
	}
	type checkAt struct {
		offset uintptr
		name   string
		check  check
	}
	type trimAt struct {
		offset uintptr
		trim   trim
	}
	var checks []checkAt
	var trims []trimAt
	for _, f := range n.fields {
		g, ok := byTag[f.name]
		if !ok {
			return nil, nil, fmt.Errorf("%s has no field with the tag %q of %s", path, f.name, n.name)
		}
		c, fix, err := s.of(f.node, g.Type, path+"."+g.Name)
		if err != nil {
			return nil, nil, err
		}
		if def, ok := f.def.(string); ok && g.Type == uuidType && f.node.kind == kindString {
			if _, err := ParseUUID(def); err != nil { // events without the field could not be read
				return nil, nil, fmt.Errorf("%s.%s: the default %w", path, g.Name, err)
			}
		}
		if c != nil {
			checks = append(checks, checkAt{g.Offset, f.name, c})
		}
		if fix != nil {
			trims = append(trims, trimAt{g.Offset, fix})
		}
	}
	if len(n.fields) != len(byTag) {
		return nil, nil, fmt.Errorf("%s has %d fields, %s has %d", path, len(byTag), n.name, len(n.fields))
	}
	if checks != nil {
		ownCheck = func(p unsafe.Pointer) error {
			for i := range checks {
				if err := checks[i].check(unsafe.Add(p, checks[i].offset)); err != nil {
					return fmt.Errorf("%s: %w", checks[i].name, err)
				}
			}
			return nil
		}
	}
	if trims != nil {
		ownTrim = func(p unsafe.Pointer) {
			for i := range trims {
				trims[i].trim(unsafe.Add(p, trims[i].offset))
			}
		}
	}
	return ownCheck, ownTrim, nil
}

func overCheck(c check, each func(unsafe.Pointer, func(unsafe.Pointer) error) error) check {
	if c == nil {
		return nil
	}
	return func(p unsafe.Pointer) error { return each(p, c) }
}

func overTrim(f trim, each func(unsafe.Pointer, func(unsafe.Pointer) error) error) trim {
	if f == nil {
		return nil
	}
	do := func(p unsafe.Pointer) error { f(p); return nil }
	return func(p unsafe.Pointer) { _ = each(p, do) } // do never fails
}
