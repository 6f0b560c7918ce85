package store

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/dgraph-io/badger/v4/pb"
)

// bulkWrites is how many writes make commitBulk worth its second, small transaction.
const bulkWrites = 1000

// What Badger writes of a transaction: each entry is marked as part of one, and after them comes an entry that says that they are
// all there. When it reads its log again, it drops entries without such an end. TestBulkIsAtomic fails if Badger ever changes this.
const (
	partOfTxn = 1 << 6
	endOfTxn  = 1 << 7
	endKey    = "!badger!txn"
)

// bumpKey is written by each transaction, and its newest version is that of the newest one: what a transaction wrote besides may be
// dropped by compactions, all of it if it only deleted, and then nobody could tell that it was there. See wal.go.
var bumpKey = []byte{ownSpace, 'b'}

// afterBulk is the value of bumpKey in a transaction that makes a bulk of the same version visible: without the bulk something is missing.
const afterBulk = "bulk"

// commitBulk writes parts as one transaction too, byte for byte what commit writes but in the order of the keys. A transaction of
// Badger's keeps its writes in a map: filling it, and entering a memtable in the map's random order, is measured to be a third of
// the whole cost of a large batch. The steps:
//
//  1. All entries go to Badger's log and memtable as one request, with the version that the next transaction will have. No
//     reader sees them, for snapshots are older than that.
//  2. A transaction of one key takes that version. From its end on, snapshots see both.
//
// A crash before the end of 1 leaves nothing, and one after it all, for the highest version found is the newest one when the
// database is opened. The lock keeps other transactions from taking the version in between.
func (db *DB) commitBulk(parts [][]op) error {
	ops := ordered(parts)
	db.bulk.Lock()
	defer db.bulk.Unlock()
	now := db.bdb.NewTransaction(false)
	version := now.ReadTs() + 1
	now.Discard()
	load := db.bdb.NewKVLoader(1)
	// One KV serves all: Set takes over the value, and copies the rest.
	kv := pb.KV{Version: version, Meta: []byte{0}}
	for i, o := range ops {
		if i+1 < len(ops) && bytes.Equal(o.key, ops[i+1].key) {
			continue // a later write of the same key
		}
		kv.Key, kv.Value, kv.Meta[0] = o.key, o.value, partOfTxn
		if o.value == nil {
			kv.Meta[0] |= deleted
		}
		if err := load.Set(&kv); err != nil {
			return err
		}
	}
	kv.Key, kv.Value, kv.Meta[0] = bumpKey, appendValue(nil, bumpKey, nil), partOfTxn
	if err := load.Set(&kv); err != nil {
		return err
	}
	kv.Key, kv.Value, kv.Meta[0] = []byte(endKey), strconv.AppendUint(nil, version, 10), endOfTxn
	if err := load.Set(&kv); err != nil {
		return err
	}
	if err := load.Finish(); err != nil {
		return err
	}
	if db.behind != nil {
		// What makes the bulk visible says that it is on the disk.
		if _, err := db.behind.syncLogs(); err != nil {
			return err
		}
	}
	bump := db.bdb.NewTransaction(true)
	defer bump.Discard()
	if err := bump.Set(bumpKey, appendValue(nil, bumpKey, []byte(afterBulk))); err != nil {
		return err
	}
	if err := bump.Commit(); err != nil {
		return err
	}
	after := db.bdb.NewTransaction(false)
	defer after.Discard()
	if got := after.ReadTs(); got != version {
		// Somebody else wrote: rows may have been visible before they were whole.
		return fmt.Errorf("the bulk was written as version %d, but it became visible as %d", version, got)
	}
	return nil
}

// ordered returns all writes in the order of their keys, those of one key in the order in which they were added.
func ordered(parts [][]op) []op {
	var wg sync.WaitGroup
	for _, ops := range parts {
		wg.Go(func() {
			slices.SortFunc(ops, func(a, b op) int {
				if c := bytes.Compare(a.key, b.key); c != 0 {
					return c
				}
				return a.number - b.number
			})
		})
	}
	wg.Wait()
	if len(parts) == 1 {
		return parts[0]
	}
	n := 0
	for _, ops := range parts {
		n += len(ops)
	}
	out := make([]op, 0, n)
	for len(out) < n {
		least := -1
		for i, ops := range parts {
			if len(ops) > 0 && (least < 0 || bytes.Compare(ops[0].key, parts[least][0].key) < 0) {
				least = i
			}
		}
		out = append(out, parts[least][0])
		parts[least] = parts[least][1:]
	}
	return out
}

// deleted is Badger's mark of a removal.
const deleted = 1 << 0
