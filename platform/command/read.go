package command

import (
	"context"
	"fmt"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/store"
)

// Events returns the events of up to limit versions of a stream from a version on;
// ErrStreamNotFound if it has none at all. Everything acknowledged before the call is in it.
func (e *Engine[S, C, E]) Events(ctx context.Context, id es.StreamID, from es.Version, limit int) ([]es.Envelope[E], error) {
	var all []es.Envelope[E]
	versions := 0
	err := e.read(ctx, id, from, func(parts []es.Envelope[E], _ string) bool {
		all = append(all, parts...)
		versions++
		return versions < limit
	})
	if err != nil || len(all) > 0 {
		return all, err
	}
	// Nothing from there on: the stream is shorter, or there is none.
	err = e.cfg.Store.Read(func(rd *store.Reader) error {
		ok, err := rd.Has(eventKey(nil, e.partition(id).at.Partition, id, 1))
		if err == nil && !ok {
			err = ErrStreamNotFound.Because("%q has no events", id)
		}
		return err
	})
	return nil, err
}

// State returns the state of a stream after its last event for which upTo is true (nil = after the last), with that event's version.
// Versions count from 1; ErrStreamNotFound if the stream has no events at all.
func (e *Engine[S, C, E]) State(ctx context.Context, id es.StreamID, upTo func(es.Envelope[E]) bool) (S, es.Version, error) {
	var state S
	var version es.Version
	found := false
	err := e.read(ctx, id, 1, func(parts []es.Envelope[E], _ string) bool {
		found = true
		if upTo != nil && !upTo(parts[0]) {
			return false
		}
		for i := range parts {
			state, version = e.decider.Evolve(state, parts[i].Event), parts[i].Version
		}
		return true
	})
	if err == nil && !found {
		err = ErrStreamNotFound.Because("%q has no events", id)
	}
	return state, version, err
}

// read calls yield with a stream's events from a version on until it returns false, after the store has caught up with what was
// acknowledged before.
func (e *Engine[S, C, E]) read(ctx context.Context, id es.StreamID, from es.Version, yield func([]es.Envelope[E], string) bool) error {
	p := e.partition(id)
	if !p.fresh() {
		if _, err := e.ask(ctx, &Command[C]{Stream: id}, ask{confirm: true}); err != nil {
			return err
		}
	}
	if err := p.waitStored(ctx); err != nil {
		return err
	}
	return e.cfg.Store.Read(func(rd *store.Reader) error {
		return p.scan(ctx, rd, id, max(from, 1), yield)
	})
}

// scan calls yield with the stored events of a stream from a version on, each as the events that it is read as, in memory that is used
// again, and the type that it was written with; a hole in the versions is ErrStore.
func (p *partition[S, C, E]) scan(ctx context.Context, rd *store.Reader, id es.StreamID, from es.Version, yield func(parts []es.Envelope[E], written string) bool) error {
	next := from
	var parts []es.Envelope[E]
	rg := store.Range{From: eventKey(nil, p.at.Partition, id, from), To: store.PrefixEnd(streamPrefix(nil, p.at.Partition, id))}
	for pair, err := range rd.Scan(rg) {
		if err != nil {
			return err
		}
		r, err := parseRow(pair.Value)
		if err != nil {
			return ErrStore.Because("event %d of %q: %v", next, id, err)
		}
		if want := eventKey(nil, p.at.Partition, id, next); string(want) != string(pair.Key) {
			return ErrStore.Because("event %d of %q is missing", next, id)
		}
		parts, err = p.engine.events.Read(ctx, parts[:0], es.Envelope[E]{
			ID: es.EventID(id, r.meta.CommandID, r.index), Type: r.typ, Stream: id, Version: next, Index: r.index, Count: r.count,
			Position: es.Position{TopicPartition: p.at, Offset: r.offset}, Time: r.time, Meta: r.meta,
		}, r.frame)
		if err != nil {
			return fmt.Errorf("command: event %d of %q: %w", next, id, err)
		}
		if !yield(parts, r.typ) {
			return nil
		}
		next++
	}
	return nil
}
