package eventlog

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/platform/embedded"
)

// groupCommit is the least that an engine does around an Owner: while one batch is under way the next one fills.
type groupCommit struct {
	owner   *Owner
	mu      sync.Mutex
	fill    *Batch
	waiters []chan error
	spare   *Batch
	busy    bool
}

func newGroupCommit(o *Owner) *groupCommit {
	return &groupCommit{owner: o, fill: NewBatch(0), spare: NewBatch(0)}
}

func (g *groupCommit) append(key, value []byte, done chan error) {
	g.mu.Lock()
	if err := g.fill.Add(key, value, nil); err != nil {
		g.mu.Unlock()
		done <- err
		return
	}
	g.waiters = append(g.waiters, done)
	if !g.busy {
		g.send()
	}
	g.mu.Unlock()
}

// send is called with mu held.
func (g *groupCommit) send() {
	b, waiters := g.fill, g.waiters
	g.fill, g.spare, g.waiters, g.busy = g.spare, nil, nil, true
	g.owner.Append(b, func(_ int64, err error) {
		g.mu.Lock()
		b.Reset()
		g.spare, g.busy = b, false
		if g.fill.Len() > 0 {
			g.send()
		}
		g.mu.Unlock()
		for _, w := range waiters {
			w <- err
		}
	})
}

// benchSites are the embedded broker with its log on disk, as it runs in development, and a real Kafka.
func benchSites(b *testing.B, run func(b *testing.B, s site)) {
	b.Run("embedded", func(b *testing.B) {
		k, err := embedded.Start(embedded.Options{Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(k.Close)
		run(b, site{addr: k.Addr()})
	})
	b.Run("real", func(b *testing.B) { run(b, realSite(b)) })
}

// BenchmarkAppend compares the fenced append with kgo's idempotent producer of the same bytes, which has no fence, and with its transactional
// producer, which has: 300-byte values, callers that wait for each of theirs. MILLRACE_TEST_KAFKA may name one broker or several.
func BenchmarkAppend(b *testing.B) {
	benchSites(b, func(b *testing.B, s site) {
		for _, partitions := range []int32{1, 12} {
			for _, callers := range []int{1, 16, 128, 512} {
				for _, who := range []struct {
					name string
					run  func(b *testing.B, s site, partitions int32, callers int)
				}{{"fenced", benchFenced}, {"idempotent", benchIdempotent}, {"transactional", benchTransactional}} {
					b.Run(fmt.Sprintf("%s/partitions=%d/callers=%d", who.name, partitions, callers), func(b *testing.B) { who.run(b, s, partitions, callers) })
				}
			}
		}
	})
}

func benchFenced(b *testing.B, s site, partitions int32, callers int) {
	c, err := Open(b.Context(), Config{Brokers: strings.Split(s.addr, ",")})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	topic := topicOf(b, c, partitions)
	groups := make([]*groupCommit, partitions)
	for p := range partitions {
		groups[p] = newGroupCommit(claim(b, c, topic, p, "bench"))
	}
	measure(b, callers, func() func(n int) error {
		done := make(chan error, 1)
		key, value := make([]byte, 12), make([]byte, 300)
		return func(n int) error {
			groups[n%len(groups)].append(key, value, done)
			return <-done
		}
	})
}

func benchIdempotent(b *testing.B, s site, partitions int32, callers int) {
	c, err := Open(b.Context(), Config{Brokers: strings.Split(s.addr, ",")})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	topic := topicOf(b, c, partitions)
	k, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(s.addr, ",")...), kgo.ProducerLinger(0), kgo.MetadataMinAge(100*time.Millisecond), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		b.Fatal(err)
	}
	defer k.Close()
	ctx := context.WithoutCancel(b.Context())
	for p := range partitions { // its first records wait for metadata; the claims of the other side have done so, too
		if err := k.ProduceSync(ctx, &kgo.Record{Topic: topic.Name, Partition: p}).FirstErr(); err != nil {
			b.Fatal(err)
		}
	}
	measure(b, callers, func() func(n int) error {
		done := make(chan error, 1)
		key, value := make([]byte, 12), make([]byte, 300)
		return func(n int) error {
			k.Produce(ctx, &kgo.Record{Topic: topic.Name, Partition: int32(n) % partitions, Key: key, Value: value}, func(_ *kgo.Record, err error) { done <- err })
			return <-done
		}
	})
}

// transactions commit what a partition's callers have given while the one before it was under way: the same group commit.
type transactions struct {
	client    *kgo.Client
	topic     string
	partition int32
	fill      chan pending
}

type pending struct {
	key, value []byte
	done       chan error
}

// run ends with fill.
func (x *transactions) run(ctx context.Context, callers int) {
	group := make([]pending, 0, callers)
	for first := range x.fill {
		group = append(group[:0], first)
	more:
		for {
			select {
			case next, open := <-x.fill:
				if !open {
					break more
				}
				group = append(group, next)
			default:
				break more
			}
		}
		err := x.commit(ctx, group)
		for _, p := range group {
			p.done <- err
		}
	}
}

func (x *transactions) commit(ctx context.Context, group []pending) error {
	if err := x.client.BeginTransaction(); err != nil {
		return err
	}
	records := make([]*kgo.Record, len(group))
	for i, p := range group {
		records[i] = &kgo.Record{Topic: x.topic, Partition: x.partition, Key: p.key, Value: p.value}
	}
	if err := x.client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return err
	}
	return x.client.EndTransaction(ctx, kgo.TryCommit)
}

// benchTransactional has a transactional producer for each partition, as the fence of transactions wants it.
func benchTransactional(b *testing.B, s site, partitions int32, callers int) {
	c, err := Open(b.Context(), Config{Brokers: strings.Split(s.addr, ",")})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	topic := topicOf(b, c, partitions)
	ctx := context.WithoutCancel(b.Context())
	parts := make([]*transactions, partitions)
	var running sync.WaitGroup
	for p := range partitions {
		k, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(s.addr, ",")...), kgo.TransactionalID(fmt.Sprintf("%s/%d", topic.Name, p)), kgo.ProducerLinger(0),
			kgo.MetadataMinAge(100*time.Millisecond), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))
		if err != nil {
			b.Fatal(err)
		}
		defer k.Close()
		x := &transactions{client: k, topic: topic.Name, partition: p, fill: make(chan pending, callers)}
		if err := x.commit(ctx, []pending{{}}); err != nil { // the first one waits for metadata and the coordinator
			b.Fatal(err)
		}
		running.Go(func() { x.run(ctx, callers) })
		parts[p] = x
	}
	measure(b, callers, func() func(n int) error {
		done := make(chan error, 1)
		key, value := make([]byte, 12), make([]byte, 300)
		return func(n int) error {
			parts[n%len(parts)].fill <- pending{key, value, done}
			return <-done
		}
	})
	for _, x := range parts {
		close(x.fill)
	}
	running.Wait()
}

// measure runs b.N calls by that many callers at once and reports the median latency.
func measure(b *testing.B, callers int, newCaller func() func(n int) error) {
	b.Helper()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		all  []time.Duration
		next = make(chan int, 1024)
	)
	b.ReportAllocs()
	b.ResetTimer()
	for range callers {
		call := newCaller()
		wg.Go(func() {
			var took []time.Duration
			for n := range next {
				began := time.Now()
				if err := call(n); err != nil {
					b.Error(err)
					break
				}
				took = append(took, time.Since(began))
			}
			mu.Lock()
			all = append(all, took...)
			mu.Unlock()
		})
	}
	for n := range b.N {
		next <- n
	}
	close(next)
	wg.Wait()
	b.StopTimer()
	slices.Sort(all)
	if len(all) > 0 {
		b.ReportMetric(float64(all[len(all)/2].Nanoseconds())/1e6, "p50-ms")
		b.ReportMetric(float64(all[len(all)*99/100].Nanoseconds())/1e6, "p99-ms")
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	}
}

// BenchmarkVisible is the time from an append to the moment at which a waiting reader has the record.
func BenchmarkVisible(b *testing.B) {
	benchSites(b, func(b *testing.B, s site) {
		c, err := Open(b.Context(), Config{Brokers: strings.Split(s.addr, ",")})
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		topic := topicOf(b, c, 12)
		cursors := make([]Cursor, topic.Partitions)
		for p := range topic.Partitions {
			cursors[p] = topic.Start(p)
		}
		o := claim(b, c, topic, 3, "bench")
		src, err := c.NewSource(b.Context(), cursors...)
		if err != nil {
			b.Fatal(err)
		}
		next := int64(0)
		measure(b, 1, func() func(n int) error {
			batch := NewBatch(0)
			value := make([]byte, 300)
			return func(int) error {
				batch.Reset()
				if err := batch.Add(nil, value, nil); err != nil {
					return err
				}
				r := <-start(o, batch)
				for r.err == nil && next <= r.base {
					fs, err := src.Poll(context.WithoutCancel(b.Context()))
					if err != nil {
						return err
					}
					for _, f := range fs {
						next = f.Cursor.Next
					}
				}
				return r.err
			}
		})
	})
}

// BenchmarkSource reads a topic of 12 partitions from the start: events with all their headers, decoded.
func BenchmarkSource(b *testing.B) {
	benchSites(b, func(b *testing.B, s site) {
		c, err := Open(b.Context(), Config{Brokers: strings.Split(s.addr, ",")})
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		const each = 20_000
		topic := topicOf(b, c, 12)
		x := testEvents(b)
		cursors := make([]Cursor, topic.Partitions)
		for p := range topic.Partitions {
			cursors[p] = topic.Start(p)
			o := claim(b, c, topic, p, "bench")
			batch := NewBatch(0)
			for i := 0; i < each; {
				if err := x.Add(batch, fullEnvelope()); err == nil {
					i++
					if i < each {
						continue
					}
				}
				if r := <-start(o, batch); r.err != nil {
					b.Fatal(r.err)
				}
				batch.Reset()
			}
		}
		ctx := context.WithoutCancel(b.Context())
		b.ReportAllocs()
		b.ResetTimer()
		total := 0
		for range b.N {
			src, err := c.NewSource(ctx, cursors...)
			if err != nil {
				b.Fatal(err)
			}
			for n := 0; n < each*int(topic.Partitions); {
				fs, err := src.Poll(ctx)
				if err != nil {
					b.Fatal(err)
				}
				for _, f := range fs {
					for _, r := range f.Records {
						if r.Mark != 0 {
							continue
						}
						if _, err := x.Envelope(ctx, r); err != nil {
							b.Fatal(err)
						}
						n++
						total++
					}
				}
			}
			src.Close()
		}
		b.ReportMetric(float64(total)/b.Elapsed().Seconds(), "records/s")
	})
}
