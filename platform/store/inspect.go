package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/ristretto/v2/z"
)

// makeDir creates dir and checks that files can be created in it.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	probe := filepath.Join(dir, ".writable")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		return err
	}
	return os.Remove(probe)
}

// inspect finds what Badger would crash on, delete or pass over in silence, and repairs the one thing that a kill leaves behind
// and that Badger cannot open: empty files of a table in memory or a value log.
func inspect(dir string, sent sentinel) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return ErrDirectory.Because("%s", dir).Wrap(err)
	}
	manifest, data := false, ""
	for _, f := range files {
		name, ext := f.Name(), filepath.Ext(f.Name())
		manifest = manifest || name == badger.ManifestFilename
		if ext != ".mem" && ext != ".vlog" && ext != ".sst" {
			continue
		}
		info, err := f.Info()
		if err != nil {
			return ErrDirectory.Because("%s", dir).Wrap(err)
		}
		if info.Size() == 0 && ext != ".sst" {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				return ErrDirectory.Because("%s", dir).Wrap(err)
			}
			continue
		}
		data = name
	}
	if !manifest {
		// Badger would begin anew and delete the tables.
		if data != "" {
			return ErrDamaged.Because("%s holds %s, but its MANIFEST is gone", dir, data).WithFix(rebuildFix)
		}
		if sent.id != nil {
			return sent.missing(dir)
		}
		return nil
	}
	return verifyTables(dir)
}

// verifyTables reads all tables that the manifest names and checks their checksums.
func verifyTables(dir string) error {
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if err != nil {
		return ErrDirectory.Because("%s", dir).Wrap(err)
	}
	defer f.Close()
	manifest, _, err := badger.ReplayManifestFile(f, 0, badger.DefaultOptions(dir).WithLogger(nil))
	if err != nil {
		return ErrDamaged.Because("the MANIFEST in %s", dir).WithFix(rebuildFix).Wrap(err)
	}
	var (
		wg    sync.WaitGroup
		slots = make(chan struct{}, runtime.GOMAXPROCS(0))
		mu    sync.Mutex
		bad   []error
	)
	for id, tm := range manifest.Tables {
		wg.Add(1)
		slots <- struct{}{}
		go func() {
			defer wg.Done()
			defer func() { <-slots }()
			path := table.NewFilename(id, dir)
			if err := verifyTable(path, tm.Compression); err != nil {
				mu.Lock()
				bad = append(bad, fmt.Errorf("%s: %w", filepath.Base(path), err))
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	if bad != nil {
		return ErrDamaged.Because("%d of %d tables in %s", len(bad), len(manifest.Tables), dir).WithFix(rebuildFix).Wrap(errors.Join(bad[:min(len(bad), 3)]...))
	}
	return nil
}

func verifyTable(path string, compression options.CompressionType) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it cannot be parsed: %.200v", p)
		}
	}()
	if err := verifyFooter(path); err != nil {
		return err
	}
	file, err := z.OpenMmapFile(path, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	t, err := table.OpenTable(file, table.Options{BlockSize: 4096, ChkMode: options.OnTableRead, Compression: compression, ReadOnly: true})
	if err != nil {
		return err
	}
	return t.Close(-1)
}

// verifyFooter checks that the lengths at the end of a table lie within it: Badger ends the process if they do not.
func verifyFooter(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	end := info.Size()
	for _, part := range []string{"checksum", "index"} {
		var length [4]byte
		if end < 4 {
			return fmt.Errorf("it is cut off: %d bytes", info.Size())
		}
		if _, err := f.ReadAt(length[:], end-4); err != nil {
			return err
		}
		n := int64(binary.BigEndian.Uint32(length[:]))
		if end -= 4 + n; n == 0 || end < 0 {
			return fmt.Errorf("its %s has the impossible length %d", part, n)
		}
	}
	return nil
}

// opening is the file that exists while a database is being opened. inspect finds the damage that is known to crash the
// process; should there be another kind, the count in this file ends the series of crashes.
type opening struct{ path string }

// maxOpenings is how many starts in a row may end within Open. More than the two that a crash would need: kill -9 counts as well.
const maxOpenings = 5

func beginOpening(dir string) (opening, error) {
	m := opening{path: filepath.Join(dir, "opening")}
	before := 0
	text, err := os.ReadFile(m.path)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return m, ErrDirectory.Because("%s", dir).Wrap(err)
	default:
		// A file that was cut off by the crash counts as one start.
		if before, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
			before = 1
		}
	}
	if before >= maxOpenings {
		return m, ErrDamaged.Because("the last %d starts ended while %s was being opened", before, dir).
			WithFix("%s; if they were ended by hand, remove %s", rebuildFix, m.path)
	}
	if err := os.WriteFile(m.path, []byte(strconv.Itoa(before+1)+"\n"), 0o600); err != nil {
		return m, ErrDirectory.Because("%s", dir).Wrap(err)
	}
	return m, nil
}

func (m opening) end() error { return os.Remove(m.path) }
