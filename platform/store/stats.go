package store

import (
	"errors"
	"os"
	"path/filepath"
)

// Stats says what a store takes and what state it is in.
type Stats struct {
	// Tables, Logs and Other are bytes on the disk: of tables, of the write-ahead logs of what is in memory only, and of the rest.
	Tables int64 `json:"table_bytes"`
	Logs   int64 `json:"log_bytes"`
	Other  int64 `json:"other_bytes"`
	// Memtables is how many tables are in memory, each up to Options.MemTable bytes.
	Memtables int `json:"memtables"`
	// Levels are the levels of the tree that hold tables, the youngest first.
	Levels []Level `json:"levels,omitempty"`
	// Keys is how many entries the tables hold: more than there are keys, for overwritten and removed ones count until they are compacted,
	// and without what is in memory.
	Keys int64 `json:"keys"`
	// Stale is how many bytes of the tables compactions have found to be overwritten or removed.
	Stale int64 `json:"stale_bytes"`
	// Compactions is how many levels are larger than they should be and wait to be compacted.
	Compactions int `json:"compactions"`
}

// A Level is one level of the tree.
type Level struct {
	Number int     `json:"level"` // 0 is where tables from memory arrive
	Tables int     `json:"tables"`
	Bytes  int64   `json:"bytes"`
	Target int64   `json:"target_bytes,omitempty"` // the bytes beyond which it is compacted; 0 for level 0, where the number of tables counts
	Score  float64 `json:"score"`                  // how full it is: from 1 on it is compacted
}

// Stats returns what the store takes now, or ErrClosed, ErrFailed or ErrDirectory.
func (db *DB) Stats() (Stats, error) {
	if err := db.enter(); err != nil {
		return Stats{}, err
	}
	defer db.leave()
	var s Stats
	files, err := os.ReadDir(db.dir)
	if err != nil {
		return Stats{}, ErrDirectory.Because("%s", db.dir).Wrap(err)
	}
	for _, f := range files {
		info, err := f.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue // it was removed since
		}
		if err != nil {
			return Stats{}, ErrDirectory.Because("%s", db.dir).Wrap(err)
		}
		bytes := allocated(info)
		switch filepath.Ext(f.Name()) {
		case ".sst":
			s.Tables += bytes
		case ".mem":
			s.Logs += bytes
			s.Memtables++
		default:
			s.Other += bytes
		}
	}
	for _, t := range db.bdb.Tables() {
		s.Keys += int64(t.KeyCount)
	}
	for _, l := range db.bdb.Levels() {
		if l.Score >= 1 {
			s.Compactions++
		}
		s.Stale += l.StaleDatSize
		if l.NumTables == 0 {
			continue
		}
		level := Level{Number: l.Level, Tables: l.NumTables, Bytes: l.Size, Score: l.Score}
		if l.Level > 0 {
			level.Target = l.TargetSize
		}
		s.Levels = append(s.Levels, level)
	}
	return s, nil
}
