package projection

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/store"
)

// MaxIndexValue is the longest value of an index, in bytes.
const MaxIndexValue = 1024

// A fold is a view as a lane drives it, with its types hidden. All methods but state are for the lane's applying goroutine.
type fold interface {
	state() *viewState
	// apply folds a chunk into rows in memory. ok is false if an event could not be handled: then the rows are in disorder, and
	// the lane rolls back and applies carefully. err is a failure of the store.
	apply(c *chunk, snap *store.Reader) (ok bool, err error)
	// applyCarefully does the same for chunks, and halts partitions at events that cannot be handled.
	applyCarefully(cs []*chunk, snap *store.Reader) error
	// collect encodes the rows that changed since the last collect, for a batch with this number; ok is as for apply.
	collect(w *writes, batch uint64) (ok bool)
	// rollback forgets what was applied since the last collect that was sealed.
	rollback()
	// seal makes what was collected the state to which rollback returns, and starts the next batch. Rows of batches up to
	// visible are in the snapshots that the view will be given, and may leave memory.
	seal(next, visible uint64)
	// reset forgets all rows.
	reset()
	// estimate returns about what a collect would yield now.
	estimate() size
	// gathers reports whether the events since the last collect that was sealed changed rows that were there, rather than made
	// new ones: then more events will not make the batch much larger.
	gathers() bool
}

// A writes collects what a batch writes to the store.
type writes struct {
	ops   []op
	arena []byte
	bytes int64 // as store.EntryCost counts them
}

type op struct {
	key, value []byte
	remove     bool
}

// keep copies b into memory that lives as long as the batch.
func (w *writes) keep(b []byte) []byte {
	if cap(w.arena)-len(w.arena) < len(b) {
		w.arena = make([]byte, 0, max(len(b), 64<<10))
	}
	n := len(w.arena)
	w.arena = append(w.arena, b...)
	return w.arena[n:len(w.arena):len(w.arena)]
}

// set and remove copy their arguments.
func (w *writes) set(key, value []byte) {
	w.ops = append(w.ops, op{key: w.keep(key), value: w.keep(value)})
	w.bytes += store.EntryCost(len(key), len(value))
}

func (w *writes) remove(key []byte) {
	w.ops = append(w.ops, op{key: w.keep(key), remove: true})
	w.bytes += store.EntryCost(len(key), 0)
}

// A view folds the events E into rows R.
type view[R, E any] struct {
	viewState
	def     es.View[R, E]
	indexes []func(R) string // in the order of indexNames
	rows    map[string]*entry[R]
	dirty   []*entry[R] // changed since the last seal
	batch   uint64      // the batch that is being filled
	touched int         // events applied since the last seal
	made    int         // rows that these made
	filter  store.Filter
	budget  int64 // bytes of rows in memory, about
	held    int64
	average int64 // what a changed row takes of a batch, with its index entries, in bytes

	key     []byte // scratch
	value   []byte
	json    bytes.Buffer
	encoder *json.Encoder
	values  []string
}

// An entry is a row in memory.
type entry[R any] struct {
	key       string
	row       R
	partition int32
	offset    int64
	event     eventID
	stored    []string // its index values as the store has them; nil if the store does not have the row
	batch     uint64   // the latest one in which it changed
	size      int32    // of its JSON
	recent    bool     // used since the last eviction
}

func newView[R, E any](def es.View[R, E], topic eventlog.Topic) *view[R, E] {
	v := &view[R, E]{def: def, rows: map[string]*entry[R]{}, batch: 1, average: 512}
	v.name, v.version, v.topic = def.Name, def.Version, topic
	v.indexNames = slices.Sorted(maps.Keys(def.Indexes))
	for _, name := range v.indexNames {
		v.indexes = append(v.indexes, def.Indexes[name])
	}
	v.values = make([]string, len(v.indexes))
	v.rowPrefix = viewKey(rowSpace, v.name, v.version)
	v.indexPrefix = viewKey(indexSpace, v.name, v.version)
	v.encoder = json.NewEncoder(&v.json)
	v.encoder.SetEscapeHTML(false)
	return v
}

func (v *view[R, E]) state() *viewState { return &v.viewState }

// fresh tells the view that it has no rows in the store.
func (v *view[R, E]) fresh() { v.filter = store.NewFilter() }

func (v *view[R, E]) setBudget(bytes int64) { v.budget = bytes }

func (v *view[R, E]) apply(c *chunk, snap *store.Reader) (ok bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			ok = false
		}
	}()
	v.evict()
	for i := range c.pieces {
		p := &c.pieces[i]
		n := p.part.tp.Partition
		if v.halts[n] != nil || v.cursors[n].Next >= p.after.Next {
			continue
		}
		r := p.runs[v.decoder].(*run[E])
		next := v.cursors[n].Next
		for j := range p.records {
			if p.records[j].Mark != 0 || p.records[j].Position.Offset < next {
				continue
			}
			if r.errs != nil && r.errs[j] != nil {
				return false, nil
			}
			for k := 0; ; k++ {
				env := r.part(j, k)
				if env == nil {
					break
				}
				key, wanted := v.def.Key(*env)
				if !wanted {
					continue
				}
				e, err := v.row(key, snap)
				if err != nil {
					return false, v.storeError(err)
				}
				// Before Apply: a panic in it leaves the row in disorder, and rollback drops what was touched.
				v.touch(e, env)
				e.row = v.def.Apply(e.row, *env)
			}
		}
		v.pass(p)
	}
	return true, nil
}

// storeError returns nil for a key that is not allowed, which is the view's fault.
func (v *view[R, E]) storeError(err error) error {
	if errors.Is(err, es.ErrID) {
		return nil
	}
	return fmt.Errorf("projection: view %s: %w", v.name, err)
}

// pass notes that all of a piece was applied.
func (v *view[R, E]) pass(p *piece) {
	n := p.part.tp.Partition
	v.cursors[n] = p.after
	if k := len(p.records); k > 0 {
		v.times[n] = p.records[k-1].Time
	}
}

// row returns the row of key, from memory, from the store, or a new one.
func (v *view[R, E]) row(key string, snap *store.Reader) (*entry[R], error) {
	if e := v.rows[key]; e != nil {
		e.recent = true
		return e, nil
	}
	if err := es.CheckID(key); err != nil {
		return nil, err
	}
	e := &entry[R]{key: strings.Clone(key), recent: true}
	if v.filter.Has(key) {
		v.key = store.AppendString(append(v.key[:0], v.rowPrefix...), key)
		stored, err := snap.Get(v.key)
		switch {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return nil, err
		default:
			if err := e.read(stored); err != nil {
				return nil, err
			}
			if len(e.stored) != len(v.indexes) {
				return nil, damaged("it has another number of index values than the view has indexes")
			}
		}
	}
	if e.stored == nil {
		v.filter.Add(key)
	}
	v.rows[e.key] = e
	v.held += e.cost()
	return e, nil
}

func (e *entry[R]) read(stored []byte) error {
	var s storedRow
	if err := s.parse(stored); err != nil {
		return err
	}
	if err := json.Unmarshal(s.json, &e.row); err != nil {
		return damaged("its JSON does not fit the view").Wrap(err)
	}
	e.partition, e.offset, e.event, e.size = s.partition, s.offset, s.event, int32(len(s.json))
	e.stored = s.values
	if e.stored == nil {
		e.stored = []string{}
	}
	return nil
}

// cost is about the memory that a row takes: Go values are about twice their JSON.
func (e *entry[R]) cost() int64 { return 256 + int64(len(e.key)) + 2*int64(e.size) }

// touch notes that env changed e.
func (v *view[R, E]) touch(e *entry[R], env *es.Envelope[E]) {
	e.partition, e.offset, e.event = env.Position.Partition, env.Position.Offset, makeEventID(env.ID)
	v.touched++
	if e.batch != v.batch {
		e.batch = v.batch
		v.dirty = append(v.dirty, e)
		if e.stored == nil {
			v.made++
		}
	}
}

// encode fills v.value with the stored form of a row and v.values with its index values, or says why it cannot be stored.
func (v *view[R, E]) encode(e *entry[R]) error {
	for i, f := range v.indexes {
		v.values[i] = f(e.row)
		if len(v.values[i]) > MaxIndexValue {
			return errRow.Because("the value of index %s has %d bytes, at most %d are allowed", v.indexNames[i], len(v.values[i]), MaxIndexValue)
		}
	}
	v.json.Reset()
	if err := v.encoder.Encode(e.row); err != nil {
		return errRow.Because("it has no JSON").Wrap(err)
	}
	text := bytes.TrimSuffix(v.json.Bytes(), []byte("\n"))
	s := storedRow{partition: e.partition, offset: e.offset, event: e.event, values: v.values, json: text}
	v.value = s.appendBinary(v.value[:0])
	if len(v.value) > store.MaxValue {
		return errRow.Because("it has %d bytes, at most %d are allowed", len(v.value), store.MaxValue)
	}
	v.held -= e.cost()
	e.size = int32(len(text))
	v.held += e.cost()
	return nil
}

func (v *view[R, E]) collect(w *writes, batch uint64) (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			ok = false
		}
	}()
	before := w.bytes
	for _, e := range v.dirty {
		if err := v.encode(e); err != nil {
			return false
		}
		e.batch = batch
		v.key = store.AppendString(append(v.key[:0], v.rowPrefix...), e.key)
		w.set(v.key, v.value)
		if e.stored == nil || !slices.Equal(e.stored, v.values) {
			v.index(w, e)
		}
	}
	if n := int64(len(v.dirty)); n > 0 {
		v.average = (w.bytes - before + n - 1) / n
	}
	for n, c := range v.cursors {
		if c == v.handed[n] {
			continue
		}
		form, err := c.AppendBinary(v.value[:0])
		if err != nil {
			return false
		}
		v.value = form
		w.set(cursorKey(v.name, v.version, c.TopicPartition), form)
	}
	return true
}

// index changes a row's index entries to v.values.
func (v *view[R, E]) index(w *writes, e *entry[R]) {
	for i, value := range v.values {
		old := ""
		if e.stored != nil {
			old = e.stored[i]
		}
		if old == value {
			continue
		}
		if old != "" {
			v.key = appendIndexKey(v.key[:0], v.indexPrefix, v.indexNames[i], old, e.key)
			w.remove(v.key)
		}
		if value != "" {
			v.key = appendIndexKey(v.key[:0], v.indexPrefix, v.indexNames[i], value, e.key)
			w.set(v.key, nil)
		}
	}
	if e.stored == nil {
		e.stored = make([]string, len(v.values))
	}
	// The values are cut from one string: it keeps no memory of the event's, and costs one allocation.
	all := strings.Join(v.values, "")
	for i, value := range v.values {
		e.stored[i], all = all[:len(value)], all[len(value):]
	}
}

func (v *view[R, E]) seal(next, visible uint64) {
	clear(v.dirty)
	v.dirty = v.dirty[:0]
	copy(v.handed, v.cursors)
	copy(v.handedHalts, v.halts)
	copy(v.handedTimes, v.times)
	v.batch, v.visible = next, visible
	v.touched, v.made = 0, 0
}

func (v *view[R, E]) rollback() {
	for _, e := range v.dirty {
		delete(v.rows, e.key)
		v.held -= e.cost()
	}
	clear(v.dirty)
	v.dirty = v.dirty[:0]
	copy(v.cursors, v.handed)
	copy(v.halts, v.handedHalts)
	copy(v.times, v.handedTimes)
	v.touched, v.made = 0, 0
}

func (v *view[R, E]) reset() {
	v.rows, v.dirty, v.held = map[string]*entry[R]{}, nil, 0
	v.batch, v.visible = 1, 0
	v.touched, v.made = 0, 0
}

// gathers is false for rows that fill their memory: those that changed stay in it until they are committed.
func (v *view[R, E]) gathers() bool { return v.made*4 < v.touched && v.held <= v.budget }

func (v *view[R, E]) estimate() size {
	n := len(v.dirty)
	return size{writes: n*(1+len(v.indexes)) + len(v.cursors), bytes: int64(n)*v.average + int64(len(v.cursors))*160}
}

// evict drops rows that the store has, until those in memory fit the budget, first those that were not used of late.
func (v *view[R, E]) evict() {
	if v.held <= v.budget {
		return
	}
	for range 2 {
		for key, e := range v.rows {
			switch {
			case e.batch > v.visible:
			case e.recent:
				e.recent = false
			default:
				delete(v.rows, key)
				if v.held -= e.cost(); v.held <= v.budget*7/8 {
					return
				}
			}
		}
	}
}

func (v *view[R, E]) applyCarefully(cs []*chunk, snap *store.Reader) error {
	for _, c := range cs {
		for i := range c.pieces {
			p := &c.pieces[i]
			n := p.part.tp.Partition
			if v.halts[n] != nil || v.cursors[n].Next >= p.after.Next {
				continue
			}
			r := p.runs[v.decoder].(*run[E])
			next := v.cursors[n].Next
			for j := range p.records {
				rec := &p.records[j]
				if rec.Mark != 0 || rec.Position.Offset < next {
					continue
				}
				reason := r.errs[j]
				if reason == nil {
					var err error
					if reason, err = v.tryAll(r, j, snap); err != nil {
						return err
					}
				}
				if reason != nil {
					v.cursors[n] = p.cursorAt(j)
					v.halts[n] = &halt{at: rec.Position, appended: rec.Time, event: r.envelopes[j].ID, typ: r.envelopes[j].Type, reason: reason}
					break
				}
			}
			if v.halts[n] == nil {
				v.pass(p)
			}
		}
	}
	return nil
}

// tryAll applies all parts of a record or none: the record is handled again, from its first part on, when the view goes on.
func (v *view[R, E]) tryAll(r *run[E], i int, snap *store.Reader) (reason, err error) {
	var undos []func() error
	for k := 0; ; k++ {
		env := r.part(i, k)
		if env == nil {
			return nil, nil
		}
		undo, reason, err := v.try(env, snap)
		if reason == nil && err == nil {
			undos = append(undos, undo)
			continue
		}
		for _, undo := range slices.Backward(undos) {
			err = errors.Join(err, undo())
		}
		return reason, err
	}
}

// try applies one event and returns how to undo that, or why it cannot be handled; then the row is as it was before. err is a failure of
// the store.
func (v *view[R, E]) try(env *es.Envelope[E], snap *store.Reader) (undo func() error, reason, err error) {
	var (
		e      *entry[R]
		before entry[R]
		backup []byte
		isNew  bool
	)
	dirty := len(v.dirty)
	undo = func() error {
		if e == nil {
			return nil
		}
		clear(v.dirty[dirty:])
		v.dirty = v.dirty[:dirty]
		if isNew {
			delete(v.rows, e.key)
			v.held -= e.cost()
			return nil
		}
		var row R
		var damage error
		if jsonErr := json.Unmarshal(backup, &row); jsonErr != nil {
			damage = damaged("its JSON does not fit the view").Wrap(jsonErr)
		}
		size := e.size
		*e = before
		e.row, e.size = row, size
		return damage
	}
	defer func() {
		if p := recover(); p != nil {
			reason = errHalt.Because("panic: %.300v", p)
			err = undo()
		}
	}()
	key, wanted := v.def.Key(*env)
	if !wanted {
		return undo, nil, nil
	}
	found, err := v.row(key, snap)
	if err != nil {
		if bad := v.storeError(err); bad != nil {
			return nil, nil, bad
		}
		return nil, errHalt.Because("its key %.80q", key).Wrap(err), nil
	}
	isNew = found.stored == nil && found.batch == 0
	if !isNew {
		if reason := v.encode(found); reason != nil {
			return nil, reason, nil
		}
		backup = bytes.Clone(v.json.Bytes())
		before = *found
	}
	e = found
	e.row = v.def.Apply(e.row, *env)
	partition, offset, id := e.partition, e.offset, e.event
	e.partition, e.offset, e.event = env.Position.Partition, env.Position.Offset, makeEventID(env.ID)
	if reason := v.encode(e); reason != nil {
		return nil, reason, undo()
	}
	e.partition, e.offset, e.event = partition, offset, id
	v.touch(e, env)
	return undo, nil, nil
}

// A halt is where and why a view stopped reading a partition.
type halt struct {
	at       es.Position
	appended time.Time
	event    string
	typ      string
	reason   error
	told     bool // it was logged
}

// String says all that is needed to find the event.
func (h *halt) String() string {
	what := "record"
	if h.typ != "" {
		what = h.typ + " " + h.event
	}
	if f := fault.From(h.reason); f != nil && f.Code != "" {
		return fmt.Sprintf("%s at %s: %s (%s)", what, h.at, h.reason, f.Code)
	}
	return fmt.Sprintf("%s at %s: %s", what, h.at, h.reason)
}
