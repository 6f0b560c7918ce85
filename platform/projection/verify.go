package projection

import (
	"bytes"
	"context"
	"iter"
	"slices"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/store"
)

// A Report says how two builds of a view differ at the same positions.
type Report struct {
	View      string       `json:"view"`
	A         string       `json:"a"` // the build that answers queries
	B         string       `json:"b"`
	Applied   es.Positions `json:"-"`
	Rows      int          `json:"rows"`      // of A
	Same      int          `json:"same"`      // in both, with the same content
	Different int          `json:"different"` // in both, with another content
	OnlyA     int          `json:"only_a"`
	OnlyB     int          `json:"only_b"`
	LettersA  int          `json:"dead_letters_a"` // events that are in no row
	LettersB  int          `json:"dead_letters_b"`
	Samples   []Difference `json:"-"` // the first of the rows that differ
}

// Equal reports whether the builds have the same rows.
func (r *Report) Equal() bool { return r.Different+r.OnlyA+r.OnlyB == 0 }

// A Difference is one row as two builds have it; nil = a build does not have it.
type Difference struct {
	Key  string `json:"key"`
	A, B *Row   `json:"-"`
}

// maxSamples is how many differences a Report holds.
const maxSamples = 50

// Verify compares the build of a view that answers queries with another one, "" = the newest, row by row, both at exactly the same
// positions: the other one is held there for as long as that takes, and what is compared with it is a snapshot, so that queries go on as
// usual. Errors: ErrViewNotFound, ErrBuildNotFound, ErrBuild for a build with an end, the stores', ctx's.
func (p *Projector) Verify(ctx context.Context, name, id string) (Report, error) {
	v, done, err := p.patient(ctx, name)
	if err != nil {
		return Report{}, err
	}
	defer done()
	b, err := v.find(id)
	if err != nil {
		return Report{}, err
	}
	a, _ := v.serving()
	switch {
	case a == b:
		return Report{}, ErrBuild.Because("build %s answers queries: it is compared with itself", id)
	case b.born.Bounded:
		return Report{}, ErrBuild.Because("build %s has an end, and the one that answers queries is beyond it", id)
	case b.code == nil:
		return Report{}, ErrBuild.Because("build %s is frozen: the program does not have its code any more", id)
	case a.code == nil || v.ctl.Paused:
		return Report{}, ErrBuild.Because("the build that answers queries is not kept up to date: it may never come to where the other one is").WithFix("resume the view, or switch and compare the other way round")
	}
	return v.compare(ctx, a, b)
}

// VerifyFresh compares the build of a view that answers queries with a fresh fold of the log by the code of the same version, which is
// removed afterwards. Errors are as for Verify, and ErrSpace.
func (p *Projector) VerifyFresh(ctx context.Context, name string, rate int) (Report, error) {
	v, done, err := p.patient(ctx, name)
	if err != nil {
		return Report{}, err
	}
	defer done()
	a, _ := v.serving()
	if a.code == nil {
		return Report{}, ErrBuild.Because("the build that answers queries is frozen: the program does not have its code any more")
	}
	o := Rebuild{Version: a.born.Version}
	if e, err := v.estimate(ctx, &o); err != nil {
		return Report{}, err
	} else if !e.fits() {
		return Report{}, ErrSpace.Because("%d bytes are free, the build that serves has %d", e.Free, e.Bytes)
	}
	b, err := v.create(birth{Version: o.Version, Rate: rate})
	if err != nil {
		return Report{}, err
	}
	defer func() {
		if e := v.drop(b); e != nil {
			p.cfg.Logger.Error("projection: a build that was only made to compare cannot be removed", "view", name, "build", b.born.id(), "error", e)
		}
	}()
	return v.compare(ctx, a, b)
}

// compare brings b to where a is and compares them.
func (v *view) compare(ctx context.Context, a, b *generation) (Report, error) {
	b.halted()
	defer v.resume(b)
	if err := b.readCursors(); err != nil {
		return Report{}, err
	}
	if err := v.ahead(ctx, a, b); err != nil {
		return Report{}, err
	}
	snap, s, err := a.hold()
	if err != nil {
		return Report{}, err
	}
	defer snap.release()
	end := make([]int64, len(b.slots))
	for n, tp := range b.slots {
		if i := a.slot(tp); i >= 0 {
			end[n] = s.slots[i].next
		}
	}
	b.until.Store(&end)
	defer func() {
		b.halted()
		b.until.Store(nil)
		b.bound()
	}()
	if err := v.reach(ctx, b); err != nil {
		return Report{}, err
	}
	r := Report{View: v.name, A: a.born.id(), B: b.born.id(), Applied: a.positions(s), LettersA: a.letters.count(), LettersB: b.letters.count()}
	err = b.read(func(rb *store.Reader, _ *shown) error { return r.compare(ctx, a, b, snap.Reader, rb) })
	return r, err
}

// ahead waits until a is at least as far as b.
func (v *view) ahead(ctx context.Context, a, b *generation) error {
	var need es.Positions
	for n, tp := range b.slots {
		if i := a.slot(tp); i >= 0 && b.cursors[n].Next > 0 {
			need = need.With(es.Position{TopicPartition: tp, Offset: b.cursors[n].Next - 1})
		}
	}
	w := &waiter{need: need, done: make(chan struct{})}
	a.mu.Lock()
	settled := w.settled(a, a.shown.Load())
	if !settled {
		a.waiters[w] = struct{}{}
	}
	a.mu.Unlock()
	if !settled {
		select {
		case <-w.done:
		case <-ctx.Done():
			a.mu.Lock()
			delete(a.waiters, w)
			a.mu.Unlock()
			return context.Cause(ctx)
		}
	}
	return a.verdict(w)
}

// reach keeps b up to date until it is where it is to end.
func (v *view) reach(ctx context.Context, b *generation) error {
	if b.complete() {
		return nil
	}
	v.p.start(0, b.born.Rate, b)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		r := b.runner.Load()
		if r == nil {
			break
		}
		select {
		case <-r.ended:
		case <-tick.C: // it may have halted
			if why := b.stuck(); why != "" {
				return ErrBuild.Because("build %s: %s", b.born.id(), why)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if !b.complete() {
		return ErrBuild.Because("build %s was stopped before it was where the other one is", b.born.id())
	}
	return nil
}

// compare goes through both stores in the order of the keys.
func (r *Report) compare(ctx context.Context, a, b *generation, ra, rb *store.Reader) error {
	nextA, stopA := iter.Pull2(ra.Scan(store.Prefix([]byte{rowSpace})))
	defer stopA()
	nextB, stopB := iter.Pull2(rb.Scan(store.Prefix([]byte{rowSpace})))
	defer stopB()
	step := func(next func() (store.Pair, error, bool), g *generation) (*Row, error) {
		pair, err, ok := next()
		if err != nil || !ok {
			return nil, err
		}
		row, err := g.parseRow(string(pair.Key[1:]), pair.Value)
		return &row, err
	}
	rowA, err := step(nextA, a)
	if err != nil {
		return err
	}
	rowB, err := step(nextB, b)
	if err != nil {
		return err
	}
	for rowA != nil || rowB != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		d := Difference{A: rowA, B: rowB}
		switch {
		case rowB == nil || rowA != nil && rowA.Key < rowB.Key:
			d.Key, d.B = rowA.Key, nil
			r.Rows++
			r.OnlyA++
		case rowA == nil || rowB.Key < rowA.Key:
			d.Key, d.A = rowB.Key, nil
			r.OnlyB++
		case bytes.Equal(rowA.JSON, rowB.JSON):
			r.Rows++
			r.Same++
			d.Key = ""
		default:
			d.Key = rowA.Key
			r.Rows++
			r.Different++
		}
		if d.Key != "" && len(r.Samples) < maxSamples {
			r.Samples = append(r.Samples, d)
		}
		was := [2]bool{d.A != nil || d.Key == "", d.B != nil || d.Key == ""}
		if was[0] {
			if rowA, err = step(nextA, a); err != nil {
				return err
			}
		}
		if was[1] {
			if rowB, err = step(nextB, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// Changed returns the rows of a view that the event at a position changed, as they are once the view has applied atLeast, which may be empty,
// and the keys of those that are not there then. Errors: ErrViewNotFound, ErrForeignTopic, ErrPositionAhead for a position that has no event,
// ErrBuildEnds, ErrNotCaughtUp, the log's, and why the event cannot be handled.
func (p *Projector) Changed(ctx context.Context, name string, at es.Position, atLeast es.Positions) (rows []Row, gone []string, err error) {
	g, err := p.live(name)
	if err != nil {
		return nil, nil, err
	}
	slot := g.slot(at.TopicPartition)
	if slot < 0 || g.code == nil {
		return nil, nil, ErrForeignTopic.Because("%s", at)
	}
	in := g.code.inputs[g.topicOf(slot)]
	ends, err := p.ends.atLeast(ctx, p.log, in.topic, at)
	if err != nil {
		return nil, nil, err
	}
	if at.Offset >= ends[at.Partition] {
		return nil, nil, ErrPositionAhead.Because("%s; the log ends before offset %d", at, ends[at.Partition])
	}
	rec, err := p.log.RecordAt(ctx, in.topic, at)
	if err != nil {
		return nil, nil, err
	}
	if rec.Mark != 0 {
		return nil, nil, nil
	}
	keys, err := g.code.keysOf(ctx, p.decoders[in.topic.Name][in.decoder], rec)
	if err != nil {
		return nil, nil, err
	}
	if err := p.wait(ctx, g, atLeast); err != nil {
		return nil, nil, err
	}
	err = g.read(func(r *store.Reader, _ *shown) error {
		rows, gone = nil, nil
		for _, key := range keys {
			row, err := g.readRow(r, key)
			if isNotFound(err) {
				gone = append(gone, key)
				continue
			}
			if err != nil {
				return err
			}
			rows = append(rows, row)
		}
		return nil
	})
	return rows, slices.Clip(gone), err
}
