package eventlog

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/platform/es"
)

// RecordAt returns the record at one position, whoever wrote it: the reader rule needs what came before. It returns ErrCursor if the log
// holds none there, and ErrRead if it cannot be read.
func (c *Client) RecordAt(ctx context.Context, t Topic, at es.Position) (Record, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if at.Topic != t.Name || at.Partition < 0 || at.Partition >= t.Partitions {
		return Record{}, ErrCursor.Because("%s has no partition %s", t.Name, at.TopicPartition)
	}
	ends, err := c.Ends(ctx, t)
	if err != nil {
		return Record{}, err
	}
	if at.Offset >= ends[at.Partition] {
		return Record{}, ErrCursor.Because("%s is beyond the end, %d", at, ends[at.Partition])
	}
	kafka, err := kgo.NewClient(append(c.options(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{at.Topic: {at.Partition: kgo.NewOffset().At(at.Offset)}}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.KeepControlRecords(),
		kgo.FetchMinBytes(1),
		kgo.FetchMaxBytes(1), // the broker sends one batch at least
		kgo.FetchMaxPartitionBytes(1),
	)...)
	if err != nil {
		return Record{}, ErrConfig.Wrap(err)
	}
	defer kafka.Close()
	fetches := kafka.PollRecords(ctx, 1)
	if err := fetches.Err(); err != nil {
		return Record{}, ErrRead.Because("%s", at).Wrap(err)
	}
	for _, k := range fetches.Records() {
		if k.Offset == at.Offset {
			return recordOf(k), nil
		}
	}
	return Record{}, ErrCursor.Because("there is no record at %s", at)
}
