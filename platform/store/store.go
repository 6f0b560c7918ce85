// Package store is an ordered, durable, atomic key-value store on one directory: snapshots to read, batches to write, a checksum
// on each value, and an Open that finds damage before it can be served. It refuses two things on purpose: to go on after a
// failed write, and to start empty where there was data before. It is the only package that knows Badger.
package store

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// Options are the settings of a DB. The zero value is right for most.
type Options struct {
	// MemTable is the size in bytes of one memtable, 8 MiB to 256 MiB; 0 = 16 MiB. Up to four are in memory. A batch has room for
	// about 15 % of it, and for one entry per 640 bytes of it.
	MemTable int64
	// IndexCache bounds in bytes the cache of table indexes and bloom filters, at least 64 MiB; 0 = 64 MiB.
	IndexCache int64
	// MinFree is the room in bytes that must be left on the file system for a commit to be tried; 0 = 12 memtables, -1 = no check.
	// A full disk kills a process that writes to mapped files, so the store stops before.
	MinFree int64
	// Behind lets Batch.Write return before what it wrote is on the disk: it follows as soon as the disk takes it. It is for what can be made
	// again from somewhere else. Only Linux has it; elsewhere Write is Commit.
	Behind bool
	// Logger takes the messages of the store; nil = none.
	Logger *slog.Logger
}

// Keys of callers and the store's own live apart, so that callers may use all keys.
const (
	ownSpace  = 0x00
	dataSpace = 0x01
)

// A DB is an open store. All methods may be called from any goroutine.
type DB struct {
	dir   string
	bdb   *badger.DB
	lock  *dirLock
	log   *slog.Logger
	space freeSpace
	bulk  sync.RWMutex // held for writing by commitBulk, which must know the next version

	behind     *behind // nil unless Options.Behind
	roomWrites int
	roomBytes  int64

	mu     sync.Mutex
	idle   *sync.Cond // signalled when users drops to 0
	users  int
	closed bool
	err    error         // the latched failure
	failed chan struct{} // closed when err is set
}

// Open opens the store in dir and creates it if it is new. It checks every table of it first. ErrLocked: it is open elsewhere.
// ErrDamaged: files are missing, altered, or the store is empty though it was not before. ErrDirectory: dir cannot be used.
// Beside dir it keeps the file dir + ".sentinel", which remembers that there is data in dir.
func Open(dir string, o Options) (*DB, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	return openWith(dir, o)
}

// openWith opens the store in dir with complete options. Tests have smaller memtables than Open allows.
func openWith(dir string, o Options) (db *DB, err error) {
	dir = filepath.Clean(dir)
	if err := makeDir(dir); err != nil {
		return nil, ErrDirectory.Because("%s", dir).WithFix("name a directory that this user may write to").Wrap(err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.release())
		}
	}()
	if err := checkCondemned(dir); err != nil {
		return nil, err
	}
	sent := sentinel{path: dir + ".sentinel"}
	if err := sent.read(); err != nil {
		return nil, err
	}
	mark, err := beginOpening(dir)
	if err != nil {
		return nil, err
	}
	newest, err := inspect(dir, sent, o.Behind)
	if err != nil {
		// Found damage is an answer, not a crash: the next start shall find it again, not count to the limit.
		return nil, errors.Join(err, mark.end())
	}
	bdb, err := openBadger(dir, o)
	if err != nil {
		return nil, ErrDamaged.Because("%s", dir).WithFix(rebuildFix).Wrap(errors.Join(err, mark.end()))
	}
	if got := bdb.MaxVersion(); got != newest {
		err := fmt.Errorf("store: the newest version is %d, but Badger found %d", newest, got)
		return nil, ErrDamaged.Because("%s", dir).WithFix(rebuildFix).Wrap(errors.Join(err, bdb.Close(), mark.end()))
	}
	db = &DB{dir: dir, bdb: bdb, lock: lock, log: o.Logger, failed: make(chan struct{}), space: freeSpace{dir: dir, least: o.MinFree}}
	db.idle = sync.NewCond(&db.mu)
	db.roomWrites, db.roomBytes = db.Room()
	err = db.identify(&sent)
	if err == nil && o.Behind {
		db.behind, err = startBehind(db)
	}
	if err != nil {
		return nil, errors.Join(err, bdb.Close(), mark.end())
	}
	if err := mark.end(); err != nil {
		return nil, errors.Join(err, db.behind.stop(), bdb.Close())
	}
	return db, nil
}

func (o *Options) complete() error {
	const mib = 1 << 20
	if o.MemTable == 0 {
		o.MemTable = 16 * mib
	}
	if o.IndexCache == 0 {
		o.IndexCache = 64 * mib
	}
	if o.MinFree == 0 {
		o.MinFree = 12 * o.MemTable
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Behind = o.Behind && canBeBehind
	var bad []error
	if o.MemTable < 8*mib || o.MemTable > 256*mib {
		bad = append(bad, fmt.Errorf("store: MemTable is %d, it must be %d to %d", o.MemTable, 8*mib, 256*mib))
	}
	if o.IndexCache < 64*mib {
		bad = append(bad, fmt.Errorf("store: IndexCache is %d, it must be at least %d", o.IndexCache, 64*mib))
	}
	return errors.Join(bad...)
}

// openBadger sets what Badger's defaults get wrong for us; each line that is not about size has its reason.
func openBadger(dir string, o Options) (bdb *badger.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("badger cannot open it: %.200v", p)
		}
	}()
	b := badger.DefaultOptions(dir)
	b.Logger = logger{o.Logger}
	b.MetricsEnabled = false
	b.SyncWrites = !o.Behind   // without it a power cut can leave the position ahead of the rows; see behind.go
	b.DetectConflicts = false  // whoever writes a key is its only writer
	b.NumVersionsToKeep = 1    // the log is the history
	b.CompactL0OnClose = false // a restart should be quick
	b.BypassLockGuard = lockIsOurs
	// All tables are verified by inspect, where a panic over a broken one can be recovered; in Badger it could not. The modes
	// that verify on each read hide the error and answer an older version.
	b.ChecksumVerificationMode = options.NoVerification
	// Values stay in the tree: no value log, so no garbage collection and no pointers that outlive their values.
	b.ValueThreshold = min(1<<20, o.MemTable*15/100)
	b.ValueLogFileSize = 1 << 20
	b.Compression = options.None // measured: half the cost of a Get; disks are cheaper
	b.MemTableSize = o.MemTable
	b.NumMemtables = 3
	// Blocks are not compressed, so they are read where the page cache has them; what a cache of their headers cost was more than it saved.
	b.BlockCacheSize = 0
	b.IndexCacheSize = o.IndexCache
	b.NumCompactors = 2
	// Bursts are taken in before they are sorted in: measured, a third less work while a view is built, at the price of some
	// more bloom filters to ask until the compactors have caught up.
	b.NumLevelZeroTables = 10
	b.NumLevelZeroTablesStall = 40
	b.BaseLevelSize = 64 << 20
	return badger.Open(b)
}

// identityKey holds the random id that tells this database from any other one and from an empty one.
var identityKey = []byte{ownSpace, 'i', 'd'}

// identify compares the database with its sentinel. A sentinel without the database it speaks of is an alarm. A database
// without a sentinel is either new or was killed between writing the one and the other.
func (db *DB) identify(sent *sentinel) error {
	var id []byte
	err := db.bdb.View(func(txn *badger.Txn) (err error) {
		id, err = (&Reader{txn: txn}).identity()
		return err
	})
	switch {
	case err == nil && sent.id == nil:
		return sent.write(id)
	case err == nil && !bytes.Equal(id, sent.id):
		return ErrDamaged.Because("%s holds another database than the one that %s speaks of", db.dir, sent.path).
			WithFix("put the right directory back; if this one is meant to be used, remove %s", sent.path)
	case err == nil:
		return nil
	case !errors.Is(err, ErrNotFound):
		return err
	case sent.id != nil:
		return sent.missing(db.dir)
	}
	id = make([]byte, 16)
	rand.Read(id)
	txn := db.bdb.NewTransaction(true)
	defer txn.Discard()
	if err := txn.Set(identityKey, appendValue(nil, identityKey, id)); err != nil {
		return ErrFailed.Wrap(err)
	}
	if err := errors.Join(txn.Commit(), db.bdb.Sync()); err != nil {
		return ErrFailed.Wrap(err)
	}
	return sent.write(id)
}

// identity returns the id of the database, or ErrNotFound.
func (r *Reader) identity() (id []byte, err error) {
	item, err := r.txn.Get(identityKey)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, ErrNotFound
	}
	if err == nil {
		err = item.Value(func(stored []byte) error {
			payload, err := openValue(identityKey, stored)
			id = append(id, payload...)
			return err
		})
	}
	if err != nil {
		return nil, readError(err)
	}
	return id, nil
}

// Close waits for running reads and commits, then closes the store. Closing twice is allowed and does nothing.
func (db *DB) Close() error {
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		return nil
	}
	db.closed = true
	for db.users > 0 {
		db.idle.Wait()
	}
	db.mu.Unlock()
	err := errors.Join(db.behind.stop(), db.bdb.Close())
	return errors.Join(err, db.lock.release())
}

// Err returns the failure after which the store serves nothing more, or nil.
func (db *DB) Err() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.err
}

// Failed returns a channel that is closed when a write has failed: the process should stop then.
func (db *DB) Failed() <-chan struct{} { return db.failed }

// Size returns the bytes that the store takes on the disk; 0 if that cannot be told, as once it is closed.
func (db *DB) Size() int64 {
	s, err := db.Stats()
	if err != nil {
		return 0
	}
	return s.Tables + s.Logs + s.Other
}

func (db *DB) enter() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.err != nil {
		return db.err
	}
	if db.closed {
		return ErrClosed
	}
	db.users++
	return nil
}

func (db *DB) leave() {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.users--
	if db.users == 0 {
		db.idle.Broadcast()
	}
}

// fail latches a write error. After it, what a read finds may be in memory only.
func (db *DB) fail(cause error) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.err == nil {
		db.err = ErrFailed.Because("%s", db.dir).WithFix("check the disk, then start the service again: it goes on from what is on the disk").Wrap(cause)
		db.log.Error("store: a write failed; the store serves nothing more", "dir", db.dir, "error", cause)
		close(db.failed)
	}
	return db.err
}
