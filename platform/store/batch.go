package store

import (
	"slices"

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
	db    *DB
	ops   []op
	mem   []byte // the memory that keys and values are carved from: one allocation for many writes
	bytes int64  // as EntryCost counts them
	done  bool
}

// An op is one write; a nil value is a removal.
type op struct {
	key, value []byte
	number     int // its place in the batch
}

// arenaChunk is how much memory a batch takes at a time.
const arenaChunk = 64 << 10

// NewBatch returns an empty batch. Its room is about 15 % of Options.MemTable in bytes, and one entry for each 640 bytes of it.
func (db *DB) NewBatch() *Batch { return &Batch{db: db} }

// Room returns what an empty batch has room for: writes, and bytes as EntryCost counts them.
func (db *DB) Room() (writes int, bytes int64) {
	return int(db.bdb.MaxBatchCount()) - 4, db.bdb.MaxBatchSize() - 256
}

// EntryCost returns the bytes of room that a write of a key and a value of these lengths takes.
func EntryCost(key, value int) int64 { return int64(1 + key + valueHeader + value + 12) }

// Set adds a write of key; the batch copies both arguments. It returns ErrBatchFull if the batch has no room for it, ErrEntry
// if none has, ErrClosed or ErrFailed as everything does; then nothing was added.
func (b *Batch) Set(key, value []byte) error {
	if len(key) == 0 || len(key) > MaxKey || len(value) > MaxValue {
		return ErrEntry.Because("key %s has %d bytes (1 to %d are allowed), its value has %d (at most %d)", printable(key), len(key), MaxKey, len(value), MaxValue)
	}
	if err := b.admit(EntryCost(len(key), len(value))); err != nil {
		return err
	}
	mem := b.room(1 + len(key) + valueHeader + len(value))
	mem = append(mem, dataSpace)
	mem = append(mem, key...)
	k := mem[:len(mem):len(mem)]
	mem = appendValue(mem, key, value)
	b.ops = append(b.ops, op{k, mem[len(k):len(mem):len(mem)], len(b.ops)})
	b.mem = mem[len(mem):]
	return nil
}

// Delete adds the removal of key, which need not exist. Errors are as for Set.
func (b *Batch) Delete(key []byte) error {
	if len(key) == 0 || len(key) > MaxKey {
		return ErrEntry.Because("the key %s has %d bytes, 1 to %d are allowed", printable(key), len(key), MaxKey)
	}
	if err := b.admit(EntryCost(len(key), 0)); err != nil {
		return err
	}
	mem := b.room(1 + len(key))
	mem = append(mem, dataSpace)
	mem = append(mem, key...)
	b.ops = append(b.ops, op{key: mem[:len(mem):len(mem)], number: len(b.ops)})
	b.mem = mem[len(mem):]
	return nil
}

// Grow makes room in memory for n more writes, whose number is known.
func (b *Batch) Grow(n int) { b.ops = slices.Grow(b.ops, n) }

// Len returns the number of writes added so far, those that replaced others included.
func (b *Batch) Len() int { return len(b.ops) }

func (b *Batch) admit(cost int64) error {
	if b.done {
		return ErrClosed.Because("the batch was committed or discarded before")
	}
	if err := b.db.enter(); err != nil {
		return err
	}
	b.db.leave()
	if len(b.ops) >= b.db.roomWrites || b.bytes+cost > b.db.roomBytes {
		return ErrBatchFull.Because("it holds %d writes and %d bytes", len(b.ops), b.bytes)
	}
	b.bytes += cost
	return nil
}

func (b *Batch) room(n int) []byte {
	if cap(b.mem) >= n {
		return b.mem[:0]
	}
	return make([]byte, 0, max(n, arenaChunk))
}

// Size returns how much of a batch's room is taken, in bytes as EntryCost counts them.
func (b *Batch) Size() int64 { return b.bytes }

// Commit writes the batch in one transaction and returns when it is on the disk. ErrDiskFull means that nothing was written
// and the batch can be committed again; every other error is final for the whole database: see ErrFailed.
func (b *Batch) Commit() error { return b.db.CommitTogether(b) }

// CommitTogether writes batches of this database, no two of which write the same key, in one transaction; errors are as for Commit.
// ErrBatchFull: together they are too large, and nothing was written. It spares those who fill batches in parallel one that copies.
func (db *DB) CommitTogether(batches ...*Batch) error {
	return db.write(true, batches)
}

// WriteTogether is CommitTogether, but with Options.Behind it returns when a small transaction is visible and before it is on the disk, where it
// is a moment later. The end of the process takes nothing away. A power cut may take the latest transactions, each only with all that came
// after it.
func (db *DB) WriteTogether(batches ...*Batch) error { return db.write(false, batches) }

func (db *DB) write(sync bool, batches []*Batch) error {
	writes, size := 0, int64(0)
	for _, b := range batches {
		if b.done {
			return ErrClosed.Because("the batch was committed or discarded before")
		}
		writes, size = writes+len(b.ops), size+b.bytes
	}
	discard := func() {
		for _, b := range batches {
			b.Discard()
		}
	}
	if writes == 0 {
		discard()
		return nil
	}
	if writes > db.roomWrites || size > db.roomBytes {
		return ErrBatchFull.Because("together they hold %d writes and %d bytes", writes, size)
	}
	if err := db.enter(); err != nil {
		discard()
		return err
	}
	defer db.leave()
	if err := db.space.check(); err != nil {
		return err
	}
	write := db.commit
	switch {
	case writes >= bulkWrites && db.behind != nil:
		write = db.behind.commitBulk
	case writes >= bulkWrites:
		write = db.commitBulk
	}
	parts := make([][]op, len(batches))
	for i, b := range batches {
		parts[i] = b.ops
	}
	discard()
	err := write(parts)
	if err == nil && sync && db.behind != nil {
		err = db.behind.sync()
	}
	if err != nil {
		return db.fail(err)
	}
	return nil
}

// Discard drops the batch; after Commit it does nothing.
func (b *Batch) Discard() { b.ops, b.mem, b.done = nil, nil, true }

// commit writes parts as a transaction of Badger's.
func (db *DB) commit(parts [][]op) error {
	if db.behind != nil {
		return db.behind.commit(parts)
	}
	db.bulk.RLock()
	defer db.bulk.RUnlock()
	return db.commitTxn(parts, nil)
}

func (db *DB) commitTxn(parts [][]op, bump []byte) error {
	txn := db.bdb.NewTransaction(true)
	defer txn.Discard()
	if err := txn.Set(bumpKey, appendValue(nil, bumpKey, bump)); err != nil {
		return err
	}
	for _, ops := range parts {
		entries := make([]badger.Entry, len(ops))
		for i, o := range ops {
			var err error
			if o.value == nil {
				err = txn.Delete(o.key)
			} else {
				entries[i].Key, entries[i].Value = o.key, o.value
				err = txn.SetEntry(&entries[i])
			}
			if err != nil {
				return err
			}
		}
	}
	return txn.Commit()
}
