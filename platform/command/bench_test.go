package command

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
)

// BenchmarkEngine measures commands from callers that wait for each receipt, against a plain idempotent kgo producer that writes the
// same records to the same number of partitions and waits for each acknowledgement. The embedded broker keeps its log on disk, as it does in
// development; set MILLRACE_TEST_KAFKA for real ones.
func BenchmarkEngine(b *testing.B) {
	for _, callers := range []int{1, 16, 64, 128, 512} {
		b.Run(fmt.Sprintf("millrace/callers=%d", callers), func(b *testing.B) { benchEngine(b, callers) })
		b.Run(fmt.Sprintf("kgo/callers=%d", callers), func(b *testing.B) { benchProducer(b, callers) })
	}
}

// As the service has it.
const (
	benchPartitions = 12
	benchMemTable   = 64 << 20
)

func benchEngine(b *testing.B, callers int) {
	r := newRig(b, func(r *rig) {
		r.cfg.Topic.Partitions, r.store.MemTable, r.broker = benchPartitions, benchMemTable, b.TempDir()
	})
	r.mustSend("warm", "k", credit{Amount: 1})
	payload := credit{Amount: 2933, Note: benchNote}
	drive(b, callers, func(i int64) error {
		_, err := r.engine.Handle(context.Background(), Command[cmd]{Stream: es.StreamID("o-" + strconv.FormatInt(i, 10)), ID: "place-" + strconv.FormatInt(i, 10), Payload: payload})
		return err
	})
}

// benchNote brings the event to the size of a small order.
const benchNote = "c-00004 USD 1997-01-01T12:00:00Z cd 2 2933 and whatever else an order of a customer holds, 120 bytes or so"

func benchProducer(b *testing.B, callers int) {
	r := newRig(b, func(r *rig) { r.cfg.Topic.Partitions, r.broker = benchPartitions, b.TempDir() })
	if err := r.stopped(); err != nil {
		b.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(r.addr, ",")...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.MaxBufferedRecords(1<<20))
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	at := time.Now().UTC()
	frame, err := r.codec.Append(nil, credited{2933, benchNote})
	if err != nil {
		b.Fatal(err)
	}
	// The records are those that the engine writes, header by header.
	record := func(i int64) *kgo.Record {
		stream, id := "o-"+strconv.FormatInt(i, 10), "place-"+strconv.FormatInt(i, 10)
		header := func(k, v string) kgo.RecordHeader { return kgo.RecordHeader{Key: k, Value: []byte(v)} }
		return &kgo.Record{
			Topic: r.topic.Name, Partition: eventlog.PartitionOf(es.StreamID(stream), benchPartitions), Key: []byte(stream), Value: frame,
			Headers: []kgo.RecordHeader{
				header("ce_specversion", "1.0"), header("ce_source", "/test"), header("content-type", "application/avro"),
				header("ce_id", es.EventID(es.StreamID(stream), id, 0)), header("ce_type", "test.v1.Credited"), header("ce_subject", stream),
				header("ce_time", at.Format(time.RFC3339Nano)), header("ce_streamversion", "1"), header("ce_commandid", id),
				header("ce_commandhash", "0123456789abcdef0123456789abcdef"), header("ce_commandindex", "0"), header("ce_commandcount", "1"),
				header("ce_correlationid", id),
			},
		}
	}
	if err := client.ProduceSync(b.Context(), record(-1)).FirstErr(); err != nil {
		b.Fatal(err)
	}
	drive(b, callers, func(i int64) error { return client.ProduceSync(context.Background(), record(i)).FirstErr() })
}

// drive calls do b.N times from a number of callers and reports the rate and the percentiles.
func drive(b *testing.B, callers int, do func(i int64) error) {
	var next atomic.Int64
	took := make([][]time.Duration, callers)
	b.ResetTimer()
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					return
				}
				began := time.Now()
				if err := do(i); err != nil {
					b.Error(err)
					return
				}
				took[c] = append(took[c], time.Since(began))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	all := slices.Concat(took...)
	slices.Sort(all)
	if len(all) == 0 {
		return
	}
	b.ReportMetric(float64(len(all))/b.Elapsed().Seconds(), "commands/s")
	b.ReportMetric(float64(all[len(all)/2])/1e6, "p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100])/1e6, "p99-ms")
}
