package contract

import (
	"encoding/json"
	"strconv"
	"strings"
	"sync"

	"github.com/hamba/avro/v2"
)

// A Schema is a parsed Avro schema, immutable and independent of every other.
type Schema struct {
	text      string
	root      *node
	recursive bool

	library func() (avro.Schema, error) // the library's reading of the original text; see Compatible
}

// Parse reads a schema text, alone: a name that the text does not define is unknown. What is not valid Avro 1.12 or beyond the
// limits is an ErrSchema that points to the place. Defaults must be exact and in range; a union's default may be of any branch.
func Parse(text string) (*Schema, error) {
	if len(text) > MaxSchemaBytes {
		return nil, ErrSchema.Because("it has %d bytes, at most %d are allowed", len(text), MaxSchemaBytes)
	}
	v, err := parseJSON(text)
	if err != nil {
		return nil, err
	}
	root, recursive, err := buildSchema(v)
	if err != nil {
		return nil, err
	}
	return &Schema{text: text, root: root, recursive: recursive, library: sync.OnceValues(func() (avro.Schema, error) {
		// Never the library's own cache: it is shared by the whole process, and knows the names of every text parsed before.
		return avro.ParseWithCache(text, "", &avro.SchemaCache{})
	})}, nil
}

// Name returns the full name of the record, enum or fixed type, "" for a schema without a name.
func (s *Schema) Name() string { return s.root.name }

// Text returns the original text, the only form that is registered: the library's own forms lose defaults, docs and aliases.
func (s *Schema) Text() string { return s.text }

// wire returns what the library needs to know of the schema to encode and decode: structure and logical types.
// It never sees names, defaults and aliases, so it cannot mistake one version for another that differs in them, nor round them.
func (s *Schema) wire() (avro.Schema, error) {
	var b strings.Builder
	appendWire(&b, s.root, map[*node]string{})
	return avro.ParseWithCache(b.String(), "", &avro.SchemaCache{})
}

func appendWire(b *strings.Builder, n *node, names map[*node]string) {
	if name, ok := names[n]; ok {
		b.WriteString(strconv.Quote(name))
		return
	}
	if n.kind == kindUnion {
		for i, c := range n.branches {
			b.WriteByte("[,"[min(i, 1)])
			appendWire(b, c, names)
		}
		b.WriteByte(']')
		return
	}
	b.WriteString(`{"type":"` + n.kind.String() + `"`)
	if n.kind.named() {
		names[n] = "T" + strconv.Itoa(len(names))
		b.WriteString(`,"name":"` + names[n] + `"`)
	}
	if n.logical != "" {
		b.WriteString(`,"logicalType":"` + n.logical + `"`)
	}
	if n.logical == "decimal" {
		b.WriteString(`,"precision":` + strconv.Itoa(n.prec) + `,"scale":` + strconv.Itoa(n.scale))
	}
	switch n.kind {
	case kindRecord:
		b.WriteString(`,"fields":[`)
		for i, f := range n.fields {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(`{"name":"` + f.name + `","type":`)
			appendWire(b, f.node, names)
			b.WriteByte('}')
		}
		b.WriteByte(']')
	case kindEnum:
		symbols, _ := json.Marshal(n.symbols) // strings always marshal
		b.WriteString(`,"symbols":` + string(symbols))
	case kindFixed:
		b.WriteString(`,"size":` + strconv.Itoa(n.size))
	case kindArray:
		b.WriteString(`,"items":`)
		appendWire(b, n.items, names)
	case kindMap:
		b.WriteString(`,"values":`)
		appendWire(b, n.items, names)
	}
	b.WriteByte('}')
}
