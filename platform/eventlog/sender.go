package eventlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// maxRequestBytes bounds one produce request: a broker closes the connection at socket.request.max.bytes, 100 MiB by default,
// without an answer.
const maxRequestBytes = 32 << 20

// An attempt is one batch on its way into the log.
type attempt struct {
	owner    *Owner
	batch    *Batch
	bytes    []byte // sealed
	count    int32
	pid      int64
	epoch    int16
	sequence int32
	mark     MarkKind  // 0 = the caller's events
	asked    bool      // a barrier that the caller waits for
	open     bool      // an earlier sending of it may have been written
	first    time.Time // when it was sent first
	tries    int
	corrupt  int       // answers CORRUPT_MESSAGE
	missing  time.Time // since when the topic is not there
	shared   bool      // an abandoned request may still read bytes
	done     func(base int64, err error)
}

// A result is a broker's answer to one attempt; err says why there is none.
type result struct {
	code int16
	base int64
	err  error
}

// A sender is the one goroutine that writes to one broker. While its request is under way the next one fills up.
type sender struct {
	client  *Client
	node    int32
	wake    chan struct{}
	mu      sync.Mutex
	pending []*attempt
	closed  bool
}

// sender returns the sender of a broker, nil if the client is closed.
func (c *Client) sender(node int32) *sender {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.senders[node]
	if s == nil && !c.closed {
		s = &sender{client: c, node: node, wake: make(chan struct{}, 1)}
		c.senders[node] = s
		c.work.Go(s.run)
	}
	return s
}

// push reports false, and takes nothing, once the client is closed.
func (s *sender) push(a *attempt) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.pending = append(s.pending, a)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return true
}

// take moves pending attempts into batch until a request is full, or would name a partition twice: of two batches for one partition a
// broker writes only the last, and gives one answer that would pass for both. Two owners of a partition can meet here, one of them
// deposed and not aware of it yet.
func (s *sender) take(batch []*attempt) []*attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, size := 0, 0
	for n < len(s.pending) && (n == 0 || size+len(s.pending[n].bytes) <= maxRequestBytes) {
		if slices.ContainsFunc(s.pending[:n], func(a *attempt) bool { return a.owner.tp == s.pending[n].owner.tp }) {
			break
		}
		size += len(s.pending[n].bytes)
		n++
	}
	batch = append(batch, s.pending[:n]...)
	rest := copy(s.pending, s.pending[n:])
	clear(s.pending[rest:])
	s.pending = s.pending[:rest]
	return batch
}

func (s *sender) run() {
	var (
		batch   []*attempt
		results []result
	)
	for {
		select {
		case <-s.wake:
		case <-s.client.ctx.Done():
			s.drain()
			return
		}
		for {
			if batch = s.take(batch[:0]); len(batch) == 0 {
				break
			}
			results = s.client.produce(s.client.kafka, s.node, batch, results[:0])
			for i, a := range batch {
				if a.owner.settle(a, results[i]) {
					a.owner.repeat(a)
				}
			}
			clear(batch)
		}
	}
}

// drain ends what was never sent.
func (s *sender) drain() {
	s.mu.Lock()
	s.closed = true
	rest := s.pending
	s.pending = nil
	s.mu.Unlock()
	for _, a := range rest {
		a.owner.settle(a, result{err: errClosed})
	}
}

// errNotSent marks the result of an attempt that never left; errClosed is that of one which the client's end held back.
var (
	errNotSent = errors.New("not sent")
	errClosed  = fmt.Errorf("%w: %w", errNotSent, kgo.ErrClientClosed)
)

// produce sends the attempts in one request to a broker and appends one result for each.
func (c *Client) produce(kafka *kgo.Client, node int32, attempts []*attempt, results []result) []result {
	req := kmsg.NewPtrProduceRequest()
	req.Acks = -1
	req.TimeoutMillis = int32(c.cfg.RequestTimeout.Milliseconds()) //nolint:gosec // at most a minute
	for _, a := range attempts {
		t := &a.owner.topic
		i := len(req.Topics) - 1
		for ; i >= 0 && req.Topics[i].TopicID != t.ID; i-- {
		}
		if i < 0 {
			req.Topics = append(req.Topics, kmsg.ProduceRequestTopic{Topic: t.Name, TopicID: t.ID})
			i = len(req.Topics) - 1
		}
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, kmsg.ProduceRequestTopicPartition{Partition: a.owner.tp.Partition, Records: a.bytes})
		results = append(results, result{base: -1, err: errNoAnswer})
	}
	// kgo ends every request by its own time-outs of dialling, writing and reading; this one is against what nobody foresaw.
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.RequestTimeout+10*c.cfg.ConnectionTimeout)
	resp, err := kafka.Broker(int(node)).Request(ctx, req)
	late := ctx.Err() != nil
	cancel()
	if err != nil {
		for i := range results {
			results[i].err = err
			attempts[i].shared = attempts[i].shared || late || errors.Is(err, kgo.ErrClientClosed)
		}
		return results
	}
	i := 0
	for _, t := range resp.(*kmsg.ProduceResponse).Topics {
		for _, p := range t.Partitions {
			// Answers come in the order of the request, mostly, so that the search begins behind the last one found.
			for range attempts {
				o := attempts[i].owner
				if o.tp.Partition == p.Partition && (t.TopicID == o.topic.ID || t.Topic != "" && t.Topic == o.topic.Name) {
					results[i] = result{code: p.ErrorCode, base: p.BaseOffset}
					break
				}
				i = (i + 1) % len(attempts)
			}
		}
	}
	return results
}

// errNoAnswer is the result of an attempt that the answer to its request does not name.
var errNoAnswer = errors.New("the broker's answer does not name the partition")
