package audit

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
)

// BenchmarkLedger judges events of many streams, each a command of its own.
func BenchmarkLedger(b *testing.B) {
	const streams, events = 20_000, 5
	records := []eventlog.Record{mark(0, 7, 0, claim)}
	for v := 1; v <= events; v++ {
		for s := range streams {
			records = append(records, ev(int64(len(records)), 7, 0, fmt.Sprintf("order-%06d", s), fmt.Sprintf("command-%06d-%d", s, v), v, 0, 1))
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		l := newLedger(es.TopicPartition{Topic: "t"}, [16]byte{1})
		l.partitions = 1
		l.recall.bound(defaultRemember)
		for i := range records {
			l.judge(&records[i], func(f Finding) { b.Fatal(f) })
		}
	}
	b.ReportMetric(float64(b.N*len(records))/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkMemory tells how many bytes a ledger keeps of each of a million streams, and of each of a million commands.
func BenchmarkMemory(b *testing.B) {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for b.Loop() {
		const n = 1_000_000
		before := heap()
		l := newLedger(es.TopicPartition{Topic: "t"}, [16]byte{1})
		for i := range uint64(n) {
			l.streams[i*0x9e3779b97f4a7c15] = 1
		}
		streams := heap()
		l.recall.bound(n)
		for i := range uint64(n) {
			l.recall.add(i * 0x9e3779b97f4a7c15)
		}
		b.ReportMetric(float64(streams-before)/n, "B/stream")
		b.ReportMetric(float64(heap()-streams)/n, "B/command")
		runtime.KeepAlive(l)
	}
}
