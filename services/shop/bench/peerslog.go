package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/registry"
	"github.com/millrace/millrace/services/shop/bench/peers/amounts"
)

// A ledger writes the events that are counted and summed, as the owner of their topic, and knows what must come out. What it is filled
// with is in a second topic, too, without the headers that events of Millrace have.
type ledger struct {
	log     *eventlog.Client
	topic   eventlog.Topic
	plain   eventlog.Topic
	codec   *contract.Codec[amounts.Event]
	binding *eventlog.Events[amounts.Event]
	parts   []writer
	plains  []writer
	schema  uint32 // the number that the events' schema has in the registry
	random  *rand.Rand
	begin   time.Time
	padding []byte
	frame   []byte

	events       int
	sums         []amounts.Sum // by key
	filledEvents int           // the same of what both topics have
	filledSums   []amounts.Sum
}

const (
	ledgerKeys    = 100_000
	ledgerPadding = 95 // with it, key and value of an event have about 120 bytes
)

func openLedger(ctx context.Context, kafka, registryURL string) (l *ledger, err error) {
	log, err := eventlog.Open(ctx, eventlog.Config{Brokers: []string{kafka}, ClientID: "bench"})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			log.Close()
		}
	}()
	contracts, err := registry.Dial(registry.ClientConfig{URLs: []string{registryURL}})
	if err != nil {
		return nil, err
	}
	for _, s := range append(amounts.Contract.Subjects(), eventlog.MarkSubjects(amounts.Topic)...) {
		if _, err := contracts.Register(ctx, s); err != nil {
			return nil, err
		}
	}
	topic, err1 := log.EnsureTopic(ctx, eventlog.TopicSpec{Name: amounts.Topic, Partitions: amounts.Partitions})
	plain, err2 := log.EnsureTopic(ctx, eventlog.TopicSpec{Name: amounts.Topic + ".plain", Partitions: amounts.Partitions})
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	codec, err := contract.Bind(ctx, amounts.Contract, contracts)
	if err != nil {
		return nil, err
	}
	marks, err := eventlog.AvroMarks(ctx, topic.Name, contracts)
	if err != nil {
		return nil, err
	}
	l = &ledger{
		log: log, topic: topic, plain: plain, codec: codec, binding: eventlog.NewEvents(codec, "/bench/amounts"),
		random: rand.New(rand.NewPCG(1, 2)), begin: time.Date(1997, 1, 1, 0, 0, 0, 0, time.UTC), //nolint:gosec // the same events every time
		padding: make([]byte, ledgerPadding), sums: make([]amounts.Sum, ledgerKeys),
	}
	for i := range l.padding {
		l.padding[i] = byte(l.random.Uint32()) // nothing that could be compressed
	}
	frame, err := codec.Append(nil, amounts.Booked{})
	if err != nil {
		return nil, err
	}
	l.schema = binary.BigEndian.Uint32(frame[1:])
	if l.parts, err = claimAll(ctx, log, topic, marks); err != nil {
		return nil, err
	}
	l.plains, err = claimAll(ctx, log, plain, eventlog.NoopMarks)
	return l, err
}

func claimAll(ctx context.Context, log *eventlog.Client, t eventlog.Topic, m eventlog.Marks) ([]writer, error) {
	parts := make([]writer, t.Partitions)
	for n := range parts {
		owner, err := log.Claim(ctx, t, int32(n), eventlog.Identity{Instance: "bench", Address: "127.0.0.1:1"}, m) //nolint:gosec // few partitions
		if err != nil {
			return nil, err
		}
		parts[n] = writer{owner: owner, batch: eventlog.NewBatch(900 << 10), spare: eventlog.NewBatch(900 << 10), done: make(chan error, 1)}
	}
	return parts, nil
}

// close gives up the partitions.
func (l *ledger) close() { l.log.Close() }

func ledgerKey(n int) string { return fmt.Sprintf("k-%06d", n) }

// next makes the next event, of a key by chance, as a command of its own.
func (l *ledger) next() es.Envelope[amounts.Event] {
	n := l.random.IntN(ledgerKeys)
	key, amount, id := ledgerKey(n), l.random.Int64N(1000)-100, "b-"+strconv.Itoa(l.events)
	s := &l.sums[n]
	s.Count++
	s.Sum += amount
	l.events++
	return es.Envelope[amounts.Event]{Stream: es.StreamID(key), Version: es.Version(s.Count), Count: 1,
		Event: amounts.Booked{Key: key, Amount: amount, Padding: l.padding},
		Meta:  es.Meta{CommandID: id, Time: l.begin.Add(time.Duration(l.events) * time.Millisecond)}}
}

// part returns the number of the partition of an event.
func (l *ledger) part(env es.Envelope[amounts.Event]) int32 {
	return eventlog.PartitionOf(env.Stream, l.topic.Partitions)
}

// warm reads all that is in both topics: the broker's JVM compiles what it answers a fetch with, which nobody is to pay for who comes first.
func (l *ledger) warm(ctx context.Context) error {
	for _, topic := range []eventlog.Topic{l.topic, l.plain} {
		ends, err := l.log.Ends(ctx, topic)
		if err != nil {
			return err
		}
		left := map[es.TopicPartition]int64{}
		var from []eventlog.Cursor
		for n, end := range ends {
			if c := topic.Start(int32(n)); end > 0 {
				from, left[c.TopicPartition] = append(from, c), end
			}
		}
		src, err := l.log.NewSource(ctx, from...)
		if err != nil {
			return err
		}
		for len(left) > 0 && err == nil {
			var fetched []eventlog.Fetched
			fetched, err = src.Poll(ctx)
			for _, f := range fetched {
				if tp := f.Cursor.TopicPartition; f.Cursor.Next >= left[tp] {
					delete(left, tp)
				}
			}
		}
		src.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// fill appends so many events to both topics. It is for the beginning.
func (l *ledger) fill(ctx context.Context, events int) (err error) {
	for range events {
		env := l.next()
		if l.frame, err = l.codec.Append(l.frame[:0], env.Event); err != nil {
			return err
		}
		n := l.part(env)
		err1 := l.parts[n].put(ctx, func(b *eventlog.Batch) error { return l.binding.AddFrame(b, &env, l.frame) })
		err2 := l.plains[n].put(ctx, func(b *eventlog.Batch) error { return b.Add([]byte(env.Stream), l.frame, nil) })
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
	}
	for _, parts := range [][]writer{l.parts, l.plains} {
		for n := range parts {
			if err := errors.Join(parts[n].send(ctx), parts[n].wait(ctx)); err != nil {
				return err
			}
		}
	}
	l.filledEvents, l.filledSums = l.events, slices.Clone(l.sums)
	return nil
}

// put adds to the batch, and sends it before if it is full.
func (w *writer) put(ctx context.Context, add func(*eventlog.Batch) error) error {
	err := add(w.batch)
	if errors.Is(err, eventlog.ErrBatchFull) {
		if err = w.send(ctx); err == nil {
			err = add(w.batch)
		}
	}
	return err
}
