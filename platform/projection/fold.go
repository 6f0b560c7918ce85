package projection

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

// MaxIndexValue is the longest that the parts of an index may be together, in bytes.
const MaxIndexValue = 1024

// A folding folds the events E into rows R, which several goroutines share out by the hashes of their keys.
type folding[R, E any] struct {
	g      *generation
	def    es.View[R, E]
	shards []*shard[R, E]
	seed   maphash.Seed
	batch  uint64 // the batch that is being filled
	handed []eventlog.Cursor
	unique bool     // there are unique indexes
	queued []queued // dead letters that came or went since the last collect
	// What was applied carefully since the last collect takes at most this of a batch.
	weighed size
}

// A shard is the rows of some of the keys, and of one goroutine at a time.
type shard[R, E any] struct {
	f       *folding[R, E]
	number  int
	rows    map[string]*entry[R]
	dirty   []*entry[R] // changed since the last collect
	visible uint64      // rows changed in batches up to this one are in the snapshot
	filter  store.Filter
	budget  int64 // bytes of rows in memory, about
	held    int64
	average int64            // what a changed row takes of a batch, with its index entries, in bytes
	owners  map[string]owner // of the values of unique indexes that changed and are not in the snapshot yet

	key     []byte // scratch
	value   []byte
	json    bytes.Buffer
	encoder *json.Encoder
	values  []string
	parts   []byte
}

// An entry is a row in memory.
type entry[R any] struct {
	key       string
	row       R
	topic     int
	partition int32
	offset    int64
	event     eventID
	stored    []string // its index values as the store has them; nil if the store does not have the row
	claims    []string // the values of unique indexes that it has in memory; nil if they are those stored
	batch     uint64   // the latest one in which it changed
	size      int32    // of its JSON
	recent    bool     // used since the last eviction
	gone      bool     // it is to be deleted
}

// An owner is the row that has a value of a unique index, "" = none any more.
type owner struct {
	key   string
	batch uint64
}

func newFolding[R, E any](g *generation, def es.View[R, E]) *folding[R, E] {
	f := &folding[R, E]{g: g, def: def, seed: maphash.MakeSeed(), batch: 1, handed: slices.Clone(g.cursors), unique: g.shape.unique()}
	n := min(g.p.cores, 4)
	if f.unique {
		n = 1 // whether a value is taken must not depend on who asks first
	}
	for i := range n {
		s := &shard[R, E]{f: f, number: i, rows: map[string]*entry[R]{}, average: 512, budget: g.p.budget() / int64(n), owners: map[string]owner{}}
		s.values = make([]string, len(g.shape.Indexes))
		if g.empty {
			s.filter = store.NewFilter()
		}
		s.encoder = json.NewEncoder(&s.json)
		s.encoder.SetEscapeHTML(false)
		f.shards = append(f.shards, s)
	}
	g.empty = false // another runner of the same generation finds what this one writes
	return f
}

// shard returns the one that has a key.
func (f *folding[R, E]) shard(key string) *shard[R, E] {
	return f.shards[maphash.String(f.seed, key)%uint64(len(f.shards))]
}

func (f *folding[R, E]) apply(c *chunk, snap *store.Reader) (ok bool, err error) {
	oks, errs := make([]bool, len(f.shards)), make([]error, len(f.shards))
	if len(f.shards) == 1 || c.events < minShare {
		for i, s := range f.shards {
			oks[i], errs[i] = s.apply(c, snap)
		}
	} else {
		var wg sync.WaitGroup
		for i, s := range f.shards {
			wg.Go(func() { oks[i], errs[i] = s.apply(c, snap) })
		}
		wg.Wait()
	}
	if err := errors.Join(errs...); err != nil {
		return false, err
	}
	if slices.Contains(oks, false) {
		return false, nil
	}
	for i := range c.pieces {
		if err := f.pass(&c.pieces[i]); err != nil {
			return false, err
		}
	}
	return true, nil
}

// pass notes that all of a piece was applied, up to the end that the generation has. Should what is before it be missing, it says so: it
// cannot be, and must not go unnoticed.
func (f *folding[R, E]) pass(p *piece) error {
	g := f.g
	n := g.slot(p.part.tp)
	if n < 0 || g.halts[n] != nil || g.cursors[n].Next >= p.after.Next {
		return nil
	}
	at, limit := g.cursors[n].Next, g.limit(n)
	if at >= limit {
		return nil
	}
	if p.before.Next > at {
		return ErrView.Because("view %q, build %s: it is at %s@%d, and was given what comes after %d", g.view.name, g.born.id(), p.part.tp, at, p.before.Next).
			WithFix("this is a mistake in Millrace, please report it; started again, it goes on from what is stored")
	}
	if p.after.Next > limit {
		f.stopAt(p, n, p.index(limit))
		return nil
	}
	g.cursors[n] = p.after
	if k := len(p.records); k > 0 {
		g.times[n] = p.records[k-1].Time
	}
	return nil
}

// stopAt sets the cursor of a slot before the j-th record of a piece.
func (f *folding[R, E]) stopAt(p *piece, slot, j int) {
	f.g.cursors[slot] = p.cursorAt(j)
	if j > 0 {
		f.g.times[slot] = p.records[j-1].Time
	}
}

// each calls do for each record of a piece that the generation has not applied yet, as long as do says so and the partition has not halted.
func (f *folding[R, E]) each(p *piece, do func(slot, topic int, r *run[E], j int) (on bool)) (on bool) {
	g := f.g
	n := g.slot(p.part.tp)
	if n < 0 || g.halts[n] != nil || g.cursors[n].Next >= p.after.Next {
		return true
	}
	topic, next, limit := g.topicOf(n), g.cursors[n].Next, g.limit(n)
	r := p.runs[g.code.inputs[topic].decoder].(*run[E])
	for j := range p.records {
		rec := &p.records[j]
		if rec.Mark != 0 || rec.Position.Offset < next {
			continue
		}
		if rec.Position.Offset >= limit {
			break
		}
		if !do(n, topic, r, j) {
			return false
		}
		if g.halts[n] != nil {
			break
		}
	}
	return true
}

// apply folds what of a chunk is of this shard. A dead letter's stream is for the first shard.
func (s *shard[R, E]) apply(c *chunk, snap *store.Reader) (ok bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			ok = false
		}
	}()
	s.evict()
	ok = true
	f := s.f
	parked := f.g.letters.any()
	for i := range c.pieces {
		p := &c.pieces[i]
		ok = f.each(p, func(_, topic int, r *run[E], j int) bool {
			if r.errs != nil && r.errs[j] != nil || parked && f.g.letters.has(topic, p.records[j].Key) {
				return false // it is for the careful way
			}
			for k := 0; ; k++ {
				env := r.part(j, k)
				if env == nil {
					return true
				}
				if f.def.Key != nil { // without the memory of a slice
					key, wanted := f.def.Key(*env)
					if wanted && !s.applyTo(key, topic, env, snap, &err) {
						return false
					}
					continue
				}
				for _, key := range f.def.Keys(*env) {
					if !s.applyTo(key, topic, env, snap, &err) {
						return false
					}
				}
			}
		})
		if !ok {
			break
		}
	}
	if errors.Is(err, es.ErrID) {
		return false, nil // the key is the view's fault
	}
	if err != nil {
		return false, fmt.Errorf("projection: view %s: %w", f.g.view.name, err)
	}
	return ok, nil
}

// applyTo folds an event into the row of a key, if that is of this shard.
func (s *shard[R, E]) applyTo(key string, topic int, env *es.Envelope[E], snap *store.Reader, err *error) bool {
	f := s.f
	if len(f.shards) > 1 && f.shard(key) != s {
		return true
	}
	if f.def.Stream != nil && f.def.Stream(key) != env.Stream {
		return false
	}
	var e *entry[R]
	if e, *err = s.row(key, snap); *err != nil {
		return false
	}
	// Before the view's code: a panic in it leaves the row in disorder.
	s.touch(e, topic, env)
	e.row, e.gone = f.def.Next(key, e.row, *env)
	return !f.unique || s.claim(e, snap) == nil
}

// row returns the row of key, from memory, from the store, or a new one.
func (s *shard[R, E]) row(key string, snap *store.Reader) (*entry[R], error) {
	if e := s.rows[key]; e != nil {
		e.recent = true
		return e, nil
	}
	if err := es.CheckID(key); err != nil {
		return nil, err
	}
	e := &entry[R]{key: strings.Clone(key), recent: true}
	if s.filter.Has(key) {
		s.key = appendRowKey(s.key[:0], key)
		stored, err := snap.Get(s.key)
		switch {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return nil, err
		default:
			if err := e.read(stored, len(s.values)); err != nil {
				return nil, err
			}
		}
	}
	if e.stored == nil {
		s.filter.Add(key)
	}
	s.rows[e.key] = e
	s.held += e.cost()
	return e, nil
}

func (e *entry[R]) read(stored []byte, indexes int) error {
	var s storedRow
	if err := s.parse(stored); err != nil {
		return err
	}
	if err := json.Unmarshal(s.json, &e.row); err != nil {
		return damaged("its JSON does not fit the view").Wrap(err)
	}
	e.topic, e.partition, e.offset, e.event, e.size = s.topic, s.partition, s.offset, s.event, int32(len(s.json))
	if e.stored = s.values; e.stored == nil {
		e.stored = []string{}
	}
	if len(e.stored) != indexes {
		return damaged("it has another number of index values than the view has indexes")
	}
	return nil
}

// cost is about the memory that a row takes: Go values are about twice their JSON.
func (e *entry[R]) cost() int64 { return 256 + int64(len(e.key)) + 2*int64(e.size) }

// touch notes that env changed e.
func (s *shard[R, E]) touch(e *entry[R], topic int, env *es.Envelope[E]) {
	e.topic, e.partition, e.offset, e.event = topic, env.Position.Partition, env.Position.Offset, makeEventID(env.ID)
	if e.batch != s.f.batch {
		e.batch = s.f.batch
		s.dirty = append(s.dirty, e)
	}
}

// index fills s.values with what the indexes have of a row, "" = nothing.
func (s *shard[R, E]) index(e *entry[R]) error {
	for i, shape := range s.f.g.shape.Indexes {
		s.values[i] = ""
		if e.gone {
			continue
		}
		s.parts = s.parts[:0]
		for k, part := range s.f.def.Indexes[shape.Name].Parts {
			var empty bool
			if s.parts, empty = part.Append(s.parts, e.row); empty && k == 0 {
				s.parts = s.parts[:0]
				break
			}
		}
		if len(s.parts) > MaxIndexValue {
			return errRow.Because("the value of index %s has %d bytes, at most %d are allowed", shape.Name, len(s.parts), MaxIndexValue)
		}
		switch {
		case len(s.parts) == 0:
		case e.stored != nil && e.stored[i] == string(s.parts):
			s.values[i] = e.stored[i]
		default:
			s.values[i] = string(s.parts)
		}
	}
	return nil
}

// encode fills s.value with the stored form of a row and s.values with its index values, or says why it cannot be stored.
func (s *shard[R, E]) encode(e *entry[R]) error {
	if err := s.index(e); err != nil {
		return err
	}
	s.json.Reset()
	if err := s.encoder.Encode(e.row); err != nil {
		return errRow.Because("it has no JSON").Wrap(err)
	}
	text := bytes.TrimSuffix(s.json.Bytes(), []byte("\n"))
	row := storedRow{topic: e.topic, partition: e.partition, offset: e.offset, event: e.event, values: s.values, json: text}
	s.value = row.appendBinary(s.value[:0])
	if len(s.value) > store.MaxValue {
		return errRow.Because("it has %d bytes, at most %d are allowed", len(s.value), store.MaxValue)
	}
	s.held -= e.cost()
	e.size = int32(len(text))
	s.held += e.cost()
	return nil
}

func (f *folding[R, E]) collect(watched bool) (batches []*store.Batch, changes []Change, ok bool) {
	batches = make([]*store.Batch, len(f.shards))
	told := make([][]Change, len(f.shards))
	oks := make([]bool, len(f.shards))
	var wg sync.WaitGroup
	for i, s := range f.shards {
		batches[i] = f.g.db.NewBatch()
		collect := func() { told[i], oks[i] = s.collect(batches[i], watched) }
		if len(s.dirty) < minShare || len(f.shards) == 1 {
			collect()
			continue
		}
		wg.Go(collect)
	}
	wg.Wait()
	if slices.Contains(oks, false) || !f.collectPlace(batches[0]) {
		return nil, nil, false
	}
	return batches, slices.Concat(told...), true
}

// collectPlace writes how far the generation is, and which dead letters came and went.
func (f *folding[R, E]) collectPlace(b *store.Batch) bool {
	for n, c := range f.g.cursors {
		if c == f.handed[n] {
			continue
		}
		form, err := c.AppendBinary(nil)
		if err != nil || b.Set(cursorKey(c.TopicPartition), form) != nil {
			return false
		}
	}
	for _, q := range f.queued {
		if q.write(b) != nil {
			return false
		}
	}
	return true
}

func (s *shard[R, E]) collect(b *store.Batch, watched bool) (changes []Change, ok bool) {
	defer func() {
		if p := recover(); p != nil {
			ok = false
		}
	}()
	before := b.Size()
	b.Grow(len(s.dirty) * (1 + len(s.values)))
	for _, e := range s.dirty {
		if err := s.encode(e); err != nil {
			return nil, false
		}
		s.key = appendRowKey(s.key[:0], e.key)
		var err error
		switch {
		case !e.gone:
			err = b.Set(s.key, s.value)
		case e.stored != nil:
			err = b.Delete(s.key)
		}
		if err != nil {
			return nil, false
		}
		if watched && (!e.gone || e.stored != nil) {
			changes = append(changes, s.change(e))
		}
		if !s.collectIndexes(b, e) {
			return nil, false
		}
	}
	if n := int64(len(s.dirty)); n > 0 {
		s.average = (b.Size() - before + n - 1) / n
	}
	return changes, true
}

// collectIndexes changes a row's index entries to s.values.
func (s *shard[R, E]) collectIndexes(b *store.Batch, e *entry[R]) bool {
	changed := e.stored == nil
	for i, value := range s.values {
		old := ""
		if e.stored != nil {
			old = e.stored[i]
		}
		if old == value {
			continue
		}
		changed = true
		if old != "" {
			s.key = appendIndexKey(s.key[:0], i, old, e.key)
			if b.Delete(s.key) != nil {
				return false
			}
		}
		if value != "" {
			s.key = appendIndexKey(s.key[:0], i, value, e.key)
			if b.Set(s.key, nil) != nil {
				return false
			}
		}
	}
	switch {
	case e.gone:
		e.stored = nil
	case changed:
		e.stored = slices.Clone(s.values)
		if e.stored == nil {
			e.stored = []string{}
		}
	}
	e.claims = nil
	return true
}

func (f *folding[R, E]) seal(next, visible uint64) {
	for _, s := range f.shards {
		clear(s.dirty)
		s.dirty = s.dirty[:0]
		s.visible = visible
		for value, o := range s.owners {
			if o.batch <= visible {
				delete(s.owners, value)
			}
		}
	}
	copy(f.handed, f.g.cursors)
	f.queued, f.weighed = nil, size{}
	f.batch = next
}

func (f *folding[R, E]) estimate() size {
	sum := size{writes: len(f.g.cursors) + len(f.queued), bytes: int64(len(f.g.cursors))*160 + queuedBytes(f.queued)}
	for _, s := range f.shards {
		n := len(s.dirty)
		sum.writes += n * (1 + len(s.values))
		sum.bytes += int64(n) * s.average
	}
	sum.writes, sum.bytes = max(sum.writes, f.weighed.writes), max(sum.bytes, f.weighed.bytes)
	return sum
}

// evict drops rows that the store has, until those in memory fit the budget, first those that were not used of late.
func (s *shard[R, E]) evict() {
	if s.held <= s.budget {
		return
	}
	for range 2 {
		for key, e := range s.rows {
			switch {
			case e.batch > s.visible:
			case e.recent:
				e.recent = false
			default:
				delete(s.rows, key)
				if s.held -= e.cost(); s.held <= s.budget*7/8 {
					return
				}
			}
		}
	}
}

// change tells watchers of a row that collect has just encoded.
func (s *shard[R, E]) change(e *entry[R]) Change {
	c := Change{Row: Row{Key: e.key, EventID: e.event.String(), Position: s.f.g.position(e.topic, e.partition, e.offset)}, Gone: e.gone, before: e.stored}
	if !e.gone {
		c.Row.JSON = bytes.Clone(bytes.TrimSuffix(s.json.Bytes(), []byte("\n")))
		c.values = slices.Clone(s.values)
	}
	return c
}

// position returns where the event that changed a row is.
func (g *generation) position(topic int, partition int32, offset int64) es.Position {
	name := ""
	if topic < len(g.shape.Topics) {
		name = g.shape.Topics[topic]
	}
	return es.Position{TopicPartition: es.TopicPartition{Topic: name, Partition: partition}, Offset: offset}
}
