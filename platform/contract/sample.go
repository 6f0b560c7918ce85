package contract

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
)

// maxSampleDepth is where recursive samples end.
const maxSampleDepth = 6

// Sample returns a random payload, without a frame, of any value that the schema allows: every branch, symbol and sign turns up sooner or
// later. The same state of r gives the same payload. It fails for a recursive schema whose values never end.
func (s *Schema) Sample(r *rand.Rand) ([]byte, error) {
	g := sampler{Rand: r}
	b, err := g.value(nil, s.root, 0)
	if err != nil {
		return nil, err
	}
	// What the sampler makes must be what the codec takes.
	return b, scan(s.root, b)
}

type sampler struct{ *rand.Rand }

var sampleWords = []string{"amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "haven", "iris", "Zoë", "日本", ""}

func (g sampler) value(dst []byte, n *node, depth int) ([]byte, error) {
	if depth > MaxDepth/2 {
		return nil, fmt.Errorf("contract: sample of %s: values of %s never end", place(n), clip(n.name))
	}
	switch n.kind {
	case kindNull:
		return dst, nil
	case kindBoolean:
		return append(dst, byte(g.IntN(2))), nil
	case kindInt, kindLong:
		return appendLong(dst, g.integer(n)), nil
	case kindFloat:
		return binary.LittleEndian.AppendUint32(dst, math.Float32bits(float32(g.IntN(1<<20))/8)), nil
	case kindDouble:
		return binary.LittleEndian.AppendUint64(dst, math.Float64bits(float64(g.IntN(1<<30))/64)), nil
	case kindString:
		text := sampleWords[g.IntN(len(sampleWords))]
		if n.logical == "uuid" {
			text = fmt.Sprintf("%08x-0000-4000-8000-%012x", g.Uint32(), g.Uint64()>>16)
		}
		return append(appendLong(dst, int64(len(text))), text...), nil
	case kindBytes, kindFixed:
		return g.bytes(dst, n), nil
	case kindEnum:
		return appendLong(dst, int64(g.IntN(len(n.symbols)))), nil
	case kindArray, kindMap:
		return g.blocks(dst, n, depth)
	case kindUnion:
		i := g.IntN(len(n.branches))
		if depth >= maxSampleDepth {
			for j, b := range n.branches {
				if b.depth < n.branches[i].depth || b.kind == kindNull {
					i = j
				}
			}
		}
		return g.value(appendLong(dst, int64(i)), n.branches[i], depth+1)
	}
	var err error
	for _, f := range n.fields {
		if dst, err = g.value(dst, f.node, depth+1); err != nil {
			return nil, err
		}
	}
	return dst, nil
}

func (g sampler) integer(n *node) int64 {
	switch {
	case n.bounded && n.logical != "time-millis" && n.logical != "time-micros":
		year := (n.hi - n.lo) / 10_000
		return n.lo + 2000*year + g.Int64N(30*year)
	case n.bounded:
		return n.lo + g.Int64N(n.hi-n.lo+1)
	case n.kind == kindInt && g.IntN(4) == 0:
		return []int64{math.MinInt32, math.MaxInt32, -1, 0}[g.IntN(4)]
	case g.IntN(4) == 0 && n.logical == "":
		return []int64{math.MinInt32 - 1, math.MaxInt32 + 1, -1, 0}[g.IntN(4)] >> (32 * int(kindLong-n.kind))
	}
	return g.Int64N(10_000)
}

func (g sampler) bytes(dst []byte, n *node) []byte {
	var raw []byte
	switch {
	case n.logical == "decimal":
		most := new(big.Int).Sub(n.limit, big.NewInt(1))
		v := new(big.Int).SetUint64(g.Uint64N(1 << 20))
		if v.Cmp(most) > 0 {
			v = most
		}
		size := v.BitLen()/8 + 1
		if n.kind == kindFixed {
			size = n.size
		}
		raw = v.FillBytes(make([]byte, size))
	case n.kind == kindFixed:
		raw = make([]byte, n.size)
		for i := range raw {
			raw[i] = byte(g.Uint32())
		}
	case n.logical == "big-decimal": // the number's own bytes, then its scale
		raw = []byte{2, byte(g.IntN(128)), 4}
	default:
		raw = []byte(sampleWords[g.IntN(len(sampleWords))])
	}
	if n.kind == kindBytes {
		dst = appendLong(dst, int64(len(raw)))
	}
	return append(dst, raw...)
}

func (g sampler) blocks(dst []byte, n *node, depth int) ([]byte, error) {
	count := g.IntN(3) + 1
	if depth >= maxSampleDepth || g.IntN(6) == 0 {
		count = 0
	}
	var err error
	if count > 0 {
		dst = appendLong(dst, int64(count))
		for i := range count {
			if n.kind == kindMap {
				key := fmt.Sprintf("key%d", i)
				dst = append(appendLong(dst, int64(len(key))), key...)
			}
			if dst, err = g.value(dst, n.items, depth+1); err != nil {
				return nil, err
			}
		}
	}
	return append(dst, 0), nil
}
