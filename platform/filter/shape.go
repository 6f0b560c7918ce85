package filter

import (
	"encoding"
	"encoding/json"
	"reflect"
	"time"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/millrace/millrace/platform/jsontype"
)

// A kind says what a value is to CEL.
type kind uint8

const (
	dynamic kind = iota // anything: the Go type does not say what its JSON is
	boolean
	integer
	number
	text
	octets
	moment
	list
	mapping
	object
)

// A shape is what the values of a Go type are as JSON, and so to CEL.
type shape struct {
	kind   kind
	key    kind // of a mapping: text or integer
	elem   *shape
	fields []field        // of an object, in the order in which Go writes them
	places map[string]int // of the fields, by name
	cel    *types.Type
	zero   ref.Val // the value of an absent field; nil for an object, whose own is made anew
}

// A field is one member of an object.
type field struct {
	name   string
	quoted bool // its value is written inside a text: `json:",string"`
	shape  *shape
}

var (
	timeType       = reflect.TypeFor[time.Time]()
	jsonNumberType = reflect.TypeFor[json.Number]()
	jsonMarshaler  = reflect.TypeFor[json.Marshaler]()
	textMarshaler  = reflect.TypeFor[encoding.TextMarshaler]()
	scalars        = map[kind]*types.Type{dynamic: types.DynType, boolean: types.BoolType, integer: types.IntType, number: types.DoubleType, text: types.StringType, octets: types.BytesType, moment: types.TimestampType}
	zeros          = map[kind]ref.Val{dynamic: types.NullValue, boolean: types.False, integer: types.IntZero, number: types.Double(0), text: types.String(""), octets: types.Bytes{}, moment: types.Timestamp{}}
)

// A builder makes the shapes of a row type; types that hold themselves have one shape.
type builder struct {
	registry *types.Registry
	shapes   map[reflect.Type]*shape
	objects  map[string]*shape // by the name of their CEL type
}

// shapeOf returns the shape of a type; path leads to it, for the names of objects.
func (b *builder) shapeOf(t reflect.Type, path string) *shape {
	for t.Kind() == reflect.Pointer {
		t = t.Elem() // a nil pointer is null, and null the zero value of what it could point to
	}
	if s := b.shapes[t]; s != nil {
		return s
	}
	s := &shape{kind: kindOf(t)}
	b.shapes[t] = s
	s.cel, s.zero = scalars[s.kind], zeros[s.kind]
	switch s.kind {
	case text:
		if m, ok := reflect.Zero(t).Interface().(encoding.TextMarshaler); ok {
			if zero, err := m.MarshalText(); err == nil {
				s.zero = types.String(zero)
			}
		}
	case list:
		// The type is known only when that of its elements is; a type that holds lists of itself goes through an object, which has a name.
		s.cel = types.NewListType(types.DynType)
		s.elem = b.shapeOf(t.Elem(), path+"[]")
		s.cel = types.NewListType(s.elem.cel)
		s.zero = b.registry.NativeToValue([]ref.Val{})
		if t.Kind() == reflect.Array && t.Len() > 0 && s.elem.zero != nil {
			all := make([]ref.Val, t.Len())
			for i := range all {
				all[i] = s.elem.zero
			}
			s.zero = types.NewRefValList(b.registry, all)
		}
	case mapping:
		s.key = text
		if k := t.Key(); k.Kind() != reflect.String && !k.Implements(textMarshaler) {
			s.key = integer
		}
		s.cel = types.NewMapType(scalars[s.key], types.DynType)
		s.elem = b.shapeOf(t.Elem(), path+"{}")
		s.cel = types.NewMapType(scalars[s.key], s.elem.cel)
		s.zero = types.NewRefValMap(b.registry, map[ref.Val]ref.Val{})
	case object:
		name := "{" + path + "}" // no identifier, so that no expression can mean it
		s.cel = types.NewObjectType(name)
		b.objects[name] = s
		s.fields = b.fieldsOf(t, path)
		s.places = make(map[string]int, len(s.fields))
		for i, f := range s.fields {
			s.places[f.name] = i
		}
	}
	return s
}

// kindOf says what encoding/json makes of a type that is no pointer.
func kindOf(t reflect.Type) kind {
	p := reflect.PointerTo(t)
	switch {
	case t == timeType:
		return moment
	case t == jsonNumberType:
		return number
	case p.Implements(jsonMarshaler):
		return dynamic
	case t.Implements(textMarshaler):
		return text
	case p.Implements(textMarshaler):
		return dynamic // a text where it can be addressed
	}
	switch t.Kind() {
	case reflect.Bool:
		return boolean
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return integer
	case reflect.Float32, reflect.Float64:
		return number
	case reflect.String:
		return text
	case reflect.Slice:
		if e := reflect.PointerTo(t.Elem()); t.Elem().Kind() == reflect.Uint8 && !e.Implements(jsonMarshaler) && !e.Implements(textMarshaler) {
			return octets
		}
		return list
	case reflect.Array:
		return list
	case reflect.Map:
		return mapping
	case reflect.Struct:
		return object
	default:
		return dynamic
	}
}

// fieldsOf returns the fields that encoding/json writes of a struct.
func (b *builder) fieldsOf(t reflect.Type, path string) []field {
	var fields []field
	for _, m := range jsontype.Members(t) {
		fields = append(fields, field{name: m.Name, quoted: m.Quoted, shape: b.shapeOf(m.Type, path+"."+m.Name)})
	}
	return fields
}
