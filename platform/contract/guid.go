package contract

import (
	"context"
	"encoding/binary"
	"fmt"
)

// The headers in which Confluent's serializers name the schema of a record's value and key if they are told not to write a frame: 0x01 and
// the GUID, or 0x00 and the id as in a frame. The value is then the bare Avro payload.
const (
	ValueSchemaHeader = "__value_schema_id"
	KeySchemaHeader   = "__key_schema_id"
)

// A GUID names a schema in every registry that has it.
type GUID [16]byte

// String returns the form of a UUID.
func (g GUID) String() string { return UUID(g).String() }

// A GUIDResolver is a Resolver that also knows GUIDs.
type GUIDResolver interface {
	Resolver
	// SchemaByGUID returns the text with the GUID, or ErrUnknownSchema. What it answers for a GUID never changes.
	SchemaByGUID(ctx context.Context, guid GUID) (string, error)
}

// DecodeHeader is DecodeAll for a record of another producer, whose schema may be named by the header ValueSchemaHeader. Without one, header is
// empty, the value is a frame. A GUID needs a Resolver that is a GUIDResolver; what Append writes is always a frame.
func (c *Codec[E]) DecodeHeader(ctx context.Context, dst []E, header, value []byte) ([]E, error) {
	var p *plan[E]
	var err error
	switch {
	case len(header) == 0:
		return c.DecodeAll(ctx, dst, value)
	case header[0] == 0 && len(header) == frameBytes:
		p, err = c.planByID(ctx, int32(binary.BigEndian.Uint32(header[1:]))) //nolint:gosec // a negative one is refused
	case header[0] == 1 && len(header) == 1+len(GUID{}):
		p, err = c.planByGUID(ctx, GUID(header[1:]))
	default:
		err = ErrUndecodable.Because("the header %s is %d bytes that begin with 0x%02x: neither 0x00 and an id nor 0x01 and a GUID", ValueSchemaHeader, len(header), header[0])
	}
	if err != nil {
		return dst, err
	}
	return c.decodeAll(dst, p, value)
}

func (c *Codec[E]) planByGUID(ctx context.Context, guid GUID) (*plan[E], error) {
	p := c.guids.known(guid)
	if p == nil {
		r, ok := c.resolver.(GUIDResolver)
		if !ok {
			return nil, ErrUndecodable.Because("schema %s: this registry's client looks up ids only", guid).WithFix("let the producer write a frame with the schema's id")
		}
		var err error
		if p, err = c.guids.load(ctx, guid, func(ctx context.Context, guid GUID) (*plan[E], error) {
			text, err := r.SchemaByGUID(ctx, guid)
			if err != nil {
				return nil, err
			}
			return c.newPlan("schema "+guid.String(), text), nil
		}); err != nil {
			return nil, fmt.Errorf("contract: schema %s: %w", guid, err)
		}
	}
	return p, p.err
}
