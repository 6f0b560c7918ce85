package store

import (
	"bytes"
	"errors"
	"iter"

	badger "github.com/dgraph-io/badger/v4"
)

// A Pair is one key with its value; both belong to the caller.
type Pair struct{ Key, Value []byte }

// A Range selects keys with From <= key < To. An empty From is the beginning, a nil To the end of everything.
type Range struct {
	From, To []byte
	Reverse  bool // from the end to the beginning
	KeysOnly bool // leaves Pair.Value nil and the values unread and unchecked
}

// A Reader reads one consistent snapshot. Get and Has may be called from several goroutines at once.
type Reader struct {
	db  *DB // nil if Read owns it
	txn *badger.Txn
}

// NewReader returns a snapshot of all that is committed, to be closed by the caller, or ErrClosed or ErrFailed. A snapshot that is
// kept open makes the store keep what was overwritten since. DB.Close waits for it.
func (db *DB) NewReader() (*Reader, error) {
	if err := db.enter(); err != nil {
		return nil, err
	}
	return &Reader{db: db, txn: db.bdb.NewTransaction(false)}, nil
}

// Close ends a snapshot that NewReader made; closing twice is allowed. No other method may be called after or during it.
func (r *Reader) Close() {
	if r.db == nil {
		return
	}
	r.txn.Discard()
	r.db.leave()
	r.db = nil
}

// Read calls fn with a snapshot of all that is committed, and returns its error; ErrClosed or ErrFailed before.
// Close waits for fn to return, so fn must not wait for Close.
func (db *DB) Read(fn func(*Reader) error) error {
	if err := db.enter(); err != nil {
		return err
	}
	defer db.leave()
	txn := db.bdb.NewTransaction(false)
	defer txn.Discard()
	return fn(&Reader{txn: txn})
}

// Get returns the value of key, which is the caller's, or ErrNotFound, or ErrDamaged if its checksum is wrong.
func (r *Reader) Get(key []byte) ([]byte, error) {
	item, err := r.item(key)
	if err != nil {
		return nil, err
	}
	var value []byte
	err = item.Value(func(stored []byte) error {
		payload, err := openValue(key, stored)
		value = append(make([]byte, 0, len(payload)), payload...)
		return err
	})
	if err != nil {
		return nil, readError(err)
	}
	return value, nil
}

// Has reports whether key is there, without reading its value.
func (r *Reader) Has(key []byte) (bool, error) {
	_, err := r.item(key)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (r *Reader) item(key []byte) (*badger.Item, error) {
	var buf [256]byte
	k := append(append(buf[:0], dataSpace), key...)
	item, err := r.txn.Get(k)
	switch {
	case err == nil:
		return item, nil
	case errors.Is(err, badger.ErrKeyNotFound):
		return nil, ErrNotFound
	default:
		return nil, readError(err)
	}
}

// Scan iterates over the pairs of a range in key order. An error, ErrDamaged among them, is the last thing it yields.
func (r *Reader) Scan(rg Range) iter.Seq2[Pair, error] {
	return func(yield func(Pair, error) bool) {
		if rg.To != nil && bytes.Compare(rg.From, rg.To) >= 0 {
			return
		}
		from := append([]byte{dataSpace}, rg.From...)
		to := []byte{dataSpace + 1}
		if rg.To != nil {
			to = append([]byte{dataSpace}, rg.To...)
		}
		opts := badger.IteratorOptions{Reverse: rg.Reverse, Prefix: commonPrefix(from, to, rg.Reverse)}
		it := r.txn.NewIterator(opts)
		defer it.Close()
		if rg.Reverse {
			it.Seek(to)
		} else {
			it.Seek(from)
		}
		for ; it.Valid(); it.Next() {
			item := it.Item()
			key := item.Key()
			switch {
			case rg.Reverse && bytes.Compare(key, to) >= 0:
				continue // Seek stops at its key, which the range excludes.
			case rg.Reverse && bytes.Compare(key, from) < 0, !rg.Reverse && bytes.Compare(key, to) >= 0:
				return
			}
			if rg.KeysOnly {
				if !yield(Pair{Key: append([]byte(nil), key[1:]...)}, nil) {
					return
				}
				continue
			}
			pair, err := r.pair(item, key[1:])
			if !yield(pair, err) || err != nil {
				return
			}
		}
	}
}

func (r *Reader) pair(item *badger.Item, key []byte) (Pair, error) {
	var p Pair
	err := item.Value(func(stored []byte) error {
		payload, err := openValue(key, stored)
		mem := append(make([]byte, 0, len(key)+len(payload)), key...)
		mem = append(mem, payload...)
		p = Pair{Key: mem[:len(key):len(key)], Value: mem[len(key):]}
		return err
	})
	if err != nil {
		return Pair{Key: append([]byte(nil), key...)}, readError(err)
	}
	return p, nil
}

// commonPrefix returns what all keys of a range begin with: it spares Badger the tables that hold none of them. A reverse
// iterator must be able to stand on the range's excluded end too.
func commonPrefix(from, to []byte, reverse bool) []byte {
	if !reverse && bytes.Equal(PrefixEnd(from), to) {
		return from
	}
	n := 0
	for n < len(from) && n < len(to) && from[n] == to[n] {
		n++
	}
	return from[:n]
}

// readError turns what Badger reports while reading into ErrDamaged: it has no other reason to fail.
func readError(err error) error {
	if errors.Is(err, ErrDamaged) {
		return err
	}
	return ErrDamaged.Because("it cannot be read").WithFix(rebuildFix).Wrap(err)
}
