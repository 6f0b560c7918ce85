package es

import (
	"slices"
	"strconv"
	"strings"
)

// Positions is a set of positions, at most one for a partition, ordered by topic and partition: how far a reader has come,
// or has to come. The zero value is the empty set.
type Positions []Position

// maxPositions bounds what ParsePositions accepts: more partitions than any one request can be about.
const maxPositions = 1024

// ParsePositions reads a comma separated list of positions; for a partition named twice the higher offset counts.
func ParsePositions(s string) (Positions, error) {
	var ps Positions
	if strings.TrimSpace(s) == "" {
		return nil, ErrPosition.Because("it is empty")
	}
	for part := range strings.SplitSeq(s, ",") {
		p, err := ParsePosition(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		if len(ps) == maxPositions {
			return nil, ErrPosition.Because("more than %d positions", maxPositions)
		}
		ps = ps.With(p)
	}
	return ps, nil
}

// Offset returns the offset held for a partition, and whether there is one.
func (ps Positions) Offset(tp TopicPartition) (int64, bool) {
	i, ok := ps.find(tp)
	if !ok {
		return 0, false
	}
	return ps[i].Offset, true
}

// With returns the set with p added; of two offsets for a partition the higher one stays. It may reuse ps's memory.
func (ps Positions) With(p Position) Positions {
	i, ok := ps.find(p.TopicPartition)
	if ok {
		ps[i].Offset = max(ps[i].Offset, p.Offset)
		return ps
	}
	return slices.Insert(ps, i, p)
}

// String returns the comma separated list that ParsePositions reads.
func (ps Positions) String() string {
	n := 0
	for _, p := range ps {
		n += len(p.Topic) + 24 // more than most partitions and offsets take
	}
	b := make([]byte, 0, n)
	for i, p := range ps {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, p.Topic...), '/')
		b = append(strconv.AppendInt(b, int64(p.Partition), 10), '@')
		b = strconv.AppendInt(b, p.Offset, 10)
	}
	return string(b)
}

func (ps Positions) find(tp TopicPartition) (int, bool) {
	return slices.BinarySearchFunc(ps, tp, func(p Position, tp TopicPartition) int {
		if p.TopicPartition == tp {
			return 0
		}
		if p.Less(tp) {
			return -1
		}
		return 1
	})
}
