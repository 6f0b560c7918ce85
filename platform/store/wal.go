package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/dgraph-io/badger/v4/y"
)

// Badger writes each memtable's transactions to a log, name.mem, and deletes it when they are in a table. When it is opened it reads the
// logs that are left, stops within each at the first entry that fails its checksum, and goes on with the next log as if nothing were
// missing in between. So logs are read here first, and held to what must be true of them:
//
//  1. Versions are dense. Each transaction has the version after the one before it, in the order in which they were written, and the
//     first one that is left follows the newest one that is in a table. (Each writes bumpKey, so that compactions cannot drop the
//     newest version of all.) A bulk and the transaction that makes it visible have one version, and the second says that it is the
//     second. So a log that lost its end, or is gone, leaves a hole.
//  2. A log is whole when the next one is begun, because each commit is synced. Only in the newest log a transaction may be torn, and
//     only the last one. With Options.Behind several of the last ones may be: none up to the version that a later one says was on the disk.
//
// What is left of torn transactions, which nobody was told to be on the disk, is cut off before Badger sees it.

// logHeader is the length of what precedes the first entry of a log.
const logHeader = 20

// A logEntry is an entry of a log: meta byte, user meta byte, length of key, length of value and expiry as varints; key with version;
// value; CRC32C of all that, big endian.
type logEntry struct {
	meta       byte
	key, value []byte
	size       int
}

// parseLogEntry returns the entry that data begins with; false if there is none, or its checksum is wrong.
func parseLogEntry(data []byte) (e logEntry, ok bool) {
	if len(data) < 2 {
		return e, false
	}
	e.meta = data[0]
	at := 2
	var lengths [3]uint64 // the third is the expiry
	for i := range lengths {
		n, size := binary.Uvarint(data[at:])
		if size <= 0 {
			return e, false
		}
		lengths[i], at = n, at+size
	}
	left := uint64(len(data) - at)
	key, value := lengths[0], lengths[1]
	if key == 0 || key > 1<<16 || value > left || key+value+crc32.Size > left {
		return e, false
	}
	e.key = data[at : at+int(key)]
	e.value = data[at+int(key) : at+int(key+value)]
	at += int(key + value)
	e.size = at + crc32.Size
	return e, binary.BigEndian.Uint32(data[at:]) == crc32.Checksum(data[:at], castagnoli)
}

// A logContent is what was found in one log.
type logContent struct {
	newest  uint64 // the newest version up to the end, at least the one given
	end     int    // where the last whole transaction ends
	missing bool   // versions are missing before newest
	clean   bool   // nothing but zeroes comes after the end
	lost    bool   // something comes after the end that was written later than the transaction which should be there
}

// readLog reads a log up to where Badger will stop. newest is the newest version that is in tables or older logs, behind that of Options.
func readLog(data []byte, newest uint64, behind bool) logContent {
	c := logContent{newest: newest, end: min(len(data), logHeader)}
	begun, second := uint64(0), false // the version of the transaction whose entries are being read, and whether a bulk must precede it
	for at := c.end; ; {
		e, ok := parseLogEntry(data[at:])
		if !ok {
			break
		}
		at += e.size
		version := y.ParseTs(e.key)
		if e.meta&partOfTxn != 0 {
			if begun == 0 {
				begun = version
			}
			if version != begun {
				break
			}
			second = second || isSecond(e)
			continue
		}
		if e.meta&endOfTxn != 0 {
			if n, err := strconv.ParseUint(string(e.value), 10, 64); err != nil || n != begun {
				break
			}
		} else if begun != 0 {
			break
		}
		c.missing = c.missing || version > c.newest+1 || second && version > c.newest
		begun, second, c.end = 0, false, at
		c.newest = max(c.newest, version)
	}
	rest := data[c.end:]
	c.clean = len(bytes.TrimLeft(rest, "\x00")) == 0
	if !c.clean {
		c.lost = lostTransactions(rest, c.newest, behind)
	}
	return c
}

// isSecond reports whether an entry is what makes the bulk of its version visible.
func isSecond(e logEntry) bool {
	return bytes.Equal(y.ParseKey(e.key), bumpKey) && len(e.value) == valueHeader+len(afterBulk) && string(e.value[valueHeader:]) == afterBulk
}

// lostTransactions reports whether rest, what comes after the last whole transaction, holds something that was written when the
// transaction which followed that one was on the disk: then what cannot be read was whole once. Unless behind, only one is on its way to
// the disk at any time, so all that is later tells.
func lostTransactions(rest []byte, newest uint64, behind bool) bool {
	const header = 5 // two bytes, three short numbers
	if behind {
		// The length of the key with its version, that of the value, no expiry, the key.
		for _, payload := range []int{0, 8} {
			for e := range entriesAround(rest, append([]byte{byte(len(bumpKey) + 8), byte(valueHeader + payload), 0}, bumpKey...), 2) {
				synced := y.ParseTs(e.key) - 1
				if told := e.value[valueHeader:]; len(told) == 8 {
					synced = binary.BigEndian.Uint64(told)
				}
				if synced > newest {
					return true
				}
			}
		}
		return lostBulk(rest, newest)
	}
	ends := 0
	for e := range entriesAround(rest, []byte(endKey), header) {
		if e.meta&endOfTxn != 0 {
			ends++
			if ends > 1 || y.ParseTs(e.key) > newest+1 {
				return true
			}
		}
	}
	return lostBulk(rest, newest)
}

// lostBulk reports whether rest holds what makes a bulk visible, which is written when the bulk is on the disk.
func lostBulk(rest []byte, newest uint64) bool {
	const header = 5
	second := appendValue(nil, bumpKey, []byte(afterBulk))
	for e := range entriesAround(rest, second, header+len(bumpKey)+8) {
		if isSecond(e) && y.ParseTs(e.key) > newest {
			return true
		}
	}
	return false
}

// entriesAround yields the entries in data that hold these bytes this far from their beginning.
func entriesAround(data, holds []byte, from int) iter.Seq[logEntry] {
	return func(yield func(logEntry) bool) {
		for at := 0; ; at += len(holds) {
			i := bytes.Index(data[at:], holds)
			if i < 0 {
				return
			}
			at += i
			if at < from {
				continue
			}
			if e, ok := parseLogEntry(data[at-from:]); ok && !yield(e) {
				return
			}
		}
	}
}

// verifyLogs checks the logs in dir that have these names against the newest version that is in tables, cuts a torn transaction off,
// and returns the newest version of all.
func verifyLogs(dir string, names []string, newest uint64, behind bool) (uint64, error) {
	numbers := map[string]int64{}
	for _, name := range names {
		n, err := strconv.ParseInt(strings.TrimSuffix(name, ".mem"), 10, 64)
		if err != nil {
			return 0, ErrDamaged.Because("%s in %s has not the name of a log", name, dir).WithFix("move it elsewhere if it does not belong there")
		}
		numbers[name] = n
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(numbers[a], numbers[b]) })
	for i, name := range names {
		path := filepath.Join(dir, name)
		data, err := os.ReadFile(path)
		if err != nil {
			return 0, ErrDamaged.Because("%s cannot be read", path).WithFix(rebuildFix).Wrap(err)
		}
		c := readLog(data, newest, behind)
		switch {
		case c.missing:
			return 0, ErrDamaged.Because("transactions after version %d are missing before or in %s", newest, path).WithFix(rebuildFix)
		case !c.clean && (i+1 < len(names) || c.lost):
			return 0, ErrDamaged.Because("%s is altered after byte %d of %d", path, c.end, len(data)).WithFix(rebuildFix)
		case !c.clean:
			if err := cutLog(path, int64(max(c.end, logHeader))); err != nil {
				return 0, ErrDirectory.Because("%s", path).Wrap(err)
			}
		}
		newest = c.newest
	}
	return newest, nil
}

// cutLog cuts off what follows the last whole transaction.
func cutLog(path string, end int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(end), f.Sync(), f.Close())
}
