package command

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
)

// BenchmarkStream measures one caller's commands on streams of some length: those in memory, and those that must be loaded. An accepted
// command waits for the log, a refused one for nothing but the stream. What has to happen between two commands is not measured.
func BenchmarkStream(b *testing.B) {
	for _, length := range []int{0, 10, 1000, 100_000} {
		for _, cached := range []bool{true, false} {
			for _, refused := range []bool{false, true} {
				name := fmt.Sprintf("events=%d/cached=%v/refused=%v", length, cached, refused)
				b.Run(name, func(b *testing.B) { benchStream(b, length, cached, refused) })
			}
		}
	}
}

func benchStream(b *testing.B, length int, cached, refused bool) {
	r := newRig(b, func(r *rig) {
		r.cfg.Topic.Partitions, r.store.MemTable = 1, benchMemTable
		if !cached {
			r.cfg.Streams = 1
		}
	})
	id := es.StreamID("long")
	for i := range length / 1000 {
		r.mustSend("long", fmt.Sprint("fill-", i), credit{Amount: 1, Times: 1000, Note: benchNote})
	}
	for i := range length % 1000 {
		r.mustSend("long", fmt.Sprint("fill-", i), credit{Amount: 1, Note: benchNote})
	}
	p := r.engine.partition(id)
	if err := p.waitStored(b.Context()); err != nil {
		b.Fatal(err)
	}
	if every := snapshotEvery; length > 2*every {
		until(b, "a snapshot is there", func() bool { return r.snapshot("long") > es.Version(length-2*every) })
	}
	do := func(stream es.StreamID, id string, c cmd) error {
		_, err := r.engine.Handle(context.Background(), Command[cmd]{Stream: stream, ID: id, Payload: c})
		if errors.Is(err, errOverdrawn) {
			err = nil
		}
		return err
	}
	var c cmd = credit{Amount: 1, Note: benchNote}
	if refused {
		c = debit{1 << 40}
	}
	_ = do(id, "warm", debit{1 << 40})
	var took []time.Duration
	b.ResetTimer()
	for i := range b.N {
		if length == 0 {
			id = es.StreamID(fmt.Sprint("new-", i))
		}
		b.StopTimer()
		if err := p.waitStored(b.Context()); err != nil {
			b.Fatal(err)
		}
		// Something between, so that the owner's lease is fresh and, if there is room for one stream only, the long one goes.
		if err := do("other", fmt.Sprint("other-", i), credit{Amount: 1}); err != nil {
			b.Fatal(err)
		}
		if err := p.waitStored(b.Context()); err != nil {
			b.Fatal(err)
		}
		if !cached {
			if err := do("another", "x", debit{1 << 40}); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		began := time.Now()
		if err := do(id, fmt.Sprint("k-", i), c); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2])/1e3, "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100])/1e3, "p99-µs")
}
