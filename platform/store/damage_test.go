package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/fault"
)

// fill writes rounds batches, so that there are tables and a log.
func fill(t *testing.T, dir string, rounds int) map[string]string {
	t.Helper()
	want := map[string]string{}
	for round := range rounds {
		db, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		b := db.NewBatch()
		for i := range 500 {
			key, value := fmt.Sprintf("key-%04d", i), strings.Repeat(fmt.Sprintf("value %d of round %d ", i, round), 3)
			if err := b.Set([]byte(key), []byte(value)); err != nil {
				t.Fatal(err)
			}
			want[key] = value
		}
		if err := b.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return want
}

func files(t *testing.T, dir, ext string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+ext))
	if err != nil || len(names) == 0 {
		t.Fatalf("no %s files in %s: %v", ext, dir, err)
	}
	return names
}

func refuse(t *testing.T, dir string, want error, says string) {
	t.Helper()
	db, err := Open(dir, Options{})
	if err == nil {
		db.Close()
	}
	if !errors.Is(err, want) || !strings.Contains(fault.Lines(err), says) || fault.From(err).Fix == "" {
		t.Errorf("Open: %v\nwant %v with %q and a fix", fault.Lines(errOrNone(err)), want, says)
	}
}

func errOrNone(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}

func TestReopen(t *testing.T) {
	dir := t.TempDir() + "/db"
	want := fill(t, dir, 3)
	db := open(t, dir)
	for key, value := range want {
		if got, err := get(db, key); err != nil || got != value {
			t.Fatalf("%s = %q, %v, want %q", key, got, err, value)
		}
	}
	if db.Err() != nil {
		t.Error(db.Err())
	}
}

func TestLocked(t *testing.T) {
	dir := t.TempDir() + "/db"
	open(t, dir)
	refuse(t, dir, ErrLocked, fmt.Sprintf("process %d has %s open", os.Getpid(), dir))
}

func TestDirectory(t *testing.T) {
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refuse(t, file, ErrDirectory, file)
	refuse(t, file+"/db", ErrDirectory, file)
	if _, err := Open(t.TempDir(), Options{MemTable: 1, IndexCache: 1}); err == nil || strings.Count(err.Error(), "store:") != 2 {
		t.Errorf("three bad options: %v", err)
	}
}

func TestSentinel(t *testing.T) {
	t.Run("manifest deleted", func(t *testing.T) {
		dir := t.TempDir() + "/db"
		fill(t, dir, 2)
		before := len(files(t, dir, ".sst"))
		if err := os.Remove(dir + "/MANIFEST"); err != nil {
			t.Fatal(err)
		}
		refuse(t, dir, ErrDamaged, "its MANIFEST is gone")
		if got := len(files(t, dir, ".sst")); got != before {
			t.Errorf("%d tables are left of %d", got, before)
		}
	})
	t.Run("directory emptied", func(t *testing.T) {
		dir := t.TempDir() + "/db"
		fill(t, dir, 1)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		refuse(t, dir, ErrDamaged, "is empty, but "+dir+".sentinel says")
		refuse(t, dir, ErrDamaged, "remove "+dir+".sentinel")
		if err := os.Remove(dir + ".sentinel"); err != nil {
			t.Fatal(err)
		}
		open(t, dir)
	})
	t.Run("another database", func(t *testing.T) {
		tmp := t.TempDir()
		fill(t, tmp+"/a", 1)
		fill(t, tmp+"/b", 1)
		if err := errors.Join(os.RemoveAll(tmp+"/a"), os.Rename(tmp+"/b", tmp+"/a")); err != nil {
			t.Fatal(err)
		}
		refuse(t, tmp+"/a", ErrDamaged, "holds another database")
	})
	t.Run("sentinel lost", func(t *testing.T) {
		dir := t.TempDir() + "/db"
		fill(t, dir, 1)
		if err := os.Remove(dir + ".sentinel"); err != nil {
			t.Fatal(err)
		}
		fill(t, dir, 1)
		if _, err := os.Stat(dir + ".sentinel"); err != nil {
			t.Errorf("it was not written anew: %v", err)
		}
	})
	t.Run("sentinel damaged", func(t *testing.T) {
		dir := t.TempDir() + "/db"
		fill(t, dir, 1)
		if err := os.WriteFile(dir+".sentinel", []byte("xyz"), 0o600); err != nil {
			t.Fatal(err)
		}
		refuse(t, dir, ErrDamaged, "is not a sentinel")
	})
}

// TestTables flips, cuts and removes tables: Open says so and does not crash, and nothing wrong is ever read.
func TestTables(t *testing.T) {
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	source := t.TempDir() + "/db"
	fill(t, source, 3)
	for i := range 60 {
		dir := t.TempDir() + "/db"
		if err := os.CopyFS(dir, os.DirFS(source)); err != nil {
			t.Fatal(err)
		}
		names := files(t, dir, ".sst")
		name := names[rnd.IntN(len(names))]
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		what := ""
		switch i % 4 {
		case 0:
			bit := rnd.IntN(len(data) * 8)
			data[bit/8] ^= 1 << (bit % 8)
			what = fmt.Sprintf("bit %d of %d flipped", bit, len(data)*8)
		case 1:
			n := rnd.IntN(len(data))
			data = data[:n]
			what = fmt.Sprintf("cut to %d", n)
		case 2:
			for j := max(0, len(data)-rnd.IntN(60)-1); j < len(data); j++ {
				data[j] = byte(rnd.Uint32())
			}
			what = "end overwritten"
		case 3:
			what = "removed"
		}
		if what == "removed" {
			err = os.Remove(name)
		} else {
			err = os.WriteFile(name, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		db, err := Open(dir, Options{})
		if err == nil {
			db.Close()
		}
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %s: %v, want ErrDamaged", filepath.Base(name), what, err)
		}
	}
}

// TestEmptyFiles puts there what a kill can leave behind.
func TestEmptyFiles(t *testing.T) {
	dir := t.TempDir() + "/db"
	want := fill(t, dir, 1)
	for _, name := range []string{"00077.mem", "000077.vlog"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	db := open(t, dir)
	if got, err := get(db, "key-0000"); err != nil || got != want["key-0000"] {
		t.Errorf("%q, %v", got, err)
	}
}

func TestOpeningMark(t *testing.T) {
	dir := t.TempDir() + "/db"
	fill(t, dir, 1)
	mark := filepath.Join(dir, "opening")
	if _, err := os.Stat(mark); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after a good start there is a mark: %v", err)
	}
	write := func(text string) {
		if err := os.WriteFile(mark, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("4\n")
	fill(t, dir, 1)
	write("")
	fill(t, dir, 1)
	write("5\n")
	refuse(t, dir, ErrDamaged, "the last 5 starts ended while")
	refuse(t, dir, ErrDamaged, "remove "+mark)
}

// TestValueChecksum writes values past the batch, as a flipped bit would.
func TestValueChecksum(t *testing.T) {
	db := open(t, t.TempDir()+"/db")
	set(t, db, "a", "1", "b", "2", "c", "3")
	raw := func(key string, f func([]byte) []byte) {
		txn := db.bdb.NewTransaction(true)
		defer txn.Discard()
		item, err := txn.Get(append([]byte{dataSpace}, key...))
		if err != nil {
			t.Fatal(err)
		}
		stored, err := item.ValueCopy(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := txn.Set(append([]byte{dataSpace}, key...), f(stored)); err != nil {
			t.Fatal(err)
		}
		if err := txn.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	good := appendValue(nil, []byte("b"), []byte("2"))
	for bit := range len(good) * 8 {
		raw("b", func([]byte) []byte {
			flipped := append([]byte(nil), good...)
			flipped[bit/8] ^= 1 << (bit % 8)
			return flipped
		})
		if got, err := get(db, "b"); !errors.Is(err, ErrDamaged) || got != "" {
			t.Errorf("bit %d: Get = %q, %v, want ErrDamaged", bit, got, err)
		}
	}
	for name, value := range map[string][]byte{"of another key": appendValue(nil, []byte("a"), []byte("1")), "short": {1, 2}, "empty": nil} {
		raw("b", func([]byte) []byte { return value })
		if _, err := get(db, "b"); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: Get: %v, want ErrDamaged", name, err)
		}
	}
	var keys []string
	err := db.Read(func(r *Reader) error {
		for p, err := range r.Scan(Range{}) {
			if err != nil {
				return err
			}
			keys = append(keys, string(p.Key))
		}
		return nil
	})
	if !errors.Is(err, ErrDamaged) || len(keys) != 1 {
		t.Errorf("Scan: %v after %q, want ErrDamaged after a", err, keys)
	}
	if got, err := get(db, "c"); err != nil || got != "3" {
		t.Errorf("c = %q, %v", got, err)
	}
}

// TestLatch fails a commit: from then on nothing is answered.
func TestLatch(t *testing.T) {
	dir := t.TempDir() + "/db"
	db := open(t, dir)
	set(t, db, "a", "1")
	b := db.NewBatch()
	if err := b.Set([]byte("a"), []byte("2")); err != nil {
		t.Fatal(err)
	}
	if err := db.bdb.Close(); err != nil { // Badger refuses all writes from here on
		t.Fatal(err)
	}
	if err := b.Commit(); !errors.Is(err, ErrFailed) {
		t.Errorf("Commit: %v, want ErrFailed", err)
	}
	select {
	case <-db.Failed():
	default:
		t.Error("Failed is not closed")
	}
	if err := db.Err(); !errors.Is(err, ErrFailed) {
		t.Errorf("Err: %v", err)
	}
	if _, err := get(db, "a"); !errors.Is(err, ErrFailed) {
		t.Errorf("Get: %v, want ErrFailed", err)
	}
	if err := db.NewBatch().Set([]byte("x"), nil); !errors.Is(err, ErrFailed) {
		t.Errorf("Set: %v, want ErrFailed", err)
	}
	if _, err := db.NewReader(); !errors.Is(err, ErrFailed) {
		t.Errorf("NewReader: %v, want ErrFailed", err)
	}
}

func TestDiskFull(t *testing.T) {
	db := open(t, t.TempDir()+"/db")
	db.space.least = 1 << 62
	b := db.NewBatch()
	if err := b.Set([]byte("a"), []byte("1")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.Commit(); !errors.Is(err, ErrDiskFull) || fault.From(err).RetryAfter == 0 {
			t.Errorf("Commit: %v, want ErrDiskFull", err)
		}
	}
	if _, err := get(db, "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get: %v, want ErrNotFound", err)
	}
	db.space.least = 1
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	if got, err := get(db, "a"); err != nil || got != "1" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestBatchFull(t *testing.T) {
	db := open(t, t.TempDir()+"/db")
	b := db.NewBatch()
	n := 0
	for ; ; n++ {
		err := b.Set(fmt.Appendf(nil, "%06d", n), make([]byte, 1000))
		if errors.Is(err, ErrBatchFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Delete([]byte("x")); err != nil && !errors.Is(err, ErrBatchFull) {
		t.Error(err)
	}
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(scan(t, db, Range{}), "="); got != n {
		t.Errorf("%d keys, want %d", got, n)
	}
	if err := b.Set([]byte("x"), nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Set after Commit: %v", err)
	}
	for _, err := range []error{db.NewBatch().Set(nil, nil), db.NewBatch().Set(make([]byte, MaxKey+1), nil),
		db.NewBatch().Set([]byte("k"), make([]byte, MaxValue+1)), db.NewBatch().Delete(nil)} {
		if !errors.Is(err, ErrEntry) {
			t.Errorf("%v, want ErrEntry", err)
		}
	}
	big := db.NewBatch()
	if err := errors.Join(big.Set(make([]byte, MaxKey), make([]byte, MaxValue)), big.Commit()); err != nil {
		t.Errorf("the largest entry: %v", err)
	}
	dropped := db.NewBatch()
	if err := dropped.Set([]byte("dropped"), nil); err != nil {
		t.Fatal(err)
	}
	dropped.Discard()
	if _, err := get(db, "dropped"); !errors.Is(err, ErrNotFound) {
		t.Errorf("discarded: %v", err)
	}
}

func TestSnapshot(t *testing.T) {
	db := open(t, t.TempDir()+"/db")
	set(t, db, "a", "1")
	r, err := db.NewReader()
	if err != nil {
		t.Fatal(err)
	}
	set(t, db, "a", "2", "b", "3")
	if got, err := r.Get([]byte("a")); err != nil || string(got) != "1" {
		t.Errorf("a = %q, %v, want 1", got, err)
	}
	if ok, err := r.Has([]byte("b")); ok || err != nil {
		t.Errorf("Has(b) = %v, %v", ok, err)
	}
	closed := make(chan struct{})
	go func() { db.Close(); close(closed) }()
	select {
	case <-closed:
		t.Error("Close did not wait for the reader")
	case <-time.After(20 * time.Millisecond):
	}
	r.Close()
	r.Close()
	<-closed
	if _, err := db.NewReader(); !errors.Is(err, ErrClosed) {
		t.Errorf("NewReader: %v, want ErrClosed", err)
	}
}
