package rest

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/platform/jsontype"
)

// A Schema is a JSON Schema as OpenAPI 3.1 has it, with as many keywords as Millrace uses. The zero Schema allows anything.
type Schema struct {
	Ref                  string      `json:"$ref,omitempty"`
	Description          string      `json:"description,omitempty"`
	Type                 Types       `json:"type,omitempty"`
	Const                any         `json:"const,omitempty"`
	Enum                 []any       `json:"enum,omitempty"`
	Format               string      `json:"format,omitempty"`
	ContentEncoding      string      `json:"contentEncoding,omitempty"`
	Pattern              string      `json:"pattern,omitempty"`
	MinLength            int         `json:"minLength,omitempty"`
	MaxLength            int         `json:"maxLength,omitempty"`
	Minimum              json.Number `json:"minimum,omitempty"`
	Maximum              json.Number `json:"maximum,omitempty"`
	Default              any         `json:"default,omitempty"`
	Items                *Schema     `json:"items,omitempty"`
	MinItems             int         `json:"minItems,omitempty"`
	MaxItems             *int        `json:"maxItems,omitempty"`
	Properties           Properties  `json:"properties,omitempty"`
	Required             []string    `json:"required,omitempty"`
	AdditionalProperties *Additional `json:"additionalProperties,omitempty"`
	AnyOf                []*Schema   `json:"anyOf,omitempty"`
}

// Types are the JSON types that a Schema allows; none allows all.
type Types []string

// MarshalJSON writes one type as a string and several as an array.
func (t Types) MarshalJSON() ([]byte, error) {
	if len(t) == 1 {
		return json.Marshal(t[0])
	}
	return json.Marshal([]string(t))
}

// Properties are the members of an object, in the order of their type's fields.
type Properties []Property

// A Property is one member of an object.
type Property struct {
	Name   string
	Schema *Schema
}

// MarshalJSON writes an object.
func (p Properties) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range p {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(m.Name)
		if err != nil {
			return nil, err
		}
		schema, err := json.Marshal(m.Schema)
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(schema)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// Additional says what the members of an object are that are not among its properties; a nil Schema allows none.
type Additional struct{ Schema *Schema }

// MarshalJSON writes the schema or false.
func (a Additional) MarshalJSON() ([]byte, error) {
	if a.Schema == nil {
		return []byte("false"), nil
	}
	return json.Marshal(a.Schema)
}

// Schemas derives JSON Schemas from Go types. Named types become components, which are referred to as
// "#/components/schemas/<package>.<Name>", with the suffix Body for what is decoded. The zero Schemas is ready for use.
type Schemas struct {
	named  map[string]*Schema
	names  map[named]string
	wanted map[reflect.Type]string
}

type named struct {
	t    reflect.Type
	body bool
}

// Components returns the schemas of the named types met so far, by name.
func (s *Schemas) Components() map[string]*Schema { return s.named }

// Body returns the schema of what DecodeJSON takes for a value of type t: no member is required, none is allowed that t does not know.
func (s *Schemas) Body(t reflect.Type) *Schema { return s.of(t, true) }

// Answer returns the schema of what json.Marshal writes for a value of type t: all members are there but those that may be left out.
func (s *Schemas) Answer(t reflect.Type) *Schema { return s.of(t, false) }

// Name gives the component of an answer's type a name other than its Go name.
func (s *Schemas) Name(t reflect.Type, name string) {
	if s.wanted == nil {
		s.wanted = map[reflect.Type]string{}
	}
	s.wanted[t] = name
}

// Add makes a schema a component under a name of its own and returns the reference to it.
func (s *Schemas) Add(name string, schema *Schema) *Schema {
	if s.named == nil {
		s.named, s.names = map[string]*Schema{}, map[named]string{}
	}
	s.named[name] = schema
	return &Schema{Ref: "#/components/schemas/" + name}
}

func (s *Schemas) of(t reflect.Type, body bool) *Schema {
	switch t.Kind() {
	case reflect.Struct, reflect.Slice, reflect.Map, reflect.Array:
	default:
		return s.inline(t, body)
	}
	if t.Name() == "" || special(t, body) != nil {
		return s.inline(t, body)
	}
	key := named{t, body}
	name, ok := s.names[key]
	if !ok {
		name = s.name(t, body)
		ref := s.Add(name, new(Schema)) // there before its fields are: a type may contain itself
		s.names[key] = name
		*s.named[name] = *s.inline(t, body)
		return ref
	}
	return &Schema{Ref: "#/components/schemas/" + name}
}

// name returns a component's name that no other type has.
func (s *Schemas) name(t reflect.Type, body bool) string {
	if name := s.wanted[t]; name != "" && !body {
		return name
	}
	pkg := t.PkgPath()
	full := pkg[strings.LastIndexByte(pkg, '/')+1:] + "." + strings.Map(func(r rune) rune {
		if r == '.' || r == '_' || r == '-' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return '_' // of a generic type
	}, t.Name())
	if body {
		full += "Body"
	}
	name := full
	for i := 2; s.named[name] != nil; i++ {
		name = fmt.Sprint(full, i)
	}
	return name
}

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
	durationType  = reflect.TypeFor[time.Duration]()
)

// special returns the schema of a type whose JSON form does not follow from its kind, nil for the others.
func special(t reflect.Type, body bool) *Schema {
	switch t {
	case timeType:
		return &Schema{Type: Types{"string"}, Format: "date-time"}
	case numberType:
		return &Schema{Type: Types{"number"}}
	case rawType:
		return &Schema{}
	}
	if t.Kind() == reflect.Interface {
		return nil
	}
	json, text := t.Implements(jsonMarshaler), t.Implements(textMarshaler)
	if body {
		json, text = reflect.PointerTo(t).Implements(jsonUnmarshaler), reflect.PointerTo(t).Implements(textUnmarshaler)
	}
	switch {
	case t.Kind() == reflect.Pointer:
	case json:
		return &Schema{} // whatever its method says
	case text:
		return &Schema{Type: Types{"string"}}
	}
	return nil
}

func (s *Schemas) inline(t reflect.Type, body bool) *Schema {
	if schema := special(t, body); schema != nil {
		return schema
	}
	switch t.Kind() {
	case reflect.Bool:
		return &Schema{Type: Types{"boolean"}}
	case reflect.Int8, reflect.Int16, reflect.Int32:
		return &Schema{Type: Types{"integer"}, Format: "int32", Minimum: number(int64(-1) << (t.Bits() - 1)), Maximum: number(int64(1)<<(t.Bits()-1) - 1)}
	case reflect.Int, reflect.Int64:
		schema := &Schema{Type: Types{"integer"}, Format: "int64"}
		if t == durationType {
			schema.Description = "nanoseconds"
		}
		return schema
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return &Schema{Type: Types{"integer"}, Minimum: "0", Maximum: number(int64(1)<<t.Bits() - 1)}
	case reflect.Uint, reflect.Uint64:
		return &Schema{Type: Types{"integer"}, Minimum: "0"}
	case reflect.Float32, reflect.Float64:
		return &Schema{Type: Types{"number"}}
	case reflect.String:
		return &Schema{Type: Types{"string"}}
	case reflect.Pointer:
		return orNull(s.of(t.Elem(), body))
	case reflect.Slice:
		schema := &Schema{Type: Types{"array"}, Items: nil}
		if t.Elem().Kind() == reflect.Uint8 && special(t.Elem(), body) == nil {
			schema = &Schema{Type: Types{"string"}, ContentEncoding: "base64"}
		} else {
			schema.Items = s.of(t.Elem(), body)
		}
		if !body { // nil is written as null
			schema.Type = append(schema.Type, "null")
		}
		return schema
	case reflect.Array:
		n := t.Len()
		return &Schema{Type: Types{"array"}, Items: s.of(t.Elem(), body), MinItems: n, MaxItems: &n}
	case reflect.Map:
		schema := &Schema{Type: Types{"object"}, AdditionalProperties: &Additional{s.of(t.Elem(), body)}}
		if !body {
			schema.Type = append(schema.Type, "null")
		}
		return schema
	case reflect.Struct:
		return s.object(t, body)
	default:
		return &Schema{} // an interface: whatever is in it
	}
}

func number(n int64) json.Number { return json.Number(fmt.Sprint(n)) }

// orNull returns a schema that also allows null.
func orNull(s *Schema) *Schema {
	switch {
	case s.Ref == "" && len(s.Type) == 0 && s.AnyOf == nil, slices.Contains(s.Type, "null"):
		return s
	case s.Ref == "" && len(s.Type) > 0 && s.Const == nil && s.Enum == nil:
		s.Type = append(s.Type, "null")
		return s
	}
	return &Schema{AnyOf: []*Schema{s, {Type: Types{"null"}}}}
}

// notNull undoes orNull, for a member that is left out rather than null.
func notNull(s *Schema) *Schema {
	if len(s.AnyOf) == 2 && slices.Equal(s.AnyOf[1].Type, Types{"null"}) {
		return s.AnyOf[0]
	}
	if n := len(s.Type); n > 1 && s.Type[n-1] == "null" {
		s.Type = s.Type[:n-1]
	}
	return s
}

func (s *Schemas) object(t reflect.Type, body bool) *Schema {
	schema := &Schema{Type: Types{"object"}}
	if body {
		schema.AdditionalProperties = &Additional{}
	}
	for _, f := range jsontype.Members(t) {
		m := s.of(f.Type, body)
		if f.Quoted {
			m = &Schema{Type: Types{"string"}}
		}
		if !body && f.Optional {
			m = notNull(m)
		}
		schema.Properties = append(schema.Properties, Property{f.Name, m})
		if !body && !f.Optional {
			schema.Required = append(schema.Required, f.Name)
		}
	}
	return schema
}
