package store

import (
	"errors"
	"testing"
)

// TestLock: a directory is locked by one at a time.
func TestLock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/views"
	release, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("locked twice: %v", err)
	}
	db := open(t, dir+"/db") // has a lock of its own
	if err := errors.Join(db.Close(), release()); err != nil {
		t.Fatal(err)
	}
	if release, err = Lock(dir); err != nil {
		t.Fatal(err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
}
