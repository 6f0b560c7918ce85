package projection

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/store"
)

// BenchmarkReadyAgain measures how long a view of 100,000 rows takes until it is ready with nothing on the disk: from a backup, from the
// snapshot of another projector, and from a log in memory of two events a row.
func BenchmarkReadyAgain(b *testing.B) {
	const rows = 100_000
	log := newLog(8)
	for n := range 2 * rows {
		log.add(int32(n%8), change{Kind: "placed", Order: fmt.Sprintf("o-%06d", n%rows), Customer: fmt.Sprintf("c-%06d", n%rows), Amount: 7})
	}
	v := es.View[sumRow, change]{Name: "counts", Version: 1,
		Key: func(e es.Envelope[change]) (string, bool) { return e.Event.Customer, true },
		Apply: func(r sumRow, e es.Envelope[change]) sumRow {
			r.Orders++
			return r
		}}
	add := func(p *Projector) error { return Add(p, v, Input[change]{log.topic, &jsonDecoder{}}) }
	ready := func(p *Projector) (stop func()) {
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for !p.CaughtUp() {
			<-tick.C
		}
		return func() {
			cancel()
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		}
	}
	there := opened(b, Config{}, log, add)
	defer ready(there)()
	file := filepath.Join(b.TempDir(), "backup")
	f, err := os.Create(file)
	if err != nil {
		b.Fatal(err)
	}
	info, err := there.Backup(b.Context(), "counts", f)
	if err != nil || f.Close() != nil || info.Rows != rows {
		b.Fatalf("%+v, %v", info, err)
	}
	o := store.Options{MemTable: 64 << 20} // as services have it
	for _, from := range []string{"backup", "peer", "log"} {
		b.Run(from, func(b *testing.B) {
			for b.Loop() {
				cfg := Config{Dir: b.TempDir() + "/views", StoreOptions: o}
				switch from {
				case "backup":
					if _, _, err := RestoreView(b.Context(), cfg.Dir, file, []Form{FormOf(v, log.topic.Name)}, o); err != nil {
						b.Fatal(err)
					}
				case "peer":
					cfg.Snapshots = []Snapshot{snapshotOf(there)}
				}
				p := opened(b, cfg, log, add)
				stop := ready(p)
				b.StopTimer()
				if a, err := p.Get(b.Context(), "counts", "c-000007", nil); err != nil || string(a.Row.JSON) != `{"orders":2,"spent":null}` {
					b.Fatalf("%s, %v", a.Row.JSON, err)
				}
				stop()
				b.StartTimer()
			}
			b.ReportMetric(float64(info.Bytes)/1e6, "MB")
		})
	}
}
