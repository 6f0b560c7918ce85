package command

import (
	"context"
	"math"
	"slices"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/store"
)

// load returns a stream with everything decided on it before.
func (p *partition[S, C, E]) load(ctx context.Context, id es.StreamID) (loaded *stream[S], err error) {
	s := p.cache.get(id)
	if s != nil && (!p.engine.keeping.distrusts(s) || s.batch != 0 || s.last >= p.stored.get()) {
		if p.cache.full() {
			p.cache.trim(p.stored.get())
		}
		return s, nil
	}
	defer func() {
		if v := recover(); v != nil {
			err = p.panicked(v, id, "fold")
		}
	}()
	if s != nil {
		p.cache.remove(s)
	}
	s = &stream[S]{id: id, last: -1, complete: true}
	if !p.filter.has(id) {
		p.cache.add(s, p.stored.get())
		return s, nil
	}
	err = p.engine.cfg.Store.Read(func(rd *store.Reader) error {
		noted, err := rd.Has(eventKey(nil, p.at.Partition, id, 0))
		if err != nil {
			return err
		}
		if noted {
			s.noted, s.complete = true, false
		}
		// Most unknown streams are new ones: one look that the store's filters answer.
		if ok, err := rd.Has(eventKey(nil, p.at.Partition, id, 1)); err != nil || !ok {
			if err == nil {
				err = p.none(ctx, rd, id)
			}
			return err
		}
		k := p.engine.keeping
		kept, err := p.kept(rd, id, k.fold.Load())
		if err != nil {
			return err
		}
		if kept != nil {
			s.state, s.version, s.last, s.early = kept.state, kept.version, kept.offset, kept.early
			s.complete, s.kept = false, true
			k.sample(streamAt{p.at.Partition, id})
		}
		begin := s.version
		err = p.scan(ctx, rd, id, begin+1, func(parts []es.Envelope[E], written string) bool {
			s.state = p.evolve(s.state, parts)
			env := &parts[0]
			s.version, s.last = env.Version, env.Position.Offset
			if env.Index == 0 {
				s.remember(past{id: env.Meta.CommandID, hash: env.Meta.CommandHash, first: env.Version}, s.last+1)
			}
			of := &s.pasts[len(s.pasts)-1]
			of.offset = s.last // a repeat gets the first receipt, old names and all
			if env.Count == 1 {
				of.types = p.typeOf(written)
			} else {
				of.types = append(of.types, written)
			}
			return true
		})
		if every := k.every; every > 0 && s.version-begin > 2*every {
			k.add(streamAt{p.at.Partition, id}, task{keep: true})
		}
		return err
	})
	if err != nil {
		return nil, p.engine.damaged.note(p.engine.cfg.Store, err)
	}
	p.cache.add(s, p.stored.get())
	return s, nil
}

// typeOf returns the types of a command with one event of a type: the same memory for all of them.
func (p *partition[S, C, E]) typeOf(name string) []string {
	types := p.single[name]
	if types == nil {
		types = []string{name}
		p.single[name] = types
	}
	return types
}

// none returns ErrStore if there is any event of a stream that has no first one.
func (p *partition[S, C, E]) none(ctx context.Context, rd *store.Reader, id es.StreamID) error {
	for _, err := range p.rows(ctx, rd, id, 1, math.MaxInt64-1, false) {
		return err
	}
	return nil
}

// known returns what is known of a command that took effect on s, or is about to; nil if it never did.
func (p *partition[S, C, E]) known(s *stream[S], commandID string) (*past, error) {
	if found := s.find(commandID); found != nil || s.complete {
		return found, nil
	}
	early := slices.Contains(s.early, hashID(commandID))
	indexed := s.noted || s.version > unindexed
	if !early && !indexed {
		return nil, nil
	}
	var found *past
	err := p.engine.cfg.Store.Read(func(rd *store.Reader) (err error) {
		if early {
			found, err = findEarly(rd, p.at.Partition, s.id, commandID)
		}
		if err == nil && found == nil && indexed {
			found, err = findIndexed(rd, p.at.Partition, s.id, commandID)
		}
		return err
	})
	return found, p.engine.damaged.note(p.engine.cfg.Store, err)
}
