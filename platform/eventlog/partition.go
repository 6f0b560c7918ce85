package eventlog

import "github.com/millrace/millrace/platform/es"

// PartitionOf returns the partition of a stream: murmur2 of its id modulo the count, as the Java client's default partitioner.
func PartitionOf(id es.StreamID, partitions int32) int32 {
	return int32(murmur2(string(id))&0x7fffffff) % partitions
}

// murmur2 is Kafka's variant, seed 0x9747b28c.
func murmur2(b string) uint32 {
	const (
		seed = 0x9747b28c
		m    = 0x5bd1e995
		r    = 24
	)
	h := uint32(seed) ^ uint32(len(b)) //nolint:gosec // ids are short
	for len(b) >= 4 {
		k := uint32(b[3])<<24 | uint32(b[2])<<16 | uint32(b[1])<<8 | uint32(b[0])
		b = b[4:]
		k *= m
		k ^= k >> r
		k *= m
		h *= m
		h ^= k
	}
	switch len(b) {
	case 3:
		h ^= uint32(b[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(b[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(b[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return h
}
