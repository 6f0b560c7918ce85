package main

import (
	"encoding/binary"
	"hash"
)

// A murmur2 is the hash by which Kafka's own clients, and the log, choose the partition of a key. goka writes the rows of its table to the
// partition that it chooses, which must be the one the events came from, and its own choice is another.
type murmur2 struct{ key []byte }

func newMurmur2() hash.Hash32 { return &murmur2{} }

func (h *murmur2) Write(b []byte) (int, error) {
	h.key = append(h.key, b...)
	return len(b), nil
}

func (h *murmur2) Sum(b []byte) []byte { return binary.BigEndian.AppendUint32(b, h.Sum32()) }
func (h *murmur2) Reset()              { h.key = h.key[:0] }
func (h *murmur2) Size() int           { return 4 }
func (h *murmur2) BlockSize() int      { return 4 }

// Sum32 returns the hash without its sign, as Java's clients take it modulo the number of partitions.
func (h *murmur2) Sum32() uint32 {
	const m = 0x5bd1e995
	b := h.key
	sum := 0x9747b28c ^ uint32(len(b))
	for ; len(b) >= 4; b = b[4:] {
		k := binary.LittleEndian.Uint32(b) * m
		k ^= k >> 24
		sum = sum*m ^ k*m
	}
	switch len(b) {
	case 3:
		sum ^= uint32(b[2]) << 16
		fallthrough
	case 2:
		sum ^= uint32(b[1]) << 8
		fallthrough
	case 1:
		sum = (sum ^ uint32(b[0])) * m
	}
	sum ^= sum >> 13
	sum *= m
	sum ^= sum >> 15
	return sum & 0x7fffffff
}
