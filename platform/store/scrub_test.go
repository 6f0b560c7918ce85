package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dgraph-io/badger/v4/options"
)

// TestScrub flips bits of the tables of an open store, and cuts one: scrubs find it, and nothing when the tables are as they were.
func TestScrub(t *testing.T) {
	t.Parallel()
	seed := testSeed(t)
	rnd := rand.New(rand.NewPCG(seed, 11))
	dir := t.TempDir() + "/db"
	fill(t, dir, 3)
	db := open(t, dir)
	tables := files(t, dir, ".sst")
	whole := func() {
		t.Helper()
		var last ScrubProgress
		if err := db.Scrub(t.Context(), 0, func(p ScrubProgress) { last = p }); err != nil {
			t.Fatal(err)
		}
		if last.Tables != len(tables) || last.AllTables != len(tables) || last.Keys != 500 || last.Bytes < 100<<10 {
			t.Errorf("%+v, want %d tables and 500 keys", last, len(tables))
		}
	}
	whole()
	for range 40 {
		name := tables[rnd.IntN(len(tables))]
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		bit := rnd.IntN(len(data) * 8)
		poke(t, name, bit/8, data[bit/8]^1<<(bit%8))
		if err := db.Scrub(t.Context(), 0, nil); !errors.Is(err, ErrDamaged) {
			t.Errorf("bit %d of %d in %s: %v, want ErrDamaged", bit, len(data)*8, name, err)
		}
		poke(t, name, bit/8, data[bit/8])
	}
	data, err := os.ReadFile(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(tables[0], 100); err != nil {
		t.Fatal(err)
	}
	if err := db.Scrub(t.Context(), 0, nil); !errors.Is(err, ErrDamaged) {
		t.Errorf("cut: %v, want ErrDamaged", err)
	}
	for i, b := range data {
		poke(t, tables[0], i, b)
	}
	whole()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.Scrub(ctx, 1, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func poke(t *testing.T, name string, at int, b byte) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte{b}, int64(at))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestScrubValues writes a value past the batch, as in TestValueChecksum: a scrub finds it in memory, too.
func TestScrubValues(t *testing.T) {
	db := open(t, t.TempDir()+"/db")
	set(t, db, "a", "1", "b", "2")
	txn := db.bdb.NewTransaction(true)
	defer txn.Discard()
	if err := errors.Join(txn.Set([]byte{dataSpace, 'b'}, appendValue(nil, []byte("b"), []byte("3"))[:7]), txn.Commit()); err != nil {
		t.Fatal(err)
	}
	b := appendValue(nil, []byte("b"), []byte("3"))
	b[len(b)-1] ^= 1
	txn = db.bdb.NewTransaction(true)
	defer txn.Discard()
	if err := errors.Join(txn.Set([]byte{dataSpace, 'b'}, b), txn.Commit()); err != nil {
		t.Fatal(err)
	}
	if err := db.Scrub(t.Context(), 0, nil); !errors.Is(err, ErrDamaged) {
		t.Errorf("%v, want ErrDamaged", err)
	}
}

// TestScrubBesideWriters scrubs while tables come and are compacted away.
func TestScrubBesideWriters(t *testing.T) {
	t.Parallel()
	db, err := openWith(t.TempDir()+"/db", small())
	if err != nil {
		t.Fatal(err)
	}
	w := workload(testSeed(t))
	written := make(chan error, 1)
	go func() {
		written <- errors.Join(w.run(db, 0, 120), db.bdb.Flatten(1), w.run(db, 120, 180))
	}()
	for n := 0; ; n++ {
		if err := db.Scrub(t.Context(), 0, nil); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-written:
			if err := errors.Join(err, db.Close()); err != nil {
				t.Error(err)
			}
			t.Logf("%d scrubs", n)
			return
		default:
		}
	}
}

// TestTableTruncated: Badger truncates a table before it removes it, at any moment of a scrub. That is an error, not the end of the process.
func TestTableTruncated(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/db"
	fill(t, dir, 1)
	name := files(t, dir, ".sst")[0]
	for i := range 50 {
		copied := fmt.Sprintf("%s/%06d.sst", t.TempDir(), i+1)
		if err := copyFile(name, copied); err != nil {
			t.Fatal(err)
		}
		verified := make(chan struct{})
		go func() {
			defer close(verified)
			_, _ = verifyTable(copied, options.None)
		}()
		if err := os.Truncate(copied, 0); err != nil {
			t.Fatal(err)
		}
		<-verified
	}
}

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		p := pace{rate: 1000}
		for range 10 {
			if err := p.spend(t.Context(), 500); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begun); took != 5*time.Second {
			t.Errorf("5,000 bytes at 1,000 a second took %s", took)
		}
		<-time.After(time.Hour) // which is no credit
		begun = time.Now()
		for range 4 {
			if err := p.spend(t.Context(), 1000); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begun); took != 3*time.Second {
			t.Errorf("4,000 bytes at 1,000 a second took %s, want 3s, for the first ones are free after a rest", took)
		}
		free := pace{}
		if err := free.spend(t.Context(), 1<<60); err != nil {
			t.Error(err)
		}
	})
}

func TestStats(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/db"
	fill(t, dir, 3)
	db := open(t, dir)
	set(t, db, "x", "1")
	s, err := db.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if s.Tables < 3*30_000 || s.Logs == 0 || s.Memtables != 1 || s.Keys < 1500 || s.Keys > 1520 || s.Compactions != 0 {
		t.Errorf("%+v", s)
	}
	if !slices.EqualFunc(s.Levels, []Level{{Number: 0, Tables: 3}}, func(a, b Level) bool { return a.Number == b.Number && a.Tables == b.Tables && a.Bytes > 90_000 }) {
		t.Errorf("levels: %+v", s.Levels)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Stats(); !errors.Is(err, ErrClosed) {
		t.Errorf("%v, want ErrClosed", err)
	}
}
