package store

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	badger "github.com/dgraph-io/badger/v4"
)

// TestManifestBits flips each bit of a MANIFEST: Badger takes some of them for a torn end, and would delete the tables that were named there.
func TestManifestBits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/db"
	want := fill(t, dir, 4)
	path := filepath.Join(dir, badger.ManifestFilename)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sent := sentinel{path: dir + ".sentinel"}
	if err := sent.read(); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for bit := range len(whole) * 8 {
		flipped := bytes.Clone(whole)
		flipped[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(path, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := inspect(dir, sent, false); errors.Is(err, ErrDamaged) {
			refused++
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		copied := t.TempDir() + "/db"
		if err := copyStore(dir, copied); err != nil {
			t.Fatal(err)
		}
		if got := rows(t, open(t, copied)); !maps.Equal(got, want) {
			t.Errorf("bit %d of %d: %d rows are served, want %d, or other values", bit, len(whole)*8, len(got), len(want))
		}
	}
	t.Logf("%d of %d were refused", refused, len(whole)*8)
}

// TestTornManifest cuts the MANIFEST within the change that names a new table, while the log of what is in that table is still there: a power
// cut leaves that, and nothing is lost or refused.
func TestTornManifest(t *testing.T) {
	t.Parallel()
	w := workload(testSeed(t))
	rnd := rand.New(rand.NewPCG(uint64(w), 7))
	tmp := t.TempDir()
	dir := tmp + "/db"
	db, err := openWith(dir, small())
	if err != nil {
		t.Fatal(err)
	}
	blockFlush(t, dir)
	n := 0
	for ; len(files(t, dir, ".mem")) < 3; n++ {
		if err := w.run(db, n, n+1); err != nil {
			t.Fatal(err)
		}
	}
	if err := copyStore(dir, tmp+"/before"); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(dir + "/MANIFEST")
	if err != nil {
		t.Fatal(err)
	}
	unblockFlush(t, dir)
	if err := db.Close(); err != nil { // which writes the tables
		t.Fatal(err)
	}
	after, err := os.ReadFile(dir + "/MANIFEST")
	if err != nil {
		t.Fatal(err)
	}
	if len(after) <= len(before) || !bytes.HasPrefix(after, before) {
		t.Fatalf("the MANIFEST had %d bytes and has %d, want more of the same", len(before), len(after))
	}
	m := &model{workload: w}
	for range 8 {
		to := t.TempDir() + "/db"
		if err := copyStore(tmp+"/before", to); err != nil {
			t.Fatal(err)
		}
		for _, name := range files(t, dir, ".sst") {
			if err := copyFile(name, filepath.Join(to, filepath.Base(name))); err != nil {
				t.Fatal(err)
			}
		}
		cut := len(before) + rnd.IntN(len(after)-len(before)+1)
		if err := os.WriteFile(to+"/MANIFEST", after[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		torn, err := openWith(to, small())
		if err != nil {
			t.Errorf("cut at %d of %d to %d: %v", cut, len(before), len(after), err)
			continue
		}
		if position, err := m.check(torn); err != nil || position != n {
			t.Errorf("cut at %d of %d to %d: position %d, want %d, %v", cut, len(before), len(after), position, n, err)
		}
		if err := torn.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestDeletionsKeepTheVersion: a transaction that only removed is dropped by compactions with what it removed; its version stays known.
func TestDeletionsKeepTheVersion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/db"
	newest := uint64(0)
	// Each round leaves a table on level 0; more than ten are compacted.
	for round := range 12 {
		db, err := openWith(dir, small())
		if err != nil {
			t.Fatal(err)
		}
		b := db.NewBatch()
		if round < 11 {
			err = b.Set([]byte("a"), []byte("1"))
		} else {
			err = b.Delete([]byte("a"))
		}
		if err := errors.Join(err, b.Commit()); err != nil {
			t.Fatal(err)
		}
		newest = db.bdb.MaxVersion()
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	db := open(t, dir)
	if err := db.bdb.Flatten(1); err != nil {
		t.Fatal(err)
	}
	if s, err := db.Stats(); err != nil || len(s.Levels) != 1 || s.Levels[0].Number == 0 {
		t.Fatalf("%+v, %v: want all in one level below 0", s, err)
	}
	if got := db.bdb.MaxVersion(); got != newest {
		t.Errorf("the newest version is %d, want %d", got, newest)
	}
}
