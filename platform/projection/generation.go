package projection

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/store"
)

// A generation is one build of one version of a view, in a store of its own. Its rows are the fold of exactly the events before its
// cursors, but for those that are kept as dead letters.
type generation struct {
	p    *Projector
	view *view
	born birth // as it was; what becomes of it is in the view's control
	code *code // nil: the program has this version no more; what is stored is served as it is

	dir    string
	opened time.Time
	db     *store.DB
	shape  shape
	slots  []es.TopicPartition     // what it reads: by topic as in shape, then by partition
	first  []int                   // of each topic's slots
	until  atomic.Pointer[[]int64] // by slot: the first offset that is not applied; nil = there is no end

	// Of the runner while one runs, else of whoever has stopped it. By slot: how far the generation is, and the append times of the last
	// records.
	cursors []eventlog.Cursor
	times   []time.Time
	halts   []*halt
	letters *letters
	fold    fold
	empty   bool // the store has no rows

	// What is committed, for queries.
	shown    atomic.Pointer[shown]
	parts    []atomic.Pointer[part]  // by slot; while no lane reads it, what was known then, or lookAtEnds has found since
	target   atomic.Pointer[[]int64] // by slot: the ends of the log when it began to be read
	paused   atomic.Pointer[string]  // why nothing is applied; nil = it is
	reached  atomic.Bool             // it has reached target once
	applied  meter
	mu       sync.Mutex
	waiters  map[*waiter]struct{}
	watching hub
	ends     map[*context.CancelCauseFunc]struct{} // end what reads it for long; nil = it is closed

	runner atomic.Pointer[runner] // nil = none runs
}

// A shown is a committed state of a generation: how far it is and, while a runner runs, a snapshot that is exactly that far.
type shown struct {
	number uint64 // of the batch with which it was reached, 1, 2, 3 … since the start
	first  uint64 // the first batch with the same positions: dead letters change rows without moving them
	slots  []slotShown
	// missing stands for the events before slots that the rows do not have: dead letters, and those that were discarded.
	missing uint64
	snap    *snapshot // nil = read whatever is committed

	once    sync.Once
	written string // what text returns
}

// text returns the positions of s as they are written: many are told of one state.
func (s *shown) text(g *generation) string {
	s.once.Do(func() { s.written = g.positions(s).String() })
	return s.written
}

// reach is how many records of all partitions s has passed: it rises with every batch that moves a position.
func (s *shown) reach() (n int64) {
	for i := range s.slots {
		n += s.slots[i].next
	}
	return n
}

type slotShown struct {
	next int64
	last time.Time // when the last applied record was appended; zero if none was since the start
	halt *halt
}

// A snapshot is a store.Reader that is closed when its last user has let it go.
type snapshot struct {
	*store.Reader
	refs atomic.Int64
}

func newSnapshot(db *store.DB) (*snapshot, error) {
	r, err := db.NewReader()
	if err != nil {
		return nil, err
	}
	s := &snapshot{Reader: r}
	s.refs.Store(1)
	return s, nil
}

// hold reports false if the snapshot is closed already.
func (s *snapshot) hold() bool {
	for {
		n := s.refs.Load()
		if n == 0 {
			return false
		}
		if s.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (s *snapshot) release() {
	if s.refs.Add(-1) == 0 {
		s.Close()
	}
}

// openGeneration opens the store of a generation, begins it if it is new, and reads how far it is. A store that is damaged is moved aside
// and begun anew.
func (v *view) openGeneration(b birth) (*generation, error) {
	g := &generation{p: v.p, view: v, born: b, code: v.codes[b.Version], dir: filepath.Join(v.dir, b.id()), waiters: map[*waiter]struct{}{}, letters: &letters{}, ends: map[*context.CancelCauseFunc]struct{}{}}
	g.watching.init()
	if g.code == nil && !b.stored(v.dir) {
		return nil, ErrView.Because("view %q: the program has no version %d, and nothing of it is stored", v.name, b.Version)
	}
	err := g.open()
	if errors.Is(err, store.ErrDamaged) && g.code != nil {
		moved, e := store.Quarantine(g.dir, err)
		if e != nil {
			return nil, e
		}
		v.p.cfg.Logger.Error("projection: a damaged view is built anew from the log", "view", v.name, "build", b.id(), "moved_to", moved, "reason", err)
		err = g.open()
	}
	if err != nil {
		return nil, err
	}
	return g, nil
}

func (g *generation) open() (err error) {
	o := g.p.cfg.StoreOptions
	o.Logger = g.p.cfg.Logger
	if g.db, err = store.Open(g.dir, o); err != nil {
		return err
	}
	g.opened = time.Now()
	if err := g.load(); err != nil {
		return errors.Join(err, g.db.Close())
	}
	return nil
}

// load reads what the store has, or writes what a new one begins with.
func (g *generation) load() error {
	var stored []byte
	err := g.db.Read(func(r *store.Reader) (err error) {
		stored, err = r.Get([]byte{shapeSpace})
		return err
	})
	g.empty = errors.Is(err, store.ErrNotFound)
	switch {
	case g.empty && g.code == nil:
		return damaged("there is none")
	case g.empty:
		if err := g.begin(); err != nil {
			return err
		}
		g.shape = g.code.shape
	case err != nil:
		return fmt.Errorf("projection: view %s: %w", g.view.name, err)
	default:
		if g.shape, err = parseShape(stored); err != nil {
			return err
		}
		if g.code == nil {
			break
		}
		want, err := g.code.shape.binary()
		if err != nil {
			return err
		}
		if !bytes.Equal(stored, want) {
			return ErrView.Because("view %q, version %d: its rows were stored as %s, its code has %s", g.view.name, g.born.Version, stored, want).
				WithFix("raise the view's Version: it is built anew")
		}
	}
	if err := errors.Join(g.findSlots(), g.readCursors()); err != nil {
		return fmt.Errorf("projection: view %s: %w", g.view.name, err)
	}
	g.show(&shown{slots: g.progress(), missing: g.letters.missing()})
	return nil
}

func (g *generation) begin() error {
	form, err := g.code.shape.binary()
	if err != nil {
		return err
	}
	b := g.db.NewBatch()
	if err := b.Set([]byte{shapeSpace}, form); err != nil {
		return err
	}
	return b.Commit()
}

// findSlots lists what the generation reads.
func (g *generation) findSlots() error {
	var own Range
	if g.shape.Range != nil {
		own = *g.shape.Range
	}
	return g.db.Read(func(r *store.Reader) error {
		for _, name := range g.shape.Topics {
			g.first = append(g.first, len(g.slots))
			partitions := g.p.topics[name].Partitions
			if partitions == 0 {
				if err := g.readSlots(r, name); err != nil {
					return err
				}
			}
			for n := range partitions {
				if own.Has(n, partitions) {
					g.slots = append(g.slots, es.TopicPartition{Topic: name, Partition: n})
				}
			}
		}
		g.parts = make([]atomic.Pointer[part], len(g.slots))
		return nil
	})
}

// readSlots finds the partitions of a topic that the program does not read any more: those of which anything was read.
func (g *generation) readSlots(r *store.Reader, topic string) error {
	for pair, err := range r.Scan(store.Prefix(store.AppendString([]byte{cursorSpace}, topic))) {
		if err != nil {
			return err
		}
		var c eventlog.Cursor
		if err := c.UnmarshalBinary(pair.Value); err != nil {
			return err
		}
		g.slots = append(g.slots, c.TopicPartition)
	}
	return nil
}

// readCursors sets how far the generation is, and its dead letters, to what the store has. No runner may be running.
func (g *generation) readCursors() error {
	cursors := make([]eventlog.Cursor, len(g.slots))
	err := g.db.Read(func(r *store.Reader) error {
		if err := g.letters.read(r); err != nil {
			return err
		}
		for n, tp := range g.slots {
			if g.code != nil {
				cursors[n] = g.code.inputs[g.topicOf(n)].topic.Start(tp.Partition)
			}
			form, err := r.Get(cursorKey(tp))
			if err == nil {
				err = cursors[n].UnmarshalBinary(form)
			}
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	g.bound()
	n := len(g.slots)
	g.cursors, g.times, g.halts = cursors, make([]time.Time, n), make([]*halt, n)
	if g.complete() {
		g.reached.Store(true)
	}
	return nil
}

// bound sets until as the birth says.
func (g *generation) bound() {
	if !g.born.Bounded || g.until.Load() != nil {
		return
	}
	until := make([]int64, len(g.slots))
	for n, tp := range g.slots {
		if last, ok := g.born.Until.Offset(tp); ok {
			until[n] = last + 1
		}
	}
	g.until.Store(&until)
}

// slot returns the number of a partition among those that the generation reads, or -1.
func (g *generation) slot(tp es.TopicPartition) int {
	i := slices.Index(g.shape.Topics, tp.Topic)
	if i < 0 {
		return -1
	}
	from, to := g.first[i], len(g.slots)
	if i+1 < len(g.first) {
		to = g.first[i+1]
	}
	// Searched for: readSlots leaves some out.
	n, ok := slices.BinarySearchFunc(g.slots[from:to], tp.Partition, func(s es.TopicPartition, partition int32) int { return cmp.Compare(s.Partition, partition) })
	if !ok {
		return -1
	}
	return from + n
}

// topicOf returns the number of a slot's topic.
func (g *generation) topicOf(slot int) int {
	i := 0
	for i+1 < len(g.first) && g.first[i+1] <= slot {
		i++
	}
	return i
}

// limit returns the first offset of a slot that is not to be applied.
func (g *generation) limit(slot int) int64 {
	until := g.until.Load()
	if until == nil {
		return 1<<63 - 1
	}
	return (*until)[slot]
}

// wanted returns the offset from which on nobody expects a slot's events: the limit, unless it answers queries, which are late then.
func (g *generation) wanted(slot int) int64 {
	if live, _ := g.view.serving(); live == g {
		return 1<<63 - 1
	}
	return g.limit(slot)
}

// complete reports whether all that is to be applied is.
func (g *generation) complete() bool {
	until := g.until.Load()
	if until == nil {
		return false
	}
	for i, c := range g.cursors {
		if c.Next < (*until)[i] {
			return false
		}
	}
	return true
}

// show publishes a committed state and wakes those who waited for it. It takes over one reference to s.snap.
func (g *generation) show(s *shown) {
	old := g.shown.Load()
	if old != nil && s.number == 0 {
		s.number, s.first, s.missing = old.number, old.first, old.missing // the same state
	}
	g.shown.Store(s)
	if old != nil && old.snap != nil {
		old.snap.release()
	}
	if !g.reached.Load() && g.caughtUp(s) {
		g.applied.end()
		g.reached.Store(true)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for w := range g.waiters {
		if w.settled(g, s) {
			delete(g.waiters, w)
			close(w.done)
		}
	}
}

// unsnap drops the snapshot but keeps the positions.
func (g *generation) unsnap() {
	if s := g.shown.Load(); s.snap != nil {
		g.show(&shown{slots: s.slots})
	}
}

// progress returns the state that the runner has reached.
func (g *generation) progress() []slotShown {
	slots := make([]slotShown, len(g.cursors))
	for n := range slots {
		slots[n] = slotShown{next: g.cursors[n].Next, last: g.times[n], halt: g.halts[n]}
	}
	return slots
}

// positions returns the positions of s; partitions of which nothing was read are left out.
func (g *generation) positions(s *shown) es.Positions {
	ps := make(es.Positions, 0, len(s.slots))
	for n, at := range s.slots {
		if at.next > 0 {
			ps = append(ps, es.Position{TopicPartition: g.slots[n], Offset: at.next - 1})
		}
	}
	return ps
}

// lag returns how old the oldest record is that s does not have, over all partitions; 0 if it has all.
func (g *generation) lag(s *shown, now time.Time) time.Duration {
	most := time.Duration(0)
	for n := range s.slots {
		_, lag := g.slotLag(s, n, now)
		most = max(most, lag)
	}
	return most
}

func (g *generation) slotLag(s *shown, n int, now time.Time) (end int64, lag time.Duration) {
	at := s.slots[n]
	if g.code == nil && !g.born.Bounded {
		return at.next, now.Sub(g.opened) // it has not been kept up to date for so long at least
	}
	var oldest time.Time
	if pt := g.parts[n].Load(); pt != nil {
		end, oldest = pt.oldest(at.next)
		end = min(end, g.wanted(n)) // what it is not to have does not make it late
	}
	switch {
	case at.halt != nil:
		oldest, end = at.halt.appended, max(end, at.halt.at.Offset+1)
	case at.next >= end:
		return max(end, at.next), 0
	case oldest.IsZero():
		// It is not fetched yet; it was appended after the last one that is applied.
		oldest = at.last
	}
	if oldest.IsZero() {
		return end, 0
	}
	return end, max(0, now.Sub(oldest))
}

// caughtUp reports whether s has reached what was the end of the log when it began to be read. Partitions that have halted do not count.
func (g *generation) caughtUp(s *shown) bool {
	target := g.target.Load()
	if target == nil {
		return false
	}
	for n, at := range s.slots {
		if at.halt == nil && at.next < min((*target)[n], g.limit(n)) {
			return false
		}
	}
	return true
}

// read calls fn with what the generation shows, again if that turns out to have been replaced: the snapshot is exactly as far as s says.
func (g *generation) read(fn func(*store.Reader, *shown) error) error {
	if err := g.db.Err(); err != nil {
		return err
	}
	for {
		s := g.shown.Load()
		if s.snap == nil {
			// Nothing is committed before a runner has shown a snapshot: if none is there afterwards, s was still true.
			err := g.db.Read(func(r *store.Reader) error { return fn(r, s) })
			if g.shown.Load() == s {
				return err
			}
			continue
		}
		// A snapshot that is closed already was replaced by a newer one.
		if s.snap.hold() {
			defer s.snap.release()
			return fn(s.snap.Reader, s)
		}
	}
}

// hold returns a snapshot of exactly what the generation shows, to be released by the caller.
func (g *generation) hold() (snap *snapshot, s *shown, err error) {
	err = g.read(func(_ *store.Reader, now *shown) (err error) {
		if snap != nil {
			snap.release() // what was shown has been replaced meanwhile
		}
		s, snap = now, now.snap
		if snap == nil {
			snap, err = newSnapshot(g.db)
			return err
		}
		snap.hold() // read holds it too, so it is open
		return nil
	})
	return snap, s, err
}

// errClosing ends what reads a generation for long.
var errClosing = ErrBuild.Because("the build was dropped, or its process stops")

// lasting returns a context that ends with ctx, and when the generation is closed.
func (g *generation) lasting(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ends == nil {
		cancel(errClosing)
		return ctx, func() {}
	}
	g.ends[&cancel] = struct{}{}
	return ctx, func() {
		cancel(nil)
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.ends, &cancel)
	}
}

// close ends the generation: its runner must have ended.
func (g *generation) close() error {
	g.mu.Lock()
	for end := range g.ends {
		(*end)(errClosing)
	}
	g.ends = nil
	g.mu.Unlock()
	g.unsnap()
	g.watching.close()
	return g.db.Close()
}

// A halt is where and why a generation stopped reading a partition.
type halt struct {
	at       es.Position
	appended time.Time
	event    string
	typ      string
	reason   error
}

// String says all that is needed to find the event.
func (h *halt) String() string {
	what := "record"
	if h.typ != "" {
		what = h.typ + " " + h.event
	}
	return fmt.Sprintf("%s at %s: %s", what, h.at, withCode(h.reason))
}

func withCode(err error) string {
	if f := fault.From(err); f != nil && f.Code != "" {
		return fmt.Sprintf("%s (%s)", err, f.Code)
	}
	return err.Error()
}

// A meter counts events and tells at which rate they came of late, and at which they did while the log was ahead.
type meter struct {
	total atomic.Int64
	mu    sync.Mutex
	since time.Time
	count int64
	rate  float64
	begun time.Time
	built float64 // events per second from begun until the end of the log was reached; 0 = it is not, or they were too few to tell
	ended bool
}

// leastBuilt is how many events tell how quickly a view is built.
const leastBuilt = 1000

// add counts n events.
func (m *meter) add(n int) { m.total.Add(int64(n)) }

// perSecond returns the rate since the call before, of at least a second ago.
func (m *meter) perSecond(now time.Time) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	total := m.total.Load()
	if m.since.IsZero() {
		m.since, m.count = now, total
		return 0
	}
	if d := now.Sub(m.since); d >= time.Second {
		m.rate = float64(total-m.count) / d.Seconds()
		m.since, m.count = now, total
	}
	return m.rate
}

// begin notes when the first event may come.
func (m *meter) begin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.begun.IsZero() {
		m.begun = time.Now()
	}
}

// end notes that the end of the log was reached: from now on events come when there are some.
func (m *meter) end() {
	built := m.building()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.built, m.ended = built, true
}

// building returns how many events per second were applied while there were enough, 0 if that is not known.
func (m *meter) building() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	total := m.total.Load()
	if m.ended || m.begun.IsZero() || total < leastBuilt {
		return m.built
	}
	return float64(total) / max(time.Since(m.begun), time.Millisecond).Seconds()
}
