package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/dgraph-io/badger/v4/y"
)

// killed makes a store with three logs that are in no table yet, as a kill leaves it, and returns how far its workload is.
func killed(t *testing.T, dir string, w workload) (position int) {
	t.Helper()
	flipSources(t, dir, w)
	db, err := openWith(copied(t, filepath.Join(dir, "killed")), small())
	if err != nil {
		t.Fatal(err)
	}
	position, err = (&model{workload: w}).check(db)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return position
}

func copied(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir() + "/db"
	if err := copyStore(dir, to); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestLogs removes and cuts logs. What is missing in the middle is found; without the newest transactions the store is at an older
// position, and says so.
func TestLogs(t *testing.T) {
	t.Parallel()
	w := workload(testSeed(t))
	tmp := t.TempDir()
	whole := killed(t, tmp, w)
	remove := func(t *testing.T, log string) {
		if err := os.Remove(log); err != nil {
			t.Fatal(err)
		}
	}
	edit := func(t *testing.T, log string, fn func([]byte) []byte) {
		data, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(log, fn(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// boundary returns where the transaction before the last one ends, be the last one the second one of a bulk or not.
	boundary := func(data []byte) int {
		end := readLog(data, 1<<62, false).end
		before := bytes.LastIndex(data[:end-40], []byte(endKey))
		return readLog(data[:before+40], 1<<62, false).end
	}
	cut := func(data []byte) []byte { return data[:boundary(data)] }
	zero := func(data []byte) []byte { clear(data[boundary(data):]); return data }
	garbage := func(data []byte) []byte { copy(data[readLog(data, 1<<62, false).end:], "garbage"); return data }
	empty := func([]byte) []byte { return nil }
	// torn puts the end of a transaction that is known, and so cannot be one that was lost, where a torn one would be.
	torn := func(data []byte) []byte {
		end := readLog(data, 1<<62, false).end
		copy(data[end:], data[end-60:end])
		return data
	}
	for name, tc := range map[string]struct {
		damage func(t *testing.T, logs []string)
		opened bool // at this position or an older one; else it is refused
	}{
		"oldest removed":        {func(t *testing.T, logs []string) { remove(t, logs[0]) }, false},
		"oldest emptied":        {func(t *testing.T, logs []string) { edit(t, logs[0], empty) }, false},
		"middle removed":        {func(t *testing.T, logs []string) { remove(t, logs[1]) }, false},
		"middle emptied":        {func(t *testing.T, logs []string) { edit(t, logs[1], empty) }, false},
		"middle cut":            {func(t *testing.T, logs []string) { edit(t, logs[1], cut) }, false},
		"middle zeroed":         {func(t *testing.T, logs []string) { edit(t, logs[1], zero) }, false},
		"middle with more":      {func(t *testing.T, logs []string) { edit(t, logs[1], garbage) }, false},
		"oldest zeroed":         {func(t *testing.T, logs []string) { edit(t, logs[0], zero) }, false},
		"newest removed":        {func(t *testing.T, logs []string) { remove(t, logs[2]) }, true},
		"newest emptied":        {func(t *testing.T, logs []string) { edit(t, logs[2], empty) }, true},
		"newest cut":            {func(t *testing.T, logs []string) { edit(t, logs[2], cut) }, true},
		"newest zeroed":         {func(t *testing.T, logs []string) { edit(t, logs[2], zero) }, true},
		"newest torn":           {func(t *testing.T, logs []string) { edit(t, logs[2], torn) }, true},
		"newest two removed":    {func(t *testing.T, logs []string) { remove(t, logs[2]); remove(t, logs[1]) }, true},
		"one that has no place": {func(t *testing.T, logs []string) { edit(t, logs[0], empty); remove(t, logs[1]) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copied(t, filepath.Join(tmp, "killed"))
			logs := files(t, dir, ".mem")
			slices.Sort(logs)
			if len(logs) != 3 {
				t.Fatalf("%d logs, want 3", len(logs))
			}
			tc.damage(t, logs)
			db, err := openWith(dir, small())
			if err != nil {
				if tc.opened || !errors.Is(err, ErrDamaged) {
					t.Fatal(err)
				}
				return
			}
			position, err := (&model{workload: w}).check(db)
			if err != nil || !tc.opened || position > whole { // the last transaction may be the second one of a bulk
				t.Errorf("it was opened at position %d of %d, %v", position, whole, err)
			}
			if name == "newest torn" {
				if position != whole {
					t.Errorf("it was opened at position %d, want %d", position, whole)
				}
				// What is torn must not be there when this is not the newest log any more.
				data, err := os.ReadFile(logs[2])
				if err == nil && !readLog(data, 1<<62, false).clean || err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Errorf("what was torn is still there, %v", err)
				}
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestLeftovers opens a store again and again with what kills can leave in it: no files pile up.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	w := workload(1)
	dir := t.TempDir() + "/db"
	for round := range 6 {
		db, err := openWith(dir, small())
		if err != nil {
			t.Fatal(err)
		}
		if err := w.run(db, round, round+1); err != nil {
			t.Fatal(err)
		}
		if vlogs, logs := len(files(t, dir, ".vlog")), len(files(t, dir, ".mem")); vlogs > 2 || logs > 2 {
			t.Errorf("round %d: %d value logs, %d logs", round, vlogs, logs)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		// An empty file of each kind, a value log and a log with nothing but a header, and a table that was not finished.
		number := 90 + round
		for name, size := range map[string]int{
			fmt.Sprintf("%06d.vlog", number): 0, fmt.Sprintf("%05d.mem", number): 0, fmt.Sprintf("%06d.vlog", number+1): 2 << 20,
			fmt.Sprintf("%05d.mem", number+1): 1 << 20, fmt.Sprintf("%06d.sst", number): 4096,
		} {
			if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	db := open(t, dir)
	if position, err := (&model{workload: w}).check(db); err != nil || position != 6 {
		t.Errorf("position %d, %v", position, err)
	}
}

// TestReadLog reads logs of a few transactions each, which follow version 4.
func TestReadLog(t *testing.T) {
	one := func(version uint64) []byte {
		b := appendLogEntry(nil, partOfTxn, "\x01key", "value", version)
		return appendLogEntry(b, endOfTxn, endKey, fmt.Sprint(version), version)
	}
	bump := func(version uint64) []byte {
		b := appendLogEntry(nil, partOfTxn, string(bumpKey), string(appendValue(nil, bumpKey, []byte(afterBulk))), version)
		return appendLogEntry(b, endOfTxn, endKey, fmt.Sprint(version), version)
	}
	broken := func(part []byte) []byte { part[len(part)/2] ^= 1; return part }
	for name, tc := range map[string]struct {
		parts [][]byte
		whole int // how many of the parts are read
		want  logContent
	}{
		"nothing":                        {nil, 0, logContent{newest: 4, clean: true}},
		"dense":                          {[][]byte{one(5), one(6)}, 2, logContent{newest: 6, clean: true}},
		"in tables already":              {[][]byte{one(2), one(3)}, 2, logContent{newest: 4, clean: true}},
		"one missing":                    {[][]byte{one(5), one(7)}, 2, logContent{newest: 7, clean: true, missing: true}},
		"the first missing":              {[][]byte{one(6)}, 1, logContent{newest: 6, clean: true, missing: true}},
		"a bulk":                         {[][]byte{one(5), bump(5), one(6)}, 3, logContent{newest: 6, clean: true}},
		"a bulk in a table":              {[][]byte{bump(4), one(5)}, 2, logContent{newest: 5, clean: true}},
		"a bulk missing":                 {[][]byte{bump(5), one(6)}, 2, logContent{newest: 6, clean: true, missing: true}},
		"the last one torn":              {[][]byte{one(5), broken(one(6))}, 1, logContent{newest: 5}},
		"the last one without an end":    {[][]byte{one(5), one(6)[:30]}, 1, logContent{newest: 5}},
		"another one follows":            {[][]byte{one(5), broken(one(6)), one(7)}, 1, logContent{newest: 5, lost: true}},
		"a bulk torn":                    {[][]byte{broken(one(5)), bump(5)}, 0, logContent{newest: 4, lost: true}},
		"the second one of a bulk torn":  {[][]byte{one(5), broken(bump(5))}, 1, logContent{newest: 5}},
		"zeroes, and something far away": {[][]byte{one(5), make([]byte, 100), one(6)}, 1, logContent{newest: 5}},
	} {
		data, end := make([]byte, logHeader), logHeader
		for i, part := range tc.parts {
			data = append(data, part...)
			if i < tc.whole {
				end = len(data)
			}
		}
		data = append(data, make([]byte, 50)...)
		tc.want.end = end
		if got := readLog(data, 4, false); got != tc.want {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
}

// TestReadLogBehind reads logs of which several transactions may be torn: what a later one says was on the disk may not be missing.
func TestReadLogBehind(t *testing.T) {
	one := func(version, synced uint64) []byte {
		told := binary.BigEndian.AppendUint64(nil, synced)
		b := appendLogEntry(nil, partOfTxn, string(bumpKey), string(appendValue(nil, bumpKey, told)), version)
		b = appendLogEntry(b, partOfTxn, "\x01key", "value", version)
		return appendLogEntry(b, endOfTxn, endKey, fmt.Sprint(version), version)
	}
	strict := func(version uint64, second string) []byte {
		b := appendLogEntry(nil, partOfTxn, string(bumpKey), string(appendValue(nil, bumpKey, []byte(second))), version)
		return appendLogEntry(b, endOfTxn, endKey, fmt.Sprint(version), version)
	}
	gone := func(part []byte) []byte { return make([]byte, len(part)) }
	for name, tc := range map[string]struct {
		parts [][]byte
		whole int
		want  logContent
	}{
		"all there":                      {[][]byte{one(5, 4), one(6, 4), one(7, 6)}, 3, logContent{newest: 7, clean: true}},
		"one torn":                       {[][]byte{one(5, 4), gone(one(6, 4)), one(7, 4)}, 1, logContent{newest: 5}},
		"several torn":                   {[][]byte{gone(one(5, 4)), one(6, 4), gone(one(7, 4)), one(8, 4)}, 0, logContent{newest: 4}},
		"one that was synced":            {[][]byte{one(5, 4), gone(one(6, 4)), one(7, 6)}, 1, logContent{newest: 5, lost: true}},
		"synced, and the next one torn":  {[][]byte{one(5, 4), gone(one(6, 5)), one(7, 5)}, 1, logContent{newest: 5}},
		"synced, told after a torn one":  {[][]byte{gone(one(5, 4)), one(6, 4), one(7, 5)}, 0, logContent{newest: 4, lost: true}},
		"before a bulk":                  {[][]byte{gone(one(5, 4)), strict(6, "")}, 0, logContent{newest: 4, lost: true}},
		"a bulk without its second":      {[][]byte{one(5, 4), gone(strict(6, ""))}, 1, logContent{newest: 5, clean: true}},
		"the second one without a bulk":  {[][]byte{gone(strict(5, "")), strict(5, afterBulk)}, 0, logContent{newest: 4, lost: true}},
		"after a bulk":                   {[][]byte{strict(5, ""), strict(5, afterBulk), gone(one(6, 5)), one(7, 5)}, 2, logContent{newest: 5}},
		"all torn, of which none is old": {[][]byte{gone(one(5, 4)), gone(one(6, 4))}, 0, logContent{newest: 4, clean: true}},
	} {
		data, end := make([]byte, logHeader), logHeader
		for i, part := range tc.parts {
			data = append(data, part...)
			if i < tc.whole {
				end = len(data)
			}
		}
		tc.want.end = end
		if got := readLog(append(data, make([]byte, 50)...), 4, true); got != tc.want {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
}

// sampleLog returns a log of two transactions, of versions 1 and 2.
func sampleLog() []byte {
	log := make([]byte, logHeader)
	for version := range uint64(2) {
		version++
		log = appendLogEntry(log, partOfTxn, "\x01key", "value", version)
		log = appendLogEntry(log, endOfTxn, endKey, fmt.Sprint(version), version)
	}
	return log
}

func appendLogEntry(dst []byte, meta byte, key, value string, version uint64) []byte {
	at := len(dst)
	dst = append(dst, meta, 0)
	dst = binary.AppendUvarint(dst, uint64(len(key)+8))
	dst = binary.AppendUvarint(dst, uint64(len(value)))
	dst = append(dst, 0)
	dst = append(dst, y.KeyWithTs([]byte(key), version)...)
	dst = append(dst, value...)
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[at:], castagnoli))
}

// FuzzReadLog: any bytes are read without a panic, and what is found whole is whole by itself.
func FuzzReadLog(f *testing.F) {
	f.Add([]byte{}, uint64(0))
	f.Add(make([]byte, 100), uint64(0))
	f.Add(sampleLog(), uint64(0))
	f.Add(sampleLog(), uint64(7))
	f.Add(append(sampleLog(), sampleLog()[logHeader:]...), uint64(2))
	f.Fuzz(func(t *testing.T, data []byte, newest uint64) {
		readLog(data, newest, true)
		c := readLog(data, newest, false)
		if c.end > len(data) || c.newest < newest {
			t.Fatalf("%+v of %d bytes", c, len(data))
		}
		again := readLog(data[:c.end], newest, false)
		if !again.clean || again.lost || again.end != c.end || again.newest != c.newest || again.missing != c.missing {
			t.Errorf("%+v, and of its whole part %+v", c, again)
		}
	})
}
