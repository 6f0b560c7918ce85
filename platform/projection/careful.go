package projection

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

func (f *folding[R, E]) applyCarefully(c *chunk, snap *store.Reader, full func() bool) (more bool, err error) {
	for _, s := range f.shards {
		s.evict()
	}
	for i := range c.pieces {
		p := &c.pieces[i]
		on := f.each(p, func(slot, topic int, r *run[E], j int) bool {
			if full() {
				f.stopAt(p, slot, j)
				more = true
				return false
			}
			err = f.carefully(p, slot, topic, r, j, snap)
			return err == nil
		})
		if !on {
			return more, err
		}
		if err := f.pass(p); err != nil {
			return false, err
		}
	}
	return false, nil
}

// carefully applies one record, or does with it what the view's policy says.
func (f *folding[R, E]) carefully(p *piece, slot, topic int, r *run[E], j int, snap *store.Reader) error {
	g, rec := f.g, &p.records[j]
	if at, ok := g.letters.blocked(topic, rec.Key); ok {
		return f.keep(topic, rec, r, j, errBehind.Because("%s", at))
	}
	reason := r.errs[j]
	if reason == nil {
		var err error
		if reason, err = f.one(topic, r, j, snap); err != nil {
			return err
		}
	}
	switch {
	case reason == nil:
		return nil
	case f.def.OnError == es.Park:
		g.p.cfg.Logger.Error("projection: an event is parked, and the later ones of its stream", "view", g.view.name, "build", g.born.id(), "position", rec.Position.String(),
			"event", r.envelopes[j].ID, "type", r.envelopes[j].Type, "stream", string(rec.Key), "error", reason)
		return f.keep(topic, rec, r, j, reason)
	}
	f.stopAt(p, slot, j)
	g.halts[slot] = &halt{at: rec.Position, appended: rec.Time, event: r.envelopes[j].ID, typ: r.envelopes[j].Type, reason: reason}
	g.p.cfg.Logger.Error("projection: a view has halted", "view", g.view.name, "build", g.born.id(), "position", rec.Position.String(),
		"event", r.envelopes[j].ID, "type", r.envelopes[j].Type, "error", reason)
	return nil
}

// keep makes a record a dead letter.
func (f *folding[R, E]) keep(topic int, rec *eventlog.Record, r *run[E], j int, reason error) error {
	env := &r.envelopes[j]
	l := Letter{Stream: string(rec.Key), Position: rec.Position, Appended: rec.Time, EventID: env.ID, Type: env.Type, Version: env.Version}
	l.because(reason)
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	f.queued = append(f.queued, queued{key: letterKey(letterSpace, topic, l.Stream, rec.Position.Offset), value: text})
	f.g.letters.add(topic, rec.Key, rec.Position)
	return nil
}

func (f *folding[R, E]) again(topic int, r any, snap *store.Reader) (reason, err error) {
	one := r.(*run[E])
	if reason := one.errs[0]; reason != nil {
		return reason, nil
	}
	return f.one(topic, one, 0, snap)
}

// A touched is a row as it was before a record.
type touched[R, E any] struct {
	s      *shard[R, E]
	e      *entry[R]
	before entry[R]
	json   []byte // of the row; nil = it was not there
	dirty  bool   // it had changed since the last collect already
}

// one applies all of a record or nothing, and says why it cannot be applied. err is a failure of the store.
func (f *folding[R, E]) one(topic int, r *run[E], j int, snap *store.Reader) (reason, err error) {
	var undo []touched[R, E]
	var owners []map[string]owner
	if f.g.shape.unique() {
		for _, s := range f.shards {
			owners = append(owners, maps.Clone(s.owners))
		}
	}
	defer func() {
		if p := recover(); p != nil {
			reason = errHalt.Because("panic: %.300v", p)
		}
		if reason == nil && err == nil {
			return
		}
		for _, t := range slices.Backward(undo) {
			err = errors.Join(err, t.undo())
		}
		for i, o := range owners {
			f.shards[i].owners = o
		}
	}()
	writes, size := 0, int64(0)
	for k := 0; ; k++ {
		env := r.part(j, k)
		if env == nil {
			break
		}
		for _, key := range f.def.KeysOf(*env) {
			if f.def.Stream != nil && f.def.Stream(key) != env.Stream {
				return errHalt.Because("its Stream says that the row %.80q is changed by events of the stream %.80q only", key, f.def.Stream(key)).
					WithFix("correct Stream, or leave it out: rows that gather the events of several streams cannot be divided"), nil
			}
			s := f.shard(key)
			e, err := s.row(key, snap)
			if errors.Is(err, es.ErrID) {
				return errHalt.Because("its key %.80q", key).Wrap(err), nil
			}
			if err != nil {
				return nil, err
			}
			t, reason := s.remember(e)
			if reason != nil {
				return reason, nil
			}
			undo = append(undo, t)
			s.touch(e, topic, env)
			e.row, e.gone = f.def.Next(key, e.row, *env)
			if reason := s.encode(e); reason != nil {
				return reason, nil
			}
			writes, size = writes+1+2*len(s.values), size+int64(len(s.value)+2*len(key)+64)
			for _, v := range s.values {
				size += 2 * int64(len(v)+len(key)+32)
			}
			if f.g.shape.unique() {
				if reason := s.claim(e, snap); reason != nil {
					if errors.Is(reason, store.ErrDamaged) || errors.Is(reason, store.ErrFailed) || errors.Is(reason, store.ErrClosed) {
						return nil, reason
					}
					return reason, nil
				}
			}
		}
	}
	if most, room := f.g.db.Room(); writes > most/2 || size > room/2 {
		return errRow.Because("the rows that the event changes, %d writes of %d bytes, do not fit into one transaction", writes, size).
			WithFix("open the store with a larger MemTable, or change fewer rows"), nil
	}
	f.weighed.writes, f.weighed.bytes = f.weighed.writes+writes, f.weighed.bytes+size
	return nil, nil
}

// remember keeps a row as it is.
func (s *shard[R, E]) remember(e *entry[R]) (t touched[R, E], reason error) {
	t = touched[R, E]{s: s, e: e, before: *e, dirty: e.batch == s.f.batch}
	if e.stored != nil || e.batch != 0 {
		if reason := s.encode(e); reason != nil {
			return t, reason
		}
		t.before.size = e.size
		t.json = bytes.Clone(s.json.Bytes())
	}
	return t, nil
}

// undo makes a row what it was.
func (t *touched[R, E]) undo() error {
	s := t.s
	if !t.dirty {
		s.dirty = slices.DeleteFunc(s.dirty, func(e *entry[R]) bool { return e == t.e })
	}
	s.held -= t.e.cost()
	if t.json == nil {
		delete(s.rows, t.e.key)
		return nil
	}
	var row R
	if err := json.Unmarshal(t.json, &row); err != nil {
		return damaged("its JSON does not fit the view").Wrap(err)
	}
	*t.e = t.before
	t.e.row = row
	s.held += t.e.cost()
	return nil
}

func (f *folding[R, E]) queue(q queued) { f.queued = append(f.queued, q) }
