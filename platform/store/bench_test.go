package store

import (
	"errors"
	"fmt"
	"testing"
)

// BenchmarkBatch writes what a projection writes: for each event one row of 250 bytes and two index entries, in batches as
// large as they get.
func BenchmarkBatch(b *testing.B) {
	for _, memTable := range []int64{16 << 20, 32 << 20, 64 << 20} {
		b.Run(fmt.Sprintf("memtable=%dMiB", memTable>>20), func(b *testing.B) {
			db, err := Open(b.TempDir()+"/db", Options{MemTable: memTable})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			row := make([]byte, 250)
			batch := db.NewBatch()
			put := func(k string, v []byte) {
				err := batch.Set([]byte(k), v)
				if errors.Is(err, ErrBatchFull) {
					if err := batch.Commit(); err != nil {
						b.Fatal(err)
					}
					batch = db.NewBatch()
					err = batch.Set([]byte(k), v)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ResetTimer()
			for i := range b.N {
				n := uint32(i) * 2654435761
				put(fmt.Sprintf("row/orders/1/o-%08d", i), row)
				put(fmt.Sprintf("idx/orders/1/customer/c-%05d/o-%08d", n%20000, i), nil)
				put(fmt.Sprintf("idx/orders/1/status/placed/o-%08d", i), nil)
			}
			if err := batch.Commit(); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
