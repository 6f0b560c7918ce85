package main

import (
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
)

// A progress is how far each partition has been read, compared with where it ended when the process started.
type progress struct {
	topic, group string
	client       sarama.Client
	admin        sarama.ClusterAdmin
	ends         []int64
	next         []atomic.Int64
	first        atomic.Int64 // when the first record was read, in milliseconds since 1970
}

// begin reads where the partitions end and from where the group reads on.
func (p *progress) begin() error {
	partitions, err := p.client.Partitions(p.topic)
	if err != nil {
		return err
	}
	p.ends = make([]int64, len(partitions))
	p.next = make([]atomic.Int64, len(partitions))
	for _, n := range partitions {
		if p.ends[n], err = p.client.GetOffset(p.topic, n, sarama.OffsetNewest); err != nil {
			return err
		}
	}
	at, err := p.offsets()
	for n := range at {
		p.next[n].Store(at[n])
	}
	return err
}

// offsets returns what the group has committed.
func (p *progress) offsets() ([]int64, error) {
	numbers := make([]int32, len(p.ends))
	for n := range numbers {
		numbers[n] = int32(n)
	}
	answer, err := p.admin.ListConsumerGroupOffsets(p.group, map[string][]int32{p.topic: numbers})
	if err != nil {
		return nil, err
	}
	at := make([]int64, len(p.ends))
	for n := range numbers {
		if b := answer.GetBlock(p.topic, int32(n)); b != nil {
			at[n] = max(0, b.Offset)
		}
	}
	return at, nil
}

// at notes that a record was folded. Each partition has a goroutine of its own.
func (p *progress) at(partition int32, offset int64) {
	if p.first.Load() == 0 {
		p.first.CompareAndSwap(0, time.Now().UnixMilli())
	}
	p.next[partition].Store(offset + 1)
}

func (p *progress) processed() bool {
	for n, end := range p.ends {
		if p.next[n].Load() < end {
			return false
		}
	}
	return true
}

func (p *progress) committed() (bool, error) {
	at, err := p.offsets()
	if err != nil {
		return false, err
	}
	for n, end := range p.ends {
		if at[n] < end {
			return false, nil
		}
	}
	return true, nil
}
