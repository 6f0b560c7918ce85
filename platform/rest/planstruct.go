package rest

import (
	"fmt"
	"reflect"
	"strings"
)

// maxFields is how many fields a struct may have: one bit each notes which were given.
const maxFields = 256

type field struct {
	name  string
	index []int // one number, more for a field of an embedded struct
	plan  plan
}

func structPlan(t reflect.Type) plan {
	fields := fieldsOf(t, nil)
	if len(fields) > maxFields {
		panic(fmt.Sprintf("rest: %s has more than %d fields", t, maxFields))
	}
	byName := make(map[string]int, len(fields))
	for i, f := range fields {
		if _, twice := byName[f.name]; twice {
			panic(fmt.Sprintf("rest: %s has two fields %q", t, f.name))
		}
		byName[f.name] = i
	}
	return func(d *decoder, v reflect.Value) bool {
		if c := d.next(); c != '{' {
			return d.mismatch(c, "an object")
		}
		if !d.enter(step{index: -1}) {
			return false
		}
		level := &d.path[d.depth-1]
		d.pos++
		if d.next() == '}' {
			d.pos++
			d.leave()
			return true
		}
		var given [maxFields / 64]uint64
		guess := 0 // clients tend to keep the order of the fields
		for {
			key, ok := d.key()
			if !ok {
				return false
			}
			i := guess
			if i >= len(fields) || fields[i].name != string(key) {
				if i, ok = byName[string(key)]; !ok {
					i = -1
				}
			}
			if i < 0 {
				level.key = append([]byte{}, key...)
				d.fail("%s", unknown(string(key), fields))
				ok = d.skip()
				level.key = nil
			} else {
				f := &fields[i]
				level.name = f.name
				if bit := uint64(1) << (i % 64); given[i/64]&bit != 0 {
					d.fail("is given more than once")
				} else {
					given[i/64] |= bit
				}
				if len(f.index) == 1 {
					ok = f.plan(d, v.Field(f.index[0]))
				} else {
					ok = f.plan(d, v.FieldByIndex(f.index))
				}
				level.name = ""
				guess = i + 1
			}
			if !ok {
				return false
			}
			if done, ok := d.comma('}', "a comma or the end of the object"); done || !ok {
				d.leave()
				return ok
			}
		}
	}
}

// fieldsOf lists the fields of t as encoding/json names them; those of embedded structs without a tag count as t's own.
func fieldsOf(t reflect.Type, outer []int) []field {
	var fields []field
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		if tag == "-" {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		index := append(append([]int(nil), outer...), i)
		if f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct && !decodesItself(f.Type) {
			fields = append(fields, fieldsOf(f.Type, index)...)
			continue
		}
		if f.Anonymous && name == "" {
			panic(fmt.Sprintf("rest: bodies cannot embed a %s, as %s does", f.Type, t))
		}
		if !f.IsExported() {
			continue
		}
		for option := range strings.SplitSeq(options, ",") {
			if option == "string" {
				panic(fmt.Sprintf("rest: option string of field %s of %s is not supported", f.Name, t))
			}
		}
		if name == "" {
			name = f.Name
		}
		fields = append(fields, field{name: name, index: index, plan: planOf(f.Type)})
	}
	return fields
}

// unknown says what may be meant by a name that no field has.
func unknown(name string, fields []field) string {
	for _, f := range fields {
		if strings.EqualFold(f.name, name) {
			return "unknown field: write " + quote(f.name) + ", names are case-sensitive"
		}
	}
	if len(fields) == 0 {
		return "unknown field: no fields are expected here"
	}
	var b strings.Builder
	b.WriteString("unknown field: the fields are ")
	for i, f := range fields {
		if i == 20 {
			b.WriteString(" and more")
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(f.name)
	}
	return b.String()
}
