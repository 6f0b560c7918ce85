package contract

import "github.com/hamba/avro/v2"

// An Incompatibility is one reason why a reader cannot read all that a writer may have written.
type Incompatibility struct {
	Rule    string // e.g. FIELD_NO_DEFAULT
	Pointer string // JSON pointer to the place in the reader's text
	Message string // one sentence
}

// Compatible returns why reader cannot read all that writer may write; nothing = it can.
func Compatible(reader, writer *Schema) []Incompatibility {
	if err := avro.NewSchemaCompatibility().Compatible(reader.avro, writer.avro); err != nil {
		return []Incompatibility{{Rule: "TYPE", Message: err.Error()}}
	}
	return nil
}
