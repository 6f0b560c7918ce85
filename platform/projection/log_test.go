package projection

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/embedded"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
)

// realKafka names the environment variable with the address of a real Kafka.
const realKafka = "MILLRACE_TEST_KAFKA"

// brokers returns the address of the real Kafka, or of an embedded one.
func brokers(t testing.TB, real bool) []string {
	t.Helper()
	if real {
		addr := os.Getenv(realKafka)
		if addr == "" {
			t.Skip(realKafka + " is not set")
		}
		return strings.Split(addr, ",")
	}
	b, err := embedded.Start(embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return []string{b.Addr()}
}

func connect(t testing.TB, addrs []string) *eventlog.Client {
	t.Helper()
	c, err := eventlog.Open(t.Context(), eventlog.Config{Brokers: addrs, Env: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// A writer appends the shop's events to a topic through owners of its partitions.
type writer struct {
	t      testing.TB
	topic  eventlog.Topic
	events *eventlog.Events[benchEvent]
	codec  *contract.Codec[benchEvent]
	owners []*eventlog.Owner
	serial int
}

func newWriter(t testing.TB, c *eventlog.Client, partitions int32) *writer {
	t.Helper()
	topic, err := c.EnsureTopic(t.Context(), eventlog.TopicSpec{Name: fmt.Sprintf("test-%x.events", rand.Uint64()), Partitions: partitions})
	if err != nil {
		t.Fatal(err)
	}
	set := benchSet()
	set.Topic = topic.Name
	codec, err := contract.Bind(t.Context(), set, contract.NewMemory())
	if err != nil {
		t.Fatal(err)
	}
	w := &writer{t: t, topic: topic, codec: codec, events: eventlog.NewEvents(codec, "/orders")}
	for p := range partitions {
		o, err := c.Claim(t.Context(), topic, p, eventlog.Identity{Instance: "test", Address: "127.0.0.1:1"}, eventlog.NoopMarks)
		if err != nil {
			t.Fatal(err)
		}
		w.owners = append(w.owners, o)
	}
	return w
}

// add encodes an event at the end of a batch.
func (w *writer) add(b *eventlog.Batch, stream string, version int, e benchEvent) error {
	w.serial++
	return w.events.Add(b, es.Envelope[benchEvent]{Stream: es.StreamID(stream), Version: es.Version(version), Count: 1, Event: e,
		Meta: es.Meta{CommandID: "cmd-" + strconv.Itoa(w.serial), CommandHash: "0123456789abcdef0123456789abcdef", CorrelationID: "cmd-" + strconv.Itoa(w.serial), Time: benchStart}})
}

// append appends a batch and returns the position of its last record.
func (w *writer) append(partition int32, b *eventlog.Batch) es.Position {
	w.t.Helper()
	type answer struct {
		base int64
		err  error
	}
	n := b.Len()
	done := make(chan answer, 1)
	w.owners[partition].Append(b, func(base int64, err error) { done <- answer{base, err} })
	a := <-done
	if a.err != nil {
		w.t.Fatal(a.err)
	}
	return es.Position{TopicPartition: es.TopicPartition{Topic: w.topic.Name, Partition: partition}, Offset: a.base + int64(n) - 1}
}

func (w *writer) place(order string) es.Position {
	w.t.Helper()
	b := eventlog.NewBatch(0)
	if err := w.add(b, order, 1, placed{order, "c-1", "USD", benchStart, []line{{"cd", 2, 2933}}, 2, 2933}); err != nil {
		w.t.Fatal(err)
	}
	return w.append(eventlog.PartitionOf(es.StreamID(order), w.topic.Partitions), b)
}

// TestOnKafka reads a real log: what an owner appended is visible to a query that waits for it, over a restart too.
func TestOnKafka(t *testing.T) {
	for _, real := range []bool{false, true} {
		t.Run(map[bool]string{false: "embedded", true: "real"}[real], func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			c := connect(t, brokers(t, real))
			w := newWriter(t, c, 4)
			dir := t.TempDir() + "/db"
			var positions es.Positions
			for round := range 3 {
				p, err := New(Config{Log: c, Dir: dir, WaitMax: 20 * time.Second})
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(benchViews(p, w.topic, w.events), p.Open()); err != nil {
					t.Fatal(err)
				}
				runCtx, stop := context.WithCancel(ctx)
				done := make(chan error, 1)
				go func() { done <- p.Run(runCtx) }()
				for i := range 30 {
					order := fmt.Sprintf("o-%d-%d", round, i)
					at := w.place(order)
					positions = positions.With(at)
					a, err := p.Get(ctx, "orders", order, es.Positions{at})
					if err != nil {
						t.Fatal(err)
					}
					if a.Row.Position != at {
						t.Errorf("row %s is of %s, want %s", order, a.Row.Position, at)
					}
				}
				a, err := p.Get(ctx, "customers", "c-1", positions)
				if err != nil {
					t.Fatal(err)
				}
				if want := fmt.Sprintf(`{"customer_id":"c-1","orders":%d,`, 31*round+30); !strings.HasPrefix(string(a.Row.JSON), want) {
					t.Errorf("row %s, want %s…", a.Row.JSON, want)
				}
				for _, at := range positions {
					at.Offset += 1000
					if _, err := p.Get(ctx, "orders", "x", es.Positions{at}); !errors.Is(err, ErrPositionAhead) {
						t.Errorf("%s: %v, want ErrPositionAhead", at, err)
					}
				}
				stop()
				if err := <-done; err != nil {
					t.Error(err)
				}
				if err := p.Close(); err != nil {
					t.Error(err)
				}
				// While the projector is away.
				positions = positions.With(w.place(fmt.Sprintf("o-%d-away", round)))
			}
		})
	}
}

// BenchmarkBuildKafka builds the shop's three views from empty from a real Kafka (MILLRACE_TEST_KAFKA) or the embedded one.
func BenchmarkBuildKafka(b *testing.B) {
	for _, real := range []bool{false, true} {
		for _, confirm := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/confirmed=%v", map[bool]string{false: "embedded", true: "real"}[real], confirm), func(b *testing.B) {
				c := connect(b, brokers(b, real))
				w := newWriter(b, c, 12)
				last := w.shop(b.N, confirm)
				for _, o := range w.owners {
					o.Release()
				}
				p := opened(b, Config{WaitMax: time.Hour}, clientJournal{c},
					func(p *Projector) error { return benchViews(p, w.topic, w.events) })
				ctx, cancel := context.WithCancel(b.Context())
				b.ResetTimer()
				cpu := cpuTime()
				done := make(chan error, 1)
				go func() { done <- p.Run(ctx) }()
				for _, v := range []string{"orders", "customers", "sales"} {
					if _, err := p.List(ctx, v, Query{Limit: 1}, last); err != nil {
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
}

// shop appends n events as newBenchLog does and returns the last positions.
func (w *writer) shop(n int, confirm bool) es.Positions {
	w.t.Helper()
	rnd := rand.New(rand.NewPCG(1, 1))
	batches := make([]*eventlog.Batch, len(w.owners))
	for i := range batches {
		batches[i] = eventlog.NewBatch(0)
	}
	var last es.Positions
	orders := 0
	customer := map[int]string{}
	at := func(order int) time.Time {
		return benchStart.Add(time.Duration(order*500/n)*24*time.Hour + time.Duration(order%86400)*time.Second)
	}
	for i := range n {
		var e benchEvent
		version := 1
		order := orders
		stream := fmt.Sprintf("o-%07d", order)
		if confirm && i%2 == 1 && orders > 1000 {
			order = orders - 1000
			stream = fmt.Sprintf("o-%07d", order)
			version = 2
			e = confirmed{stream, customer[order], at(order)}
			delete(customer, order)
		} else {
			orders++
			customer[order] = fmt.Sprintf("c-%05d", rnd.IntN(20000))
			e = placed{stream, customer[order], "USD", at(order), []line{{"cd", 2, 2933}, {"book-" + strconv.Itoa(order%100), 1, 1550}}, 3, 4483}
		}
		p := eventlog.PartitionOf(es.StreamID(stream), w.topic.Partitions)
		err := w.add(batches[p], stream, version, e)
		if errors.Is(err, eventlog.ErrBatchFull) {
			last = last.With(w.append(p, batches[p]))
			batches[p] = eventlog.NewBatch(0)
			err = w.add(batches[p], stream, version, e)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	for p, b := range batches {
		if b.Len() > 0 {
			last = last.With(w.append(int32(p), b))
		}
	}
	return last
}
