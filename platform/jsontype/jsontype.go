// Package jsontype says which members encoding/json writes of a Go struct, for whoever describes rows without having one. It knows no
// format that they are described in.
package jsontype

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
)

// A Member is one member of the JSON object that a struct is written as.
type Member struct {
	Name     string
	Type     reflect.Type
	Optional bool // some value of the struct is written without it
	Absent   bool // it is of an embedded pointer: without what that points to it is absent, not zero
	Quoted   bool // its value is written inside a text: `json:",string"`

	depth  int
	tagged bool
}

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

// Members lists the members of a struct as encoding/json writes them, in its order: of several of one name the least deep counts, of these
// the tagged one, and none if that leaves several.
func Members(t reflect.Type) []Member {
	var all, kept []Member
	collect(t, 0, false, &all, map[reflect.Type]bool{})
	for i := range all {
		best := true
		for j := range all {
			best = best && (i == j || all[i].Name != all[j].Name || all[i].wins(&all[j]))
		}
		if best {
			kept = append(kept, all[i])
		}
	}
	return kept
}

func (m *Member) wins(o *Member) bool {
	return m.depth < o.depth || m.depth == o.depth && m.tagged && !o.tagged
}

func collect(t reflect.Type, depth int, absent bool, into *[]Member, open map[reflect.Type]bool) {
	if open[t] {
		return
	}
	open[t] = true
	defer delete(open, t)
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		if tag == "-" {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		inner := f.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if f.Anonymous && name == "" && inner.Kind() == reflect.Struct {
			collect(inner, depth+1, absent || f.Type != inner, into, open)
			continue
		}
		if !f.IsExported() {
			continue
		}
		m := Member{Name: name, Type: f.Type, Optional: absent, Absent: absent, depth: depth, tagged: name != ""}
		if name == "" {
			m.Name = f.Name
		}
		for option := range strings.SplitSeq(options, ",") {
			switch option {
			case "omitempty":
				m.Optional = m.Optional || mayBeEmpty(f.Type)
			case "omitzero":
				m.Optional = true
			case "string":
				m.Quoted = quotable(inner)
			}
		}
		*into = append(*into, m)
	}
}

// mayBeEmpty reports whether omitempty leaves out some value of type t.
func mayBeEmpty(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Struct:
		return false
	case reflect.Array:
		return t.Len() == 0
	default:
		return true
	}
}

// quotable reports whether the option string does anything to a type.
func quotable(t reflect.Type) bool {
	if p := reflect.PointerTo(t); p.Implements(jsonMarshaler) || p.Implements(textMarshaler) {
		return false
	}
	switch k := t.Kind(); {
	case k >= reflect.Bool && k <= reflect.Float64, k == reflect.String:
		return true
	default:
		return false
	}
}
