package store

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// rows reads everything.
func rows(t *testing.T, db *DB) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := db.Read(func(r *Reader) error {
		for p, err := range r.Scan(Range{}) {
			if err != nil {
				return err
			}
			all[string(p.Key)] = string(p.Value)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// randomBatch fills a batch with n random writes, repeated keys among them, and applies them to want.
func randomBatch(t *testing.T, db *DB, rnd *rand.Rand, n, keys int, want map[string]string) *Batch {
	t.Helper()
	b := db.NewBatch()
	for range n {
		key := fmt.Sprintf("key-%05d", rnd.IntN(keys))
		var err error
		if rnd.IntN(5) == 0 {
			err = b.Delete([]byte(key))
			delete(want, key)
		} else {
			value := strings.Repeat("v", rnd.IntN(40)) + fmt.Sprint(rnd.Uint32())
			err = b.Set([]byte(key), []byte(value))
			want[key] = value
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// TestBulkIsABatch commits batches below and above the size at which they are written in bulk, over restarts, and compares with a map.
func TestBulkIsABatch(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir() + "/db"
	want := map[string]string{}
	for range 4 {
		db, err := Open(dir, Options{MemTable: 8 << 20})
		if err != nil {
			t.Fatal(err)
		}
		for range 12 {
			b := randomBatch(t, db, rnd, []int{1, 10, bulkWrites - 1, bulkWrites, 5000, 9000}[rnd.IntN(6)], 8000, want)
			if err := b.Commit(); err != nil {
				t.Fatal(err)
			}
			if got := rows(t, db); !maps.Equal(got, want) {
				t.Fatalf("%d rows, want %d, or other values", len(got), len(want))
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBulkIsAtomic cuts the log within a bulk, as a power failure would: after the next start all of it is there or nothing.
// It depends on how Badger marks transactions, and tells when that changes.
func TestBulkIsAtomic(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir() + "/db"
	db := open(t, dir)
	before := map[string]string{}
	if err := randomBatch(t, db, rnd, 500, 3000, before).Commit(); err != nil {
		t.Fatal(err)
	}
	log := func() []byte {
		names := files(t, dir, ".mem")
		if len(names) != 1 {
			t.Fatalf("%d logs", len(names))
		}
		data, err := os.ReadFile(names[0])
		if err != nil {
			t.Fatal(err)
		}
		return bytes.TrimRight(data, "\x00")
	}
	from := len(log())
	after := maps.Clone(before)
	if err := randomBatch(t, db, rnd, 4000, 3000, after).Commit(); err != nil {
		t.Fatal(err)
	}
	whole := log()
	name := filepath.Base(files(t, dir, ".mem")[0])
	none, all := 0, 0
	for i := range 40 {
		cut := from + rnd.IntN(len(whole)-from)
		if i < 10 {
			cut = len(whole) - i*20 // around the end of the bulk
		}
		to := t.TempDir() + "/db"
		if err := os.Mkdir(to, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{"MANIFEST", "KEYREGISTRY"} {
			data, err := os.ReadFile(filepath.Join(dir, f))
			if err == nil {
				err = os.WriteFile(filepath.Join(to, f), data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		torn := append(bytes.Clone(whole[:cut]), make([]byte, 4096)...)
		if err := os.WriteFile(filepath.Join(to, name), torn, 0o600); err != nil {
			t.Fatal(err)
		}
		copied, err := Open(to, Options{})
		if err != nil {
			t.Fatal(err)
		}
		switch got := rows(t, copied); {
		case maps.Equal(got, before):
			none++
		case maps.Equal(got, after):
			all++
		default:
			t.Errorf("cut at %d of %d to %d: %d rows, neither the %d before nor the %d after", cut, from, len(whole), len(got), len(before), len(after))
		}
		if err := copied.Close(); err != nil {
			t.Error(err)
		}
	}
	if none == 0 || all == 0 {
		t.Errorf("%d cuts left nothing of the bulk, %d all: want some of both", none, all)
	}
}

// TestBulkIsolation reads snapshots while large and small batches are committed: each batch writes one number to all its keys.
func TestBulkIsolation(t *testing.T) {
	db := open(t, t.TempDir()+"/db")
	write := func(prefix string, keys, round int) error {
		b := db.NewBatch()
		for k := range keys {
			if err := b.Set(fmt.Appendf(nil, "%s-%05d", prefix, k), fmt.Append(nil, round)); err != nil {
				return err
			}
		}
		return b.Commit()
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	writer := func(prefix string, keys, rounds int) {
		wg.Go(func() {
			for round := range rounds {
				if err := write(prefix, keys, round); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			last := map[string]string{}
			for {
				select {
				case <-stop:
					return
				default:
				}
				for prefix, keys := range map[string]int{"large": 3000, "other": 2000, "small": 3} {
					seen := map[string]int{}
					err := db.Read(func(r *Reader) error {
						for p, err := range r.Scan(Prefix([]byte(prefix))) {
							if err != nil {
								return err
							}
							seen[string(p.Value)]++
							last[prefix] = string(p.Value)
						}
						return nil
					})
					if err != nil || len(seen) > 1 || len(seen) == 1 && seen[last[prefix]] != keys {
						t.Errorf("%s: a snapshot has %v, %v", prefix, seen, err)
						return
					}
				}
			}
		})
	}
	writer("large", 3000, 25)
	writer("other", 2000, 25)
	writer("small", 3, 200)
	wg.Wait()
	close(stop)
	readers.Wait()
	for prefix, want := range map[string]string{"large-00000": "24", "other-01999": "24", "small-00002": "199"} {
		if got, err := get(db, prefix); err != nil || got != want {
			t.Errorf("%s = %s, %v, want %s", prefix, got, err, want)
		}
	}
}
