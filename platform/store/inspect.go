package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/ristretto/v2/z"
)

// probeName is the file that tells whether a directory can be written to. Who is killed at the wrong moment leaves it there.
const probeName = ".writable"

// makeDir creates dir and checks that files can be created in it.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	probe := filepath.Join(dir, probeName)
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		return err
	}
	return os.Remove(probe)
}

// inspect finds what Badger would crash on, delete or pass over in silence, and repairs what a kill or a power cut leaves behind: empty
// files of a table in memory or a value log, which Badger cannot open, and a torn transaction. It returns the version of the newest
// transaction; Badger must find the same.
func inspect(dir string, sent sentinel, behind bool) (newest uint64, err error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return 0, ErrDirectory.Because("%s", dir).Wrap(err)
	}
	manifest, data := false, ""
	var logs, tables []string
	for _, f := range files {
		name, ext := f.Name(), filepath.Ext(f.Name())
		manifest = manifest || name == badger.ManifestFilename
		if ext != ".mem" && ext != ".vlog" && ext != ".sst" {
			continue
		}
		info, err := f.Info()
		if err != nil {
			return 0, ErrDirectory.Because("%s", dir).Wrap(err)
		}
		if info.Size() == 0 && ext != ".sst" {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				return 0, ErrDirectory.Because("%s", dir).Wrap(err)
			}
			continue
		}
		data = name
		switch ext {
		case ".mem":
			logs = append(logs, name)
		case ".sst":
			tables = append(tables, name)
		}
	}
	if !manifest {
		// Badger would begin anew and delete the tables.
		if data != "" {
			return 0, ErrDamaged.Because("%s holds %s, but its MANIFEST is gone", dir, data).WithFix(rebuildFix)
		}
		if sent.id != nil {
			return 0, sent.missing(dir)
		}
		return 0, nil
	}
	known, newest, err := verifyTables(dir)
	if err != nil {
		return 0, err
	}
	newest, err = verifyLogs(dir, logs, newest, behind)
	if err != nil {
		return 0, err
	}
	return newest, verifyStrays(dir, tables, known, newest)
}

func readManifest(dir string) (badger.Manifest, error) {
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if err != nil {
		return badger.Manifest{}, ErrDirectory.Because("%s", dir).Wrap(err)
	}
	defer f.Close()
	manifest, _, err := badger.ReplayManifestFile(f, 0, badger.DefaultOptions(dir).WithLogger(nil))
	if err != nil {
		return badger.Manifest{}, ErrDamaged.Because("the MANIFEST in %s", dir).WithFix(rebuildFix).Wrap(err)
	}
	return manifest, nil
}

// verifyTables reads all tables that the manifest names and checks their checksums. It returns the tables and the newest version in them.
func verifyTables(dir string) (known map[uint64]badger.TableManifest, newest uint64, err error) {
	manifest, err := readManifest(dir)
	if err != nil {
		return nil, 0, err
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
			version, err := verifyTable(path, tm.Compression)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				bad = append(bad, fmt.Errorf("%s: %w", filepath.Base(path), err))
			}
			newest = max(newest, version)
		}()
	}
	wg.Wait()
	if bad != nil {
		return nil, 0, ErrDamaged.Because("%d of %d tables in %s", len(bad), len(manifest.Tables), dir).WithFix(rebuildFix).Wrap(errors.Join(bad[:min(len(bad), 3)]...))
	}
	return manifest.Tables, newest, nil
}

// verifyStrays looks at tables that the manifest does not name, which Badger would delete. A crash leaves such tables, but what is in
// them is in other tables or in a log as well. If it is not, the manifest has lost its end.
func verifyStrays(dir string, names []string, known map[uint64]badger.TableManifest, newest uint64) error {
	for _, name := range names {
		id, ok := table.ParseFileID(name)
		if _, named := known[id]; !ok || named {
			continue
		}
		// One that cannot be read was not finished.
		if version, err := verifyTable(filepath.Join(dir, name), options.None); err == nil && version > newest {
			return ErrDamaged.Because("the MANIFEST in %s does not name %s, which holds version %d", dir, name, version).WithFix(rebuildFix)
		}
	}
	return nil
}

// verifyTable checks all checksums of a table and returns the newest version in it.
func verifyTable(path string, compression options.CompressionType) (newest uint64, err error) {
	// A page that cannot be read is a fault of this goroutine then, and not the end of the process.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it cannot be parsed: %.200v", p)
		}
	}()
	if err := verifyFooter(path); err != nil {
		return 0, err
	}
	file, err := z.OpenMmapFile(path, os.O_RDONLY, 0)
	if err != nil {
		return 0, err
	}
	t, err := table.OpenTable(file, table.Options{BlockSize: 4096, ChkMode: options.OnTableRead, Compression: compression, ReadOnly: true})
	if err != nil {
		return 0, err
	}
	return t.MaxVersion(), t.Close(-1)
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
