package folds

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

// A row is one of a view, stored or served.
type row struct {
	json string
	at   es.Position
	id   string
}

// A letter is a dead letter, as far as it says something about the log.
type letter struct {
	Stream   string      `json:"stream"`
	Position es.Position `json:"position"`
	EventID  string      `json:"event_id"`
	Code     string      `json:"code"`
	Attempts int         `json:"attempts"`
}

// A build is what there is of one build of a view.
type build struct {
	view    string
	version int
	next    map[es.TopicPartition]int64 // by partition, the first offset that is not applied
	rows    map[string]row
	entries map[string]bool     // index entries, as they are stored
	ordered map[string][]string // by index, the keys of the rows in its order
	letters map[es.Position]letter
	given   map[es.Position]letter // letters that were given up
}

// A wanted is a row as the fold has it.
type wanted struct {
	json    string
	touched map[es.TopicPartition]row // the last event of each partition that changed it
	parts   []string                  // by index, in the order of their names; "" = it is not in it
}

// A fold is what a build has to be.
type fold struct {
	rows    map[string]wanted
	indexes []string
	letters map[es.Position]letter
}

// held is a row in the fold.
type held[R any] struct{ row R }

// foldOf folds what of the log is before next in the plainest way. Events at skipped positions are left out; those that the view cannot
// handle are letters, and so are the later ones of their streams.
func foldOf[R any](l *growing, v es.View[R, event], next map[es.TopicPartition]int64, skip func(es.Position) bool) fold {
	rows := map[string]*held[R]{}
	touched := map[string]map[es.TopicPartition]row{}
	f := fold{rows: map[string]wanted{}, letters: map[es.Position]letter{}, indexes: slices.Sorted(maps.Keys(v.Indexes))}
	owners := map[string]string{} // by unique index and value, the key of the row
	uniques := uniquesOf(v)
	for tp, end := range next {
		parked := map[string]bool{}
		for _, r := range l.records[tp] {
			if r.at.Offset >= end {
				break
			}
			if skip(r.at) {
				continue
			}
			var code string
			switch {
			case parked[r.stream]:
				code = "waits_behind"
			case r.events == nil:
				code = "undecodable_event"
			default:
				code = apply(v, uniques, rows, owners, r, func(key string) {
					if touched[key] == nil {
						touched[key] = map[es.TopicPartition]row{}
					}
					touched[key][tp] = row{at: r.at, id: r.id}
				})
			}
			if code != "" {
				parked[r.stream] = true
				f.letters[r.at] = letter{Stream: r.stream, Position: r.at, EventID: r.id, Code: code}
			}
		}
	}
	for key, h := range rows {
		text, err := json.Marshal(h.row)
		if err != nil {
			panic(err)
		}
		f.rows[key] = wanted{json: string(text), touched: touched[key], parts: partsOf(v, h.row)}
	}
	return f
}

// apply applies all of a record or nothing, and returns the code of why not.
func apply[R any](v es.View[R, event], uniques func(R) []string, rows map[string]*held[R], owners map[string]string, r record, touch func(key string)) (code string) {
	now := map[string]*held[R]{} // nil = gone
	had, has := []string{}, map[string]string{}
	defer func() {
		if recover() != nil {
			code = "view_failed"
		}
		if code != "" {
			return
		}
		for key, h := range now {
			touch(key)
			if h == nil {
				delete(rows, key)
			} else {
				rows[key] = h
			}
		}
		for _, value := range had {
			delete(owners, value)
		}
		maps.Copy(owners, has)
	}()
	for _, env := range r.events {
		for _, key := range v.KeysOf(env) {
			var before R
			if h, ok := now[key]; ok && h != nil {
				before = h.row
			} else if h := rows[key]; !ok && h != nil {
				before = h.row
			}
			old := uniques(before)
			after, gone := v.Next(key, before, env)
			if gone {
				now[key] = nil
			} else {
				now[key] = &held[R]{after}
			}
			new := uniques(after)
			if gone {
				new = nil
			}
			for _, value := range new {
				by := owners[value]
				if slices.Contains(had, value) {
					by = ""
				}
				if in, ok := has[value]; ok {
					by = in
				}
				if by != "" && by != key {
					return "unstorable_row"
				}
			}
			for _, value := range old {
				if !slices.Contains(new, value) {
					had = append(had, value)
					delete(has, value)
				}
			}
			for _, value := range new {
				has[value] = key
			}
		}
	}
	return ""
}

// partsOf returns what the indexes of a view have of a row, "" = nothing.
func partsOf[R any](v es.View[R, event], r R) (all []string) {
	for _, name := range slices.Sorted(maps.Keys(v.Indexes)) {
		all = append(all, string(partsBy(v.Indexes[name], r)))
	}
	return all
}

func partsBy[R any](x es.Index[R], r R) (parts []byte) {
	for k, part := range x.Parts {
		var empty bool
		if parts, empty = part.Append(parts, r); empty && k == 0 {
			return nil
		}
	}
	return parts
}

// uniquesOf returns what yields the values that no other row may have.
func uniquesOf[R any](v es.View[R, event]) func(R) []string {
	var names []string
	for name, x := range v.Indexes {
		if x.Unique {
			names = append(names, name)
		}
	}
	return func(r R) (values []string) {
		for _, name := range names {
			if parts := partsBy(v.Indexes[name], r); parts != nil {
				values = append(values, name+"\x00"+string(parts))
			}
		}
		return values
	}
}

// judge returns how a build differs from the fold of what is before its positions, nil if it does not. mended says that the code of
// orders was mended once, so that any of the events that it could not handle may have been applied since.
func (l *growing) judge(b *build, mended bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for tp, next := range b.next {
		if l.topicOf(tp) < 0 {
			return fmt.Errorf("%s is none of its topics", tp)
		}
		if next > l.ends[tp] {
			return fmt.Errorf("it is at %s@%d, and the log ends before %d", tp, next, l.ends[tp])
		}
	}
	none := func(es.Position) bool { return false }
	var f fold
	switch b.view {
	case "orders":
		if err := l.letters(b, mended); err != nil {
			return err
		}
		f = foldOf(l, orders(b.version, true), b.next, func(at es.Position) bool {
			_, waits := b.letters[at]
			_, given := b.given[at]
			return waits || given
		})
	case "balances":
		f = foldOf(l, balances(), b.next, none)
	case "seats":
		f = foldOf(l, seats(), b.next, none)
	default:
		return fmt.Errorf("there is no view %q", b.view)
	}
	if b.view != "orders" {
		if err := sameLetters(b, f.letters); err != nil {
			return err
		}
	} else if len(f.letters) > 0 {
		for _, at := range slices.SortedFunc(maps.Keys(f.letters), byPosition) {
			return fmt.Errorf("the event at %s can not have been applied, and is no dead letter", at)
		}
	}
	if err := sameRows(b, f); err != nil {
		return err
	}
	return sameIndexes(b, f)
}

func byPosition(a, b es.Position) int {
	return strings.Compare(fmt.Sprintf("%s %012d", a.TopicPartition, a.Offset), fmt.Sprintf("%s %012d", b.TopicPartition, b.Offset))
}

// letters holds the dead letters of the orders against the log. Which there are depends on what was done to them, but not how they lie:
// the letters of a stream are all its events from the first one on, what was given up is before that, there is an event before or
// among them that could not be handled, and whatever never can be is one.
func (l *growing) letters(b *build, mended bool) error {
	seen := 0
	for tp, end := range b.next {
		waiting := map[string]bool{}
		failed := map[string]bool{}
		for _, r := range l.records[tp] {
			if r.at.Offset >= end {
				break
			}
			x, waits := b.letters[r.at]
			y, given := b.given[r.at]
			failed[r.stream] = failed[r.stream] || r.cursed || r.events == nil
			switch {
			case waits && given:
				return fmt.Errorf("%s is a dead letter and was given up", r.at)
			case waits && (x.Stream != r.stream || x.EventID != r.id):
				return fmt.Errorf("the dead letter %+v, want %s of %s", x, r.id, r.stream)
			case given && (y.Stream != r.stream || y.EventID != r.id):
				return fmt.Errorf("the letter that was given up %+v, want %s of %s", y, r.id, r.stream)
			case waits && !failed[r.stream]:
				return fmt.Errorf("%s is a dead letter, and nothing before it in its stream has failed", r.at)
			case given && !failed[r.stream]:
				return fmt.Errorf("%s was given up, and nothing before it in its stream has failed", r.at)
			case waiting[r.stream] && !waits:
				return fmt.Errorf("%s is no dead letter, and an earlier one of %s is", r.at, r.stream)
			case !waits && !given && r.events == nil:
				return fmt.Errorf("%s cannot be decoded, and is no dead letter", r.at)
			case !waits && !given && r.cursed && !mended:
				return fmt.Errorf("%s cannot be handled, and is no dead letter", r.at)
			}
			waiting[r.stream] = waiting[r.stream] || waits
			if waits {
				seen++
			}
			if given {
				seen++
			}
		}
	}
	if n := len(b.letters) + len(b.given); seen != n {
		return fmt.Errorf("%d dead letters of %d are of events before its positions", seen, n)
	}
	return nil
}

func sameLetters(b *build, want map[es.Position]letter) error {
	for _, at := range slices.SortedFunc(maps.Keys(want), byPosition) {
		w, got := want[at], b.letters[at]
		if got.Attempts = 0; got != w {
			return fmt.Errorf("dead letter at %s is\n%+v, want\n%+v", at, got, w)
		}
	}
	if len(b.letters) != len(want) || len(b.given) != 0 {
		return fmt.Errorf("%d dead letters, want %d; %d were given up, want 0", len(b.letters), len(want), len(b.given))
	}
	return nil
}

func sameRows(b *build, f fold) error {
	for _, key := range slices.Sorted(maps.Keys(f.rows)) {
		w, got := f.rows[key], b.rows[key]
		by := w.touched[got.at.TopicPartition]
		if got.json != w.json || by.at != got.at || by.id != got.id {
			return fmt.Errorf("row %s is\n%s by %s %s, want\n%s by %v (%d rows, want %d)", key, got.json, got.at, got.id, w.json, w.touched, len(b.rows), len(f.rows))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(b.rows)) {
		if _, ok := f.rows[key]; !ok {
			return fmt.Errorf("row %s is %s by %s, and there should be none (%d rows, want %d)", key, b.rows[key].json, b.rows[key].at, len(b.rows), len(f.rows))
		}
	}
	return nil
}

func sameIndexes(b *build, f fold) error {
	want := map[string]bool{}
	ordered := map[string]map[string]string{} // by index and entry, the key
	for _, name := range f.indexes {
		ordered[name] = map[string]string{}
	}
	for key, w := range f.rows {
		for i, parts := range w.parts {
			if parts != "" {
				entry := string([]byte{'i', byte(i)}) + parts + key
				want[entry] = true
				ordered[f.indexes[i]][entry] = key
			}
		}
	}
	if b.entries != nil && !maps.Equal(b.entries, want) {
		for e := range want {
			if !b.entries[e] {
				return fmt.Errorf("the index entry %q is missing (%d entries, want %d)", e, len(b.entries), len(want))
			}
		}
		for e := range b.entries {
			if !want[e] {
				return fmt.Errorf("the index entry %q is there, and should not be (%d entries, want %d)", e, len(b.entries), len(want))
			}
		}
	}
	for name, got := range b.ordered {
		var keys []string
		for _, entry := range slices.Sorted(maps.Keys(ordered[name])) {
			keys = append(keys, ordered[name][entry])
		}
		if !slices.Equal(got, keys) {
			return fmt.Errorf("index %s has %d rows, want %d, or in another order", name, len(got), len(keys))
		}
	}
	return nil
}

// readStored reads all of a build's store, with a reader of its own.
func readStored(dir, view string, version int) (b *build, err error) {
	db, err := store.Open(dir, store.Options{MinFree: -1, MemTable: memTable, Behind: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	b = &build{view: view, version: version, next: map[es.TopicPartition]int64{}, rows: map[string]row{}, entries: map[string]bool{}, letters: map[es.Position]letter{}, given: map[es.Position]letter{}}
	var topics struct {
		Topics []string `json:"topics"`
	}
	err = db.Read(func(r *store.Reader) error {
		form, err := r.Get([]byte("s"))
		if errors.Is(err, store.ErrNotFound) {
			form = []byte("{}") // it was killed before it had anything
		} else if err != nil {
			return err
		}
		if err := json.Unmarshal(form, &topics); err != nil {
			return err
		}
		for pair, err := range r.Scan(store.Range{}) {
			if err != nil {
				return err
			}
			switch key, value := pair.Key, pair.Value; key[0] {
			case 's':
			case 'r':
				row, err := readRow(value, topics.Topics)
				if err != nil {
					return fmt.Errorf("row %s: %w", key[1:], err)
				}
				b.rows[string(key[1:])] = row
			case 'i':
				b.entries[string(key)] = true
			case 'c':
				var c eventlog.Cursor
				if err := c.UnmarshalBinary(value); err != nil {
					return err
				}
				b.next[c.TopicPartition] = c.Next
			case 'd', 'D':
				var x letter
				if err := json.Unmarshal(value, &x); err != nil {
					return err
				}
				if key[0] == 'd' {
					b.letters[x.Position] = x
				} else {
					b.given[x.Position] = x
				}
			default:
				return fmt.Errorf("nobody knows the key %q", key)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

var errRow = errors.New("it is malformed")

// readRow reads: format 2, topic, partition and offset of the event that changed it last, its id, the index values, the JSON.
func readRow(b []byte, topics []string) (r row, err error) {
	defer func() {
		if recover() != nil {
			err = errRow
		}
	}()
	number := func() uint64 {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			panic(errRow)
		}
		b = b[size:]
		return n
	}
	text := func(n uint64) []byte {
		s := b[:n]
		b = b[n:]
		return s
	}
	if b[0] != 2 {
		return r, errRow
	}
	r.at.Topic = topics[b[1]]
	b = b[2:]
	r.at.Partition, r.at.Offset = int32(number()), int64(number())
	if n := number(); n > 0 {
		r.id = string(text(n - 1))
	} else {
		x := hex.EncodeToString(text(16))
		r.id = x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:]
	}
	for range number() {
		text(number())
	}
	r.json = string(bytes.Clone(b))
	return r, nil
}
