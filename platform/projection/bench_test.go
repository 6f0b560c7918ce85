package projection

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
)

// The shop's order events, as far as its three views need them.
type benchEvent interface{ isBench() }

type placed struct {
	OrderID    string    `avro:"order_id"`
	CustomerID string    `avro:"customer_id"`
	Currency   string    `avro:"currency"`
	OrderedAt  time.Time `avro:"ordered_at"`
	Lines      []line    `avro:"lines"`
	Units      int64     `avro:"units"`
	Total      int64     `avro:"total"`
}

type line struct {
	SKU      string `avro:"sku" json:"sku"`
	Quantity int64  `avro:"quantity" json:"quantity"`
	Amount   int64  `avro:"amount" json:"amount"`
}

type confirmed struct {
	OrderID    string    `avro:"order_id"`
	CustomerID string    `avro:"customer_id"`
	OrderedAt  time.Time `avro:"ordered_at"`
}

func (placed) isBench()    {}
func (confirmed) isBench() {}

const (
	placedSchema = `{"type":"record","name":"OrderPlaced","namespace":"bench","doc":"d","fields":[{"name":"order_id","type":"string"},
{"name":"customer_id","type":"string"},{"name":"currency","type":"string"},{"name":"ordered_at","type":{"type":"long","logicalType":"timestamp-micros"}},
{"name":"lines","type":{"type":"array","items":{"type":"record","name":"Line","fields":[{"name":"sku","type":"string"},{"name":"quantity","type":"long"},{"name":"amount","type":"long"}]}}},
{"name":"units","type":"long"},{"name":"total","type":"long"}]}`
	confirmedSchema = `{"type":"record","name":"OrderConfirmed","namespace":"bench","doc":"d","fields":[{"name":"order_id","type":"string"},
{"name":"customer_id","type":"string"},{"name":"ordered_at","type":{"type":"long","logicalType":"timestamp-micros"}}]}`
)

func benchSet() contract.Set[benchEvent] {
	return contract.Set[benchEvent]{Topic: "orders.events", Types: []contract.Type[benchEvent]{
		contract.For[placed, benchEvent](placedSchema), contract.For[confirmed, benchEvent](confirmedSchema)}}
}

type benchOrder struct {
	OrderID    string    `json:"order_id"`
	CustomerID string    `json:"customer_id"`
	Status     string    `json:"status"`
	Currency   string    `json:"currency"`
	OrderedAt  time.Time `json:"ordered_at"`
	Lines      []line    `json:"lines"`
	Units      int64     `json:"units"`
	Total      int64     `json:"total"`
}

type benchCustomer struct {
	CustomerID string           `json:"customer_id"`
	Orders     int64            `json:"orders"`
	Cancelled  int64            `json:"cancelled"`
	Spent      map[string]int64 `json:"spent"`
	First      time.Time        `json:"first_order"`
	Last       time.Time        `json:"last_order"`
}

type benchDay struct {
	Day     string           `json:"day"`
	Orders  int64            `json:"orders"`
	Units   int64            `json:"units"`
	Revenue map[string]int64 `json:"revenue"`
}

func benchViews(p *Projector, topic eventlog.Topic, ev Decoder[benchEvent]) error {
	err := Add(p, es.View[benchOrder, benchEvent]{Name: "orders", Version: 1,
		Key: func(e es.Envelope[benchEvent]) (string, bool) { return string(e.Stream), true },
		Apply: func(r benchOrder, e es.Envelope[benchEvent]) benchOrder {
			switch ev := e.Event.(type) {
			case placed:
				return benchOrder{ev.OrderID, ev.CustomerID, "placed", ev.Currency, ev.OrderedAt, ev.Lines, ev.Units, ev.Total}
			case confirmed:
				r.Status = "confirmed"
			}
			return r
		},
		Indexes: map[string]es.Index[benchOrder]{
			"customer": es.By(es.Text(func(r benchOrder) string { return r.CustomerID })),
			"status":   es.By(es.Text(func(r benchOrder) string { return r.Status })),
		}}, Input[benchEvent]{topic, ev})
	if err != nil {
		return err
	}
	err = Add(p, es.View[benchCustomer, benchEvent]{Name: "customers", Version: 1,
		Key: func(e es.Envelope[benchEvent]) (string, bool) {
			ev, ok := e.Event.(placed)
			return ev.CustomerID, ok
		},
		Apply: func(r benchCustomer, e es.Envelope[benchEvent]) benchCustomer {
			ev := e.Event.(placed)
			if r.Spent == nil {
				r = benchCustomer{CustomerID: ev.CustomerID, Spent: map[string]int64{}, First: ev.OrderedAt}
			}
			r.Orders++
			r.Spent[ev.Currency] += ev.Total
			r.Last = ev.OrderedAt
			return r
		}}, Input[benchEvent]{topic, ev})
	if err != nil {
		return err
	}
	return Add(p, es.View[benchDay, benchEvent]{Name: "sales", Version: 1,
		Key: func(e es.Envelope[benchEvent]) (string, bool) {
			ev, ok := e.Event.(placed)
			if !ok {
				return "", false
			}
			return ev.OrderedAt.Format("2006-01-02"), true
		},
		Apply: func(r benchDay, e es.Envelope[benchEvent]) benchDay {
			ev := e.Event.(placed)
			if r.Revenue == nil {
				r = benchDay{Day: ev.OrderedAt.Format("2006-01-02"), Revenue: map[string]int64{}}
			}
			r.Orders++
			r.Units += ev.Units
			r.Revenue[ev.Currency] += ev.Total
			return r
		}}, Input[benchEvent]{topic, ev})
}

// A packedLog is a log in memory whose records weigh on the garbage collector as little as those of a broker do: they are made
// when they are read.
type packedLog struct {
	topic eventlog.Topic
	parts []packedPart
}

type packedPart struct {
	bytes []byte  // for each record: key, value, the values of packedHeaders, each with its length before it
	at    []int32 // where records begin
}

var packedHeaders = []string{"ce_specversion", "ce_source", "content-type", "ce_id", "ce_type", "ce_subject", "ce_time", "ce_streamversion", "ce_commandid",
	"ce_commandhash", "ce_commandindex", "ce_commandcount", "ce_correlationid"}

func (l *packedLog) open(_ context.Context, from []eventlog.Cursor, _ int32) (source, error) {
	return &packedSource{l, from}, nil
}

func (l *packedLog) EndsAt(ctx context.Context, t eventlog.Topic, _ time.Time) ([]int64, error) {
	return l.Ends(ctx, t)
}

func (l *packedLog) RecordAt(context.Context, eventlog.Topic, es.Position) (eventlog.Record, error) {
	return eventlog.Record{}, errors.ErrUnsupported
}

func (l *packedLog) Ends(context.Context, eventlog.Topic) ([]int64, error) {
	var ends []int64
	for _, p := range l.parts {
		ends = append(ends, int64(len(p.at)))
	}
	return ends, nil
}

func (l *packedLog) last() es.Positions {
	var ps es.Positions
	for i, p := range l.parts {
		if len(p.at) > 0 {
			ps = ps.With(es.Position{TopicPartition: es.TopicPartition{Topic: l.topic.Name, Partition: int32(i)}, Offset: int64(len(p.at)) - 1})
		}
	}
	return ps
}

type packedSource struct {
	log *packedLog
	at  []eventlog.Cursor
}

func (s *packedSource) Poll(ctx context.Context) ([]eventlog.Fetched, error) {
	var out []eventlog.Fetched
	for i := range s.at {
		c := &s.at[i]
		p := &s.log.parts[c.TopicPartition.Partition]
		n := min(len(p.at)-int(c.Next), 3000)
		if n == 0 {
			continue
		}
		f := eventlog.Fetched{End: int64(len(p.at)), Records: make([]eventlog.Record, n)}
		headers := make([]eventlog.Header, n*len(packedHeaders))
		for j := range n {
			rest := parser{rest: p.bytes[p.at[c.Next]:]}
			r := &f.Records[j]
			r.Key, r.Value = rest.text(), rest.text()
			r.Headers, headers = headers[:len(packedHeaders):len(packedHeaders)], headers[len(packedHeaders):]
			for k, name := range packedHeaders {
				r.Headers[k] = eventlog.Header{Key: name, Value: rest.text()}
			}
			r.Time, r.ProducerID, r.Epoch = benchStart, 7, 1
			r.Position = es.Position{TopicPartition: c.TopicPartition, Offset: c.Next}
			c.Next++
		}
		c.LeaderEpoch, c.ProducerID, c.Epoch = 1, 7, 1
		f.Cursor = *c
		out = append(out, f)
	}
	if out == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return out, nil
}

func (*packedSource) Close() {}

var benchStart = time.Date(1997, 1, 1, 0, 0, 0, 0, time.UTC)

// newBenchLog makes a log of n events of the shop, 12 partitions, 20,000 customers, 500 days. If confirm is set, every second event
// confirms the order that was placed a thousand orders before.
func newBenchLog(b *testing.B, n int, confirm bool) (*packedLog, *eventlog.Events[benchEvent]) {
	b.Helper()
	codec, err := contract.Bind(b.Context(), benchSet(), contract.NewMemory())
	if err != nil {
		b.Fatal(err)
	}
	log := &packedLog{topic: eventlog.Topic{Name: "orders.events", ID: [16]byte{1}, Partitions: 12}, parts: make([]packedPart, 12)}
	rnd := rand.New(rand.NewPCG(1, 1))
	orders := 0
	customer := map[int]string{}
	at := func(order int) time.Time {
		return benchStart.Add(time.Duration(order*500/n)*24*time.Hour + time.Duration(order%86400)*time.Second)
	}
	for i := range n {
		var e benchEvent
		version := 1
		order := orders
		if confirm && i%2 == 1 && orders > 1000 {
			order = orders - 1000
			version = 2
			e = confirmed{fmt.Sprintf("o-%07d", order), customer[order], at(order)}
			delete(customer, order)
		} else {
			orders++
			customer[order] = fmt.Sprintf("c-%05d", rnd.IntN(20000))
			e = placed{fmt.Sprintf("o-%07d", order), customer[order], "USD", at(order),
				[]line{{"cd", 2, 2933}, {"book-" + strconv.Itoa(order%100), 1, 1550}}, 3, 4483}
		}
		stream := fmt.Sprintf("o-%07d", order)
		value, err := codec.Append(nil, e)
		if err != nil {
			b.Fatal(err)
		}
		command := fmt.Sprintf("cmd-%08d", i)
		p := &log.parts[eventlog.PartitionOf(es.StreamID(stream), 12)]
		p.at = append(p.at, int32(len(p.bytes)))
		for _, text := range []string{stream, string(value), "1.0", "/orders", "application/avro", es.EventID(es.StreamID(stream), command, 0), codec.TypeName(e),
			stream, at(order).Format(time.RFC3339Nano), strconv.Itoa(version), command, "0123456789abcdef0123456789abcdef", "0", "1", command} {
			p.bytes = appendText(p.bytes, text)
		}
	}
	return log, eventlog.NewEvents(codec, "/orders")
}

// BenchmarkBuild builds the shop's three views from empty, from a log in memory: everything but the broker.
func BenchmarkBuild(b *testing.B) {
	for _, confirm := range []bool{false, true} {
		b.Run(fmt.Sprintf("confirmed=%v", confirm), func(b *testing.B) {
			log, ev := newBenchLog(b, b.N, confirm)
			runtime.GC()
			p := opened(b, Config{WaitMax: time.Hour}, log, func(p *Projector) error { return benchViews(p, log.topic, ev) })
			ctx, cancel := context.WithCancel(b.Context())
			b.ResetTimer()
			cpu := cpuTime()
			done := make(chan error, 1)
			go func() { done <- p.Run(ctx) }()
			for _, v := range []string{"orders", "customers", "sales"} {
				if _, err := p.List(ctx, v, Query{Limit: 1}, log.last()); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric((cpuTime()-cpu).Seconds()*1e6/float64(b.N), "cpu-µs/event")
			cancel()
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkVisible is the time from an event's arrival in the log to its row in the answer of a query that waits for it.
func BenchmarkVisible(b *testing.B) {
	log := newLog(12)
	p := opened(b, Config{}, log, testViews(log)...)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	b.ResetTimer()
	for i := range b.N {
		order := fmt.Sprintf("o-%d", i)
		at := log.add(int32(i%12), change{Kind: "placed", Order: order, Customer: "c-1", Day: "1997-01-01", Amount: 1})
		if _, err := p.Get(ctx, "orders", order, es.Positions{at}); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

type added struct {
	Key    string `avro:"key"`
	Amount int64  `avro:"amount"`
	Note   string `avro:"note"`
}

func (added) isBench() {}

const addedSchema = `{"type":"record","name":"Added","namespace":"bench","doc":"d","fields":[{"name":"key","type":"string"},{"name":"amount","type":"long"},{"name":"note","type":"string"}]}`

type benchCount struct {
	Count int64 `json:"count"`
	Sum   int64 `json:"sum"`
}

// BenchmarkCount counts and sums by 100,000 keys, uniformly, from a log in memory.
func BenchmarkCount(b *testing.B) {
	set := contract.Set[benchEvent]{Topic: "orders.events", Types: []contract.Type[benchEvent]{contract.For[added, benchEvent](addedSchema)}}
	codec, err := contract.Bind(b.Context(), set, contract.NewMemory())
	if err != nil {
		b.Fatal(err)
	}
	log := &packedLog{topic: eventlog.Topic{Name: "orders.events", ID: [16]byte{1}, Partitions: 8}, parts: make([]packedPart, 8)}
	rnd := rand.New(rand.NewPCG(1, 1))
	for i := range b.N {
		key := fmt.Sprintf("k-%06d", rnd.IntN(100_000))
		value, err := codec.Append(nil, added{key, int64(i), "a note that makes it as long as events usually are, about as many bytes as this"})
		if err != nil {
			b.Fatal(err)
		}
		command := fmt.Sprintf("cmd-%08d", i)
		p := &log.parts[eventlog.PartitionOf(es.StreamID(key), 8)]
		p.at = append(p.at, int32(len(p.bytes)))
		for _, part := range []string{key, string(value), "1.0", "/bench", "application/avro", es.EventID(es.StreamID(key), command, 0), "bench.Added", key,
			benchStart.Format(time.RFC3339Nano), "1", command, "0011223344556677", "0", "1", command} {
			p.bytes = appendText(p.bytes, part)
		}
	}
	p := opened(b, Config{WaitMax: time.Hour}, log, func(p *Projector) error {
		return Add(p, es.View[benchCount, benchEvent]{Name: "counts", Version: 1,
			Key: func(e es.Envelope[benchEvent]) (string, bool) { return e.Event.(added).Key, true },
			Apply: func(r benchCount, e es.Envelope[benchEvent]) benchCount {
				r.Count++
				r.Sum += e.Event.(added).Amount
				return r
			}}, Input[benchEvent]{log.topic, eventlog.NewEvents(codec, "")})
	})
	runtime.GC()
	ctx, cancel := context.WithCancel(b.Context())
	b.ResetTimer()
	cpu := cpuTime()
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	if _, err := p.List(ctx, "counts", Query{Limit: 1}, log.last()); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric((cpuTime()-cpu).Seconds()*1e6/float64(b.N), "cpu-µs/event")
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}
