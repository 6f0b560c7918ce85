// Package avrofile writes rows of views as Avro object container files, whose schema follows from the Go type of the row.
//
// What it is given is the JSON of rows as encoding/json writes them; it neither has nor makes Go values of them. A row is written as the
// code that its type is of would read it: a member that is absent has the zero value of its type, and what the type does not know is left
// out. Nothing else is lost, or the row is refused: a value that its Avro type cannot hold exactly is an error.
package avrofile

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hamba/avro/v2"

	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/jsontype"
)

// ErrRow is returned for a row that its schema cannot hold.
var ErrRow = fault.New(fault.Conflict, "unexportable_row", "a row cannot be written as Avro")

// A kind is what a value is written as.
type kind uint8

const (
	boolean kind = iota
	integer      // Avro's int
	long
	decimal // an unsigned integer of 64 bits, which long cannot hold
	float
	double
	text
	octets // base64 in JSON
	moment
	document // a string with JSON in it: the Go type does not say what its JSON is
	array
	mapping
	record
)

var kindNames = [...]string{"a boolean", "a whole number", "a whole number", "a whole number that is not negative", "a number", "a number", "a text", "bytes in base64", "a time", "JSON", "an array", "an object", "an object"}

// A node is a type that values have.
type node struct {
	kind   kind
	bits   int  // of a number
	signed bool // of an integer
	length int  // of a Go array
	zero   string
	elem   ref // of an array or a mapping
	name   string
	fields []field
	places map[string]int // of the fields, by their name in JSON
}

// A ref is a type, or null as well.
type ref struct {
	*node
	null bool
}

type field struct {
	name, json string // as Avro takes it, and in the row
	quoted     bool
	ref        ref
}

// A Form says how rows of one Go type are written.
type Form struct {
	text    string
	schema  avro.Schema
	row     ref
	explain bool
}

// Options say what is to be written of a row.
type Options struct {
	View    string   // names the types of the schema
	Doc     string   // says what the rows are
	Fields  []string // only these members of the row, in this order; nil = all. Rows that are no structs have whatever is in their JSON
	Explain bool     // the position and id of the event that changed the row last, too
}

// For returns how rows of a Go type are written: a record of the row's key, with Explain of position and event_id, and the row.
func For(t reflect.Type, o Options) (*Form, error) {
	b := &builder{records: map[reflect.Type]*node{}, open: map[reflect.Type]bool{}, names: map[string]bool{"Entry": true}}
	row := b.of(t, "Row")
	if o.Fields != nil && row.kind == record {
		some := *row.node
		some.fields, some.places = nil, map[string]int{}
		for _, name := range o.Fields {
			i, ok := row.places[name]
			if _, twice := some.places[name]; !ok || twice {
				continue
			}
			some.places[name] = len(some.fields)
			some.fields = append(some.fields, row.fields[i])
		}
		if b.holds(row.node) {
			some.name = b.name(row.name) // the type itself is a part of the row, with all of its fields
		}
		row.node = &some
	}
	key := ref{node: &node{kind: text}}
	entry := &node{kind: record, name: "Entry", fields: []field{{name: "key", ref: key}}}
	if o.Explain {
		entry.fields = append(entry.fields, field{name: "position", ref: key}, field{name: "event_id", ref: key})
	}
	entry.fields = append(entry.fields, field{name: "row", ref: row})
	f := &Form{row: row, explain: o.Explain}
	w := &writer{namespace: "millrace.views." + identifier(o.View), doc: o.Doc, done: map[*node]bool{}}
	w.ref(ref{node: entry})
	f.text = w.b.String()
	var err error
	if f.schema, err = avro.ParseWithCache(f.text, "", &avro.SchemaCache{}); err != nil {
		return nil, fmt.Errorf("avrofile: the schema of %s: %w", t, err)
	}
	return f, nil
}

// Schema returns the schema, in JSON.
func (f *Form) Schema() string { return f.text }

// IsRecord reports whether a row is written as a record, of which Options.Fields selects.
func (f *Form) IsRecord() bool { return f.row.kind == record }

type builder struct {
	records map[reflect.Type]*node
	open    map[reflect.Type]bool // types without a name in Avro that are being described
	names   map[string]bool       // of records
}

// name returns a name like one that no other record has.
func (b *builder) name(like string) string {
	name := like
	for i := 2; b.names[name]; i++ {
		name = fmt.Sprintf("%s_%d", like, i)
	}
	b.names[name] = true
	return name
}

// holds reports whether a record is a part of itself.
func (b *builder) holds(n *node) bool {
	seen := map[*node]bool{}
	var within func(of *node) bool
	within = func(of *node) bool {
		if of == nil || seen[of] {
			return false
		}
		seen[of] = true
		return slices.ContainsFunc(append(of.fields[:len(of.fields):len(of.fields)], field{ref: of.elem}), func(f field) bool { return f.ref.node == n || within(f.ref.node) })
	}
	return within(n)
}

var (
	timeType      = reflect.TypeFor[time.Time]()
	numberType    = reflect.TypeFor[json.Number]()
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

// of returns how values of a type are written; path names a struct that has no name.
func (b *builder) of(t reflect.Type, path string) ref {
	null := false
	for t.Kind() == reflect.Pointer {
		t, null = t.Elem(), true // JSON has one null, however many pointers lead to it
	}
	r := b.base(t, path)
	r.null = r.null || null
	return r
}

func (b *builder) base(t reflect.Type, path string) ref {
	anything := ref{&node{kind: document}, true}
	p := reflect.PointerTo(t)
	switch {
	case t == timeType:
		return ref{node: &node{kind: moment}}
	case t == numberType, p.Implements(jsonMarshaler):
		return anything
	case t.Implements(textMarshaler) && t.Kind() != reflect.Interface:
		n := &node{kind: text}
		if m, ok := reflect.Zero(t).Interface().(encoding.TextMarshaler); ok && !nilable(t) {
			if zero, err := m.MarshalText(); err == nil {
				n.zero = string(zero)
			}
		}
		return ref{n, nilable(t)}
	case p.Implements(textMarshaler):
		return anything // a text only where it can be addressed
	}
	switch k := t.Kind(); k {
	case reflect.Bool:
		return ref{node: &node{kind: boolean}}
	case reflect.Int8, reflect.Int16, reflect.Int32:
		return ref{node: &node{kind: integer, bits: t.Bits(), signed: true}}
	case reflect.Uint8, reflect.Uint16:
		return ref{node: &node{kind: integer, bits: t.Bits()}}
	case reflect.Int, reflect.Int64:
		return ref{node: &node{kind: long, bits: 64, signed: true}}
	case reflect.Uint32:
		return ref{node: &node{kind: long, bits: 32}}
	case reflect.Uint, reflect.Uint64:
		return ref{node: &node{kind: decimal, bits: 64}}
	case reflect.Float32:
		return ref{node: &node{kind: float, bits: 32}}
	case reflect.Float64:
		return ref{node: &node{kind: double, bits: 64}}
	case reflect.String:
		return ref{node: &node{kind: text}}
	case reflect.Struct:
		return ref{node: b.record(t, path)}
	case reflect.Slice, reflect.Array, reflect.Map:
		if e := reflect.PointerTo(t.Elem()); k == reflect.Slice && t.Elem().Kind() == reflect.Uint8 && !e.Implements(jsonMarshaler) && !e.Implements(textMarshaler) {
			return ref{&node{kind: octets}, true}
		}
		if b.open[t] {
			return anything // Avro cannot name an array, nor a map, to say that it holds itself
		}
		b.open[t] = true
		defer delete(b.open, t)
		n := &node{kind: array, elem: b.of(t.Elem(), path)}
		switch k {
		case reflect.Map:
			n.kind = mapping
		case reflect.Array:
			n.length = t.Len()
			return ref{node: n}
		}
		return ref{n, true}
	default:
		return anything
	}
}

func nilable(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Slice, reflect.Map, reflect.Interface, reflect.Func, reflect.Chan:
		return true
	default:
		return false
	}
}

func (b *builder) record(t reflect.Type, path string) *node {
	if n := b.records[t]; n != nil {
		return n
	}
	name, _, _ := strings.Cut(t.Name(), "[") // of a generic type, without what it is made of
	if name == "" {
		name = path
	}
	n := &node{kind: record, name: b.name(identifier(name)), places: map[string]int{}}
	b.records[t] = n // before its fields: they may be of it
	names := map[string]bool{}
	for _, m := range jsontype.Members(t) {
		f := field{name: identifier(m.Name), json: m.Name, quoted: m.Quoted, ref: b.of(m.Type, n.name+"_"+identifier(m.Name))}
		f.ref.null = f.ref.null || m.Absent
		for i, like := 2, f.name; names[f.name]; i++ {
			f.name = fmt.Sprintf("%s_%d", like, i)
		}
		names[f.name] = true
		n.places[m.Name] = len(n.fields)
		n.fields = append(n.fields, f)
	}
	return n
}

// identifier returns a name that Avro takes: letters, digits and underscores, and no digit first.
func identifier(name string) string {
	name = strings.Map(func(r rune) rune {
		if r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return '_'
	}, name)
	if name == "" || name[0] >= '0' && name[0] <= '9' {
		name = "_" + name
	}
	return name
}

// A writer writes the schema.
type writer struct {
	b              strings.Builder
	namespace, doc string
	done           map[*node]bool // records that have been described: from then on their name stands for them
}

func (w *writer) ref(r ref) {
	if r.null {
		w.b.WriteString(`["null",`)
		defer w.b.WriteString("]")
	}
	switch r.kind {
	case boolean:
		w.b.WriteString(`"boolean"`)
	case integer:
		w.b.WriteString(`"int"`)
	case long:
		w.b.WriteString(`"long"`)
	case decimal:
		w.b.WriteString(`{"type":"bytes","logicalType":"decimal","precision":20,"scale":0}`)
	case float:
		w.b.WriteString(`"float"`)
	case double:
		w.b.WriteString(`"double"`)
	case text:
		w.b.WriteString(`"string"`)
	case octets:
		w.b.WriteString(`"bytes"`)
	case moment:
		w.b.WriteString(`{"type":"long","logicalType":"timestamp-micros"}`)
	case document:
		w.b.WriteString(`{"type":"string","sqlType":"JSON"}`)
	case array:
		w.b.WriteString(`{"type":"array","items":`)
		w.ref(r.elem)
		w.b.WriteString("}")
	case mapping:
		w.b.WriteString(`{"type":"map","values":`)
		w.ref(r.elem)
		w.b.WriteString("}")
	case record:
		w.record(r.node)
	}
}

func (w *writer) record(n *node) {
	if w.done[n] {
		fmt.Fprintf(&w.b, `"%s.%s"`, w.namespace, n.name)
		return
	}
	fmt.Fprintf(&w.b, `{"type":"record","name":"%s","namespace":"%s",`, n.name, w.namespace)
	if len(w.done) == 0 && w.doc != "" {
		fmt.Fprintf(&w.b, `"doc":%s,`, quote(w.doc))
	}
	w.done[n] = true
	w.b.WriteString(`"fields":[`)
	for i, f := range n.fields {
		if i > 0 {
			w.b.WriteString(",")
		}
		fmt.Fprintf(&w.b, `{"name":"%s",`, f.name)
		if f.json != "" && f.json != f.name {
			fmt.Fprintf(&w.b, `"json":%s,`, quote(f.json))
		}
		w.b.WriteString(`"type":`)
		w.ref(f.ref)
		if f.ref.null {
			w.b.WriteString(`,"default":null`)
		}
		w.b.WriteString("}")
	}
	w.b.WriteString("]}")
}

func quote(s string) string {
	text, _ := json.Marshal(s) // a text always has JSON
	return string(text)
}
