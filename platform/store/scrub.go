package store

import (
	"bytes"
	"context"
	"maps"
	"os"
	"runtime/debug"
	"slices"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
)

// A ScrubProgress says how far a scrub is.
type ScrubProgress struct {
	Tables, AllTables int   // tables read, and how many there were when it began
	Keys              int64 // keys whose values were read, after the tables
	Bytes             int64 // bytes read in all
}

// Scrub reads everything again and compares it with its checksums, at no more than bytesPerSecond (0 = as fast as possible): all tables,
// and all values of a snapshot. It calls report, if there is one, after each table and about each MiB. It returns ErrDamaged for the
// first thing that is not what was written, and then the caller should Condemn the store and stop; or ErrClosed or ErrFailed, or the
// error of ctx. What is in the memory of the operating system is not read from the disk again.
func (db *DB) Scrub(ctx context.Context, bytesPerSecond int64, report func(ScrubProgress)) error {
	s := scrub{db: db, pace: pace{rate: bytesPerSecond}, report: report}
	if err := s.tables(ctx); err != nil {
		return err
	}
	return s.values(ctx)
}

type scrub struct {
	db     *DB
	pace   pace
	at     ScrubProgress
	report func(ScrubProgress)
}

func (s *scrub) read(ctx context.Context, n int64) error {
	s.at.Bytes += n
	if s.report != nil {
		s.report(s.at)
	}
	return s.pace.spend(ctx, n)
}

// tables checks the tables that the MANIFEST names. (Badger could name them as well, but reads them for that, without expecting faults.)
func (s *scrub) tables(ctx context.Context) error {
	if err := s.db.enter(); err != nil {
		return err
	}
	manifest, err := s.manifest()
	s.db.leave()
	if err != nil {
		return err
	}
	ids := slices.Sorted(maps.Keys(manifest.Tables))
	s.at.AllTables = len(ids)
	for _, id := range ids {
		size, err := s.table(id)
		if err != nil {
			return err
		}
		s.at.Tables++
		if err := s.read(ctx, size); err != nil {
			return err
		}
	}
	return nil
}

// manifest reads the MANIFEST, which Badger may be writing: what is wrong twice is wrong.
func (s *scrub) manifest() (m badger.Manifest, err error) {
	for range 2 {
		if m, err = readManifest(s.db.dir); err == nil {
			break
		}
	}
	return m, err
}

// table checks one table, which may be compacted away at any moment: then it does not matter what was read.
func (s *scrub) table(id uint64) (size int64, err error) {
	if err := s.db.enter(); err != nil {
		return 0, err
	}
	defer s.db.leave()
	path := table.NewFilename(id, s.db.dir)
	if info, err := os.Stat(path); err == nil {
		size = info.Size()
	}
	_, wrong := verifyTable(path, options.None)
	if wrong == nil {
		return size, nil
	}
	manifest, err := s.manifest()
	if err != nil {
		return size, err
	}
	if _, named := manifest.Tables[id]; named {
		return size, ErrDamaged.Because("%s", path).WithFix(rebuildFix).Wrap(wrong)
	}
	return size, nil
}

// values checks all values of a snapshot, and that their keys are in order.
func (s *scrub) values(ctx context.Context) (err error) {
	defer caught(&err)()
	r, err := s.db.NewReader()
	if err != nil {
		return err
	}
	defer r.Close()
	it := r.txn.NewIterator(badger.IteratorOptions{Prefix: []byte{dataSpace}})
	defer it.Close()
	var before []byte
	unread := int64(0)
	for it.Seek([]byte{dataSpace}); it.Valid(); it.Next() {
		item := it.Item()
		key := item.Key()
		if bytes.Compare(before, key) >= 0 {
			return ErrDamaged.Because("the key %s is not where it should be", printable(key[1:])).WithFix(rebuildFix)
		}
		before = append(before[:0], key...)
		err := item.Value(func(stored []byte) error {
			unread += int64(len(key) + len(stored))
			_, err := openValue(key[1:], stored)
			return err
		})
		if err != nil {
			return readError(err)
		}
		s.at.Keys++
		if unread >= 1<<20 {
			if err := s.read(ctx, unread); err != nil {
				return err
			}
			unread = 0
		}
	}
	return s.read(ctx, unread)
}

// caught is deferred, as caught(&err)(), around reading through Badger what may have gone bad since it was verified: a page that cannot be
// read, or a block that cannot be parsed, is ErrDamaged then and not the end of the process.
func caught(err *error) func() {
	before := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(before)
		if p := recover(); p != nil {
			*err = ErrDamaged.Because("it cannot be parsed: %.200v", p).WithFix(rebuildFix)
		}
	}
}
