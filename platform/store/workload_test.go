package store

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// small are options for stores whose memtables are full after a few batches, with room for bulks.
func small() Options {
	return Options{MemTable: 768 << 10, IndexCache: 64 << 20, MinFree: -1, Logger: slog.New(slog.DiscardHandler)}
}

// A workload is a series of batches that follow from its seed. Each batch writes its number as the position, so that what a store holds
// says how far it is, and model says what it must hold then.
type workload uint64

const workloadKeys = 4000

func (w workload) write(b *Batch, n int) error {
	var errs []error
	w.each(n, func(key, value string) {
		if value == "" {
			errs = append(errs, b.Delete([]byte(key)))
		} else {
			errs = append(errs, b.Set([]byte(key), []byte(value)))
		}
	})
	return errors.Join(errs...)
}

// each calls fn for the writes of batch n; no value is a removal.
func (w workload) each(n int, fn func(key, value string)) {
	rnd := rand.New(rand.NewPCG(uint64(w), uint64(n)))
	for range []int{1, 1, 5, 40, 300, 1000, 1100}[rnd.IntN(7)] {
		key := fmt.Sprintf("row-%05d", rnd.IntN(workloadKeys))
		if rnd.IntN(5) == 0 {
			fn(key, "")
		} else {
			fn(key, fmt.Sprintf("%d %d %s", n, rnd.Uint32(), strings.Repeat("v", rnd.IntN(60))))
		}
	}
	fn("position", strconv.Itoa(n))
}

// A model is what a store must hold after some batches of a workload.
type model struct {
	workload workload
	n        int
	rows     map[string]string
}

func (m *model) at(n int) map[string]string {
	if n < m.n || m.rows == nil {
		m.n, m.rows = 0, map[string]string{}
	}
	for m.n < n {
		m.n++
		m.workload.each(m.n, func(key, value string) {
			if value == "" {
				delete(m.rows, key)
			} else {
				m.rows[key] = value
			}
		})
	}
	return m.rows
}

// content reads everything.
func content(db *DB) (map[string]string, error) {
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
	return all, err
}

// check compares what a store holds with the model, and returns its position.
func (m *model) check(db *DB) (position int, err error) {
	got, err := content(db)
	if err != nil {
		return 0, err
	}
	if text, ok := got["position"]; ok {
		if position, err = strconv.Atoi(text); err != nil {
			return 0, fmt.Errorf("the position is %q", text)
		}
	}
	want := m.at(position)
	if maps.Equal(got, want) {
		return position, nil
	}
	for key, value := range want {
		if got[key] != value {
			return position, fmt.Errorf("at position %d %s is %q, want %q (%d rows, want %d)", position, key, got[key], value, len(got), len(want))
		}
	}
	return position, fmt.Errorf("at position %d there are %d rows, want %d", position, len(got), len(want))
}

// run commits the batches after number from, up to number to.
func (w workload) run(db *DB, from, to int) error {
	for n := from + 1; n <= to; n++ {
		b := db.NewBatch()
		if err := errors.Join(w.write(b, n), b.Commit()); err != nil {
			return err
		}
	}
	return nil
}

// copyStore copies a database with its sentinel. Pages of zeroes stay holes.
func copyStore(from, to string) error {
	names, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, name := range names {
		if name.Name() == "LOCK" || name.Name() == "opening" || name.IsDir() {
			continue
		}
		if err := copyFile(filepath.Join(from, name.Name()), filepath.Join(to, name.Name())); err != nil {
			return err
		}
	}
	return copyFile(from+".sentinel", to+".sentinel")
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	errs := []error{f.Truncate(int64(len(data)))}
	const page = 4096
	zero := make([]byte, page)
	for at := 0; at < len(data); at += page {
		part := data[at:min(at+page, len(data))]
		if !bytes.Equal(part, zero[:len(part)]) {
			_, err := f.WriteAt(part, int64(at))
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, f.Close())...)
}

// blockFlush makes Badger fail to write tables for as long as the test may run, so that logs pile up. It must be called while the store is open.
func blockFlush(t *testing.T, dir string) {
	t.Helper()
	for id := range 300 {
		err := os.Mkdir(filepath.Join(dir, fmt.Sprintf("%06d.sst", id)), 0o700)
		if err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
}

// unblockFlush lets a database that was blocked be closed.
func unblockFlush(t *testing.T, dir string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if info, err := os.Stat(name); err == nil && info.IsDir() {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
}
