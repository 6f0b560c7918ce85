package contract

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"time"
)

// JSON returns the value of a payload, without a frame, as the JSON of the Go type that is generated for the schema: fields in the order of
// the schema, times in RFC 3339, decimals as fractions. It fails with ErrUndecodable for a payload that Decode would refuse.
// It is for tools: it takes many times as long as Decode.
func (s *Schema) JSON(payload []byte) ([]byte, error) {
	if err := scan(s.root, payload); err != nil {
		return nil, ErrUndecodable.Wrap(err)
	}
	r := renderer{b: payload}
	r.value(s.root)
	return r.out, nil
}

// Read returns a payload of the schema writer as a payload of s: what the codec does before it decodes. It fails with ErrUndecodable if the
// payload is none of writer's or cannot be read as s.
func (s *Schema) Read(writer *Schema, payload []byte) ([]byte, error) {
	c := resolve(s.root, writer.root)
	if c.op == opFail {
		return nil, ErrUndecodable.Because("%s", c.reason)
	}
	out, _, err := c.transcode(nil, payload, nil)
	if err != nil {
		return nil, ErrUndecodable.Wrap(err)
	}
	return out, nil
}

// A renderer walks a payload that was scanned.
type renderer struct{ b, out []byte }

func (r *renderer) long() int64 {
	u, n := binary.Uvarint(r.b)
	r.b = r.b[n:]
	return int64(u>>1) ^ -int64(u&1)
}

func (r *renderer) take(n int) []byte {
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *renderer) put(v any) {
	text, err := json.Marshal(v)
	if err != nil { // NaN and the infinities have no JSON
		text = []byte(strconv.Quote(fmt.Sprint(v)))
	}
	r.out = append(r.out, text...)
}

func (r *renderer) value(n *node) {
	switch n.kind {
	case kindNull:
		r.out = append(r.out, "null"...)
	case kindBoolean:
		r.put(r.take(1)[0] == 1)
	case kindInt, kindLong:
		r.integer(n)
	case kindFloat:
		r.put(math.Float32frombits(binary.LittleEndian.Uint32(r.take(4))))
	case kindDouble:
		r.put(math.Float64frombits(binary.LittleEndian.Uint64(r.take(8))))
	case kindString:
		r.put(string(r.take(int(r.long()))))
	case kindBytes, kindFixed:
		size := n.size
		if n.kind == kindBytes {
			size = int(r.long())
		}
		r.bytes(n, r.take(size))
	case kindEnum:
		r.put(n.symbols[r.long()])
	case kindUnion:
		r.value(n.branches[r.long()])
	case kindArray, kindMap:
		r.blocks(n)
	case kindRecord:
		r.out = append(r.out, '{')
		for i, f := range n.fields {
			if i > 0 {
				r.out = append(r.out, ',')
			}
			r.put(f.name)
			r.out = append(r.out, ':')
			r.value(f.node)
		}
		r.out = append(r.out, '}')
	}
}

func (r *renderer) integer(n *node) {
	i := r.long()
	switch n.logical {
	case "date":
		r.put(time.Unix(i*86_400, 0).UTC())
	case "timestamp-millis":
		r.put(time.UnixMilli(i).UTC())
	case "timestamp-micros":
		r.put(time.UnixMicro(i).UTC())
	case "time-millis":
		r.put(time.Duration(i) * time.Millisecond)
	case "time-micros":
		r.put(time.Duration(i) * time.Microsecond)
	default:
		r.put(i)
	}
}

func (r *renderer) bytes(n *node, raw []byte) {
	switch {
	case n.logical == "decimal":
		v := new(big.Int).SetBytes(raw)
		if len(raw) > 0 && raw[0] >= 0x80 {
			v.Sub(v, new(big.Int).Lsh(big.NewInt(1), uint(8*len(raw))))
		}
		r.put(new(big.Rat).SetFrac(v, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n.scale)), nil)))
	case n.logical == "uuid":
		r.put(UUID(raw))
	case n.kind == kindFixed: // a Go array: its numbers
		r.out = append(r.out, '[')
		for i, b := range raw {
			if i > 0 {
				r.out = append(r.out, ',')
			}
			r.out = strconv.AppendInt(r.out, int64(b), 10)
		}
		r.out = append(r.out, ']')
	default:
		r.put(base64.StdEncoding.EncodeToString(raw))
	}
}

func (r *renderer) blocks(n *node) {
	ends := [2]byte{'[', ']'}
	if n.kind == kindMap {
		ends = [2]byte{'{', '}'}
	}
	r.out = append(r.out, ends[0])
	first := true
	for {
		count := r.long()
		if count < 0 {
			count = -count
			r.long()
		}
		if count == 0 {
			break
		}
		for range count {
			if !first {
				r.out = append(r.out, ',')
			}
			first = false
			if n.kind == kindMap {
				r.put(string(r.take(int(r.long()))))
				r.out = append(r.out, ':')
			}
			r.value(n.items)
		}
	}
	r.out = append(r.out, ends[1])
}
