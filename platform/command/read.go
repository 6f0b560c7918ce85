package command

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/store"
)

// The bounds of one page of a stream, unless its reader wants less.
const (
	pageLimit = 1000
	pageBytes = 4 << 20
)

// ReadOptions say which part of a stream is read. From is where the reading begins and To where it ends, both inclusive, in its own
// direction: backwards, From is the higher one. 0 is the end of the stream on that side.
type ReadOptions struct {
	From, To  es.Version
	Until     time.Time // leaves out the first event that was accepted later, and all after it; the zero time leaves out nothing
	Backwards bool
	Limit     int // versions; 0 = 1000
	Bytes     int // of the events as they are stored, at least one version whatever its size; 0 = 4 MiB
}

// A Page is a part of a stream: whole versions in the order of the reading, the parts of each in their own order.
type Page[E any] struct {
	Events []es.Envelope[E]
	Next   es.Version // From of the next page with the same options; 0 = this is the last
	Last   es.Version // the last version of the stream at the time
}

// Read returns a page of a stream; ErrStreamNotFound if it has no events at all. Everything acknowledged before the call is in it.
func (e *Engine[S, C, E]) Read(ctx context.Context, id es.StreamID, o ReadOptions) (Page[E], error) {
	var page Page[E]
	limit, bytes := o.Limit, o.Bytes
	if limit <= 0 {
		limit = pageLimit
	}
	if bytes <= 0 {
		bytes = pageBytes
	}
	err := e.view(ctx, id, func(p *partition[S, C, E], rd *store.Reader) (err error) {
		last, err := p.last(ctx, rd, id)
		if err != nil {
			return err
		}
		page.Last = last.version
		low, high := max(o.From, 1), o.To
		if o.Backwards {
			low, high = max(o.To, 1), o.From
		}
		if high <= 0 || high > last.version {
			high = last.version
		}
		if !o.Until.IsZero() {
			if high, err = p.until(ctx, rd, id, high, o.Until); err != nil {
				return err
			}
		}
		versions, size := 0, 0
		for r, err := range p.rows(ctx, rd, id, low, high, o.Backwards) {
			if err != nil {
				return err
			}
			if versions == limit || versions > 0 && size+r.size > bytes {
				page.Next = r.version
				return nil
			}
			if page.Events, err = p.envelopes(ctx, page.Events, id, &r); err != nil {
				return err
			}
			versions++
			size += r.size
		}
		return nil
	})
	return page, err
}

// Events returns the events of up to limit versions of a stream from a version on; ErrStreamNotFound if it has none at all.
func (e *Engine[S, C, E]) Events(ctx context.Context, id es.StreamID, from es.Version, limit int) ([]es.Envelope[E], error) {
	page, err := e.Read(ctx, id, ReadOptions{From: from, Limit: limit, Bytes: math.MaxInt})
	return page.Events, err
}

// State returns the state of a stream after its last event for which upTo is true (nil = after the last), with that event's version.
// Versions count from 1; ErrStreamNotFound if the stream has no events at all.
func (e *Engine[S, C, E]) State(ctx context.Context, id es.StreamID, upTo func(es.Envelope[E]) bool) (S, es.Version, error) {
	if upTo == nil {
		m, err := e.At(ctx, id, Point{})
		return m.State, m.Version, err
	}
	var state S
	var version es.Version
	err := e.view(ctx, id, func(p *partition[S, C, E], rd *store.Reader) error {
		if _, err := p.last(ctx, rd, id); err != nil {
			return err
		}
		return p.scan(ctx, rd, id, 1, func(parts []es.Envelope[E], _ string) bool {
			if !upTo(parts[0]) {
				return false
			}
			state, version = p.evolve(state, parts), parts[0].Version
			return true
		})
	})
	return state, version, err
}

// A Point is a moment in the life of a stream: after a version, or after the events that were accepted up to a time. The zero Point is now.
type Point struct {
	Version es.Version
	Time    time.Time
	Diff    bool // tells also what the next event changes
}

// A Moment is a stream at a Point.
type Moment[S, E any] struct {
	State    S
	Version  es.Version
	Time     time.Time   // when the command of that version was accepted
	Position es.Position // of that version
	Last     es.Version  // of the whole stream
	Next     *Step[E]    // what came then, if it was asked for; nil = nothing
}

// A Step is what one version made of the state before it.
type Step[E any] struct {
	Version es.Version
	Events  []es.Envelope[E] // several if the stored event is read as several
	Changes []Change         // of the state's JSON
}

// At returns a stream at a point of its life. It returns ErrStreamNotFound, with the reason, if the stream was not there yet, or never
// had that version.
func (e *Engine[S, C, E]) At(ctx context.Context, id es.StreamID, at Point) (Moment[S, E], error) {
	var m Moment[S, E]
	err := e.view(ctx, id, func(p *partition[S, C, E], rd *store.Reader) error {
		last, err := p.last(ctx, rd, id)
		if err != nil {
			return err
		}
		m.Last = last.version
		if at.Version > last.version {
			return ErrStreamNotFound.Because("%q has no version %d, it is at %d", id, at.Version, last.version)
		}
		to := at.Version
		if to <= 0 {
			to = last.version
		}
		if !at.Time.IsZero() {
			if to, err = p.until(ctx, rd, id, to, at.Time); err != nil {
				return err
			}
		}
		if to == 0 {
			return ErrStreamNotFound.Because("%q was not there yet", id)
		}
		state, r, err := p.fold(ctx, rd, id, e.keeping.fold.Load(), to)
		if err != nil {
			return err
		}
		m.State, m.Version, m.Time, m.Position = state, r.version, r.time, es.Position{TopicPartition: p.at, Offset: r.offset}
		if !at.Diff || to == last.version {
			return nil
		}
		step, err := p.step(ctx, rd, id, m.State, to+1)
		m.Next = &step
		return err
	})
	return m, err
}

// step returns what a version makes of the state before it.
func (p *partition[S, C, E]) step(ctx context.Context, rd *store.Reader, id es.StreamID, before S, version es.Version) (Step[E], error) {
	s := Step[E]{Version: version}
	from, err := json.Marshal(before)
	if err != nil {
		return s, ErrDecider.Because("the state of %q at %d has no JSON", id, version-1).Wrap(err)
	}
	for r, err := range p.rows(ctx, rd, id, version, version, false) {
		if err != nil {
			return s, err
		}
		if s.Events, err = p.envelopes(ctx, nil, id, &r); err != nil {
			return s, err
		}
	}
	to, err := json.Marshal(p.evolve(before, s.Events))
	if err != nil {
		return s, ErrDecider.Because("the state of %q at %d has no JSON", id, version).Wrap(err)
	}
	s.Changes, err = Diff(from, to)
	return s, err
}

// Metadata is what is known of a stream beside its events.
type Metadata struct {
	ID       es.StreamID `json:"id"`
	First    es.Version  `json:"first_version"`
	Last     es.Version  `json:"last_version"`
	Events   int64       `json:"events"`
	Bytes    int64       `json:"bytes"` // of the events as they are framed in the log
	Began    time.Time   `json:"first_time"`
	Changed  time.Time   `json:"last_time"`
	Position es.Position `json:"position"`                   // of the last event
	Snapshot es.Version  `json:"snapshot_version,omitempty"` // of the state that is kept to load the stream faster; 0 = there is none
}

// Metadata returns what is known of a stream; ErrStreamNotFound if it has no events.
func (e *Engine[S, C, E]) Metadata(ctx context.Context, id es.StreamID) (Metadata, error) {
	m := Metadata{ID: id}
	err := e.view(ctx, id, func(p *partition[S, C, E], rd *store.Reader) error {
		last, err := p.last(ctx, rd, id)
		if err != nil {
			return err
		}
		for r, err := range p.rows(ctx, rd, id, 1, last.version, false) {
			if err != nil {
				return err
			}
			if m.Events == 0 {
				m.First, m.Began = r.version, r.time
			}
			m.Events++
			m.Bytes += int64(len(r.frame))
			m.Last, m.Changed, m.Position = r.version, r.time, es.Position{TopicPartition: p.at, Offset: r.offset}
		}
		kept, err := p.kept(rd, id, e.keeping.fold.Load())
		if kept != nil {
			m.Snapshot = kept.version
		}
		return err
	})
	return m, err
}

// view calls fn with a snapshot of the store that holds everything of the stream's partition that was acknowledged before.
func (e *Engine[S, C, E]) view(ctx context.Context, id es.StreamID, fn func(*partition[S, C, E], *store.Reader) error) error {
	p := e.partition(id)
	// Who knows that it was deposed has no lease any more.
	if !p.route.get().Here || !p.fresh() {
		if _, err := e.ask(ctx, &Command[C]{Stream: id}, ask{confirm: true}); err != nil {
			return err
		}
	}
	if err := p.waitStored(ctx); err != nil {
		return err
	}
	return e.damaged.note(e.cfg.Store, e.cfg.Store.Read(func(rd *store.Reader) (err error) {
		defer func() {
			if v := recover(); v != nil {
				err = p.panicked(v, id, "fold")
			}
		}()
		return fn(p, rd)
	}))
}

// A stored is one event of a stream in the store.
type stored struct {
	row
	version es.Version
	size    int // of the row
}

// last returns the last event of a stream, or ErrStreamNotFound.
func (p *partition[S, C, E]) last(ctx context.Context, rd *store.Reader, id es.StreamID) (stored, error) {
	for r, err := range p.rows(ctx, rd, id, 1, math.MaxInt64-1, true) {
		return r, err
	}
	return stored{}, ErrStreamNotFound.Because("%q has no events", id)
}

// until returns the version before the first one that was accepted after a time, at most high; 0 = all were.
func (p *partition[S, C, E]) until(ctx context.Context, rd *store.Reader, id es.StreamID, high es.Version, at time.Time) (es.Version, error) {
	before := es.Version(0)
	for r, err := range p.rows(ctx, rd, id, 1, high, false) {
		if err != nil {
			return 0, err
		}
		if r.time.After(at) {
			break
		}
		before = r.version
	}
	return before, nil
}

// rows yields the stored events of a stream with low <= version <= high, in the order of their versions or against it. A hole in the
// versions is ErrStore; an error is the last thing it yields.
func (p *partition[S, C, E]) rows(ctx context.Context, rd *store.Reader, id es.StreamID, low, high es.Version, backwards bool) iter.Seq2[stored, error] {
	return func(yield func(stored, error) bool) {
		if low > high {
			return
		}
		prefix := streamPrefix(nil, p.at.Partition, id)
		rg := store.Range{From: eventKey(nil, p.at.Partition, id, low), To: eventKey(nil, p.at.Partition, id, high+1), Reverse: backwards}
		next, step := low, es.Version(1)
		if backwards {
			next, step = 0, -1 // the last one that is there
		}
		for pair, err := range rd.Scan(rg) {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(stored{}, err)
				return
			}
			number, rest, err := store.ParseUint64(pair.Key[len(prefix):])
			if err != nil || len(rest) > 0 || number > math.MaxInt64 {
				yield(stored{}, ErrStore.Because("key %x of %q is not one of an event", pair.Key, id))
				return
			}
			r := stored{version: es.Version(number), size: len(pair.Value)}
			if next == 0 {
				next = r.version
			}
			if r.version != next {
				yield(stored{}, ErrStore.Because("event %d of %q is missing", next, id))
				return
			}
			if r.row, err = parseRow(pair.Value); err != nil {
				yield(stored{}, ErrStore.Because("event %d of %q: %v", next, id, err))
				return
			}
			if !yield(r, nil) {
				return
			}
			next += step
		}
		if backwards && next >= low && next > 0 {
			yield(stored{}, ErrStore.Because("event %d of %q is missing", next, id))
		}
	}
}

// envelopes appends the events that a stored one is read as.
func (p *partition[S, C, E]) envelopes(ctx context.Context, dst []es.Envelope[E], id es.StreamID, r *stored) ([]es.Envelope[E], error) {
	dst, err := p.engine.events.Read(ctx, dst, es.Envelope[E]{
		ID: es.EventID(id, r.meta.CommandID, r.index), Type: r.typ, Stream: id, Version: r.version, Index: r.index, Count: r.count,
		Position: es.Position{TopicPartition: p.at, Offset: r.offset}, Time: r.time, Meta: r.meta,
	}, r.frame)
	if err != nil {
		return dst, fmt.Errorf("command: event %d of %q: %w", r.version, id, err)
	}
	return dst, nil
}

func (p *partition[S, C, E]) evolve(state S, parts []es.Envelope[E]) S {
	for i := range parts {
		state = p.engine.decider.Evolve(state, parts[i].Event)
	}
	return state
}

// scan calls yield with the stored events of a stream from a version on, each as the events that it is read as, in memory that is used
// again, and the type that it was written with.
func (p *partition[S, C, E]) scan(ctx context.Context, rd *store.Reader, id es.StreamID, from es.Version, yield func(parts []es.Envelope[E], written string) bool) error {
	var parts []es.Envelope[E]
	for r, err := range p.rows(ctx, rd, id, from, math.MaxInt64-1, false) {
		if err != nil {
			return err
		}
		if parts, err = p.envelopes(ctx, parts[:0], id, &r); err != nil {
			return err
		}
		if !yield(parts, r.typ) {
			return nil
		}
	}
	return nil
}
