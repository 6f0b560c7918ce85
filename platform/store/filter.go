package store

import "hash/maphash"

// A Filter remembers which keys may be in a store, in the memory of whoever put them there, so that nobody looks for what cannot be
// there. It is a series of Bloom filters, each twice as large as the one before; a wrong yes costs one look-up. The zero Filter knows
// nothing and answers yes to everything; NewFilter returns that of an empty store. It is not safe for concurrent use.
type Filter struct {
	seed   maphash.Seed
	layers []layer
	on     bool
}

type layer struct {
	bits []uint64
	room int // how many keys it still takes
}

const (
	firstKeys   = 1 << 14
	bitsPerKey  = 10
	filterBytes = 16 << 20 // the largest filter, good for 13 million keys; beyond, the filter answers yes to everything
)

// NewFilter returns the Filter of an empty store.
func NewFilter() Filter { return Filter{seed: maphash.MakeSeed(), on: true} }

// Has reports whether key may have been added.
func (f *Filter) Has(key string) bool {
	if !f.on {
		return true
	}
	h := maphash.String(f.seed, key)
	for i := range f.layers {
		if f.layers[i].has(h) {
			return true
		}
	}
	return false
}

// Add adds a key that is not there yet.
func (f *Filter) Add(key string) {
	if !f.on {
		return
	}
	last := len(f.layers) - 1
	if last < 0 || f.layers[last].room == 0 {
		keys := firstKeys << len(f.layers)
		if keys*bitsPerKey/8 > filterBytes/2 {
			*f = Filter{}
			return
		}
		f.layers = append(f.layers, layer{bits: make([]uint64, keys*bitsPerKey/64), room: keys})
		last++
	}
	f.layers[last].add(maphash.String(f.seed, key))
}

// The seven bits of a key are derived from two halves of its hash (Kirsch and Mitzenmacher).
const bloomHashes = 7

func (l *layer) add(h uint64) {
	a, b := uint32(h), uint32(h>>32)|1
	n := uint32(len(l.bits) * 64)
	for range bloomHashes {
		i := a % n
		l.bits[i/64] |= 1 << (i % 64)
		a += b
	}
	l.room--
}

func (l *layer) has(h uint64) bool {
	a, b := uint32(h), uint32(h>>32)|1
	n := uint32(len(l.bits) * 64)
	for range bloomHashes {
		i := a % n
		if l.bits[i/64]&(1<<(i%64)) == 0 {
			return false
		}
		a += b
	}
	return true
}
