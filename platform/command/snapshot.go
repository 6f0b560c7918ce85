package command

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/store"
)

// The store keeps beside the events, and never instead of them,
//
//	's' partition stream fold -> the state of a long stream at some version (snapshot)
//	'f' fold -> why the snapshots of this fold are not to be trusted
//
// A snapshot is made from stored events alone, behind the back of the partition, and at the end of a command.
const (
	snapshotEvery = 256     // events from one snapshot to the next, by default
	snapshotCheck = 64      // of so many streams that are loaded from one, one is checked against its full fold, by default
	snapshotBytes = 1 << 18 // the largest state that is kept: loading a larger one would not pay
	snapshotDue   = 1 << 14 // streams that wait for theirs; more are left until they are longer
	snapshotBatch = 1 << 20 // bytes in one write
)

// SnapshotStats count what became of the snapshots since the engine was made.
type SnapshotStats struct {
	Kept    int64 // states that were put into the store
	Refused int64 // states that could not be kept, because they do not come back as they are or are too large
	Used    int64 // streams that were loaded from one
	Checked int64 // of these, those that were compared with their full fold
	Wrong   int64 // of these, those that differed; from the first one on, none is used
}

// Snapshots returns what became of the snapshots of this engine.
func (e *Engine[S, C, E]) Snapshots() SnapshotStats {
	k := e.keeping
	return SnapshotStats{Kept: k.kept.Load(), Refused: k.refused.Load(), Used: k.used.Load(), Checked: k.checked.Load(), Wrong: k.wrong.Load()}
}

// A keeper makes snapshots behind the back of the partitions, and checks some of those that were used.
type keeper[S, C, E any] struct {
	engine *Engine[S, C, E]
	every  es.Version // 0 = no snapshots
	check  int
	fold   atomic.Pointer[foldID] // nil until it is known, and once its snapshots are not trusted
	said   sync.Once

	kept, refused, used, checked, wrong atomic.Int64

	mu   sync.Mutex
	due  map[streamAt]task
	wake chan struct{} // holds one: something is due
}

// keepDelay is how long the keeper waits for more to do: one synced write for many snapshots.
const keepDelay = 50 * time.Millisecond

// A streamAt names a stream in a store.
type streamAt struct {
	partition int32
	stream    es.StreamID
}

// A task is what is to be done about a stream.
type task struct {
	keep  bool  // make a newer snapshot
	check bool  // compare the one there is with the full fold
	after int64 // once the store has come to this offset
}

func newKeeper[S, C, E any](e *Engine[S, C, E]) *keeper[S, C, E] {
	k := &keeper[S, C, E]{engine: e, every: snapshotEvery, check: snapshotCheck, due: map[streamAt]task{}, wake: make(chan struct{}, 1)}
	if n := e.cfg.SnapshotEvery; n != 0 {
		k.every = max(0, es.Version(n))
	}
	if n := e.cfg.SnapshotCheck; n != 0 {
		k.check = max(0, n)
	}
	return k
}

// wrote is told of each version that is about to be in the store.
func (k *keeper[S, C, E]) wrote(partition int32, id es.StreamID, version es.Version, offset int64) {
	if k.every > 0 && version%k.every == 0 {
		k.add(streamAt{partition, id}, task{keep: true, after: offset + 1})
	}
}

func (k *keeper[S, C, E]) add(at streamAt, what task) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if was, ok := k.due[at]; ok || len(k.due) < snapshotDue {
		k.due[at] = task{keep: was.keep || what.keep, check: was.check || what.check, after: max(was.after, what.after)}
		notify(k.wake)
	}
}

// run works until ctx ends or the store fails.
func (k *keeper[S, C, E]) run(ctx context.Context) error {
	fold, err := k.begin()
	if err != nil || fold == nil {
		return err
	}
	err = k.renew(ctx, *fold)
	for err == nil {
		select {
		case <-k.wake:
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(keepDelay):
		case <-ctx.Done():
			return nil
		}
		err = k.do(ctx, *fold, k.take())
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// begin finds out under which fold snapshots are kept; nil = there are to be none.
func (k *keeper[S, C, E]) begin() (*foldID, error) {
	if k.every == 0 {
		return nil, nil
	}
	e := k.engine
	fold := foldOf(&e.decider, e.codec.Fingerprint())
	reason, err := k.distrusted(fold)
	if err != nil {
		return nil, err
	}
	if reason != "" {
		e.cfg.Logger.Error("the kept states of this fold were found wrong before: all streams are folded from their beginning", "fold", fold.String(), "reason", reason, "fix", "raise Decider.Fold")
		return nil, nil
	}
	k.fold.Store(&fold)
	return &fold, nil
}

// take returns what is due.
func (k *keeper[S, C, E]) take() map[streamAt]task {
	k.mu.Lock()
	defer k.mu.Unlock()
	due := k.due
	k.due = map[streamAt]task{}
	return due
}

// distrusted returns why the snapshots of a fold are not to be used, "" if they may be.
func (k *keeper[S, C, E]) distrusted(fold foldID) (reason string, err error) {
	err = k.engine.cfg.Store.Read(func(rd *store.Reader) error {
		value, err := rd.Get(distrustKey(fold))
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		reason = string(value)
		return err
	})
	return reason, err
}

// renew makes snapshots of this fold for all streams that have one of another, so that not the first command after an upgrade has to
// wait for the whole stream.
func (k *keeper[S, C, E]) renew(ctx context.Context, fold foldID) error {
	for p := range k.engine.partitions {
		from := snapshotsPrefix(int32(p)) //nolint:gosec // few
		for more := true; more; {
			due := map[streamAt]task{}
			more = false
			err := k.engine.cfg.Store.Read(func(rd *store.Reader) error {
				for pair, err := range rd.Scan(store.Range{From: from, To: store.PrefixEnd(snapshotsPrefix(int32(p))), KeysOnly: true}) { //nolint:gosec // few
					if err == nil {
						err = ctx.Err()
					}
					if err != nil {
						return err
					}
					at, of, err := parseSnapshotKey(pair.Key)
					if err != nil {
						return err
					}
					if len(due) == snapshotDue {
						from, more = pair.Key, true
						return nil
					}
					if of != fold {
						due[at] = task{keep: true}
					}
				}
				return nil
			})
			if err == nil {
				err = k.do(ctx, fold, due)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// do does what is due, and writes many snapshots at once.
func (k *keeper[S, C, E]) do(ctx context.Context, fold foldID, due map[streamAt]task) error {
	e := k.engine
	b := e.cfg.Store.NewBatch()
	defer func() { b.Discard() }()
	size, kept := 0, int64(0)
	commit := func() error {
		if b.Len() == 0 {
			return nil
		}
		err := b.Commit()
		if err == nil {
			k.kept.Add(kept)
		}
		if errors.Is(err, store.ErrDiskFull) {
			err = nil // it is a cache: what is missing is made later
		}
		b = e.cfg.Store.NewBatch()
		size, kept = 0, 0
		return err
	}
	for at, what := range due {
		if ctx.Err() != nil {
			return nil
		}
		if err := e.partitions[at.partition].stored.wait(ctx, what.after, e.storing); err != nil {
			return err
		}
		if what.check {
			if err := k.verify(ctx, fold, at); err != nil {
				return err
			}
		}
		if !what.keep || k.fold.Load() == nil {
			continue
		}
		made, err := k.make(ctx, fold, at)
		if err != nil {
			return err
		}
		for again := false; ; again = true {
			if err = made.put(b); err == nil {
				break
			}
			if !isFull(err) || again {
				return err
			}
			if err := commit(); err != nil {
				return err
			}
		}
		if made.value != nil {
			kept++
		}
		if size += len(made.value); size >= snapshotBatch {
			if err := commit(); err != nil {
				return err
			}
		}
	}
	return commit()
}

// A made is what is to be written of one stream: a new snapshot, perhaps, and older ones that are of no more use.
type made struct {
	key, value []byte
	gone       [][]byte
}

func (m *made) put(b *store.Batch) error {
	for _, key := range m.gone {
		if err := b.Delete(key); err != nil {
			return err
		}
	}
	if m.value == nil {
		return nil
	}
	return b.Set(m.key, m.value)
}

// make folds what was stored since the last snapshot of a stream.
func (k *keeper[S, C, E]) make(ctx context.Context, fold foldID, at streamAt) (m made, err error) {
	e := k.engine
	p := e.partitions[at.partition]
	defer func() {
		if v := recover(); v != nil {
			m, err = made{}, nil // the command that needs the stream will say so
			_ = p.panicked(v, at.stream, "fold")
		}
	}()
	m.key = snapshotKey(nil, at, fold)
	err = e.cfg.Store.Read(func(rd *store.Reader) error {
		prefix := snapshotPrefix(nil, at)
		for pair, err := range rd.Scan(store.Range{From: prefix, To: store.PrefixEnd(prefix), KeysOnly: true}) {
			if err != nil {
				return err
			}
			if !bytes.Equal(pair.Key, m.key) {
				m.gone = append(m.gone, pair.Key)
			}
		}
		last, err := p.kept(rd, at.stream, &fold)
		if err != nil {
			return err
		}
		next := snapshot[S]{}
		if last != nil {
			next = *last
		}
		state := next.state // also of a command that is not wholly stored yet
		var parts []es.Envelope[E]
		for r, err := range p.rows(ctx, rd, at.stream, next.version+1, math.MaxInt64-1, false) {
			if err != nil {
				return err
			}
			if parts, err = p.envelopes(ctx, parts[:0], at.stream, &r); err != nil {
				e.cfg.Logger.Warn("the state of a stream cannot be kept", "partition", p.at.String(), "stream", string(at.stream), "error", err)
				return nil
			}
			if r.index == 0 && r.version <= unindexed {
				next.early = append(slices.Clip(next.early), hashID(r.meta.CommandID))
			}
			if state = p.evolve(state, parts); r.index == r.count-1 {
				next.state, next.version, next.offset = state, r.version, r.offset
			}
		}
		if last != nil && next.version-last.version < k.every/2 || next.version < k.every/2 {
			return nil
		}
		data, err := saveState(&e.decider, next.state)
		if err == nil && len(data) > snapshotBytes {
			err = fmt.Errorf("it takes %d bytes, at most %d are kept", len(data), snapshotBytes)
		}
		if err != nil {
			k.refused.Add(1)
			k.said.Do(func() {
				e.cfg.Logger.Warn("a state cannot be kept: streams like this are folded from their beginning each time they are loaded; this is said once",
					"partition", p.at.String(), "stream", string(at.stream), "version", int64(next.version), "reason", err, "fix", "give the decider Save and Restore")
			})
			return nil
		}
		m.value = next.append(nil, data)
		return nil
	})
	return m, err
}

// verify compares the snapshot of a stream with its full fold. If they differ, none of this fold is used any more, now or later.
func (k *keeper[S, C, E]) verify(ctx context.Context, fold foldID, at streamAt) error {
	e := k.engine
	p := e.partitions[at.partition]
	reason := ""
	err := e.cfg.Store.Read(func(rd *store.Reader) error {
		s, err := p.kept(rd, at.stream, &fold)
		if err != nil || s == nil {
			return err
		}
		full, _, err := p.fold(ctx, rd, at.stream, nil, s.version)
		if err != nil {
			return err
		}
		same, err := sameState(&e.decider, s.state, full)
		if err != nil || !same {
			reason = fmt.Sprintf("the state kept of %q at version %d is not the fold of its events", at.stream, s.version)
		}
		k.checked.Add(1)
		return nil
	})
	if err != nil || reason == "" {
		return err
	}
	k.wrong.Add(1)
	k.fold.Store(nil)
	e.cfg.Logger.Error("kept states are wrong and are not used any more: Evolve or an upcaster was changed and Decider.Fold was not, or they are not pure",
		"partition", p.at.String(), "stream", string(at.stream), "fold", fold.String(), "reason", reason, "fix", "raise Decider.Fold")
	b := e.cfg.Store.NewBatch()
	defer b.Discard()
	if err := b.Set(distrustKey(fold), []byte(reason)); err != nil {
		return err
	}
	if err := b.Delete(snapshotKey(nil, at, fold)); err != nil {
		return err
	}
	if err := b.Commit(); !errors.Is(err, store.ErrDiskFull) {
		return err
	}
	return nil
}

// sample has one of so many streams checked that were loaded from a snapshot.
func (k *keeper[S, C, E]) sample(at streamAt) {
	k.used.Add(1)
	if k.check > 0 && rand.IntN(k.check) == 0 {
		k.add(at, task{check: true})
	}
}

// distrusts reports whether a stream in memory rests on a snapshot that is not trusted any more.
func (k *keeper[S, C, E]) distrusts(s *stream[S]) bool { return s.kept && k.fold.Load() == nil }

// A snapshot is the state of a stream at the end of a command.
type snapshot[S any] struct {
	version es.Version
	offset  int64    // of that version's event
	early   []uint64 // hashes of the ids of the commands without an index entry
	state   S
}

const snapshotFormat = 1

func (s *snapshot[S]) append(dst, state []byte) []byte {
	dst = append(dst, snapshotFormat)
	dst = binary.AppendUvarint(dst, uint64(s.version))
	dst = binary.AppendUvarint(dst, uint64(s.offset))
	dst = binary.AppendUvarint(dst, uint64(len(s.early)))
	for _, h := range s.early {
		dst = binary.BigEndian.AppendUint64(dst, h)
	}
	return append(dst, state...)
}

var errSnapshot = errors.New("malformed snapshot")

// parseSnapshot reads all but the state, which it returns as it was saved.
func parseSnapshot[S any](b []byte) (s snapshot[S], state []byte, err error) {
	if len(b) == 0 || b[0] != snapshotFormat {
		return s, nil, errSnapshot
	}
	b = b[1:]
	var numbers [3]uint64
	for i := range numbers {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > 1<<62 {
			return s, nil, errSnapshot
		}
		numbers[i], b = v, b[n:]
	}
	s.version, s.offset = es.Version(numbers[0]), int64(numbers[1])
	if s.version < 1 || numbers[2] > unindexed || int(numbers[2])*8 > len(b) {
		return s, nil, errSnapshot
	}
	for range numbers[2] {
		s.early = append(s.early, binary.BigEndian.Uint64(b))
		b = b[8:]
	}
	return s, b, nil
}

// kept returns the snapshot of a stream under a fold; nil if there is none that can be used.
func (p *partition[S, C, E]) kept(rd *store.Reader, id es.StreamID, fold *foldID) (*snapshot[S], error) {
	if fold == nil {
		return nil, nil
	}
	value, err := rd.Get(snapshotKey(nil, streamAt{p.at.Partition, id}, *fold))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s, data, err := parseSnapshot[S](value)
	if err == nil {
		s.state, err = restoreState(&p.engine.decider, data)
	}
	if err == nil {
		// It belongs to this very stream, and the stream is at least that long.
		var r row
		if r, err = readRow(rd, eventKey(nil, p.at.Partition, id, s.version)); err == nil && (r.offset != s.offset || r.index != r.count-1) {
			err = errors.New("it is not of the event that has its version")
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) && errors.Is(err, store.ErrDamaged) {
			return nil, err
		}
	}
	if err != nil {
		p.engine.cfg.Logger.Error("a kept state cannot be used", "partition", p.at.String(), "stream", string(id), "error", err)
		return nil, nil
	}
	return &s, nil
}

// fold returns the state of a stream at a version, from a snapshot on if there is one under the fold that is not younger, and the event
// of that version.
func (p *partition[S, C, E]) fold(ctx context.Context, rd *store.Reader, id es.StreamID, fold *foldID, version es.Version) (state S, last stored, err error) {
	from := es.Version(1)
	s, err := p.kept(rd, id, fold)
	if err != nil {
		return state, last, err
	}
	if s != nil && s.version <= version {
		state, from = s.state, s.version
	}
	var parts []es.Envelope[E]
	for r, err := range p.rows(ctx, rd, id, from, version, false) {
		if err != nil {
			return state, last, err
		}
		last = r
		if s != nil && r.version == s.version && from == s.version {
			continue // the state holds it
		}
		if parts, err = p.envelopes(ctx, parts[:0], id, &r); err != nil {
			return state, last, err
		}
		state = p.evolve(state, parts)
	}
	return state, last, nil
}

// hashID is what is remembered of the id of an old command: a hit is looked up, so it need not be unique.
func hashID(commandID string) uint64 {
	sum := sha256.Sum256([]byte(commandID))
	return binary.BigEndian.Uint64(sum[:])
}

func snapshotsPrefix(partition int32) []byte {
	return binary.BigEndian.AppendUint32([]byte{'s'}, uint32(partition))
}

func snapshotPrefix(dst []byte, at streamAt) []byte {
	dst = binary.BigEndian.AppendUint32(append(dst, 's'), uint32(at.partition))
	return store.AppendString(dst, string(at.stream))
}

func snapshotKey(dst []byte, at streamAt, fold foldID) []byte {
	return append(snapshotPrefix(dst, at), fold[:]...)
}

func parseSnapshotKey(key []byte) (at streamAt, fold foldID, err error) {
	if len(key) < 5 {
		return at, fold, ErrStore.Because("key %x is not one of a snapshot", key)
	}
	at.partition = int32(binary.BigEndian.Uint32(key[1:])) //nolint:gosec // as it was written
	stream, rest, err := store.ParseString(key[5:])
	if err != nil || len(rest) != len(fold) {
		return at, fold, ErrStore.Because("key %x is not one of a snapshot", key)
	}
	at.stream = es.StreamID(stream)
	return at, foldID(rest), nil
}

func distrustKey(fold foldID) []byte { return append([]byte{'f'}, fold[:]...) }
