package folds

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
)

// An event is what the log is about. Its kind decides what the views do with it; "split a|b" is read as two events of the kinds a and b.
type event struct {
	Kind     string   `json:"kind"`
	Customer string   `json:"customer,omitempty"`
	Seats    []string `json:"seats,omitempty"`
	Email    string   `json:"email,omitempty"`
	Amount   int64    `json:"amount,omitempty"`
}

// A decoder reads events of JSON; "?" cannot be decoded.
type decoder struct{}

func (decoder) Envelopes(_ context.Context, dst []es.Envelope[event], r eventlog.Record) ([]es.Envelope[event], error) {
	id := ""
	for _, h := range r.Headers {
		if h.Key == "id" {
			id = string(h.Value)
		}
	}
	return envelopes(dst, r.Position, string(r.Key), id, string(r.Value))
}

func envelopes(dst []es.Envelope[event], at es.Position, key, id, value string) ([]es.Envelope[event], error) {
	env := es.Envelope[event]{Position: at, Stream: es.StreamID(key), ID: id, Type: "event", Version: es.Version(at.Offset + 1)}
	if value == "?" {
		return append(dst, env), contract.ErrUndecodable.Because("garbage")
	}
	if err := json.Unmarshal([]byte(value), &env.Event); err != nil {
		return append(dst, env), contract.ErrUndecodable.Wrap(err)
	}
	kinds, split := strings.CutPrefix(env.Event.Kind, "split ")
	if !split {
		return append(dst, env), nil
	}
	parts := strings.Split(kinds, "|")
	for i, kind := range parts {
		env.Event.Kind, env.Part, env.Parts = kind, i, len(parts)
		dst = append(dst, env)
	}
	return dst, nil
}

// A record is an event as it was appended; what is in the log besides (claims, records of strangers) is nothing to a view.
type record struct {
	at     es.Position
	stream string
	id     string
	events []es.Envelope[event] // nil = it cannot be decoded
	cursed bool                 // orders cannot handle it unless their code is mended
}

// The topics of the log.
const (
	ordersTopic = iota
	seatsTopic
	topicCount
)

var partitions = [topicCount]int32{4, 3}

// A growing is a log on a broker, and in memory what of it counts.
type growing struct {
	t       *testing.T
	client  *eventlog.Client
	raw     *kgo.Client
	topics  [topicCount]eventlog.Topic
	rnd     *rand.Rand
	curse   float64 // how likely an event cannot be handled
	mu      sync.Mutex
	owners  map[es.TopicPartition]*eventlog.Owner
	records map[es.TopicPartition][]record
	ends    map[es.TopicPartition]int64 // the offsets after what is known to be appended
	count   int
	foreign int
}

// newLog makes topics that nobody has used.
func newLog(t *testing.T, client *eventlog.Client, addr string, seed uint64, curse float64) *growing {
	t.Helper()
	raw, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DisableIdempotentWrite(), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(raw.Close)
	l := &growing{t: t, client: client, raw: raw, rnd: rand.New(rand.NewPCG(seed, 1)), curse: curse,
		owners: map[es.TopicPartition]*eventlog.Owner{}, records: map[es.TopicPartition][]record{}, ends: map[es.TopicPartition]int64{}}
	for i, name := range []string{"orders", "seats"} {
		l.topics[i], err = client.EnsureTopic(t.Context(), eventlog.TopicSpec{Name: fmt.Sprintf("%s-%x.events", name, seed), Partitions: partitions[i]})
		if err != nil {
			t.Fatal(err)
		}
		for p := range partitions[i] {
			l.claim(es.TopicPartition{Topic: l.topics[i].Name, Partition: p})
		}
	}
	return l
}

func (l *growing) topicOf(tp es.TopicPartition) int {
	for i, topic := range l.topics {
		if topic.Name == tp.Topic {
			return i
		}
	}
	return -1
}

// claim has a new owner append to a partition from now on.
func (l *growing) claim(tp es.TopicPartition) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.t.Context()), time.Minute)
	defer cancel()
	owner, err := l.client.Claim(ctx, l.topics[l.topicOf(tp)], tp.Partition, eventlog.Identity{Instance: fmt.Sprint("o", l.rnd.IntN(1000))}, eventlog.NoopMarks)
	if err != nil {
		l.t.Errorf("claim %s: %v", tp, err)
		return
	}
	if old := l.owners[tp]; old != nil {
		old.Release()
	}
	l.owners[tp] = owner
	l.ends[tp] = max(l.ends[tp], owner.Next())
}

// grow appends n events or a few more.
func (l *growing) grow(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n > 0 {
		topic := l.rnd.IntN(topicCount)
		tp := es.TopicPartition{Topic: l.topics[topic].Name, Partition: l.rnd.Int32N(partitions[topic])}
		switch l.rnd.IntN(300) {
		case 0:
			l.claim(tp)
		case 1:
			l.stranger(tp)
		}
		k := 1 + l.rnd.IntN(1+min(n, 200))
		l.append(topic, tp, k)
		n -= k
	}
}

// stranger writes what looks like an event, but is no owner's. Whoever was the owner stops when it notices.
func (l *growing) stranger(tp es.TopicPartition) {
	l.foreign++
	r := &kgo.Record{Topic: tp.Topic, Partition: tp.Partition, Key: []byte(fmt.Sprintf("o-%d-%d", tp.Partition, l.count/40)), Value: []byte(`{"kind":"placed","customer":"stranger","amount":1000000}`),
		Headers: []kgo.RecordHeader{{Key: "id", Value: []byte("stranger")}}}
	if err := l.raw.ProduceSync(context.WithoutCancel(l.t.Context()), r).FirstErr(); err != nil {
		l.t.Errorf("foreign record: %v", err)
		return
	}
	l.ends[tp] = max(l.ends[tp], r.Offset+1)
	l.claim(tp)
}

func (l *growing) append(topic int, tp es.TopicPartition, n int) {
	b := eventlog.NewBatch(0)
	var added []record
	for range n {
		var r record
		var e event
		l.count++
		if topic == ordersTopic {
			r.stream, e = l.order(tp.Partition)
		} else {
			r.stream, e = l.seat(tp.Partition)
		}
		r.id = es.EventID(es.StreamID(r.stream), tp.String(), l.count)
		if l.rnd.IntN(20) == 0 {
			r.id = fmt.Sprint("not-a-uuid-", l.count)
		}
		text, err := json.Marshal(e)
		if err != nil {
			panic(err)
		}
		value := string(text)
		if l.rnd.Float64() < l.curse/4 {
			value = "?"
		}
		if err := b.Add([]byte(r.stream), []byte(value), []eventlog.Header{{Key: "id", Value: []byte(r.id)}}); err != nil {
			l.t.Errorf("append: %v", err)
			return
		}
		// What is folded is read from what was written, as a projector has to do it.
		if envs, err := envelopes(nil, es.Position{}, r.stream, r.id, value); err == nil {
			r.events = envs
			r.cursed = strings.Contains(e.Kind, "sick")
		}
		added = append(added, r)
	}
	type acked struct {
		base int64
		err  error
	}
	done := make(chan acked, 1)
	l.owners[tp].Append(b, func(base int64, err error) { done <- acked{base, err} })
	a := <-done
	if a.err != nil {
		l.t.Errorf("append to %s: %v", tp, a.err)
		return
	}
	for i := range added {
		at := es.Position{TopicPartition: tp, Offset: a.base + int64(i)}
		added[i].at = at
		for k := range added[i].events {
			added[i].events[k].Position, added[i].events[k].Version = at, es.Version(at.Offset+1)
		}
	}
	l.records[tp] = append(l.records[tp], added...)
	l.ends[tp] = a.base + int64(len(added))
}

var orderKinds = []string{"placed", "placed", "placed", "changed", "changed", "cancelled", "archived", "none", "split placed|changed", "split changed|archived"}

// order makes an event of one of the streams of a partition that are lively now.
func (l *growing) order(partition int32) (stream string, e event) {
	stream = fmt.Sprintf("o-%d-%d", partition, l.count/40+l.rnd.IntN(25))
	e = event{Kind: orderKinds[l.rnd.IntN(len(orderKinds))], Customer: l.customer(), Amount: l.rnd.Int64N(7) - 3}
	if l.rnd.Float64() < l.curse {
		e.Kind = []string{"sick", "split placed|sick"}[l.rnd.IntN(2)]
	}
	return stream, e
}

func (l *growing) customer() string {
	if l.rnd.IntN(10) == 0 {
		return fmt.Sprint("c-hot-", l.rnd.IntN(3))
	}
	return fmt.Sprint("c-", l.rnd.IntN(400))
}

// seat makes an event that changes several rows, all of one partition, so that what is unique among them does not depend on the order of
// events of different partitions.
func (l *growing) seat(partition int32) (stream string, e event) {
	stream = fmt.Sprintf("w-%d-%d", partition, l.count/30+l.rnd.IntN(15))
	e = event{Kind: []string{"taken", "taken", "taken", "left"}[l.rnd.IntN(4)], Customer: l.customer(), Amount: l.rnd.Int64N(5) - 2}
	n := 1 + l.rnd.IntN(4)
	if l.rnd.IntN(40) == 0 {
		n = 40
	}
	seen := map[int]bool{}
	for range n {
		if s := l.rnd.IntN(120); !seen[s] {
			seen[s] = true
			e.Seats = append(e.Seats, fmt.Sprintf("s-%d-%d", partition, s))
		}
	}
	switch {
	case len(e.Seats) == 1 && e.Kind == "taken":
		e.Email = fmt.Sprintf("seat-%s@x", e.Seats[0]) // nobody else's
		if l.rnd.Float64() < 20*l.curse {
			e.Email = fmt.Sprintf("e-%d-%d@x", partition, l.rnd.IntN(6)) // perhaps somebody else's
		}
	case l.rnd.Float64() < l.curse/2:
		e.Kind = "poison"
	}
	return stream, e
}

// end returns the positions of the last records.
func (l *growing) end() (ps es.Positions) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for tp, next := range l.ends {
		if next > 0 {
			ps = ps.With(es.Position{TopicPartition: tp, Offset: next - 1})
		}
	}
	return ps
}
