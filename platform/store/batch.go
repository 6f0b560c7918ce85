package store

import (
	"errors"

	badger "github.com/dgraph-io/badger/v4"
)

// MaxKey and MaxValue are the longest key and value that a batch takes, in bytes.
const (
	MaxKey   = 32 << 10
	MaxValue = 512 << 10
)

// A Batch collects writes that become visible and durable together or not at all. It is for one goroutine at a time. Later
// writes of a key replace earlier ones. Each batch ends with Commit or Discard.
type Batch struct {
	db   *DB
	txn  *badger.Txn
	mem  []byte // the memory that keys and values are carved from: one allocation for many entries
	free []badger.Entry
	n    int
	done bool
}

// arenaChunk is how much memory a batch takes at a time.
const arenaChunk = 64 << 10

// NewBatch returns an empty batch. Its room is about 15 % of Options.MemTable in bytes, and one entry for each 640 bytes of it.
func (db *DB) NewBatch() *Batch { return &Batch{db: db} }

// Room returns what an empty batch has room for: writes, and bytes as EntryCost counts them.
func (db *DB) Room() (writes int, bytes int64) {
	return int(db.bdb.MaxBatchCount()) - 2, db.bdb.MaxBatchSize() - 64
}

// EntryCost returns the bytes of room that a write of a key and a value of these lengths takes.
func EntryCost(key, value int) int64 { return int64(1 + key + valueHeader + value + 12) }

// Set adds a write of key; the batch copies both arguments. It returns ErrBatchFull if the batch has no room for it, ErrEntry
// if none has, ErrClosed or ErrFailed as everything does; then nothing was added.
func (b *Batch) Set(key, value []byte) error {
	if len(key) == 0 || len(key) > MaxKey || len(value) > MaxValue {
		return ErrEntry.Because("key %s has %d bytes (1 to %d are allowed), its value has %d (at most %d)", printable(key), len(key), MaxKey, len(value), MaxValue)
	}
	if err := b.begin(); err != nil {
		return err
	}
	mem := b.room(1 + len(key) + valueHeader + len(value))
	mem = append(mem, dataSpace)
	mem = append(mem, key...)
	k := mem[:len(mem):len(mem)]
	mem = appendValue(mem, key, value)
	e := b.entry()
	e.Key, e.Value = k, mem[len(k):len(mem):len(mem)]
	if err := b.put(b.txn.SetEntry(e)); err != nil {
		return err
	}
	b.mem = mem
	return nil
}

// Delete adds the removal of key, which need not exist. Errors are as for Set.
func (b *Batch) Delete(key []byte) error {
	if len(key) == 0 || len(key) > MaxKey {
		return ErrEntry.Because("the key %s has %d bytes, 1 to %d are allowed", printable(key), len(key), MaxKey)
	}
	if err := b.begin(); err != nil {
		return err
	}
	mem := b.room(1 + len(key))
	mem = append(mem, dataSpace)
	mem = append(mem, key...)
	if err := b.put(b.txn.Delete(mem[:len(mem):len(mem)])); err != nil {
		return err
	}
	b.mem = mem
	return nil
}

// Len returns the number of writes added so far, those that replaced others included.
func (b *Batch) Len() int { return b.n }

// Commit writes the batch in one transaction and returns when it is on the disk. ErrDiskFull means that nothing was written
// and the batch can be committed again; every other error is final for the whole database: see ErrFailed.
func (b *Batch) Commit() error {
	if b.done {
		return ErrClosed.Because("the batch was committed or discarded before")
	}
	if b.n == 0 {
		b.Discard()
		return nil
	}
	if err := b.db.enter(); err != nil {
		b.Discard()
		return err
	}
	defer b.db.leave()
	if err := b.db.space.check(); err != nil {
		return err
	}
	b.done = true
	if err := b.txn.Commit(); err != nil {
		return b.db.fail(err)
	}
	b.txn, b.mem, b.free = nil, nil, nil
	return nil
}

// Discard drops the batch; after Commit it does nothing.
func (b *Batch) Discard() {
	if b.txn != nil {
		b.txn.Discard()
	}
	b.txn, b.mem, b.free, b.done = nil, nil, nil, true
}

func (b *Batch) begin() error {
	if b.done {
		return ErrClosed.Because("the batch was committed or discarded before")
	}
	if b.txn != nil {
		return nil
	}
	if err := b.db.enter(); err != nil {
		return err
	}
	defer b.db.leave()
	b.txn = b.db.bdb.NewTransaction(true)
	return nil
}

// entry returns an empty entry of many that are allocated at once.
func (b *Batch) entry() *badger.Entry {
	if len(b.free) == 0 {
		b.free = make([]badger.Entry, min(max(4, b.n), 256))
	}
	e := &b.free[0]
	b.free = b.free[1:]
	return e
}

func (b *Batch) room(n int) []byte {
	if cap(b.mem)-len(b.mem) >= n {
		return b.mem[len(b.mem):]
	}
	return make([]byte, 0, max(n, arenaChunk))
}

func (b *Batch) put(err error) error {
	switch {
	case err == nil:
		b.n++
		return nil
	case errors.Is(err, badger.ErrTxnTooBig):
		return ErrBatchFull.Because("it holds %d writes", b.n)
	default:
		return b.db.fail(err)
	}
}
