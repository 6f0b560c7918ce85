package contract

import "github.com/hamba/avro/v2"

// A Schema is a parsed Avro schema, immutable and independent of every other.
type Schema struct {
	text string
	name string
	avro avro.Schema
}

// Parse reads a schema text, alone: a name that the text does not define is unknown. What is not valid or beyond the limits is an ErrSchema.
func Parse(text string) (*Schema, error) {
	if len(text) > MaxSchemaBytes {
		return nil, ErrSchema.Because("it has %d bytes, at most %d are allowed", len(text), MaxSchemaBytes)
	}
	s, err := avro.ParseWithCache(text, "", &avro.SchemaCache{})
	if err != nil {
		return nil, ErrSchema.Wrap(err)
	}
	out := &Schema{text: text, avro: s}
	if n, ok := s.(avro.NamedSchema); ok {
		out.name = n.FullName()
	}
	return out, nil
}

// Name returns the full name of the record, enum or fixed type, "" for a schema without a name.
func (s *Schema) Name() string { return s.name }

// Text returns the original text, the only form that is registered.
func (s *Schema) Text() string { return s.text }
