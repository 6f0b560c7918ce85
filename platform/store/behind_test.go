package store

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// behindStore opens a store whose small transactions are visible before they are on the disk.
func behindStore(t *testing.T, dir string) *DB {
	t.Helper()
	if !canBeBehind {
		t.Skip("not on this system")
	}
	o := small()
	o.Behind = true
	db, err := openWith(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// TestBehind writes without waiting for the disk. What is written is visible, Sync puts it on the disk, and a store that is closed has all of it;
// TestPowerCuts has one whose process is killed.
func TestBehind(t *testing.T) {
	t.Parallel()
	w := workload(testSeed(t))
	dir := t.TempDir() + "/db"
	db := behindStore(t, dir)
	const batches = 120
	for n := 1; n <= batches; n++ {
		b := db.NewBatch()
		if err := errors.Join(w.write(b, n), db.WriteTogether(b)); err != nil {
			t.Fatal(err)
		}
		if got, err := positionOf(db); err != nil || got != n {
			t.Fatalf("position %d is visible after %d was written, %v", got, n, err)
		}
		log, err := filepath.Glob(filepath.Join(dir, "*.mem"))
		if err != nil {
			t.Fatal(err)
		}
		if got := db.behind.name(db.behind.log); got != slices.Max(log) {
			t.Fatalf("batch %d: it syncs %s, and writes %s", n, got, slices.Max(log))
		}
	}
	if err := db.Sync(); err != nil {
		t.Fatal(err)
	}
	if db.behind.synced != db.behind.written || db.behind.written != db.version() {
		t.Errorf("synced up to %d, written up to %d of %d", db.behind.synced, db.behind.written, db.version())
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = behindStore(t, dir)
	if position, err := (&model{workload: w}).check(db); err != nil || position != batches {
		t.Errorf("position %d, %v", position, err)
	}
}

// TestBehindFails: a log that cannot be synced ends everything, as any write that fails does.
func TestBehindFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/db"
	db := behindStore(t, dir)
	if err := db.Sync(); err != nil {
		t.Fatal(err)
	}
	log := db.behind.name(db.behind.log)
	if err := errors.Join(os.Rename(log, log+".away"), os.Mkdir(log, 0o700)); err != nil { // a directory cannot be opened to be written
		t.Fatal(err)
	}
	b := db.NewBatch()
	if err := errors.Join(b.Set([]byte("key"), []byte("value")), db.WriteTogether(b)); err != nil {
		t.Fatal(err)
	}
	<-db.Failed()
	if err := db.Sync(); !errors.Is(err, ErrFailed) {
		t.Errorf("Sync returns %v", err)
	}
	b = db.NewBatch()
	if err := b.Set([]byte("key"), nil); !errors.Is(err, ErrFailed) {
		t.Errorf("Set returns %v", err)
	}
	if err := errors.Join(os.Remove(log), os.Rename(log+".away", log)); err != nil {
		t.Fatal(err)
	}
}
