package projection

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"iter"
	"sync"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/store"
)

// A Letter is a dead letter: an event that a view could not handle, or a later one of the same stream, which waits behind it.
type Letter struct {
	Stream    string      `json:"stream"`
	Position  es.Position `json:"position"`
	Appended  time.Time   `json:"appended"`
	EventID   string      `json:"event_id,omitempty"`
	Type      string      `json:"type,omitempty"`
	Version   es.Version  `json:"version,omitempty"` // of the stream
	Code      string      `json:"code"`              // of the reason; "waits_behind" for one that waits
	Reason    string      `json:"reason"`
	Attempts  int         `json:"attempts"`            // how often it was tried
	Tried     *time.Time  `json:"tried,omitempty"`     // when last; nil = not since it was parked
	Discarded *time.Time  `json:"discarded,omitempty"` // when, of one that was
	Why       string      `json:"why,omitempty"`       // it was discarded
}

// because notes why the event could not be handled.
func (l *Letter) because(reason error) {
	l.Code, l.Reason = "view_failed", reason.Error()
	if f := fault.From(reason); f != nil && f.Code != "" {
		l.Code = f.Code
	}
	if !errors.Is(reason, errBehind) {
		l.Attempts++
	}
}

// letters says which streams have dead letters, and where the first one of each is. It is for the applying goroutine; others may ask
// how many there are.
type letters struct {
	mu      sync.Mutex
	streams map[string]*parked // by streamKey
	total   int
	sum     uint64 // of the marks of all, and of those that were discarded
}

type parked struct {
	first es.Position
	count int
}

// read sets l to what the store has.
func (l *letters) read(r *store.Reader) error {
	fresh := letters{streams: map[string]*parked{}}
	for l, err := range scanLetters(r, []byte{letterSpace}) {
		if err != nil {
			return err
		}
		fresh.add(l.topic, []byte(l.Stream), l.Position)
	}
	for l, err := range scanLetters(r, []byte{discardSpace}) {
		if err != nil {
			return err
		}
		fresh.discard(l.Position)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.streams, l.total, l.sum = fresh.streams, fresh.total, fresh.sum
	return nil
}

// A stored is a letter as the store has it.
type stored struct {
	topic int
	Letter
}

// scanLetters yields the letters whose keys begin with prefix; an error is the last it yields.
func scanLetters(r *store.Reader, prefix []byte) iter.Seq2[stored, error] {
	return func(yield func(stored, error) bool) {
		for pair, err := range r.Scan(store.Prefix(prefix)) {
			var l stored
			if err == nil {
				l.topic = int(pair.Key[1])
				l.Letter, err = parseLetter(pair.Value)
			}
			if !yield(l, err) || err != nil {
				return
			}
		}
	}
}

func parseLetter(text []byte) (Letter, error) {
	var l Letter
	if err := json.Unmarshal(text, &l); err != nil {
		return Letter{}, damaged("a dead letter is malformed").Wrap(err)
	}
	return l, nil
}

func (l *letters) any() bool { return l.count() > 0 }

func (l *letters) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

func (l *letters) has(topic int, stream []byte) bool {
	_, ok := l.blocked(topic, stream)
	return ok
}

// blocked returns where the first dead letter of a stream is.
func (l *letters) blocked(topic int, stream []byte) (es.Position, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.streams[streamKey(topic, string(stream))]
	if p == nil {
		return es.Position{}, false
	}
	return p.first, true
}

func (l *letters) add(topic int, stream []byte, at es.Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := streamKey(topic, string(stream))
	p := l.streams[key]
	if p == nil {
		p = &parked{first: at}
		l.streams[key] = p
	}
	p.count++
	l.total++
	l.sum ^= mark(letterSpace, at)
}

// remove drops the first letter of a stream; next is the one after it, if there is one.
func (l *letters) remove(topic int, stream string, next es.Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := streamKey(topic, stream)
	p := l.streams[key]
	l.total--
	l.sum ^= mark(letterSpace, p.first)
	if p.count--; p.count == 0 {
		delete(l.streams, key)
	}
	p.first = next
}

// discard notes that a letter that was removed is not applied at all.
func (l *letters) discard(at es.Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sum ^= mark(discardSpace, at)
}

// missing stands for the events that the rows do not have though the cursors are behind them: it is another one for others of them, and 0 if
// there are none.
func (l *letters) missing() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sum
}

// mark stands for a letter in one of the spaces. A sum of marks must not be that of other letters nearby.
func mark(space byte, at es.Position) uint64 {
	sum := sha256.Sum256(append([]byte{space}, at.String()...))
	return binary.BigEndian.Uint64(sum[:])
}

// A queued is a write about dead letters that is in the next batch.
type queued struct {
	key, value []byte // no value = it is removed
}

func (q queued) write(b *store.Batch) error {
	if q.value == nil {
		return b.Delete(q.key)
	}
	return b.Set(q.key, q.value)
}

func queuedBytes(qs []queued) (n int64) {
	for _, q := range qs {
		n += store.EntryCost(len(q.key), len(q.value))
	}
	return n
}

// Letters returns the dead letters of a view's live build, or of one of its streams if it is not "", in the order of topic, stream and
// position: at most limit of them, from after on, which is the last one of the page before. Errors: ErrViewNotFound, store.ErrDamaged.
func (p *Projector) Letters(view, stream string, discarded bool, after *Letter, limit int) ([]Letter, error) {
	g, err := p.live(view)
	if err != nil {
		return nil, err
	}
	space := byte(letterSpace)
	if discarded {
		space = discardSpace
	}
	var out []Letter
	err = g.read(func(r *store.Reader, _ *shown) error {
		for topic := range g.shape.Topics {
			rg := store.Prefix([]byte{space, byte(topic)})
			if stream != "" {
				rg = store.Prefix(letterPrefix(space, topic, stream))
			}
			if after != nil {
				at := g.slot(after.Position.TopicPartition)
				if at < 0 || g.topicOf(at) > topic {
					continue
				}
				if g.topicOf(at) == topic {
					rg.From = append(letterKey(space, topic, after.Stream, after.Position.Offset), 0)
				}
			}
			for pair, err := range r.Scan(rg) {
				if err != nil {
					return err
				}
				if len(out) == limit {
					return nil
				}
				l, err := parseLetter(pair.Value)
				if err != nil {
					return err
				}
				out = append(out, l)
			}
		}
		return nil
	})
	return out, err
}

// An Opened is a dead letter with the event that it is.
type Opened struct {
	Letter
	Headers     map[string]string `json:"headers"`
	Events      []json.RawMessage `json:"events,omitempty"`      // as encoding/json writes it; several if it is read as several
	Undecodable string            `json:"undecodable,omitempty"` // why it cannot be decoded
	Value       []byte            `json:"value,omitempty"`       // the record's, if that is so
}

// Letter returns the dead letter of a view's live build at a position, also one that was discarded, with what the log has there. Errors:
// ErrViewNotFound, ErrLetterNotFound, store.ErrDamaged, the log's.
func (p *Projector) Letter(ctx context.Context, view string, at es.Position) (Opened, error) {
	g, err := p.live(view)
	if err != nil {
		return Opened{}, err
	}
	var found *Letter
	slot := g.slot(at.TopicPartition)
	if slot >= 0 {
		err = g.read(func(r *store.Reader, _ *shown) (err error) {
			for _, space := range []byte{letterSpace, discardSpace} {
				if found, err = letterAt(r, space, g.topicOf(slot), at); err != nil || found != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return Opened{}, err
	}
	if found == nil {
		return Opened{}, ErrLetterNotFound.Because("%s", at)
	}
	rec, err := p.log.RecordAt(ctx, p.topics[at.Topic], at)
	if err != nil {
		return Opened{}, err
	}
	out := Opened{Letter: *found, Headers: make(map[string]string, len(rec.Headers))}
	for _, h := range rec.Headers {
		out.Headers[h.Key] = string(h.Value)
	}
	if g.code == nil {
		out.Value, out.Undecodable = rec.Value, "the program does not have the code of this build any more"
		return out, nil
	}
	decoded := p.decoders[at.Topic][g.code.inputs[g.topicOf(slot)].decoder].decode(ctx, []eventlog.Record{rec}, 1)
	if out.Events, err = decoded.(interface {
		texts() ([]json.RawMessage, error)
	}).texts(); err != nil {
		out.Value, out.Undecodable = rec.Value, err.Error()
	}
	return out, nil
}

// texts returns the events of the first record as JSON.
func (r *run[E]) texts() (all []json.RawMessage, err error) {
	if err := r.errs[0]; err != nil {
		return nil, err
	}
	for k := 0; ; k++ {
		env := r.part(0, k)
		if env == nil {
			return all, nil
		}
		text, err := json.Marshal(env.Event)
		if err != nil {
			return nil, err
		}
		all = append(all, text)
	}
}

// letterAt returns the letter at a position of a topic, nil if there is none.
func letterAt(r *store.Reader, space byte, topic int, at es.Position) (*Letter, error) {
	for l, err := range scanLetters(r, []byte{space, byte(topic)}) {
		if err != nil {
			return nil, err
		}
		if l.Position == at {
			return &l.Letter, nil
		}
	}
	return nil, nil
}

// A Retried says what came of a retry.
type Retried struct {
	Applied int      `json:"applied"` // letters that are none any more
	Left    int      `json:"left"`    // letters that are still there
	Failed  []Letter `json:"failed"`  // the first of each stream that failed again, at most 100
}

// Retry applies the dead letters of one stream of a view's live build, or of all of them if stream is "", in order: each in one
// transaction with its removal, up to the first of each stream that fails again. Errors: ErrViewNotFound, ErrPaused, ErrLetterNotFound for a
// stream that has none, the log's, the store's.
func (p *Projector) Retry(ctx context.Context, view, stream string) (Retried, error) {
	var out Retried
	g, err := p.live(view)
	if err != nil {
		return out, err
	}
	if g.code == nil {
		return out, ErrPaused.Because("the program does not have version %d of %s any more", g.born.Version, view)
	}
	type place struct {
		topic  int
		stream string
	}
	var todo []place
	g.letters.mu.Lock()
	for topic := range g.shape.Topics {
		for key := range g.letters.streams {
			if s, ok := cutStream(topic, key); ok && (stream == "" || s == stream) {
				todo = append(todo, place{topic, s})
			}
		}
	}
	g.letters.mu.Unlock()
	if stream != "" && len(todo) == 0 {
		return out, ErrLetterNotFound.Because("the stream %.100q", stream)
	}
	for _, at := range todo {
		failed, err := g.retry(ctx, at.topic, at.stream, &out)
		if err != nil {
			return out, err
		}
		if failed != nil && len(out.Failed) < 100 {
			out.Failed = append(out.Failed, *failed)
		}
	}
	out.Left = g.letters.count()
	return out, nil
}

func cutStream(topic int, key string) (string, bool) {
	head := string(rune(topic))
	if len(key) < len(head) || key[:len(head)] != head {
		return "", false
	}
	return key[len(head):], true
}

// first returns the first dead letters of a stream, at most n of them.
func (g *generation) firstLetters(topic int, stream string, n int) (out []Letter, err error) {
	err = g.db.Read(func(r *store.Reader) error {
		for l, err := range scanLetters(r, letterPrefix(letterSpace, topic, stream)) {
			if err != nil {
				return err
			}
			if out = append(out, l.Letter); len(out) == n {
				return nil
			}
		}
		return nil
	})
	return out, err
}

// retry tries the letters of one stream until one fails, which it returns.
func (g *generation) retry(ctx context.Context, topic int, stream string, out *Retried) (failed *Letter, err error) {
	for {
		ls, err := g.firstLetters(topic, stream, 1)
		if err != nil || len(ls) == 0 {
			return nil, err
		}
		in := g.code.inputs[topic]
		rec, err := g.p.log.RecordAt(ctx, in.topic, ls[0].Position)
		if err != nil {
			return nil, err
		}
		d := g.p.decoders[in.topic.Name][in.decoder]
		run := d.decode(ctx, []eventlog.Record{rec}, 1)
		if err := d.failure(run); err != nil {
			return nil, err
		}
		var reason error
		err = g.call(ctx, func(r *runner) (err error) {
			if at, ok := g.letters.blocked(topic, []byte(stream)); !ok || at != ls[0].Position {
				return nil // somebody else was faster
			}
			next, err := r.after(topic, ls[0])
			if err != nil {
				return err
			}
			if reason, err = g.fold.again(topic, run, r.snap.Reader); err != nil {
				return err
			}
			r.events++
			if reason != nil {
				now := time.Now().UTC()
				ls[0].Tried = &now
				ls[0].because(reason)
				return r.letter(topic, ls[0], false)
			}
			// With its removal in the same transaction.
			g.letters.remove(topic, stream, next)
			out.Applied++
			return r.letter(topic, ls[0], true)
		})
		if err != nil {
			return nil, err
		}
		if reason != nil {
			return &ls[0], nil
		}
	}
}

// after returns where the letter is that comes after the first one of a stream, zero = nowhere, with everything on the disk that was applied: the
// row must be what is stored, should the event not be applicable together with others.
func (r *runner) after(topic int, first Letter) (next es.Position, err error) {
	if err := r.flush(); err != nil {
		return next, err
	}
	ls, err := r.g.firstLetters(topic, first.Stream, 2)
	if err == nil && len(ls) > 1 {
		next = ls[1].Position
	}
	return next, err
}

// letter writes a letter, or removes it, with what else was applied, and returns when that is committed.
func (r *runner) letter(topic int, l Letter, remove bool) error {
	q := queued{key: letterKey(letterSpace, topic, l.Stream, l.Position.Offset)}
	if !remove {
		var err error
		if q.value, err = json.Marshal(l); err != nil {
			return err
		}
	}
	r.g.fold.queue(q)
	r.events++
	return r.flush()
}

// Discard gives a dead letter up, for a reason that is kept: its event is not applied to this build of the view. It must be the first one
// of its stream; the later ones stay, to be retried. Errors: ErrViewNotFound, ErrPaused, ErrLetterNotFound, ErrLetterOrder, the store's.
func (p *Projector) Discard(ctx context.Context, view string, at es.Position, why string) (Letter, error) {
	g, err := p.live(view)
	if err != nil {
		return Letter{}, err
	}
	slot := g.slot(at.TopicPartition)
	if slot < 0 {
		return Letter{}, ErrLetterNotFound.Because("%s", at)
	}
	topic := g.topicOf(slot)
	var found *Letter
	err = g.db.Read(func(r *store.Reader) (err error) {
		found, err = letterAt(r, letterSpace, topic, at)
		return err
	})
	if err != nil {
		return Letter{}, err
	}
	if found == nil {
		return Letter{}, ErrLetterNotFound.Because("%s", at)
	}
	ls, err := g.firstLetters(topic, found.Stream, 1)
	switch {
	case err != nil:
		return Letter{}, err
	case len(ls) == 0:
		return Letter{}, ErrLetterNotFound.Because("%s", at) // it has just been retried
	case ls[0].Position != at:
		return Letter{}, ErrLetterOrder.Because("%s waits behind %s", at, ls[0].Position)
	}
	now := time.Now().UTC()
	found.Discarded, found.Why = &now, why
	text, err := json.Marshal(found)
	if err != nil {
		return Letter{}, err
	}
	err = g.call(ctx, func(r *runner) error {
		if first, ok := g.letters.blocked(topic, []byte(found.Stream)); !ok || first != at {
			return ErrLetterNotFound.Because("%s", at)
		}
		next, err := r.after(topic, *found)
		if err != nil {
			return err
		}
		g.letters.remove(topic, found.Stream, next)
		g.letters.discard(at)
		g.fold.queue(queued{key: letterKey(discardSpace, topic, found.Stream, at.Offset), value: text})
		return r.letter(topic, *found, true)
	})
	return *found, err
}
