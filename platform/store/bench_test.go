package store

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
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

// BenchmarkBackup backs up, verifies and restores a store of 100,000 keys with 120 bytes each.
func BenchmarkBackup(b *testing.B) {
	tmp := b.TempDir()
	db, err := Open(tmp+"/db", Options{})
	if err != nil {
		b.Fatal(err)
	}
	const keys = 100_000
	for k := 0; k < keys; {
		batch := db.NewBatch()
		for range 10_000 {
			if err := batch.Set(fmt.Appendf(nil, "key-%08d", k), make([]byte, 120)); err != nil {
				b.Fatal(err)
			}
			k++
		}
		if err := batch.Commit(); err != nil {
			b.Fatal(err)
		}
	}
	path := tmp + "/backup"
	b.Run("backup", func(b *testing.B) {
		for b.Loop() {
			if _, err := db.Backup(b.Context(), io.Discard, BackupOptions{}); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)*keys/b.Elapsed().Seconds(), "keys/s")
	})
	if _, err := db.BackupFile(b.Context(), path, BackupOptions{}); err != nil {
		b.Fatal(err)
	}
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			if _, err := VerifyBackup(b.Context(), path); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)*keys/b.Elapsed().Seconds(), "keys/s")
	})
	b.Run("restore", func(b *testing.B) {
		for b.Loop() {
			if _, err := Restore(b.Context(), path, tmp+"/to", Options{}); err != nil {
				b.Fatal(err)
			}
			if err := Remove(tmp + "/to"); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)*keys/b.Elapsed().Seconds(), "keys/s")
	})
	b.Run("scrub", func(b *testing.B) {
		for b.Loop() {
			if err := db.Scrub(b.Context(), 0, nil); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)*keys/b.Elapsed().Seconds(), "keys/s")
	})
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkGet reads rows of 250 bytes by chance, of more than the caches hold.
func BenchmarkGet(b *testing.B) {
	db, err := Open(b.TempDir()+"/db", Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	const keys = 600_000
	for k := 0; k < keys; {
		batch := db.NewBatch()
		for range 5_000 {
			if err := batch.Set(fmt.Appendf(nil, "key-%08d", k*7919%keys), make([]byte, 250)); err != nil {
				b.Fatal(err)
			}
			k++
		}
		if err := batch.Commit(); err != nil {
			b.Fatal(err)
		}
	}
	r, err := db.NewReader()
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		var key []byte
		for pb.Next() {
			key = fmt.Appendf(key[:0], "key-%08d", rand.IntN(keys))
			if _, err := r.Get(key); err != nil {
				b.Error(err)
			}
		}
	})
}
