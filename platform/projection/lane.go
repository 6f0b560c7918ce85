package projection

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
)

// A lane is one reader of the log with the generations that it feeds: it fetches and decodes, and their runners apply what it hands them,
// each at its own pace as long as none is far behind the others.
type lane struct {
	p       *Projector
	runners []*runner
	parts   map[es.TopicPartition]*part
	paused  atomic.Bool
	rate    int // events per second while there is more in the log; 0 = no bound, but for builds beside others: see pacer
}

// chunkEvents is how many events are decoded and applied in one step: enough to be worth a goroutine, little enough to be held several times.
const chunkEvents = 2048

// besideEvents is how many of them are when others shall have the processors in between.
const besideEvents = 512

// besideBytes is how many bytes of the log are fetched at a time then: Kafka's client decodes them in one go.
const besideBytes = 1 << 20

func newLane(p *Projector, rate int) *lane {
	return &lane{p: p, rate: rate, parts: map[es.TopicPartition]*part{}}
}

// add has the lane read what g still has to read: from what is committed on, whatever a runner before had applied.
func (l *lane) add(g *generation, careful int) error {
	if err := g.readCursors(); err != nil {
		return fmt.Errorf("projection: view %s: %w", g.view.name, err)
	}
	l.runners = append(l.runners, newRunner(g, l, careful))
	for n, tp := range g.slots {
		topic := g.topicOf(n)
		pt := l.parts[tp]
		if pt == nil {
			pt = &part{tp: tp, cursor: g.cursors[n], decoders: make([]decoder, len(l.p.decoders[tp.Topic]))}
			l.parts[tp] = pt
		}
		if g.cursors[n].Next < pt.cursor.Next {
			pt.cursor = g.cursors[n]
		}
		if old := g.parts[n].Load(); old != nil {
			end, _ := old.oldest(0)
			pt.raise(end) // it may take a while until the log says where it ends now
		}
		k := g.code.inputs[topic].decoder
		pt.decoders[k] = l.p.decoders[tp.Topic][k]
		g.parts[n].Store(pt)
	}
	return nil
}

// aim sets the ends of the log when it begins to be read: who has reached them has caught up.
func (l *lane) aim(ctx context.Context) error {
	ends := map[string][]int64{}
	for _, r := range l.runners {
		for _, in := range r.g.code.inputs {
			if ends[in.topic.Name] != nil {
				continue
			}
			now, err := l.p.log.Ends(ctx, in.topic)
			if err != nil {
				return fmt.Errorf("projection: the ends of %s: %w", in.topic.Name, err)
			}
			ends[in.topic.Name] = now
		}
	}
	for tp, pt := range l.parts {
		if all := ends[tp.Topic]; int(tp.Partition) < len(all) {
			pt.raise(all[tp.Partition])
		}
	}
	for _, r := range l.runners {
		g := r.g
		target := make([]int64, len(g.slots))
		for n, tp := range g.slots {
			if all := ends[tp.Topic]; int(tp.Partition) < len(all) {
				target[n] = all[tp.Partition]
			}
		}
		g.target.Store(&target)
		if !g.reached.Load() && g.caughtUp(g.shown.Load()) {
			g.applied.end()
			g.reached.Store(true)
		}
		l.p.settled(g)
	}
	return nil
}

// run works until ctx ends, all runners have ended, or something is wrong that reading again does not mend.
func (l *lane) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	errs := make([]error, len(l.runners)+1)
	for i, r := range l.runners {
		wg.Go(func() {
			if errs[i] = r.run(ctx); errs[i] != nil {
				cancel(errs[i])
			}
		})
	}
	if err := l.fetch(ctx); err != nil {
		errs[len(l.runners)] = err
		cancel(err)
	}
	for _, r := range l.runners {
		close(r.in)
	}
	wg.Wait()
	return errors.Join(errs...)
}

// fetch reads the log, decodes it and hands it to the runners.
func (l *lane) fetch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		// Nobody may be left who wants what is polled for.
		for _, r := range l.runners {
			select {
			case <-r.ended:
			case <-ctx.Done():
				return
			}
		}
		cancel()
	}()
	var from []eventlog.Cursor
	for _, pt := range l.parts {
		from = append(from, pt.cursor)
	}
	fetchBytes := int32(0)
	if l.rate > 0 || l.beside() {
		fetchBytes = besideBytes
	}
	var src source
	err := l.insist(ctx, "the log cannot be read for the time being", func() (err error) {
		src, err = l.p.log.open(ctx, from, fetchBytes)
		return err
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("projection: %w", err)
	}
	defer src.Close()
	// After it was opened: that tells a topic that is gone from one that cannot be asked for.
	if err := l.insist(ctx, "the ends of the log are not known for the time being", func() error { return l.aim(ctx) }); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	pace := pacer{rate: l.rate, busy: firstBusy}
	for {
		fetched, err := src.Poll(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("projection: %w", err)
		}
		size := chunkEvents
		pace.look(l.left(), time.Now())
		held := pace.begin(l.beside())
		if held {
			size = min(max(besideEvents, l.rate/20), chunkEvents)
		}
		chunks := l.chunks(fetched, size)
		for i, c := range chunks {
			more := i+1 < len(chunks) || l.behind()
			c.gather = more && !held // large commits are not for those who leave others room
			if err := l.decode(ctx, c); err != nil {
				return nil //nolint:nilerr // only the end of ctx ends it
			}
			for _, r := range l.runners {
				select {
				case r.in <- c:
				case <-r.ended:
				case <-ctx.Done():
					return nil
				}
			}
			if err := pace.wait(ctx, c.events, more); err != nil {
				return nil //nolint:nilerr // as above
			}
		}
	}
}

// behind reports whether there is more in the log than is fetched; of what is, the caller knows.
func (l *lane) behind() bool {
	for _, pt := range l.parts {
		if end, _ := pt.oldest(0); pt.cursor.Next < end {
			return true
		}
	}
	return false
}

// left returns how many records of the log are not fetched, as far as is known.
func (l *lane) left() (n int64) {
	for _, pt := range l.parts {
		end, _ := pt.oldest(0)
		n += max(0, end-pt.cursor.Next)
	}
	return n
}

// decode decodes all pieces of a chunk. While the registry cannot be reached, it tries again: that is nobody's poison.
func (l *lane) decode(ctx context.Context, c *chunk) error {
	workers := l.p.cores
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
		if d == nil {
			continue // nobody here needs it
		}
		err := l.insist(ctx, "events cannot be decoded for the time being", func() error {
			p.runs[k] = d.decode(ctx, p.records, workers)
			return d.failure(p.runs[k])
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// insist calls do again, with a pause in between, for as long as it fails for a reason that may pass. It returns any other error, and the cause
// of ctx's end.
func (l *lane) insist(ctx context.Context, why string, do func() error) error {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := do()
		switch {
		case err == nil:
			l.resume()
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !passing(err):
			return err
		}
		l.pause(why, err)
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// pause notes, and logs when it is new, why nothing goes on.
func (l *lane) pause(why string, err error) {
	if l.paused.Swap(true) {
		return
	}
	l.p.cfg.Logger.Warn("projection: paused: "+why, "error", err)
	for _, r := range l.runners {
		if !r.over() {
			r.g.paused.Store(&why)
		}
	}
}

func (l *lane) resume() {
	if !l.paused.Load() || !l.paused.Swap(false) {
		return
	}
	l.p.cfg.Logger.Info("projection: goes on")
	for _, r := range l.runners {
		if !r.over() {
			r.g.paused.Store(nil)
		}
	}
}

// forget drops what all generations of the lane have committed from what is remembered for their lag. One that goes no further, in a partition
// or at all, would have all that comes remembered.
func (l *lane) forget() {
	least := make(map[*part]int64, len(l.parts))
	for _, pt := range l.parts {
		least[pt] = 1<<63 - 1
	}
	for _, r := range l.runners {
		if r.over() {
			continue
		}
		for n, at := range r.g.shown.Load().slots {
			if at.halt != nil || at.next >= r.g.limit(n) {
				continue
			}
			pt := r.g.parts[n].Load()
			if next, ok := least[pt]; ok {
				least[pt] = min(next, at.next)
			}
		}
	}
	for pt, next := range least {
		pt.forget(next)
	}
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

// beside reports whether all builds that the lane feeds are beside others that have caught up and answer queries.
func (l *lane) beside() bool {
	for _, r := range l.runners {
		if live, _ := r.g.view.serving(); live == r.g || !live.reached.Load() {
			return false
		}
	}
	return true
}

// A pacer holds reading back while a view is behind: to a rate, or to a share of the time.
type pacer struct {
	rate   int
	yields bool // there is no rate, and others are to have most of the time
	next   time.Time
	since  time.Time // when the chunk at hand was begun

	busy   int       // by how many doublings it yields more, for there is little room
	calm   int       // how many waits in a row were not too late
	less   int       // by how many halvings it yields less, for it would not come to an end
	left   int64     // how much there was to be read
	looked time.Time // then
}

// yielding is for how many times as long as it took to decode a chunk a pacer that yields waits after it, where there is nothing else to do.
// Decoding is about a third of what an event costs, so a build takes a third of a processor at most.
const yielding = 8

const (
	// tooLate is a wait that ends so much later than it should: others wait for a processor as long.
	tooLate = 3 * time.Millisecond
	// punctual is how many waits in a row must not be too late for a pacer to yield half as much again.
	punctual = 100
	// firstBusy is how often it yields twice as much at first, until it is known how much room there is.
	firstBusy = 2
	// mostBusy is how often it yields twice as much. Then a build takes about a hundredth of a processor.
	mostBusy = 5
)

const (
	// lookEvery is how often it is looked whether a build that yields comes nearer to the end of the log.
	lookEvery = 10 * time.Second
	// patience is for how long it may take to come there.
	patience = 6 * time.Hour
)

// look has a pacer yield half as much if what is left to be read does not shrink so that it is read in time: where more comes than a third of a
// processor folds, a build that went on yielding would never catch up.
func (p *pacer) look(left int64, now time.Time) {
	took := now.Sub(p.looked)
	switch {
	case p.looked.IsZero():
	case took < lookEvery:
		return
	case p.yields && float64(left)*took.Seconds() > float64(p.left-left)*patience.Seconds():
		p.less++
	}
	p.left, p.looked = left, now
}

// begin notes that what was fetched is going to be decoded, and reports whether reading is held back.
func (p *pacer) begin(beside bool) bool {
	p.since, p.yields = time.Now(), p.rate == 0 && beside
	return p.rate > 0 || p.yields
}

// share is for how many times as long as it took to decode a chunk a pacer that yields waits.
func (p *pacer) share() time.Duration { return yielding << p.busy >> p.less }

// felt notes by how much a wait was too long. Who answers queries waits for a processor as this does, so that it can be told from here whether
// there is room.
func (p *pacer) felt(late time.Duration) {
	if late > tooLate {
		p.busy, p.calm = min(p.busy+1, mostBusy), 0
		return
	}
	if p.calm++; p.calm == punctual {
		p.busy, p.calm = max(p.busy-1, 0), 0
	}
}

// wait waits for as long as what was fetched, so many events, is worth.
func (p *pacer) wait(ctx context.Context, events int, behind bool) error {
	if p.rate == 0 && !p.yields || !behind {
		return nil
	}
	now := time.Now()
	if p.yields {
		rest := p.share() * now.Sub(p.since)
		err := sleep(ctx, rest)
		p.since = time.Now()
		p.felt(p.since.Sub(now) - rest)
		return err
	}
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(time.Duration(events) * time.Second / time.Duration(p.rate))
	return sleep(ctx, p.next.Sub(now))
}
