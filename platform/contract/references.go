package contract

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/hamba/avro/v2"
)

// ParseWith is Parse for a text that uses types which other texts define. Each of references may use those before it. The pointers of
// what is wrong, and of what Compatible finds, lead into the text that Inline returns; Text is the original.
func ParseWith(text string, references ...string) (*Schema, error) {
	if len(references) == 0 {
		return Parse(text)
	}
	whole, err := Inline(text, references...)
	if err != nil {
		return nil, err
	}
	s, err := Parse(whole)
	if err != nil {
		return nil, err
	}
	s.text = text
	return s, nil
}

// ParseLenient is ParseWith for what a registry holds already: defaults are not checked, so a schema that Parse refuses for one can
// still be compared with others. It must not be bound to Go types.
func ParseLenient(text string, references ...string) (*Schema, error) {
	whole, err := Inline(text, references...)
	if err != nil {
		return nil, err
	}
	v, err := parseJSON(whole)
	if err != nil {
		return nil, err
	}
	b := &builder{types: map[string]*node{}}
	root, err := b.build(v, "", "", 0)
	if err != nil {
		return nil, err
	}
	return &Schema{text: text, root: root, recursive: b.recursive, library: sync.OnceValues(func() (avro.Schema, error) {
		return avro.ParseWithCache(whole, "", &avro.SchemaCache{})
	})}, nil
}

// Recursive reports whether a type of the schema contains itself.
func (s *Schema) Recursive() bool { return s.recursive }

// Inline returns the text with the definition of every type that references define at the type's first use, so that it can be read
// alone. Each of references may use those before it; a type that is defined twice is an ErrSchema. Without references the text is
// returned as it is.
func Inline(text string, references ...string) (string, error) {
	whole, _, err := inline(text, references)
	return whole, err
}

// inline is Inline, and returns the names of the types that it wrote into the text, too.
func inline(text string, references []string) (whole string, used []string, err error) {
	if len(text) > MaxSchemaBytes {
		return "", nil, ErrSchema.Because("it has %d bytes, at most %d are allowed", len(text), MaxSchemaBytes)
	}
	if len(references) == 0 {
		return text, nil, nil
	}
	w := &textWriter{foreign: map[string]definition{}, done: map[string]bool{}}
	total := len(text)
	for i, reference := range references {
		if total += len(reference); len(reference) > MaxSchemaBytes || total > maxInlineBytes {
			return "", nil, ErrSchema.Because("it and its references have more than %d bytes", maxInlineBytes)
		}
		v, err := parseJSON(reference)
		if err != nil {
			return "", nil, ErrSchema.Because("reference %d", i+1).Wrap(err)
		}
		if err := w.collect(v, ""); err != nil {
			return "", nil, err
		}
	}
	v, err := parseJSON(text)
	if err != nil {
		return "", nil, err
	}
	own := &textWriter{foreign: map[string]definition{}, done: map[string]bool{}}
	if err := own.collect(v, ""); err != nil {
		return "", nil, err
	}
	for name := range own.foreign {
		if _, twice := w.foreign[name]; twice {
			return "", nil, ErrSchema.Because("%q is defined in the text and in a reference", clip(name))
		}
	}
	w.write(v, "", "")
	if w.b.Len() > MaxSchemaBytes {
		return "", nil, ErrSchema.Because("with its references it has %d bytes, at most %d are allowed", w.b.Len(), MaxSchemaBytes)
	}
	for name := range w.done {
		if _, ok := w.foreign[name]; ok {
			used = append(used, name)
		}
	}
	slices.Sort(used)
	return w.b.String(), used, nil
}

// maxInlineBytes bounds a text together with all its references, also those parts that it does not use.
const maxInlineBytes = 4 * MaxSchemaBytes

// Normalize returns one form for texts that differ in white space, the order of members, namespaces that are implied, or primitive types
// written as objects. Names that the text does not define stay. It does not check the schema beyond its JSON.
func Normalize(text string) (string, error) {
	if len(text) > MaxSchemaBytes {
		return "", ErrSchema.Because("it has %d bytes, at most %d are allowed", len(text), MaxSchemaBytes)
	}
	v, err := parseJSON(text)
	if err != nil {
		return "", err
	}
	w := &textWriter{normal: true}
	w.write(v, "", "")
	return w.b.String(), nil
}

// A definition is a named type of a reference and the namespace around it.
type definition struct {
	object    *object
	namespace string
}

// A textWriter writes a schema's JSON anew.
type textWriter struct {
	b       bytes.Buffer
	foreign map[string]definition // by full name
	done    map[string]bool       // those that are written
	normal  bool                  // in one form
}

// namesOf returns the full name of a definition and the namespace inside it.
func namesOf(o *object, namespace string) (full, inside string) {
	v, _ := o.get("name")
	name, _ := v.(string)
	if v, ok := o.get("namespace"); ok {
		if s, ok := v.(string); ok {
			namespace = s
		}
	}
	full = qualify(name, namespace)
	if dot := strings.LastIndexByte(full, '.'); dot >= 0 {
		return full, full[:dot]
	}
	return full, ""
}

func typeOf(o *object) string {
	v, _ := o.get("type")
	t, _ := v.(string)
	return t
}

func defines(o *object) bool {
	switch typeOf(o) {
	case "record", "error", "enum", "fixed":
		return true
	}
	return false
}

// collect makes the named types below v known.
func (w *textWriter) collect(v any, namespace string) error {
	switch v := v.(type) {
	case []any:
		for _, branch := range v {
			if err := w.collect(branch, namespace); err != nil {
				return err
			}
		}
	case *object:
		if defines(v) {
			full, inside := namesOf(v, namespace)
			if _, twice := w.foreign[full]; twice {
				return ErrSchema.Because("%q is defined twice", clip(full))
			}
			w.foreign[full] = definition{v, namespace}
			namespace = inside
		}
		if fields, ok := v.values["fields"].([]any); ok {
			for _, f := range fields {
				if f, ok := f.(*object); ok {
					if err := w.collect(f.values["type"], namespace); err != nil {
						return err
					}
				}
			}
		}
		for _, key := range []string{"items", "values"} {
			if err := w.collect(v.values[key], namespace); err != nil {
				return err
			}
		}
	}
	return nil
}

// write writes the type v, which stands in the namespace in its own text, to a place with the namespace there.
func (w *textWriter) write(v any, namespace, there string) {
	switch v := v.(type) {
	case string:
		w.name(v, namespace, there)
	case []any:
		w.b.WriteByte('[')
		for i, branch := range v {
			if i > 0 {
				w.b.WriteByte(',')
			}
			w.write(branch, namespace, there)
		}
		w.b.WriteByte(']')
	case *object:
		w.object(v, namespace, there)
	default:
		w.value(v)
	}
}

func (w *textWriter) name(name, namespace, there string) {
	if _, ok := primitives[name]; ok {
		w.quote(name)
		return
	}
	full := qualify(name, namespace)
	if d, ok := w.foreign[full]; ok && !w.done[full] {
		w.object(d.object, d.namespace, there)
		return
	}
	if w.normal && there != "" && strings.HasPrefix(full, there+".") && !strings.Contains(full[len(there)+1:], ".") {
		full = full[len(there)+1:]
	}
	w.quote(full)
}

// object writes a type that is an object.
func (w *textWriter) object(o *object, namespace, there string) {
	typ := typeOf(o)
	inside := namespace
	full := ""
	if defines(o) {
		full, inside = namesOf(o, namespace)
		if w.done[full] {
			w.quote(full)
			return
		}
		if w.done != nil {
			w.done[full] = true
		}
	} else if _, primitive := primitives[typ]; !primitive && typ != "array" && typ != "map" && typ != "" {
		w.name(typ, namespace, there) // {"type": "Name"} is the type Name
		return
	} else if w.normal && primitive && len(o.keys) == 1 {
		w.quote(typ)
		return
	}
	insideThere := there
	if full != "" {
		insideThere = inside
	}
	first := true
	member := func(key string) {
		if !first {
			w.b.WriteByte(',')
		}
		first = false
		w.quote(key)
		w.b.WriteByte(':')
	}
	w.b.WriteByte('{')
	keys := o.keys
	if w.normal {
		keys = ordered(o, "type", "name", "namespace", "doc", "aliases", "fields", "symbols", "items", "values", "size", "default", "logicalType", "precision", "scale")
	}
	for _, key := range keys {
		v := o.values[key]
		switch {
		case full != "" && key == "namespace":
		case full != "" && key == "name":
			member(key)
			simple := full
			if inside != "" {
				simple = full[len(inside)+1:]
			}
			w.quote(simple)
			if inside != there {
				member("namespace")
				w.quote(inside)
			}
		case full != "" && key == "fields":
			member(key)
			w.fields(v, inside, insideThere)
		case key == "items" && typ == "array", key == "values" && typ == "map":
			member(key)
			w.write(v, namespace, there)
		default:
			member(key)
			w.value(v)
		}
	}
	w.b.WriteByte('}')
}

func (w *textWriter) fields(v any, namespace, there string) {
	list, ok := v.([]any)
	if !ok {
		w.value(v)
		return
	}
	w.b.WriteByte('[')
	for i, f := range list {
		if i > 0 {
			w.b.WriteByte(',')
		}
		o, ok := f.(*object)
		if !ok {
			w.value(f)
			continue
		}
		keys := o.keys
		if w.normal {
			keys = ordered(o, "name", "type", "doc", "default", "order", "aliases")
			if v, _ := o.get("order"); v == "ascending" { // which is the default
				keys = slices.DeleteFunc(keys, func(k string) bool { return k == "order" })
			}
		}
		w.b.WriteByte('{')
		for j, key := range keys {
			if j > 0 {
				w.b.WriteByte(',')
			}
			w.quote(key)
			w.b.WriteByte(':')
			if key == "type" {
				w.write(o.values[key], namespace, there)
			} else {
				w.value(o.values[key])
			}
		}
		w.b.WriteByte('}')
	}
	w.b.WriteByte(']')
}

// ordered returns an object's keys: the known ones in their order, then the others by name.
func ordered(o *object, known ...string) []string {
	keys := slices.Clone(o.keys)
	rank := func(key string) int {
		if i := slices.Index(known, key); i >= 0 {
			return i
		}
		return len(known)
	}
	slices.SortFunc(keys, func(a, b string) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return keys
}

// value writes any JSON, with its numbers as they were.
func (w *textWriter) value(v any) {
	switch v := v.(type) {
	case nil:
		w.b.WriteString("null")
	case bool:
		w.b.WriteString(strconv.FormatBool(v))
	case json.Number:
		w.b.WriteString(v.String())
	case string:
		w.quote(v)
	case []any:
		w.b.WriteByte('[')
		for i, item := range v {
			if i > 0 {
				w.b.WriteByte(',')
			}
			w.value(item)
		}
		w.b.WriteByte(']')
	case *object:
		keys := v.keys
		if w.normal {
			keys = ordered(v)
		}
		w.b.WriteByte('{')
		for i, key := range keys {
			if i > 0 {
				w.b.WriteByte(',')
			}
			w.quote(key)
			w.b.WriteByte(':')
			w.value(v.values[key])
		}
		w.b.WriteByte('}')
	}
}

func (w *textWriter) quote(s string) {
	e := json.NewEncoder(&w.b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string always encodes
	w.b.Truncate(w.b.Len() - 1)
}
