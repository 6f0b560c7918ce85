package main

import (
	"encoding/binary"
	"errors"
)

// A sum is one row: how many events a key has had, and the sum of their amounts.
type sum struct{ Count, Sum int64 }

var errForm = errors.New("malformed")

// amountCodec reads the amount out of a framed Avro value {key: string, amount: long, padding: bytes} by hand, which is the quickest way
// there is: a byte 0, the number of the schema in four bytes, then the fields, whose integers are those of encoding/binary. What was
// written with another schema, the log's own marks, is nil.
type amountCodec struct{ schema uint32 }

func (c amountCodec) Decode(b []byte) (any, error) {
	if len(b) < 5 || b[0] != 0 || binary.BigEndian.Uint32(b[1:]) != c.schema {
		return nil, nil
	}
	b = b[5:]
	length, n := binary.Varint(b)
	if n <= 0 || length < 0 || int64(len(b)-n) < length {
		return nil, errForm
	}
	amount, n := binary.Varint(b[n+int(length):])
	if n <= 0 {
		return nil, errForm
	}
	return amount, nil
}

func (amountCodec) Encode(any) ([]byte, error) { return nil, errors.New("amounts are only read") }

// sumCodec keeps a sum as 16 bytes.
type sumCodec struct{}

func (sumCodec) Encode(v any) ([]byte, error) {
	s, ok := v.(sum)
	if !ok {
		return nil, errForm
	}
	b := make([]byte, 0, 16)
	b = binary.BigEndian.AppendUint64(b, uint64(s.Count))
	return binary.BigEndian.AppendUint64(b, uint64(s.Sum)), nil
}

func (sumCodec) Decode(b []byte) (any, error) {
	if len(b) != 16 {
		return nil, errForm
	}
	return sum{int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:]))}, nil
}
