package eventlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/platform/es"
)

// Claim takes a partition: when it returns, the claim record is committed and no earlier owner can write any more. The caller reads
// the log through Owner.Claimed, that position included, before it decides anything. Claim returns ErrFenced if somebody else claimed
// meanwhile; whether to claim again is the caller's to decide, or two would take the partition from each other for ever.
func (c *Client) Claim(ctx context.Context, t Topic, partition int32, who Identity, m Marks) (*Owner, error) {
	if partition < 0 || partition >= t.Partitions {
		return nil, ErrTopic.Because("%s has no partition %d", t.Name, partition)
	}
	o := &Owner{client: c, topic: t, tp: es.TopicPartition{Topic: t.Name, Partition: partition}, who: who, marks: m,
		txn: fmt.Sprintf("%s/%s/%d", c.cfg.Env, t.Name, partition), lost: make(chan struct{}), next: -1}
	o.ctx, o.cancel = context.WithCancel(c.ctx)
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		o.cancel()
		return nil, ErrReleased.Because("the client is closed")
	}
	c.owners[o] = struct{}{}
	c.mu.Unlock()
	err := o.take(ctx)
	if err == nil {
		return o, nil
	}
	if errors.Is(err, ErrDeposed) {
		err = ErrFenced.Because("%s was claimed by another owner meanwhile", o.tp).Wrap(o.Err())
	}
	o.Release()
	return nil, err
}

// take runs the protocol of a takeover.
func (o *Owner) take(ctx context.Context) error {
	leader, err := o.awaitLeader(ctx)
	if err != nil {
		return ErrUnreachable.Because("no broker leads %s", o.tp).Wrap(err)
	}
	o.leader = leader
	if err := o.identify(ctx); err != nil {
		return err
	}
	// Another producer id in the log, of an owner before the coordinator forgot the transactional id, is not fenced by this epoch.
	// It is shut out before the claim, so that what it wrote until then is still under its own claim for every reader, and looked
	// for once more after it, in case somebody claimed in between.
	others, err := o.others(ctx, -1)
	for err == nil && len(others) > 0 {
		// A producer id that the coordinator still has must never be shut out: nobody could claim the partition under it any more. Which one
		// it has may have changed since it was asked. Ids are given once: what it does not have after it was seen here it never has again.
		before := o.pid
		if err = o.identify(ctx); err == nil && o.pid == before {
			err = o.shutOut(ctx, others)
			break
		}
		if err == nil {
			others, err = o.others(ctx, -1)
		}
	}
	if err != nil {
		return err
	}
	if o.claim, err = o.write(ctx, MarkClaim); err != nil {
		return err
	}
	late, err := o.others(ctx, o.claim)
	if err != nil {
		return err
	}
	if late = slices.DeleteFunc(late, func(pid int64) bool { return slices.Contains(others, pid) }); len(late) > 0 {
		if err := o.shutOutLate(ctx, late); err != nil {
			return err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return o.fenced()
	}
	o.upkeep = time.AfterFunc(o.client.upkeepInterval(), o.keepUp)
	return nil
}

// awaitLeader asks for the leader until there is one.
func (o *Owner) awaitLeader(ctx context.Context) (int32, error) {
	for pause := o.client.cfg.Backoff; ; pause = min(2*pause, o.client.cfg.BackoffMax) {
		leader, err := o.client.routes.leader(ctx, o.topic, o.tp.Partition, false)
		if err == nil || !kerr.IsRetriable(err) || errors.Is(err, kerr.UnknownTopicID) {
			return leader, err
		}
		select {
		case <-ctx.Done():
			return -1, err
		case <-time.After(pause):
		}
	}
}

// write appends one mark and waits for it.
func (o *Owner) write(ctx context.Context, kind MarkKind) (int64, error) {
	a, err := o.markAttempt(kind)
	if err != nil {
		return -1, err
	}
	return o.await(ctx, a, func() func() { return o.dispatch(a) })
}

// identify has the coordinator say which producer id the partition's transactional id has, with an epoch that nobody has had.
func (o *Owner) identify(ctx context.Context) error {
	pid, epoch, err := o.client.initProducerID(ctx, o.txn, -1, -1)
	if err != nil {
		return ErrUnreachable.Because("no producer id for %s", o.txn).
			WithFix("check that the transaction coordinator is up, and that the principal of Millrace may WRITE the transactional id").Wrap(err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pid, o.epoch, o.renewed = pid, epoch, time.Now()
	return nil
}

// others returns the producer ids but the own one that wrote since the last mark before an offset, -1 = the end.
func (o *Owner) others(ctx context.Context, before int64) ([]int64, error) {
	pids, err := o.writersBefore(ctx, before)
	if err != nil {
		return nil, ErrRead.Because("the end of %s cannot be read", o.tp).Wrap(err)
	}
	return slices.DeleteFunc(pids, func(pid int64) bool { return pid == o.pid }), nil
}

// shutOutLate shuts out producer ids that claimed between the first look and the own claim, unless the coordinator has one of them by now:
// then the own claim is the one that is deposed. What such an owner writes until it is shut out is after this claim: readers drop it, and it
// is told so by the offset.
func (o *Owner) shutOutLate(ctx context.Context, pids []int64) error {
	pid, epoch, err := o.client.initProducerID(ctx, o.txn, o.pid, o.epoch)
	switch {
	case errors.Is(err, kerr.ProducerFenced), errors.Is(err, kerr.InvalidProducerEpoch), errors.Is(err, kerr.InvalidProducerIDMapping):
		return ErrFenced.Because("%s was claimed by another owner meanwhile", o.tp).Wrap(err)
	case err != nil:
		return ErrUnreachable.Because("no producer id for %s", o.txn).Wrap(err)
	case pid != o.pid:
		return ErrFenced.Because("the coordinator has given %s another producer id meanwhile", o.tp)
	}
	o.mu.Lock()
	o.epoch, o.sequence, o.renewed = epoch, 0, time.Now()
	o.mu.Unlock()
	if err := o.shutOut(ctx, pids); err != nil {
		return err
	}
	_, err = o.write(ctx, MarkBarrier) // begins the new epoch
	return err
}

// shutOut writes a closing batch for each of the producer ids.
func (o *Owner) shutOut(ctx context.Context, pids []int64) error {
	for _, pid := range pids {
		a, err := o.markAttempt(MarkClose)
		if err != nil {
			return err
		}
		a.pid, a.epoch, a.sequence, a.first = pid, closedEpoch, 0, time.Now()
		a.bytes = a.batch.seal(a.pid, a.epoch, a.sequence, a.first)
		if _, err := o.await(ctx, a, func() func() { return o.launch(a) }); err != nil {
			return err
		}
	}
	return nil
}

// await runs send with mu held and waits for the outcome of a.
func (o *Owner) await(ctx context.Context, a *attempt, send func() func()) (int64, error) {
	type outcome struct {
		base int64
		err  error
	}
	done := make(chan outcome, 1)
	a.done = func(base int64, err error) { done <- outcome{base, err} }
	o.mu.Lock()
	if o.err != nil {
		defer o.mu.Unlock()
		return -1, o.fenced()
	}
	act := send()
	o.mu.Unlock()
	if act != nil {
		act()
	}
	select {
	case r := <-done:
		return r.base, r.err
	case <-ctx.Done():
		return -1, ErrOutcome.Because("the takeover of %s was broken off", o.tp).Wrap(ctx.Err())
	}
}

// markAttempt builds the batch of one mark.
func (o *Owner) markAttempt(kind MarkKind) (*attempt, error) {
	key, value, headers, err := o.marks.Mark(kind, o.who, time.Now())
	if err != nil {
		return nil, fmt.Errorf("eventlog: encode the %s of %s: %w", kind, o.tp, err)
	}
	b := NewBatch(0)
	if err := b.Add(key, value, markHeaders(headers, kind, o.who)); err != nil {
		return nil, fmt.Errorf("eventlog: encode the %s of %s: %w", kind, o.tp, err)
	}
	return &attempt{owner: o, batch: b, count: 1, mark: kind}, nil
}

// writersBefore returns the producer ids of the records before an offset that are not shut out, back to the last owner that served, its
// claim or barrier included; -1 is the end of the log. It looks back 4,096 records at most, unless it meets none at all there.
func (o *Owner) writersBefore(ctx context.Context, before int64) ([]int64, error) {
	start, end, err := o.bounds(ctx)
	if err != nil {
		return nil, err
	}
	if before < 0 {
		before = end
	}
	for window := int64(64); ; window *= 64 {
		records, err := o.fetch(ctx, max(start, before-window), before)
		if err != nil {
			return nil, err
		}
		pids, marked := writersOf(records)
		if marked || before-window <= start || window >= 4096 && len(pids) > 0 {
			return pids, nil
		}
	}
}

// writersOf returns the producer ids of records that are not shut out, from the last one back to the last owner that served, and whether
// there was one: a barrier, or a claim after which its owner wrote something. A claim that nothing followed may have been broken off before
// all were shut out that it had to.
func writersOf(records []*kgo.Record) (pids []int64, marked bool) {
	var shut, wrote []int64
	for _, r := range slices.Backward(records) {
		mark, _ := markOf(r.Headers)
		if r.ProducerID < 0 || r.Attrs.IsControl() {
			continue
		}
		if mark == MarkClose {
			shut = append(shut, r.ProducerID)
			continue
		}
		if !slices.Contains(pids, r.ProducerID) && !slices.Contains(shut, r.ProducerID) {
			pids = append(pids, r.ProducerID)
		}
		if mark == MarkBarrier || mark == MarkClaim && slices.Contains(wrote, r.ProducerID) {
			return pids, true
		}
		if mark != MarkClaim {
			wrote = append(wrote, r.ProducerID)
		}
	}
	return pids, false
}

// bounds asks where the log begins and ends.
func (o *Owner) bounds(ctx context.Context) (start, end int64, err error) {
	if start, err = o.listOffset(ctx, -2); err != nil {
		return 0, 0, err
	}
	end, err = o.listOffset(ctx, -1)
	return start, end, err
}

func (o *Owner) listOffset(ctx context.Context, at int64) (offset int64, err error) {
	req := kmsg.NewPtrListOffsetsRequest()
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = o.topic.Name
	rp := kmsg.NewListOffsetsRequestTopicPartition()
	rp.Partition, rp.Timestamp = o.tp.Partition, at
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	err = o.ask(ctx, req, func(resp kmsg.Response) error {
		topics := resp.(*kmsg.ListOffsetsResponse).Topics
		if len(topics) != 1 || len(topics[0].Partitions) != 1 {
			return errNoAnswer
		}
		offset = topics[0].Partitions[0].Offset
		return kerr.ErrorForCode(topics[0].Partitions[0].ErrorCode)
	})
	return offset, err
}

// fetch reads the records of [from, before) outside any consumer; below the high watermark, so all of them are committed.
func (o *Owner) fetch(ctx context.Context, from, before int64) (records []*kgo.Record, err error) {
	for from < before {
		req := kmsg.NewPtrFetchRequest()
		req.MaxBytes, req.MinBytes, req.MaxWaitMillis, req.SessionEpoch = 8<<20, 0, 0, -1
		rt := kmsg.NewFetchRequestTopic()
		rt.Topic, rt.TopicID = o.topic.Name, o.topic.ID
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = o.tp.Partition, from, 4<<20
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		last := int64(-1)
		err := o.ask(ctx, req, func(resp kmsg.Response) error {
			answer := resp.(*kmsg.FetchResponse)
			if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
				return err
			}
			if len(answer.Topics) != 1 || len(answer.Topics[0].Partitions) != 1 {
				return errNoAnswer
			}
			opts := kgo.ProcessFetchPartitionOpts{KeepControlRecords: true, Offset: from, Topic: o.tp.Topic, Partition: o.tp.Partition}
			fp, _ := kgo.ProcessFetchPartition(opts, &answer.Topics[0].Partitions[0], kgo.DefaultDecompressor(), nil)
			for _, r := range fp.Records {
				last = max(last, r.Offset)
				if r.Offset < before {
					records = append(records, r)
				}
			}
			return fp.Err
		})
		if err != nil {
			return nil, err
		}
		if last < from {
			return records, nil // compaction took the rest
		}
		from = last + 1
	}
	return records, nil
}

// readStep is how many records ReadOn asks for at once.
const readStep = 4096

// ReadOn calls yield with what the partition holds from a cursor on, up to the owner's own claim while it is the owner, up to the end of
// the log once it has ended: then its successor's claim is in it. Unlike a Source it asks the leader directly and never waits for more,
// so it is the quick way from one owner to the next. The errors are yield's, and those of Source.Poll.
func (o *Owner) ReadOn(ctx context.Context, from Cursor, yield func(Fetched) error) error {
	end := o.claim + 1
	if o.Err() != nil {
		var err error
		if _, end, err = o.bounds(ctx); err != nil {
			return ErrRead.Because("the end of %s", o.tp).Wrap(err)
		}
	}
	p := part{cursor: from, end: end}
	for p.cursor.Next < end {
		records, err := o.fetch(ctx, p.cursor.Next, min(p.cursor.Next+readStep, end))
		if err != nil {
			return ErrRead.Because("%s", o.tp).Wrap(err)
		}
		if len(records) == 0 {
			return ErrGap.Because("%s ends at %d, and nothing is there at %d", o.tp, end, p.cursor.Next)
		}
		fetched, err := o.client.read(&p, records)
		if err == nil {
			fetched.End = end
			err = yield(fetched)
		}
		if err != nil {
			return err
		}
		p.cursor = fetched.Cursor
	}
	return nil
}

// ask sends a request to the leader until read takes the answer, a refusal that does not pass is met, or ctx ends.
func (o *Owner) ask(ctx context.Context, req kmsg.Request, read func(kmsg.Response) error) error {
	for pause := o.client.cfg.Backoff; ; pause = min(2*pause, o.client.cfg.BackoffMax) {
		o.mu.Lock()
		leader := o.leader
		o.mu.Unlock()
		resp, err := o.client.kafka.Broker(int(leader)).Request(ctx, req)
		if err == nil {
			err = read(resp)
		}
		var refusal *kerr.Error
		if err == nil || errors.Is(err, kgo.ErrClientClosed) || errors.As(err, &refusal) && !refusal.Retriable {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
		if fresh, err := o.client.routes.leader(ctx, o.topic, o.tp.Partition, true); err == nil {
			o.mu.Lock()
			o.leader = fresh
			o.mu.Unlock()
		}
	}
}
