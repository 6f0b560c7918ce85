package projection

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/store"
)

// A lane is one reader of the log with the views that it feeds. Three goroutines work on it: one fetches and decodes, one applies
// and encodes, one commits, so that while one batch is on its way to the disk the next is filled.
type lane struct {
	p     *Projector
	folds []fold
	parts map[es.TopicPartition]*part

	targets map[string][]int64
	paused  atomic.Bool

	// Of the applying goroutine.
	db     *store.DB
	snap   *snapshot // what is committed up to batch `visible`
	cur    []*chunk  // applied, not yet handed over
	batch  uint64
	done   chan error // from the committer: the batch in flight is committed and shown
	work   chan *handover
	flying bool
	most   int  // how many events a batch takes
	grown  size // by how much the last chunk made the batch grow
	// By fold: how many events it has applied, beside those of cur, that were not handed over.
	owed []int
	// While the lane is behind, views that change the same rows again and again are left out of batches: see waits.
	patient bool
}

// A handover is a batch for the committer.
type handover struct {
	writes []*writes // by fold
	shown  []*shown  // by fold
}

// chunkEvents is how many events are decoded and applied in one step: enough to be worth a goroutine, little enough to be held
// three times.
const chunkEvents = 2048

func newLane(p *Projector) *lane {
	return &lane{p: p, db: p.cfg.Store, most: p.cfg.BatchEvents, patient: true}
}

func (l *lane) add(f fold) {
	l.folds = append(l.folds, f)
	l.follow(f.state())
}

// follow makes the lane read what v still has to read.
func (l *lane) follow(v *viewState) {
	if l.parts == nil {
		l.parts = map[es.TopicPartition]*part{}
	}
	for n := range v.cursors {
		c := v.cursors[n]
		pt := l.parts[c.TopicPartition]
		if pt == nil {
			pt = &part{tp: c.TopicPartition, cursor: c, decoders: l.p.decoders[v.topic.Name]}
			l.parts[c.TopicPartition] = pt
		}
		if c.Next < pt.cursor.Next {
			pt.cursor = c
		}
		v.parts[n].Store(pt)
	}
}

// aim sets the ends of the log at the start: who has reached them has caught up.
func (l *lane) aim(targets map[string][]int64) {
	l.targets = targets
	for tp, pt := range l.parts {
		if ends := targets[tp.Topic]; int(tp.Partition) < len(ends) {
			pt.raise(ends[tp.Partition])
		}
	}
	for _, f := range l.folds {
		ends := targets[f.state().topic.Name]
		f.state().target.Store(&ends)
	}
}

// errAgain ends a lane that has to read events again which it has applied already.
var errAgain = errors.New("projection: the lane starts again")

// run works until ctx ends. Should a view that was left out of batches come upon an event that it cannot handle, the events
// since its last batch are not at hand any more: then the lane starts again from what is stored, and leaves no view out from then on.
func (l *lane) run(ctx context.Context) error {
	for {
		err := l.once(ctx)
		if !errors.Is(err, errAgain) {
			return err
		}
		l.patient = false
		l.parts = nil
		for _, f := range l.folds {
			// What was sealed need not have been committed.
			f.reset()
			if err := l.p.readCursors(f.state()); err != nil {
				return err
			}
			l.follow(f.state())
		}
		l.aim(l.targets)
	}
}

func (l *lane) once(ctx context.Context) (err error) {
	l.cur, l.flying, l.batch, l.owed = nil, false, 1, make([]int, len(l.folds))
	l.done, l.work = make(chan error, 1), make(chan *handover, 1)
	if l.snap, err = newSnapshot(l.db); err != nil {
		return err
	}
	for _, f := range l.folds {
		l.snap.hold()
		f.state().show(&shown{parts: f.state().progress(), snap: l.snap})
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	chunks := make(chan *chunk, 1)
	var wg sync.WaitGroup
	errs := make([]error, 3)
	start := func(i int, f func() error) {
		wg.Go(func() {
			// The end of one ends all: none has work without the others.
			errs[i] = f()
			cancel(errs[i])
		})
	}
	start(0, func() error { defer close(chunks); return l.fetch(ctx, chunks) })
	start(1, func() error { defer close(l.work); return l.applyAll(ctx, chunks) })
	start(2, func() error { return l.commitAll(ctx) })
	wg.Wait()
	l.snap.release()
	for i := range errs {
		if errors.Is(errs[i], context.Canceled) {
			errs[i] = nil
		}
	}
	if errors.Is(errs[1], errAgain) && errs[0] == nil && (errs[2] == nil || errors.Is(errs[2], errAgain)) {
		return errAgain
	}
	return errors.Join(errs...)
}

// fetch reads the log and decodes it.
func (l *lane) fetch(ctx context.Context, out chan<- *chunk) error {
	var from []eventlog.Cursor
	for _, pt := range l.parts {
		from = append(from, pt.cursor)
	}
	src, err := l.p.log.open(ctx, from)
	if err != nil {
		return fmt.Errorf("projection: %w", err)
	}
	defer src.Close()
	pace := pacer{rate: l.p.cfg.CatchUpRate}
	for {
		fetched, err := src.Poll(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("projection: %w", err)
		}
		for _, c := range l.chunks(fetched, chunkEvents) {
			if err := l.decode(ctx, c); err != nil {
				return nil //nolint:nilerr // only the end of ctx ends it
			}
			select {
			case out <- c:
			case <-ctx.Done():
				return nil
			}
			if err := pace.wait(ctx, c.events, l.behind()); err != nil {
				return nil //nolint:nilerr // as above
			}
		}
	}
}

// behind reports whether there is more in the log than was fetched.
func (l *lane) behind() bool {
	for _, pt := range l.parts {
		if end, _ := pt.oldest(0); pt.cursor.Next < end {
			return true
		}
	}
	return false
}

// decode decodes all pieces of a chunk. While the registry cannot be reached, it tries again: that is nobody's poison.
func (l *lane) decode(ctx context.Context, c *chunk) error {
	workers := runtime.GOMAXPROCS(0)
	if c.events < minShare || len(c.pieces) == 1 || workers == 1 {
		for i := range c.pieces {
			if err := l.decodePiece(ctx, &c.pieces[i], workers); err != nil {
				return err
			}
		}
		return nil
	}
	var (
		wg   sync.WaitGroup
		next atomic.Int64
		errs = make([]error, workers)
	)
	for w := range workers {
		wg.Go(func() {
			for errs[w] == nil {
				i := int(next.Add(1)) - 1
				if i >= len(c.pieces) {
					return
				}
				errs[w] = l.decodePiece(ctx, &c.pieces[i], 1)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (l *lane) decodePiece(ctx context.Context, p *piece, workers int) error {
	p.runs = make([]any, len(p.part.decoders))
	for k, d := range p.part.decoders {
		for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
			p.runs[k] = d.decode(ctx, p.records, workers)
			err := d.failure(p.runs[k])
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			l.pause("events cannot be decoded for the time being", err)
			if err := sleep(ctx, pause); err != nil {
				return err
			}
		}
	}
	l.resume()
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// applyAll applies chunks, and hands batches over: at once when the committer is idle and no chunk is ready, so that nothing waits
// for company; else when the batch is full.
func (l *lane) applyAll(ctx context.Context, in <-chan *chunk) error {
	for {
		var (
			c  *chunk
			ok bool
		)
		switch {
		case len(l.cur) == 0:
			select {
			case c, ok = <-in:
			case err := <-l.done:
				if err := l.landed(err); err != nil {
					return err
				}
				continue
			}
		case l.full():
			ok = true
		case l.flying:
			select {
			case c, ok = <-in:
			case err := <-l.done:
				if err := l.landed(err); err != nil {
					return err
				}
				continue
			}
		default:
			select {
			case c, ok = <-in:
			default:
				ok = true
			}
		}
		if !ok {
			return nil
		}
		var err error
		if c == nil {
			err = l.handOver(ctx, len(in) > 0)
		} else {
			err = l.apply(c)
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// full reports whether the next chunk might not fit into the batch any more. Views that can be left out do not count, until they
// have to be handed over themselves.
func (l *lane) full() bool {
	now := size{}
	for i, f := range l.folds {
		switch {
		case !l.patient || !f.gathers():
			now = now.plus(f.estimate())
		case !l.waits(i):
			return true
		}
	}
	writes, bytes := l.db.Room()
	// The next chunk makes it grow as the last one did, or a little more.
	return l.events() >= l.most || now.writes+l.grown.writes*5/4 > writes || now.bytes+l.grown.bytes*5/4 > bytes*15/16
}

// events returns how many events were applied and not handed over.
func (l *lane) events() (n int) {
	for _, c := range l.cur {
		n += c.events
	}
	return n
}

// waitEvents is how many events a view may be left out for.
const waitEvents = 1 << 17

// waits reports whether a view may be left out of the next batch, if more events are waiting already: it changes few rows, those
// many times over, and they still fit into a batch of their own.
func (l *lane) waits(i int) bool {
	writes, bytes := l.db.Room()
	s := l.folds[i].estimate()
	return l.patient && l.folds[i].gathers() && l.owed[i]+l.events() < waitEvents && s.writes < writes*3/4 && s.bytes < bytes*3/4
}

// A size is about what a batch will be in the store.
type size struct {
	writes int
	bytes  int64
}

func (s size) plus(o size) size { return size{s.writes + o.writes, s.bytes + o.bytes} }

func (l *lane) estimate() (sum size) {
	for _, f := range l.folds {
		sum = sum.plus(f.estimate())
	}
	return sum
}

// land waits until no batch is in flight.
func (l *lane) land() error {
	if !l.flying {
		return nil
	}
	return l.landed(<-l.done)
}

func (l *lane) landed(err error) error {
	l.flying = false
	return err
}

// each calls f for the folds, in parallel if the work is worth it.
func (l *lane) each(folds []int, f func(i int) error) error {
	errs := make([]error, len(folds))
	if l.events() < minShare || len(folds) == 1 {
		for k, i := range folds {
			errs[k] = f(i)
		}
		return errors.Join(errs...)
	}
	var wg sync.WaitGroup
	for k, i := range folds {
		wg.Go(func() { errs[k] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// all returns the numbers of all folds.
func (l *lane) all() []int {
	all := make([]int, len(l.folds))
	for i := range all {
		all[i] = i
	}
	return all
}

func (l *lane) apply(c *chunk) error {
	before := l.estimate()
	l.cur = append(l.cur, c)
	if err := l.applyTo(l.all(), c); err != nil {
		return err
	}
	after := l.estimate()
	l.grown = size{max(after.writes-before.writes, 0), max(after.bytes-before.bytes, 0)}
	return nil
}

// applyTo applies a chunk, the last one of cur, to some of the folds.
func (l *lane) applyTo(folds []int, c *chunk) error {
	broken := make([]bool, len(l.folds))
	err := l.each(folds, func(i int) error {
		ok, err := l.folds[i].apply(c, l.snap.Reader)
		broken[i] = !ok
		return err
	})
	if err != nil {
		return err
	}
	return l.mend(broken)
}

// mend rolls the broken views back to their last batch and applies the current one again, event by event.
func (l *lane) mend(broken []bool) error {
	for i, f := range l.folds {
		if !broken[i] {
			continue
		}
		if l.owed[i] > 0 {
			return errAgain
		}
		if err := l.land(); err != nil {
			return err
		}
		if err := l.refresh(); err != nil {
			return err
		}
		f.rollback()
		if err := f.applyCarefully(l.cur, l.snap.Reader); err != nil {
			return err
		}
		for _, h := range f.state().halts {
			if h != nil && !h.told {
				h.told = true
				l.p.cfg.Logger.Error("projection: a view has halted", "view", f.state().name, "version", f.state().version, "position", h.at.String(),
					"event", h.event, "type", h.typ, "error", h.reason)
			}
		}
	}
	return nil
}

// refresh takes a snapshot that has all batches; none is in flight.
func (l *lane) refresh() error {
	snap, err := newSnapshot(l.db)
	if err != nil {
		return err
	}
	l.snap.release()
	l.snap = snap
	return nil
}

// handOver gives the batch to the committer: all views together if they fit, else those that gather one by one, after the others.
// If more is waiting, they are left out for a while.
func (l *lane) handOver(ctx context.Context, behind bool) error {
	var groups [][]int
	together := size{}
	writes, bytes := l.db.Room()
	var gather []int
	for i, f := range l.folds {
		if f.gathers() {
			gather = append(gather, i)
			continue
		}
		if groups == nil {
			groups = [][]int{nil}
		}
		groups[0] = append(groups[0], i)
		together = together.plus(f.estimate())
	}
	var left []int
	for _, i := range gather {
		s := together.plus(l.folds[i].estimate())
		switch {
		case behind && l.waits(i):
			left = append(left, i)
		case groups != nil && l.owed[i] == 0 && s.writes < writes*7/8 && s.bytes < bytes*7/8:
			groups[0] = append(groups[0], i)
			together = s
		default:
			groups = append(groups, []int{i})
		}
	}
	for _, g := range groups {
		if err := l.handOverGroup(ctx, g); err != nil {
			return err
		}
	}
	for _, i := range left {
		l.owed[i] += l.events()
	}
	l.cur = l.cur[:0]
	return nil
}

// handOverGroup gives the committer what some of the folds have applied.
func (l *lane) handOverGroup(ctx context.Context, group []int) error {
	if err := l.land(); err != nil {
		return err
	}
	h := &handover{writes: make([]*writes, len(l.folds)), shown: make([]*shown, len(l.folds))}
	collect := func(i int) bool {
		h.writes[i] = &writes{}
		return l.folds[i].collect(h.writes[i], l.batch)
	}
	broken := make([]bool, len(l.folds))
	if err := l.each(group, func(i int) error { broken[i] = !collect(i); return nil }); err != nil {
		return err
	}
	if err := l.mend(broken); err != nil {
		return err
	}
	count, bytes := 0, int64(0)
	for _, i := range group {
		if broken[i] && !collect(i) {
			return ErrView.Because("view %q: its rows can be stored one by one, but not together", l.folds[i].state().name)
		}
		count += len(h.writes[i].ops)
		bytes += h.writes[i].bytes
	}
	if mostCount, mostBytes := l.db.Room(); count > mostCount || bytes > mostBytes {
		return l.split(ctx, group)
	}
	// No batch is in flight, so this snapshot has all batches up to the last one, and opening it does not wait.
	if err := l.refresh(); err != nil {
		return err
	}
	for _, i := range group {
		f := l.folds[i]
		f.seal(l.batch+1, l.batch-1)
		h.shown[i] = &shown{parts: f.state().progress()}
		l.owed[i] = 0
	}
	l.batch++
	l.flying = true
	l.work <- h
	return nil
}

// split applies the current batch again to some of the folds, in parts, because its writes do not fit into one transaction.
func (l *lane) split(ctx context.Context, group []int) error {
	for _, i := range group {
		if l.owed[i] > 0 {
			return errAgain
		}
	}
	if err := l.refresh(); err != nil {
		return err
	}
	for _, i := range group {
		l.folds[i].rollback()
	}
	whole := l.cur
	defer func() { l.cur = whole }()
	parts := whole
	if len(whole) == 1 {
		parts = whole[0].halves()
		if parts == nil {
			return ErrConfig.Because("the rows of all views that one event changes do not fit into one transaction").
				WithFix("open the store with a larger MemTable")
		}
		for _, c := range parts {
			if err := l.decode(ctx, c); err != nil {
				return err
			}
		}
	}
	for _, c := range parts {
		l.cur = []*chunk{c}
		if err := l.applyTo(group, c); err != nil {
			return err
		}
		if err := l.handOverGroup(ctx, group); err != nil {
			return err
		}
	}
	return nil
}

// commitAll writes the batches one after the other and shows them.
func (l *lane) commitAll(ctx context.Context) error {
	for h := range l.work {
		err := l.commit(ctx, h)
		l.done <- err
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *lane) commit(ctx context.Context, h *handover) error {
	b := l.db.NewBatch()
	defer b.Discard()
	for _, w := range h.writes {
		if w == nil {
			continue
		}
		for _, o := range w.ops {
			var err error
			if o.remove {
				err = b.Delete(o.key)
			} else {
				err = b.Set(o.key, o.value)
			}
			if err != nil {
				return fmt.Errorf("projection: %w", err)
			}
		}
	}
	for {
		err := b.Commit()
		if err == nil {
			break
		}
		if !errors.Is(err, store.ErrDiskFull) {
			return fmt.Errorf("projection: %w", err)
		}
		l.pause("the disk is full", err)
		if err := sleep(ctx, max(fault.From(err).RetryAfter, time.Second)); err != nil {
			// Not nil: the next batch must not be committed without this one.
			return err
		}
	}
	l.resume()
	snap, err := newSnapshot(l.db)
	if err != nil {
		return fmt.Errorf("projection: %w", err)
	}
	defer snap.release()
	least := map[*part]int64{}
	for i, f := range l.folds {
		v := f.state()
		if h.shown[i] != nil {
			snap.hold()
			h.shown[i].snap = snap
			v.show(h.shown[i])
		}
		for n, at := range v.shown.Load().parts {
			pt := v.parts[n].Load()
			if next, ok := least[pt]; !ok || at.next < next {
				least[pt] = at.next
			}
		}
	}
	for pt, next := range least {
		pt.forget(next)
	}
	l.p.CaughtUp() // remembers it
	return nil
}

// A pacer holds reading back to a rate while a view is behind.
type pacer struct {
	rate int
	next time.Time
}

func (p *pacer) wait(ctx context.Context, events int, behind bool) error {
	if p.rate == 0 || !behind {
		return nil
	}
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(time.Duration(events) * time.Second / time.Duration(p.rate))
	return sleep(ctx, p.next.Sub(now))
}
