package projection

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/store"
)

// A fold is a generation's fold of events into rows in memory, with its types hidden. All methods are for the applying goroutine.
type fold interface {
	// apply folds a chunk into the rows. ok is false if an event could not be handled: then the rows are in disorder, and what was not
	// committed must be folded again, carefully. err is a failure of the store.
	apply(c *chunk, snap *store.Reader) (ok bool, err error)
	// applyCarefully folds a chunk event by event; one that cannot be handled changes nothing, and is treated as the view's policy says.
	// more is true if it stopped because a batch is full: then it is to be called again with the same chunk.
	applyCarefully(c *chunk, snap *store.Reader, full func() bool) (more bool, err error)
	// again folds one record that is among the dead letters; reason says why it cannot be handled.
	again(topic int, run any, snap *store.Reader) (reason, err error)
	// queue adds a write about dead letters to the next batch.
	queue(q queued)
	// collect encodes the rows that changed since the last collect; ok is as for apply. The batches are to be committed together.
	// changes are the rows for those who watch, if watched.
	collect(watched bool) (batches []*store.Batch, changes []Change, ok bool)
	// seal begins the next batch. Rows of batches up to visible are in the snapshots that the fold will be given, and may leave memory.
	seal(next, visible uint64)
	// estimate returns about what a collect would yield now.
	estimate() size
}

// A size is about what a batch will be in the store.
type size struct {
	writes int
	bytes  int64
}

// A runner keeps one generation up to date from what a lane hands it. One goroutine applies and encodes, another commits, so that
// while one batch is on its way to the disk the next is filled.
type runner struct {
	g *generation
	l *lane

	in       chan *chunk
	calls    chan func() error // to be made by the applying goroutine, between chunks
	stopping chan struct{}     // closed by stop
	ended    chan struct{}     // closed when nothing of it runs any more
	stopOnce sync.Once
	endOnce  sync.Once
	landed   chan error // the batch in flight is committed and shown
	work     chan *handover

	// Of the applying goroutine.
	snap    *snapshot // what is committed up to batch `visible`
	batch   uint64
	flying  bool
	events  int              // applied since the last handover
	grown   size             // by how much the last chunk made the batch grow
	careful int              // how many events are still to be applied one by one
	gather  bool             // what was applied is to wait for more
	waits   <-chan time.Time // until then what was applied may wait for it; nil = nothing does
	late    bool             // it has waited
}

// A handover is a batch for the committer.
type handover struct {
	batches []*store.Batch
	shown   *shown
	changes []Change
	watched bool // changes are all there are
}

// carefulEvents is for how many events after one that could not be handled they are applied one by one: others like it may follow.
const carefulEvents = 1 << 15

// holdTime is for how long a build that has not caught up gathers what it applies before it commits it: a row that many events change is
// written once.
const holdTime = 2 * time.Second

// errCareful ends a runner that came upon an event that it could not handle: what is not committed has to be read again.
var errCareful = errors.New("projection: the events since the last commit have to be applied one by one")

// errStopped ends a runner that was stopped or has reached its end.
var errStopped = errors.New("projection: the generation is not kept up to date any more")

func newRunner(g *generation, l *lane, careful int) *runner {
	r := &runner{g: g, l: l, in: make(chan *chunk, 2), calls: make(chan func() error), stopping: make(chan struct{}), ended: make(chan struct{}), careful: careful}
	g.runner.Store(r)
	g.applied.begin()
	g.paused.Store(nil) // what a runner before waited for is its own
	return r
}

// quit ends a runner that does not run, or not any more.
func (r *runner) quit() {
	r.endOnce.Do(func() {
		r.g.unsnap()
		r.g.runner.CompareAndSwap(r, nil)
		close(r.ended)
	})
}

// stop has the runner end, and returns when it has.
func (r *runner) stop() {
	r.stopOnce.Do(func() { close(r.stopping) })
	<-r.ended
}

// over reports whether r has ended.
func (r *runner) over() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

// run works until ctx ends, r is stopped, or the generation has reached its end. What it has to read again, carefully, it has a new
// lane for.
func (r *runner) run(ctx context.Context) error {
	err := r.applyAndCommit(ctx)
	switch {
	case errors.Is(err, errCareful):
		// Its successor is there before it has ended: whoever stops the generation stops that one, too.
		r.g.unsnap()
		r.endOnce.Do(func() {
			r.g.p.restart(r, carefulEvents, r.g.born.Rate, r.g)
			r.g.runner.CompareAndSwap(r, nil) // it has no successor if all ends
			close(r.ended)
		})
		return nil
	case errors.Is(err, errStopped), ctx.Err() != nil && errors.Is(err, context.Cause(ctx)):
		err = nil
	}
	r.quit()
	return err
}

func (r *runner) applyAndCommit(ctx context.Context) (err error) {
	g := r.g
	g.fold = g.code.begin(g)
	r.batch = 1
	r.landed, r.work = make(chan error, 1), make(chan *handover, 1)
	if r.snap, err = newSnapshot(g.db); err != nil {
		return err
	}
	r.snap.hold()
	g.show(&shown{slots: g.progress(), snap: r.snap})
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-r.stopping:
			cancel(errStopped)
		case <-ctx.Done():
		}
	})
	var errs [2]error
	wg.Go(func() {
		defer close(r.work)
		errs[0] = r.applyAll(ctx)
		cancel(errs[0])
	})
	wg.Go(func() {
		errs[1] = r.commitAll(ctx)
		cancel(errs[1])
	})
	wg.Wait()
	r.snap.release()
	if errs[1] != nil && !errors.Is(errs[1], context.Canceled) && !errors.Is(errs[1], errStopped) {
		return errs[1]
	}
	return errs[0]
}

// applyAll applies chunks, and hands batches over: at once when the committer is idle and no chunk is ready, so that nothing waits for
// company; when the batch is full; and of a build that has not caught up, after a while.
func (r *runner) applyAll(ctx context.Context) error {
	for {
		full := r.events > 0 && r.full() // an empty batch takes a chunk, however large the last one was
		if r.events > 0 && !r.flying && (full || len(r.in) == 0 && !r.gathers()) {
			if err := r.handOver(); err != nil {
				return err
			}
			continue
		}
		in := r.in
		if full {
			in = nil
		}
		select {
		case c, ok := <-in:
			if !ok {
				return nil
			}
			if err := r.apply(c); err != nil {
				return err
			}
			if r.g.complete() {
				return r.finish()
			}
		case err := <-r.landed:
			if r.flying = false; err != nil {
				return err
			}
		case <-r.waits:
			r.waits, r.late = nil, true
		case call := <-r.calls:
			if err := call(); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// gathers reports whether what was applied is to wait for more. Nobody can wait for a build that has not caught up to have a moment's event.
func (r *runner) gathers() bool { return r.gather && !r.late && !r.g.reached.Load() }

// finish commits the last batch of a generation that has reached its end.
func (r *runner) finish() error {
	if err := r.flush(); err != nil {
		return err
	}
	return errStopped
}

// flush returns when everything that was applied is committed, shown, and on the disk.
func (r *runner) flush() error {
	if err := r.land(); err != nil {
		return err
	}
	if r.events > 0 {
		if err := r.handOver(); err != nil {
			return err
		}
		if err := r.land(); err != nil {
			return err
		}
	}
	return r.g.db.Sync()
}

// full reports whether the next chunk might not fit into the batch any more.
func (r *runner) full() bool {
	writes, bytes := r.g.db.Room()
	now := r.g.fold.estimate()
	// The next chunk makes it grow as the last one did, or a little more.
	return r.events >= r.g.p.cfg.BatchEvents || now.writes+r.grown.writes*5/4 > writes*15/16 || now.bytes+r.grown.bytes*5/4 > bytes*7/8
}

// land waits until no batch is in flight.
func (r *runner) land() error {
	if !r.flying {
		return nil
	}
	r.flying = false
	return <-r.landed
}

func (r *runner) apply(c *chunk) error {
	g := r.g
	if r.careful > 0 {
		r.careful -= c.events
		return r.applyCarefully(c)
	}
	before := g.fold.estimate()
	ok, err := g.fold.apply(c, r.snap.Reader)
	if err != nil {
		return err
	}
	if !ok {
		return errCareful
	}
	if r.events == 0 {
		r.waits = time.After(holdTime)
	}
	r.gather = c.gather
	after := g.fold.estimate()
	r.grown = size{max(after.writes-before.writes, 0), max(after.bytes-before.bytes, 0)}
	r.events += c.events
	g.applied.add(c.events)
	c.done(len(r.l.runners))
	return nil
}

// applyCarefully applies a chunk event by event and commits it.
func (r *runner) applyCarefully(c *chunk) error {
	for {
		more, err := r.g.fold.applyCarefully(c, r.snap.Reader, r.brimming)
		if err != nil {
			return err
		}
		r.events++ // there is something to commit: a cursor at least
		if !more {
			r.g.applied.add(c.events)
			return r.flush()
		}
		if err := r.flush(); err != nil {
			return err
		}
	}
}

// brimming reports whether one more event might not fit into the batch.
func (r *runner) brimming() bool {
	writes, bytes := r.g.db.Room()
	now := r.g.fold.estimate()
	return now.writes > writes/4 || now.bytes > bytes/4 // the event may take half of it
}

// refresh takes a snapshot that has all batches; none is in flight.
func (r *runner) refresh() error {
	snap, err := newSnapshot(r.g.db)
	if err != nil {
		return err
	}
	r.snap.release()
	r.snap = snap
	return nil
}

// handOver gives what was applied to the committer; no batch is in flight.
func (r *runner) handOver() error {
	watched := r.g.watching.watched()
	batches, changes, ok := r.g.fold.collect(watched)
	writes, size := 0, int64(0)
	for _, b := range batches {
		writes, size = writes+b.Len(), size+b.Size()
	}
	most, room := r.g.db.Room()
	if !ok || writes > most || size > room {
		if r.careful > 0 {
			return ErrView.Because("view %q: its rows can be stored one by one, but not together", r.g.view.name)
		}
		return errCareful
	}
	// No batch is in flight, so this snapshot has all batches up to the last one, and opening it does not wait.
	if err := r.refresh(); err != nil {
		return err
	}
	r.g.fold.seal(r.batch+1, r.batch-1)
	r.batch++
	r.events, r.waits, r.late = 0, nil, false
	r.flying = true
	last := r.g.shown.Load()
	next := &shown{number: last.number + 1, first: last.first, slots: r.g.progress(), missing: r.g.letters.missing()}
	if next.reach() > last.reach() {
		next.first = next.number
	}
	r.work <- &handover{batches: batches, changes: changes, watched: watched, shown: next}
	return nil
}

// commitAll writes the batches one after the other and shows them.
func (r *runner) commitAll(ctx context.Context) error {
	for h := range r.work {
		err := r.commit(ctx, h)
		r.landed <- err
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) commit(ctx context.Context, h *handover) error {
	g := r.g
	paused := false
	// Queries do not wait for the disk: what a power cut takes is folded from the log again. A build that says that it has caught up is on it.
	write := g.db.WriteTogether
	if !g.reached.Load() {
		write = g.db.CommitTogether
	}
	for {
		err := write(h.batches...)
		if err == nil {
			break
		}
		if !errors.Is(err, store.ErrDiskFull) {
			return fmt.Errorf("projection: view %s: %w", g.view.name, err)
		}
		if !paused {
			paused = true
			why := "the disk is full"
			g.paused.Store(&why)
			g.p.cfg.Logger.Warn("projection: paused: "+why, "view", g.view.name, "build", g.born.id(), "error", err)
		}
		if err := sleep(ctx, max(fault.From(err).RetryAfter, time.Second)); err != nil {
			// Not nil: the next batch must not be committed without this one.
			return err
		}
	}
	if paused {
		g.p.cfg.Logger.Info("projection: goes on", "view", g.view.name, "build", g.born.id())
		g.paused.Store(nil)
	}
	snap, err := newSnapshot(g.db)
	if err != nil {
		return fmt.Errorf("projection: view %s: %w", g.view.name, err)
	}
	h.shown.snap = snap
	g.show(h.shown)
	g.watching.publish(h.watched, h.changes, h.shown)
	r.l.forget()
	g.p.settled(g)
	return nil
}

// call has f run by the applying goroutine of a generation, between events, and returns its error; ErrPaused if none runs.
func (g *generation) call(ctx context.Context, f func(r *runner) error) error {
	r := g.runner.Load()
	if r == nil {
		return ErrPaused.Because("view %s, build %s", g.view.name, g.born.id())
	}
	answer := make(chan error, 1)
	select {
	case r.calls <- func() error {
		err := f(r)
		answer <- err
		if errors.Is(err, errCareful) || errors.Is(err, store.ErrFailed) {
			return err
		}
		return nil
	}:
		return <-answer
	case <-r.ended:
		return ErrPaused.Because("view %s, build %s", g.view.name, g.born.id())
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
