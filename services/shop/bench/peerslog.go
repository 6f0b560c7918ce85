package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/registry"
	"github.com/millrace/millrace/services/shop/bench/peers/amounts"
)

// A ledger writes the events that are counted and summed, as the owner of their topic, and knows what must come out.
type ledger struct {
	log     *eventlog.Client
	topic   eventlog.Topic
	binding *eventlog.Events[amounts.Event]
	parts   []writer
	schema  uint32 // the number that the events' schema has in the registry
	random  *rand.Rand
	begin   time.Time
	padding []byte
	events  int
	sums    []amounts.Sum // by key
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
	topic, err := log.EnsureTopic(ctx, eventlog.TopicSpec{Name: amounts.Topic, Partitions: amounts.Partitions})
	if err != nil {
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
		log: log, topic: topic, binding: eventlog.NewEvents(codec, "/bench/amounts"), parts: make([]writer, topic.Partitions),
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
	for n := range l.parts {
		owner, err := log.Claim(ctx, topic, int32(n), eventlog.Identity{Instance: "bench", Address: "127.0.0.1:1"}, marks) //nolint:gosec // few partitions
		if err != nil {
			return nil, err
		}
		l.parts[n] = writer{owner: owner, batch: eventlog.NewBatch(900 << 10), spare: eventlog.NewBatch(900 << 10), done: make(chan error, 1)}
	}
	return l, nil
}

func (l *ledger) close() {
	for n := range l.parts {
		l.parts[n].owner.Release()
	}
	l.log.Close()
}

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

// fill appends so many events.
func (l *ledger) fill(ctx context.Context, events int) error {
	for range events {
		env := l.next()
		w := &l.parts[l.part(env)]
		err := l.binding.Add(w.batch, env)
		if errors.Is(err, eventlog.ErrBatchFull) {
			if err = w.send(ctx); err == nil {
				err = l.binding.Add(w.batch, env)
			}
		}
		if err != nil {
			return err
		}
	}
	for n := range l.parts {
		if err := errors.Join(l.parts[n].send(ctx), l.parts[n].wait(ctx)); err != nil {
			return err
		}
	}
	return nil
}
