// Package contract turns events into bytes and back: Avro behind the Confluent frame, strict, bounded and typed.
//
// It is the only package that knows hamba/avro. What the library does not check is checked here before it runs: every payload is
// walked by its writer's schema (lengths, ranges, counts, depth, UTF-8, full use of the bytes), so that no input makes it panic,
// hang or take memory; data of an older or newer writer is rewritten into the reader's schema by our own resolution.
// The package neither talks to a registry, it asks a Resolver, nor decodes into untyped values.
package contract

import "github.com/millrace/millrace/platform/fault"

// The limits of what is read and written. They are constants: two processes with different limits could not read each other.
const (
	MaxSchemaBytes  = 256 << 10 // bytes of one schema text
	MaxPayloadBytes = 1 << 20   // bytes of one Avro payload, without its frame
	MaxItems        = 100_000   // items of one array or map
	MaxDepth        = 64        // records, unions, arrays and maps inside each other, in schemas and in values
)

// ErrSchema is returned for a text that is no Avro schema, or one beyond the limits; its fields point into the text.
var ErrSchema = fault.New(fault.Invalid, "invalid_schema", "the schema is not valid")

// ErrContract is returned by Bind for a Set whose Go types do not match their schemas: a mistake in the code.
var ErrContract = fault.New(fault.Internal, "invalid_contract", "the contract does not match its Go types")

// ErrUnregistered is returned by a Resolver that does not have the schema under the subject, and by Bind with all such subjects.
var ErrUnregistered = fault.New(fault.Rejected, "contract_unregistered", "event types are not registered")

// ErrUnknownSchema is returned by a Resolver that has no schema with the id.
var ErrUnknownSchema = fault.New(fault.NotFound, "unknown_schema", "the registry has no such schema")

// ErrUndecodable is returned for a frame or payload that is damaged, hostile or of a schema that the reader cannot read.
var ErrUndecodable = fault.New(fault.Invalid, "undecodable_event", "the event cannot be decoded")

// ErrUnknownType is returned for an event whose type is not in the codec's set.
var ErrUnknownType = fault.New(fault.Unsupported, "unknown_event_type", "the event type is not part of the contract")

// ErrUnencodable is returned for an event that could not be read again if it were written.
var ErrUnencodable = fault.New(fault.Invalid, "unencodable_event", "the event cannot be encoded")
