package store

import (
	"errors"
	"fmt"
	"testing"

	"github.com/dgraph-io/badger/v4/options"
)

func open(t *testing.T, dir string) *DB {
	t.Helper()
	db, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func set(t *testing.T, db *DB, pairs ...string) {
	t.Helper()
	b := db.NewBatch()
	for i := 0; i < len(pairs); i += 2 {
		if err := b.Set([]byte(pairs[i]), []byte(pairs[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
}

func scan(t *testing.T, db *DB, rg Range) string {
	t.Helper()
	out := ""
	err := db.Read(func(r *Reader) error {
		for p, err := range r.Scan(rg) {
			if err != nil {
				return err
			}
			out += fmt.Sprintf("%s=%s ", p.Key, p.Value)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func get(db *DB, key string) (value string, err error) {
	err = db.Read(func(r *Reader) error {
		v, err := r.Get([]byte(key))
		value = string(v)
		return err
	})
	return value, err
}

func TestSetGetDelete(t *testing.T) {
	db := open(t, t.TempDir()+"/db")
	set(t, db, "a", "1", "b", "", "\x00", "zero", "\xff\xff", "high")
	for key, want := range map[string]string{"a": "1", "b": "", "\x00": "zero", "\xff\xff": "high"} {
		if got, err := get(db, key); err != nil || got != want {
			t.Errorf("Get(%q) = %q, %v, want %q", key, got, err, want)
		}
	}
	b := db.NewBatch()
	if err := b.Delete([]byte("a")); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	if _, err := get(db, "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get after Delete: %v, want ErrNotFound", err)
	}
}

func TestScan(t *testing.T) {
	db := open(t, t.TempDir()+"/db")
	set(t, db, "a", "0", "b", "1", "b1", "2", "b2", "3", "c", "4", "\xff\xff", "5", "\xff\xff\xff", "6")
	for _, tc := range []struct {
		name string
		rg   Range
		want string
	}{
		{"all", Range{}, "a=0 b=1 b1=2 b2=3 c=4 \xff\xff=5 \xff\xff\xff=6 "},
		{"all backward", Range{Reverse: true}, "\xff\xff\xff=6 \xff\xff=5 c=4 b2=3 b1=2 b=1 a=0 "},
		{"prefix", Prefix([]byte("b")), "b=1 b1=2 b2=3 "},
		{"prefix backward", Range{From: []byte("b"), To: PrefixEnd([]byte("b")), Reverse: true}, "b2=3 b1=2 b=1 "},
		{"prefix without end", Prefix([]byte("\xff\xff")), "\xff\xff=5 \xff\xff\xff=6 "},
		{"the end is excluded", Range{From: []byte("b"), To: []byte("c")}, "b=1 b1=2 b2=3 "},
		{"the end is excluded backward", Range{From: []byte("b"), To: []byte("c"), Reverse: true}, "b2=3 b1=2 b=1 "},
		{"the end is absent", Range{From: []byte("b11"), To: []byte("bz"), Reverse: true}, "b2=3 "},
		{"keys only", Range{From: []byte("b"), To: []byte("b2"), KeysOnly: true}, "b= b1= "},
		{"keys only backward", Range{From: []byte("b"), To: []byte("b2"), KeysOnly: true, Reverse: true}, "b1= b= "},
		{"empty", Range{From: []byte("x"), To: []byte("y")}, ""},
		{"upside down", Range{From: []byte("c"), To: []byte("a")}, ""},
		{"nothing", Range{From: []byte("b"), To: []byte("b")}, ""},
	} {
		if got := scan(t, db, tc.rg); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestRoom(t *testing.T) {
	db := open(t, t.TempDir()+"/db")
	writes, bytes := db.Room()
	for _, value := range []int{0, 300, 4000} {
		b := db.NewBatch()
		n, used := 0, int64(0)
		for {
			key := fmt.Appendf(nil, "%08d", n)
			if n == writes || used+EntryCost(len(key), value) > bytes {
				break
			}
			if err := b.Set(key, make([]byte, value)); err != nil {
				t.Fatalf("values of %d bytes: write %d of %d, byte %d of %d: %v", value, n, writes, used, bytes, err)
			}
			n, used = n+1, used+EntryCost(len(key), value)
		}
		if err := b.Commit(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSettings: these promises hang on single settings of Badger's.
func TestSettings(t *testing.T) {
	for _, memTable := range []int64{8 << 20, 16 << 20, 256 << 20} {
		db, err := Open(t.TempDir()+"/db", Options{MemTable: memTable, MinFree: -1})
		if err != nil {
			t.Fatal(err)
		}
		o := db.bdb.Opts()
		if !o.SyncWrites {
			t.Error("writes are not synced: a power cut could take an older log's end and leave a newer log")
		}
		if o.ValueThreshold <= valueHeader+MaxValue {
			t.Errorf("the largest value has %d bytes, but from %d on values go to the value log, which nobody checks or collects", valueHeader+MaxValue, o.ValueThreshold)
		}
		if o.ChecksumVerificationMode == options.OnBlockRead || o.ChecksumVerificationMode == options.OnTableAndBlockRead {
			t.Error("a block that fails its checksum is answered from an older one in this mode")
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
