package store

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// TestCondemn: what was found wrong while it ran is not opened again, and is moved aside with the reason.
func TestCondemn(t *testing.T) {
	dir := t.TempDir() + "/db"
	fill(t, dir, 1)
	db, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Condemn("a hole"), db.Condemn("another one")); err != nil {
		t.Fatal(err)
	}
	if _, err := get(db, "key-0000"); err != nil {
		t.Errorf("it goes on until it is closed: %v", err)
	}
	if _, err := Quarantine(dir, errors.New("x")); !errors.Is(err, ErrLocked) {
		t.Errorf("an open one was moved: %v", err)
	}
	if err := Remove(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("an open one was removed: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	refuse(t, dir, ErrDamaged, "was found to be wrong: a hole")
	moved, err := Quarantine(dir, errors.New("the reason"))
	if err != nil || moved != dir+".damaged-1" {
		t.Fatalf("moved to %s, %v", moved, err)
	}
	if text, err := os.ReadFile(moved + "/REASON"); err != nil || !strings.Contains(string(text), "the reason") {
		t.Errorf("%q, %v", text, err)
	}
	if len(files(t, moved, ".sst")) == 0 {
		t.Error("its tables are gone")
	}
	db, err = Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := get(db, "key-0000"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the new one is not empty: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestQuarantineBounds: a disk that breaks one store after the other does not fill up, and one that is not mounted is not written to.
func TestQuarantineBounds(t *testing.T) {
	dir := t.TempDir() + "/db"
	reason := ErrDamaged.Because("broken")
	for range maxQuarantined {
		fill(t, dir, 1)
		if _, err := Quarantine(dir, reason); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, dir, 1)
	if moved, err := Quarantine(dir, reason); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "3 times before") {
		t.Errorf("moved to %s, %v", moved, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for _, empty := range []bool{false, true} {
		if empty {
			// What is left by who was killed when it tried whether it may write is nothing of a database.
			if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(dir+"/"+probeName, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if moved, err := Quarantine(dir, reason); !errors.Is(err, ErrDamaged) {
			t.Errorf("empty %v: moved to %s, %v", empty, moved, err)
		}
	}
	_, found := Open(dir, Options{})
	if _, err := Quarantine(dir, found); !errors.Is(err, ErrDamaged) || strings.Count(err.Error(), "is empty") != 1 {
		t.Errorf("what Open found is said once: %v", err)
	}
	if err := Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := Remove(dir); err != nil {
		t.Errorf("a second time: %v", err)
	}
	open(t, dir)
}
