package eventlog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/platform/es"
)

// A Fetched is what was read of one partition: the records in the log's order, marks included and rogue ones left out.
type Fetched struct {
	Records []Record
	Cursor  Cursor // from which to read on after Records
	End     int64  // the partition's high watermark at the time
	Rogue   int    // how many records were dropped because they are not of the latest claim
}

// A Source reads partitions from given cursors on, each in its own order, all of them as they grow. It keeps no position anywhere:
// the caller stores the cursors with what it made of the records. It is not safe for concurrent use, but for Close.
type Source struct {
	client  *Client
	kafka   *kgo.Client
	parts   map[es.TopicPartition]*part
	pending error // met in the last fetch, together with records
	close   sync.Once
}

// A recordPool keeps the records of batches that were read for those that are read next. It is for one Kafka client.
type recordPool struct{ free sync.Pool }

// GetRecords returns records to decode a batch into: a method of kgo.PoolRecords.
func (p *recordPool) GetRecords(n int) []kgo.Record {
	if old, ok := p.free.Get().(*[]kgo.Record); ok && cap(*old) >= n {
		return (*old)[:n]
	}
	return make([]kgo.Record, n)
}

// PutRecords takes back the records of a batch: a method of kgo.PoolRecords.
func (p *recordPool) PutRecords(rs []kgo.Record) { p.free.Put(&rs) }

// A part is the reader's state of one partition.
type part struct {
	cursor  Cursor
	end     int64 // of the log, as far as known
	compact bool
}

// NewSource starts reading at the cursors, at most one for a partition; Add brings more. It returns ErrCursor, with the reason, for a
// cursor of a topic that is not there or was created anew, beyond the end of the log, below its start, or in a part of the log that was
// replaced.
func (c *Client) NewSource(ctx context.Context, from ...Cursor) (*Source, error) {
	return c.NewSourceWithin(ctx, 0, from...)
}

// NewSourceWithin is NewSource with a lower bound in bytes for one fetch than Config.FetchBytes, unless it is 0. What is fetched is decoded in one
// go, which should not take long where others wait for the processor.
func (c *Client) NewSourceWithin(ctx context.Context, fetchBytes int32, from ...Cursor) (*Source, error) {
	if fetchBytes == 0 || fetchBytes > c.cfg.FetchBytes {
		fetchBytes = c.cfg.FetchBytes
	}
	s := &Source{client: c, parts: make(map[es.TopicPartition]*part, len(from))}
	start, err := s.prepare(ctx, from)
	if err != nil {
		return nil, err
	}
	kafka, err := kgo.NewClient(append(c.options(),
		kgo.ConsumePartitions(start),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.KeepControlRecords(),
		kgo.FetchMinBytes(1),
		kgo.FetchMaxWait(c.cfg.FetchWait),
		kgo.FetchMaxBytes(fetchBytes),
		kgo.FetchMaxPartitionBytes(fetchBytes/4),
		kgo.WithPools(&recordPool{}),
	)...)
	if err != nil {
		return nil, ErrConfig.Wrap(err)
	}
	s.kafka = kafka
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		kafka.Close()
		return nil, ErrRead.Because("the client is closed")
	}
	c.sources[s] = struct{}{}
	return s, nil
}

// Add reads more partitions, from the cursors on. Its errors are those of NewSource; after one, nothing was added.
func (s *Source) Add(ctx context.Context, from ...Cursor) error {
	start, err := s.prepare(ctx, from)
	if err != nil {
		return err
	}
	s.kafka.AddConsumePartitions(start)
	return nil
}

// Remove ends the reading of a partition: nothing of it is returned any more, unless it is added again.
func (s *Source) Remove(tp es.TopicPartition) {
	if s.parts[tp] == nil {
		return
	}
	delete(s.parts, tp)
	s.kafka.RemoveConsumePartitions(map[string][]int32{tp.Topic: {tp.Partition}})
}

// End returns the offset at which the log of a partition ended when that was heard last: when it was added, or in the last fetch of it.
func (s *Source) End(tp es.TopicPartition) int64 {
	if p := s.parts[tp]; p != nil {
		return p.end
	}
	return 0
}

// prepare checks cursors, takes them in, and returns where their partitions are to be read from.
func (s *Source) prepare(ctx context.Context, from []Cursor) (map[string]map[int32]kgo.Offset, error) {
	added := make(map[es.TopicPartition]*part, len(from))
	for _, cur := range from {
		if err := cur.check(); err != nil {
			return nil, err
		}
		if s.parts[cur.TopicPartition] != nil || added[cur.TopicPartition] != nil {
			return nil, ErrCursor.Because("two cursors of %s", cur.TopicPartition)
		}
		added[cur.TopicPartition] = &part{cursor: cur}
	}
	if err := s.check(ctx, added); err != nil {
		return nil, err
	}
	start := map[string]map[int32]kgo.Offset{}
	for tp, p := range added {
		if start[tp.Topic] == nil {
			start[tp.Topic] = map[int32]kgo.Offset{}
		}
		o := kgo.NewOffset().At(p.cursor.Next)
		if p.cursor.LeaderEpoch >= 0 {
			o = o.WithEpoch(p.cursor.LeaderEpoch)
		}
		start[tp.Topic][tp.Partition] = o
	}
	maps.Copy(s.parts, added)
	return start, nil
}

// check compares the cursors with the log before anything is read.
func (s *Source) check(ctx context.Context, parts map[es.TopicPartition]*part) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	topics := map[string]bool{}
	for tp := range parts {
		topics[tp.Topic] = true
	}
	epochs := kadm.OffsetForLeaderEpochRequest{}
	for topic := range topics {
		d, err := s.client.detail(ctx, topic)
		if err != nil {
			if errors.Is(err, kerr.UnknownTopicOrPartition) {
				return ErrCursor.Because("the topic %s is not there", topic)
			}
			return ErrRead.Because("the topic %s cannot be looked up", topic).Wrap(err)
		}
		settings, err := s.client.topicSettings(ctx, topic)
		for err != nil && passes(ctx, err) {
			settings, err = s.client.topicSettings(ctx, topic)
		}
		if err != nil {
			return ErrRead.Because("the settings of %s cannot be read", topic).Wrap(err)
		}
		starts, err := s.client.admin.ListStartOffsets(ctx, topic)
		if err != nil {
			return ErrRead.Because("the starts of %s cannot be listed", topic).Wrap(err)
		}
		ends, err := s.client.admin.ListEndOffsets(ctx, topic)
		if err != nil {
			return ErrRead.Because("the ends of %s cannot be listed", topic).Wrap(err)
		}
		for tp, p := range parts {
			if tp.Topic != topic {
				continue
			}
			if p.cursor.TopicID != d.ID {
				return ErrCursor.Because("the topic %s was deleted and created anew since", topic).
					WithFix("restore the topic, or delete what was built from it and read from the start")
			}
			start, ok1 := starts.Lookup(topic, tp.Partition)
			end, ok2 := ends.Lookup(topic, tp.Partition)
			if !ok1 || !ok2 {
				return ErrCursor.Because("the topic %s has no partition %d", topic, tp.Partition)
			}
			if err := errors.Join(start.Err, end.Err); err != nil {
				return ErrRead.Because("the bounds of %s cannot be read", tp).Wrap(err)
			}
			p.end = end.Offset
			p.compact = strings.Contains(settings["cleanup.policy"], "compact")
			switch next := p.cursor.Next; {
			case next > end.Offset:
				return ErrCursor.Because("%s ends at %d, before the position %d: the log lost its end", tp, end.Offset, next).
					WithFix("delete what was built from the lost events and read from the start")
			case next < start.Offset && !p.compact:
				return ErrCursor.Because("%s begins at %d, after the position %d: events were deleted unread", tp, start.Offset, next).
					WithFix("restore from a backup or a snapshot that is newer")
			case next < start.Offset:
				p.cursor.Next = start.Offset // compaction took what was there
			case p.cursor.LeaderEpoch >= 0:
				epochs.Add(topic, tp.Partition, p.cursor.LeaderEpoch)
			}
		}
	}
	if len(epochs) == 0 {
		return nil
	}
	answers, err := s.client.admin.OffsetForLeaderEpoch(ctx, epochs)
	if err != nil {
		return ErrRead.Because("the leader epochs cannot be looked up").Wrap(err)
	}
	for topic, partitions := range answers {
		for partition, a := range partitions {
			p := parts[es.TopicPartition{Topic: topic, Partition: partition}]
			if p == nil {
				continue
			}
			if a.Err != nil {
				return ErrRead.Because("the leader epoch of %s cannot be looked up", p.cursor.TopicPartition).Wrap(a.Err)
			}
			if a.EndOffset >= 0 && a.EndOffset < p.cursor.Next {
				return ErrCursor.Because("%s lost what its leader of epoch %d wrote from %d on, the position is %d", p.cursor.TopicPartition, p.cursor.LeaderEpoch, a.EndOffset, p.cursor.Next).
					WithFix("delete what was built from the lost events and read from the start")
			}
		}
	}
	return nil
}

// Poll waits until there is something to read and returns it, at most one Fetched for a partition. It returns ctx's error when ctx ends,
// ErrGap when the log does not continue where it must, and ErrRead when a partition cannot be read; after an error the source is of no
// more use.
func (s *Source) Poll(ctx context.Context) ([]Fetched, error) {
	for {
		if s.pending != nil {
			return nil, s.pending
		}
		fetches := s.kafka.PollFetches(ctx)
		if fetches.IsClientClosed() {
			return nil, ErrRead.Because("the source is closed")
		}
		out := s.take(ctx, fetches)
		if len(out) > 0 {
			return out, nil
		}
		if s.pending == nil && ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// take converts fetches. What precedes an error is delivered before it.
func (s *Source) take(ctx context.Context, fetches kgo.Fetches) []Fetched {
	var out []Fetched
	fetches.EachPartition(func(f kgo.FetchTopicPartition) {
		tp := es.TopicPartition{Topic: f.Topic, Partition: f.Partition}
		p := s.parts[tp]
		if len(f.Records) > 0 && p != nil {
			fetched, err := s.client.read(p, f.Records)
			for _, k := range f.Records {
				k.Recycle() // read has taken all out of it
			}
			fetched.End = max(f.HighWatermark, fetched.Cursor.Next)
			p.end = fetched.End
			if fetched.Cursor.Next > p.cursor.Next {
				p.cursor = fetched.Cursor
				out = append(out, fetched)
			}
			if err != nil && s.pending == nil {
				s.pending = err
			}
		}
		if f.Err != nil && s.pending == nil && (ctx.Err() == nil || !errors.Is(f.Err, ctx.Err())) {
			s.pending = s.failure(tp, f.Err)
		}
	})
	return out
}

func (s *Source) failure(tp es.TopicPartition, err error) error {
	var loss *kgo.ErrDataLoss
	switch {
	case errors.As(err, &loss):
		return ErrGap.Because("%s lost its end: it was read up to %d and goes on from %d", tp, loss.ConsumedTo, loss.ResetTo).Wrap(err)
	case errors.Is(err, kerr.OffsetOutOfRange):
		return ErrGap.Because("%s does not hold the next offset any more", tp).Wrap(err)
	case errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.InconsistentTopicID), errors.Is(err, kerr.UnknownTopicOrPartition):
		return ErrGap.Because("the topic %s was deleted or created anew", tp.Topic).Wrap(err)
	default:
		return ErrRead.Because("%s", tp).Wrap(err)
	}
}

// read applies the density check and the reader rule to the next records of a partition.
func (c *Client) read(p *part, records []*kgo.Record) (Fetched, error) {
	f := Fetched{Cursor: p.cursor, Records: make([]Record, 0, len(records))}
	cur := &f.Cursor
	for _, k := range records {
		if k.Offset < cur.Next || k.Offset > cur.Next && !p.compact {
			return f, ErrGap.Because("%s goes on at %d instead of %d", cur.TopicPartition, k.Offset, cur.Next)
		}
		r := recordOf(k)
		admitted := !k.Attrs.IsControl() && !k.Attrs.IsTransactional()
		if p.compact {
			admitted = admitted && cur.admitCompacted(r.Mark, r.ProducerID, r.Epoch)
		} else {
			admitted = admitted && cur.admit(r.Mark, r.ProducerID, r.Epoch)
		}
		cur.Next, cur.LeaderEpoch = k.Offset+1, max(cur.LeaderEpoch, k.LeaderEpoch)
		if !admitted {
			f.Rogue++
			c.cfg.Logger.Error("a record that is not the owner's was dropped", "position", r.Position.String(),
				"producer", fmt.Sprintf("%d/%d", r.ProducerID, r.Epoch), "owner", fmt.Sprintf("%d/%d", cur.ProducerID, cur.Epoch))
			if h := c.cfg.OnRogue; h != nil {
				h(r.Position, r.ProducerID, r.Epoch)
			}
			continue
		}
		f.Records = append(f.Records, r)
	}
	return f, nil
}

// Close ends the source; a Poll that waits returns ErrRead.
func (s *Source) Close() {
	s.close.Do(func() {
		s.client.mu.Lock()
		delete(s.client.sources, s)
		s.client.mu.Unlock()
		s.kafka.Close()
	})
}
