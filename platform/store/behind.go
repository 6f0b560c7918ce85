package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A behind puts what a DB has written on the disk after it has become visible, so that nobody who asks waits for a disk that pauses.
//
// What a killed process wrote is in the page cache, and stays. After a power cut the newest log may lack any of its pages that were not synced.
// What is left of it up to the first gap is a state that the store was in; for the rest, each transaction carries in bumpKey up to which version
// all was on the disk when it was written, so that a gap which no power cut leaves, before that version, is told from one that it does
// (see lostTransactions). Older logs are synced when the next one is begun. The power may go between the two, and the newer log be
// written back first: then versions are missing, which is damage.
type behind struct {
	db   *DB
	dir  string
	bump [8]byte // scratch of commit

	commits sync.Mutex // one transaction after the other; also held by bulks

	mu      sync.Mutex
	changed *sync.Cond
	log     int64  // the number of the newest log
	written uint64 // the newest version; what is not in log is synced
	synced  uint64 // versions up to this one are on the disk
	wanted  uint64 // somebody waits for this one
	err     error
	ending  bool
	ended   chan struct{}
}

// gathering is for how long what is written is gathered after a sync, before the next one, while nobody waits for it.
const gathering = 20 * time.Millisecond

func startBehind(db *DB) (*behind, error) {
	b := &behind{db: db, dir: db.dir, ended: make(chan struct{})}
	b.changed = sync.NewCond(&b.mu)
	var err error
	// A process that was killed may have left what is not on the disk yet.
	if b.log, err = b.syncLogs(); err != nil {
		return nil, ErrDirectory.Because("%s", db.dir).Wrap(err)
	}
	b.written = db.version()
	b.synced = b.written
	go b.run()
	return b, nil
}

// version returns the newest version that is visible.
func (db *DB) version() uint64 {
	txn := db.bdb.NewTransaction(false)
	defer txn.Discard()
	return txn.ReadTs()
}

// commit writes a transaction, which is visible then.
func (b *behind) commit(parts [][]op) error {
	b.commits.Lock()
	defer b.commits.Unlock()
	b.mu.Lock()
	binary.BigEndian.PutUint64(b.bump[:], b.synced)
	b.mu.Unlock()
	if err := b.db.commitTxn(parts, b.bump[:]); err != nil {
		return err
	}
	return b.note()
}

// commitBulk writes a bulk, which is on the disk then, as all before it.
func (b *behind) commitBulk(parts [][]op) error {
	b.commits.Lock()
	defer b.commits.Unlock()
	// A bulk and what makes it visible say that all before them is on the disk.
	if err := b.sync(); err != nil {
		return err
	}
	if err := b.db.commitBulk(parts); err != nil {
		return err
	}
	if err := b.note(); err != nil {
		return err
	}
	return b.sync()
}

// note takes in that a transaction was written. If that has begun a new log, those before it are whole on the disk afterwards. Logs become
// tables, and go, in their order, so the newest one is the one that is there and has no successor.
func (b *behind) note() error {
	b.mu.Lock()
	log := b.log
	b.mu.Unlock()
	if !exists(b.name(log)) || exists(b.name(log+1)) {
		var err error
		if log, err = b.syncLogs(); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log, b.written = log, b.db.version()
	b.changed.Broadcast()
	return nil
}

// syncLogs puts all logs on the disk and returns the number of the newest one. One that is gone meanwhile is in a table, which is there.
func (b *behind) syncLogs() (newest int64, err error) {
	names, err := filepath.Glob(filepath.Join(b.dir, "*.mem"))
	for _, name := range names {
		n, e := strconv.ParseInt(strings.TrimSuffix(filepath.Base(name), ".mem"), 10, 64)
		err = errors.Join(err, e, syncFile(name))
		newest = max(newest, n)
	}
	return newest, err
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

func (b *behind) name(log int64) string { return filepath.Join(b.dir, fmt.Sprintf("%05d.mem", log)) }

// sync returns when all that was written is on the disk.
func (b *behind) sync() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	upTo := b.written
	for b.synced < upTo && b.err == nil && !b.ending {
		if b.wanted < upTo {
			b.wanted = upTo
			b.changed.Broadcast()
		}
		b.changed.Wait()
	}
	return b.err
}

// run syncs what is written, until it fails or stop is called.
func (b *behind) run() {
	defer close(b.ended)
	timer := time.AfterFunc(0, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.changed.Broadcast()
	})
	defer timer.Stop()
	var next time.Time // not before, unless somebody waits
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.ending {
		now := time.Now()
		if b.synced == b.written || b.wanted <= b.synced && now.Before(next) {
			if b.synced < b.written {
				timer.Reset(next.Sub(now))
			}
			b.changed.Wait()
			continue
		}
		log, written := b.log, b.written
		b.mu.Unlock()
		err := syncFile(b.name(log))
		next = time.Now().Add(gathering)
		b.mu.Lock()
		if err != nil {
			b.err = b.db.fail(err)
			b.changed.Broadcast()
			return
		}
		b.synced = max(b.synced, written)
		b.changed.Broadcast()
	}
}

// stop ends the syncing; Badger's Close writes what is left into tables.
func (b *behind) stop() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	b.ending = true
	b.changed.Broadcast()
	b.mu.Unlock()
	<-b.ended
	if b.err != nil {
		return nil // it was told
	}
	return syncFile(b.name(b.log))
}

// syncFile puts a file on the disk, if it is there.
func syncFile(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Sync returns when all that was written is on the disk.
func (db *DB) Sync() error {
	if db.behind == nil {
		return nil
	}
	if err := db.enter(); err != nil {
		return err
	}
	defer db.leave()
	return db.behind.sync()
}
