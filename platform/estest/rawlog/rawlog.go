// Package rawlog reads a topic as any Kafka consumer does, leaving nothing out and applying no rule of the platform: for checkers, which
// must not believe what the platform's own readers say.
package rawlog

import (
	"context"
	"fmt"
	"net"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/platform/estest/check"
)

// Read returns all records of a topic up to its present end, each partition's in order. dial opens the connections; nil = net.Dialer.
func Read(ctx context.Context, brokers []string, dial func(ctx context.Context, network, host string) (net.Conn, error), topic string) ([]check.Record, error) {
	opts := []kgo.Opt{kgo.SeedBrokers(brokers...), kgo.KeepControlRecords(), kgo.FetchIsolationLevel(kgo.ReadUncommitted()), kgo.ConsumeResetOffset(kgo.NoResetOffset())}
	if dial != nil {
		opts = append(opts, kgo.Dialer(dial))
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	starts, err := admin.ListStartOffsets(ctx, topic)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, err
	}
	ends, err := admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, err
	}
	from, left := map[int32]kgo.Offset{}, map[int32]int64{}
	for p, end := range ends[topic] {
		begin := starts[topic][p].Offset
		if begin != 0 {
			return nil, fmt.Errorf("partition %d of %s begins at %d: its first records were deleted", p, topic, begin)
		}
		if end.Offset > 0 {
			from[p], left[p] = kgo.NewOffset().At(0), end.Offset
		}
	}
	var records []check.Record
	if len(from) == 0 {
		return nil, nil
	}
	client.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: from})
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if errs := fetches.Errors(); len(errs) > 0 {
			return nil, fmt.Errorf("partition %d: %w", errs[0].Partition, errs[0].Err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			end, wanted := left[r.Partition]
			if !wanted || r.Offset >= end {
				return // written since
			}
			c := check.Record{Partition: r.Partition, Offset: r.Offset, ProducerID: r.ProducerID, Epoch: r.ProducerEpoch, Time: r.Timestamp,
				Control: r.Attrs.IsControl() || r.Attrs.IsTransactional(), Key: r.Key, Value: r.Value}
			for _, h := range r.Headers {
				c.Headers = append(c.Headers, check.Header{Key: h.Key, Value: h.Value})
			}
			records = append(records, c)
			if r.Offset == end-1 {
				delete(left, r.Partition)
			}
		})
	}
	return records, nil
}
