package command

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/store"
)

// A request is a command, or the look-up of one, on its way through a partition.
type request[C any] struct {
	ctx     context.Context
	command Command[C]
	lookup  bool
	confirm bool // asks only whether this process is still the owner
	surely  bool // now, not within the lease
	since   time.Time
	retried bool // admitted before, under an owner that was deposed since
	state   atomic.Int32
	answer  chan result // holds one
}

// A partition decides the commands of one partition, one after the other, on one goroutine. Its life is a loop of claim, catch up, serve:
//
//	queue ─► admit: known id? → load → expected version → Decide → Evolve → encode into filling
//	filling ─► flying (one write on its way; the next fills meanwhile) ─ack─► answers, storer
//
// Nothing is answered before the write that it rests on is acknowledged. If a write fails, the owner is deposed: everything in memory is
// dropped, and what was not answered is decided again under the next claim, where the command id tells what had taken effect.
type partition[S, C, E any] struct {
	engine *Engine[S, C, E]
	at     es.TopicPartition
	queue  chan *request[C]

	admission *admission

	route   *routing
	wish    *wish
	warm    *warmth
	serving atomic.Bool
	waiting atomic.Int64  // since when a write is outstanding, Unix nanoseconds; 0 = none is
	proven  atomic.Int64  // when the latest write was sent that was acknowledged, Unix nanoseconds: this process was the owner then
	ready   chan struct{} // closed after the first claim: from then on stored and acked mean something
	acked   atomic.Int64  // offset after the last record that was acknowledged, or read at the claim
	stored  *progress     // offset before which everything is in the store

	suspecting atomic.Bool // whether the owner is gone
	following  bool        // the follower's: its source reads the partition
	began      int64       // offset up to which the store was filled when it was followed first

	// The rest belongs to the loop, but for the first two, which are the follower's while it follows.
	before   eventlog.Identity // who owned the partition last, before this process
	filter   streamFilter
	detached bool // the follower does not follow
	// What its former life owned was claimed.
	inherited bool
	cache     *cache[S]
	owner     *eventlog.Owner
	claimed   bool
	filling   *batch[S, C]
	flying    *batch[S, C]
	spare     []*eventlog.Batch
	single    map[string][]string // the types of a command with one event, the usual case
	dense     density
	batches   uint64
	held      *request[C]   // does not fit in filling; goes first into the next batch
	again     []*request[C] // to be decided again under the next claim
	acks      chan ack
}

type ack struct {
	base int64
	err  error
}

// A batch is one write: its encoded records and who waits for it.
type batch[S, C any] struct {
	seq     uint64
	encoded *eventlog.Batch
	taken   []taken[S, C]
	waits   []wait[C]
	arena   []byte // the events' frames, one after the other
	parts   []part // the events
}

// A part is one event of a batch: its id, and where its frame ends in the arena.
type part struct {
	id  string
	end int
}

// A taken command is in a batch.
type taken[S, C any] struct {
	request *request[C]
	stream  *stream[S]
	first   es.Version
	place   int      // of its first event in the batch
	types   []string // of its events; shared, never changed
	begin   int      // of its first event's frame in the arena
	meta    es.Meta
}

// last returns the place of the command's last record in the batch.
func (t *taken[S, C]) last() int { return t.place + max(len(t.types), 1) - 1 }

// A wait is an answer that rests on events of a batch: a refusal, or a repeat of a command in it.
type wait[C any] struct {
	request *request[C]
	result  result
	repeat  int // of taken[repeat]; -1 = result is the answer
}

func newPartition[S, C, E any](e *Engine[S, C, E], id int32) *partition[S, C, E] {
	p := &partition[S, C, E]{
		engine:    e,
		at:        es.TopicPartition{Topic: e.cfg.Topic.Name, Partition: id},
		queue:     make(chan *request[C], e.cfg.Queue),
		admission: newAdmission(e.cfg.Patience),
		ready:     make(chan struct{}),
		began:     -1,
		route:     newRouting(),
		wish:      newWish(),
		warm:      newWarmth(),
		single:    make(map[string][]string),
		stored:    newProgress(),
	}
	if e.cfg.Group == "" {
		p.route.set(true, e.cfg.Identity) // nobody else is to have it
	}
	return p
}

// run follows the partition while another process should own it, and claims and serves it while this one should, until ctx ends.
func (p *partition[S, C, E]) run(ctx context.Context) error {
	defer p.refuseAll()
	pause := 10 * time.Millisecond
	p.engine.following.attach(p)
	for {
		if !p.await(ctx) {
			return nil
		}
		err := p.takeOver(ctx)
		if err == nil {
			began := time.Now()
			err = p.serve(ctx)
			p.wish.lost()
			if time.Since(began) > 10*time.Second {
				pause = 10 * time.Millisecond // two that take the partition from each other slow down
			}
		} else if errors.Is(err, eventlog.ErrFenced) {
			p.wish.lost() // somebody else claims it at the same time
		}
		p.serving.Store(false)
		if err = p.giveUp(ctx, err); err != nil || ctx.Err() != nil {
			return err
		}
		if !p.wish.get() {
			continue
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, time.Second)
	}
}

// giveUp ends an ownership, or the attempt of one, for a reason: it returns the reason if a new claim would not mend it. What the
// successor has written is read at once, for it says where the requests that wait are to go.
func (p *partition[S, C, E]) giveUp(ctx context.Context, reason error) error {
	owner := p.owner
	if owner != nil {
		owner.Release()
	}
	defer func() { p.owner = nil }()
	p.proven.Store(0) // it has no lease any more
	if ctx.Err() != nil {
		return nil
	}
	if !transient(reason) {
		return fmt.Errorf("command: %s: %w", p.at, reason)
	}
	p.engine.cfg.Logger.Warn("partition lost", "partition", p.at.String(), "reason", reason, "wanted", p.wish.get())
	if !p.detached {
		return nil // it was never had: the follower goes on, and knows the owner
	}
	p.route.set(p.engine.cfg.Group == "", eventlog.Identity{})
	// What was acknowledged here must be in the store before the log is read after it.
	if p.claimed {
		if err := p.waitStored(ctx); err != nil {
			return p.engine.storing.error()
		}
	}
	reading, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := p.catchUp(reading); err != nil && ctx.Err() == nil {
		if !transient(err) {
			return fmt.Errorf("command: %s: %w", p.at, err)
		}
		p.engine.cfg.Logger.Warn("what came after this owner is not known yet", "partition", p.at.String(), "reason", err)
	}
	if p.route.get().Owner != (eventlog.Identity{}) {
		p.sendAway()
	}
	p.detached = false
	p.engine.following.attach(p)
	return nil
}

// await returns true when this process should own the partition and its store is up to date, false when ctx has ended. Who asks
// meanwhile is sent to the owner; if nobody is known to be, and this process is to be, they wait.
func (p *partition[S, C, E]) await(ctx context.Context) bool {
	for {
		want, warm := p.wish.get(), p.warm.changed()
		if ctx.Err() != nil {
			return false
		}
		if p.warm.is() && (want || p.orphaned()) {
			return true
		}
		var queue <-chan *request[C]
		r := p.route.get()
		if !r.Here && (!want || r.Owner != (eventlog.Identity{})) {
			queue = p.queue
			p.sendAway()
		}
		select {
		case q := <-queue:
			if q.state.CompareAndSwap(queued, admitted) {
				q.answer <- result{err: p.moved()}
			}
		case <-warm:
		case <-p.wish.called:
		case <-r.Changed:
		case <-ctx.Done():
			return false
		}
	}
}

// orphaned reports, once, whether the owner is who listened at this process's address before it: a process that was killed and started
// again need not wait until the group has forgotten its former life. Once, for two that are reached at one address by mistake would take
// the partition from each other for ever.
func (p *partition[S, C, E]) orphaned() bool {
	me, owner := p.engine.cfg.Identity, p.route.get().Owner
	if p.inherited || owner.Address == "" || owner.Address != me.Address || owner.Instance == me.Instance {
		return false
	}
	p.inherited = true
	return true
}

// sendAway has everybody who waits here go to another owner. Nobody is kept for a later claim of this process: while another one was
// the owner, who waits may have been told by it that his command will not take effect.
func (p *partition[S, C, E]) sendAway() {
	for _, q := range p.again {
		q.answer <- result{err: errOpen(p.at)}
	}
	p.again = nil
	for {
		select {
		case q := <-p.queue:
			if q.state.CompareAndSwap(queued, admitted) {
				q.answer <- result{err: p.moved()}
			}
		default:
			return
		}
	}
}

// moved is the answer to a request that did not get anywhere here.
func (p *partition[S, C, E]) moved() error {
	return ErrElsewhere.Because("%s", p.at).After(time.Second)
}

// errOpen is the answer to a command that was on its way to the log when the partition was lost.
func errOpen(at es.TopicPartition) error {
	return ErrMoved.Because("%s", at).WithFix("repeat the command with the same Idempotency-Key").After(time.Second)
}

// transient reports whether a new claim may mend err: brokers, claimants and foreign writers come and go, and a batch that the topic
// does not take was answered. A store that failed or does not fit the log stays as it is.
func transient(err error) bool {
	switch {
	case errors.Is(err, store.ErrFailed), errors.Is(err, store.ErrDamaged), errors.Is(err, store.ErrClosed):
		return false
	case errors.Is(err, eventlog.ErrForeign), errors.Is(err, eventlog.ErrTooLarge), errors.Is(err, eventlog.ErrRefused), errors.Is(err, context.DeadlineExceeded):
		return true
	}
	return fault.KindOf(err).Retryable()
}

// succession bounds how long a new owner waits until the old one knows.
const succession = 500 * time.Millisecond

// takeOver makes this process the owner and brings the store up to the claim.
func (p *partition[S, C, E]) takeOver(ctx context.Context) error {
	e := p.engine
	// A claim deposes whoever serves the partition now: not by a process whose own store takes nothing.
	if err := probe(e.cfg.Store, p.at.Partition); err != nil {
		return err
	}
	began := time.Now()
	owner, err := e.cfg.Log.Claim(ctx, e.cfg.Topic, p.at.Partition, e.cfg.Identity, e.cfg.Marks)
	if err != nil {
		return err
	}
	p.owner = owner
	p.route.set(true, e.cfg.Identity) // not before: claiming takes as long as the coordinator lets it, and the old owner serves meanwhile
	claimed := time.Now()
	if err := e.following.detach(ctx, p); err != nil {
		return err
	}
	p.detached = true
	if err := p.catchUp(ctx); err != nil {
		return err
	}
	e.cfg.Logger.Info("partition taken", "partition", p.at.String(), "claim", owner.Claimed().Offset, "claiming", claimed.Sub(began), "catching_up", time.Since(claimed))
	p.acked.Store(p.stored.get())
	if p.before != (eventlog.Identity{}) && e.cfg.Group != "" {
		p.sendAway()
	}
	if before := p.before; before != (eventlog.Identity{}) && e.cfg.Succeed != nil {
		telling, cancel := context.WithTimeout(ctx, succession)
		e.cfg.Succeed(telling, before, p.at.Partition)
		cancel()
	}
	p.before = eventlog.Identity{}
	if !p.claimed {
		p.claimed = true
		if p.began > 0 {
			p.buildFilter(ctx)
		}
		close(p.ready)
	}
	p.acks = make(chan ack, 1) // an answer to a write of the last owner must not pass for one of this
	p.cache = newCache[S](max(1, e.cfg.Streams/len(e.partitions)), e.cfg.StreamBytes/len(e.partitions))
	p.filling, p.flying, p.held = p.newBatch(), nil, nil
	return nil
}

// catchUp reads what others wrote before the claim, or after the owner ended, without the follower.
func (p *partition[S, C, E]) catchUp(ctx context.Context) error {
	cursor, err := readCursor(p.engine.cfg.Store, p.engine.cfg.Topic, p.at.Partition)
	if err != nil {
		return err
	}
	return p.owner.ReadOn(ctx, cursor, func(f eventlog.Fetched) error {
		err := p.follow(ctx, f)
		if err == nil {
			p.stored.set(f.Cursor.Next)
		}
		return err
	})
}

// reached notes how far the follower has brought the store, and where the log ends as far as it knows.
func (p *partition[S, C, E]) reached(next, end int64) {
	p.stored.set(next)
	p.warm.reached(next, end)
}

// owned notes who wrote a claim or a barrier.
func (p *partition[S, C, E]) owned(who eventlog.Identity) {
	if who.Instance == p.engine.cfg.Identity.Instance {
		return // known before it was written
	}
	p.before = who
	if !p.route.get().Here {
		p.route.set(false, who)
	}
}

// follow writes what was read from the log to the store; the cursor goes with it, also where a full transaction cuts it.
func (p *partition[S, C, E]) follow(ctx context.Context, f eventlog.Fetched) error {
	e := p.engine
	b := e.cfg.Store.NewBatch()
	defer func() { b.Discard() }()
	cursor := f.Cursor
	p.dense.begin(&f)
	var rows rowWriter
	var decoded []E // what cannot be read is found here, not when a command needs it
	for i := 0; i < len(f.Records); {
		r := &f.Records[i]
		var err error
		if r.Mark == eventlog.MarkClaim || r.Mark == eventlog.MarkBarrier {
			p.owned(r.Owner)
			err = putOwner(b, p.at.Partition, r.Owner)
		}
		if r.Mark == eventlog.MarkNote {
			var env es.Envelope[E]
			if env, err = e.events.Facts(*r); err != nil {
				return fmt.Errorf("command: record %s: %w", r.Position, err)
			}
			if env.Version == 0 {
				p.filter.begun(env.Stream)
			}
			line := rowOf(&env, nil)
			line.typ = ""
			err = rows.note(b, p.at.Partition, env.Stream, env.Version, &line)
		}
		if r.Mark == 0 {
			var env es.Envelope[E]
			if env, err = e.events.Facts(*r); err != nil {
				return fmt.Errorf("command: record %s: %w", r.Position, err)
			}
			if decoded, err = e.codec.DecodeAll(ctx, decoded[:0], r.Value); err != nil {
				return fmt.Errorf("command: record %s: %w", r.Position, err)
			}
			if err = p.follows(&env); err != nil {
				return err
			}
			line := rowOf(&env, r.Value)
			if env.Version == 1 {
				p.filter.begun(env.Stream)
			}
			if err = rows.put(b, p.at.Partition, env.Stream, env.Version, &line); err == nil {
				e.keeping.wrote(p.at.Partition, env.Stream, env.Version, r.Position.Offset)
			}
		}
		if err == nil {
			i++
			continue
		}
		if !isFull(err) || b.Len() == 0 {
			return err
		}
		cursor.Next, cursor.ProducerID, cursor.Epoch = r.Position.Offset, r.ProducerID, r.Epoch
		if err := putCursor(b, cursor); err != nil && !isFull(err) {
			return err
		}
		if err := b.Commit(); err != nil {
			return err
		}
		b = e.cfg.Store.NewBatch()
	}
	if err := putCursor(b, f.Cursor); err != nil {
		return err
	}
	return b.Commit()
}

// drainTime bounds how long a stopping partition waits for its last writes.
const drainTime = 5 * time.Second

// serve decides commands until the partition is lost, an error, or ctx ends and what was admitted is written, nil.
func (p *partition[S, C, E]) serve(ctx context.Context) error {
	var (
		stop    = ctx.Done()
		drained <-chan time.Time
	)
	defer func() { p.dropAll() }()
	p.serving.Store(true)
	p.readmit(ctx)
	for {
		p.send()
		if p.held != nil && p.filling.encoded.Len() == 0 {
			p.readmit(ctx) // the next batch fills while the full one is on its way
		}
		queue := p.queue
		if p.held != nil || stop == nil {
			queue = nil // full, or stopping: the rest waits where its caller can still give up
		}
		if stop == nil && p.flying == nil && p.held == nil && len(p.filling.waits) == 0 {
			return nil
		}
		select {
		case r := <-queue:
			p.next(ctx, r)
			// Everything that waits already shares the write.
			for n := len(queue); n > 0 && p.held == nil; n-- {
				p.next(ctx, <-queue)
			}
		case a := <-p.acks:
			if err := p.landed(a); err != nil {
				return err
			}
		case <-p.wish.called:
			// The partition may have had other owners since this one was last to have it, and if nobody asks here, nothing would tell:
			// whoever asks is sent to them. Have the log say.
			if p.wish.sure() {
				p.filling.waits = append(p.filling.waits, wait[C]{request: &request[C]{ctx: ctx, confirm: true, surely: true, answer: make(chan result, 1)}, repeat: -1})
			}
		case <-p.owner.Lost():
			if p.flying != nil {
				// The write has an end of its own, which says more.
				if err := p.landed(<-p.acks); err != nil {
					return err
				}
			}
			return p.owner.Err()
		case known := <-p.filter.built:
			p.filter.install(known)
		case <-p.engine.storing.failed:
			return p.engine.storing.err
		case <-stop:
			p.serving.Store(false)
			stop, drained = nil, time.After(drainTime)
		case <-drained:
			return nil
		}
	}
}

// readmit admits the request that did not fit, and those to be decided again, until one does not fit.
func (p *partition[S, C, E]) readmit(ctx context.Context) {
	again := p.again
	if p.held != nil {
		again = append([]*request[C]{p.held}, again...)
	}
	p.held, p.again = nil, nil
	for i, r := range again {
		if p.held != nil {
			p.again = again[i:]
			return
		}
		p.admit(ctx, r)
	}
}

// landed takes the end of the write that is on its way.
func (p *partition[S, C, E]) landed(a ack) error {
	since := p.waiting.Swap(0)
	switch {
	case a.err == nil:
		p.proven.Store(since)
		p.confirm(a.base)
	case errors.Is(a.err, eventlog.ErrTooLarge), errors.Is(a.err, eventlog.ErrRefused):
		// Nothing of it was written: everybody in it can be told, but what was decided on it since has to be decided again.
		b := p.flying
		p.flying = nil
		err := ErrTooLarge.Because("the topic does not take the write it was part of").Wrap(a.err)
		for i := range b.taken {
			b.taken[i].request.answer <- result{err: err}
		}
		for _, w := range b.waits {
			w.request.answer <- result{err: err}
		}
	}
	return a.err
}

// next admits a request from the queue unless its caller gave up.
func (p *partition[S, C, E]) next(ctx context.Context, r *request[C]) {
	if r.state.CompareAndSwap(queued, admitted) {
		p.admit(ctx, r)
	}
}

// admit decides a request on everything decided before on its stream, and puts the events into the batch that fills.
func (p *partition[S, C, E]) admit(ctx context.Context, r *request[C]) {
	if r.retried && r.ctx.Err() != nil {
		return // nobody waits any more; a repeat of the command finds out what became of it
	}
	if r.surely {
		p.filling.waits = append(p.filling.waits, wait[C]{request: r, repeat: -1})
		return
	}
	if r.confirm {
		p.rest(new(stream[S]), wait[C]{request: r, repeat: -1})
		return
	}
	c := &r.command
	s, err := p.load(ctx, c.Stream)
	if err != nil {
		r.answer <- result{err: err}
		return
	}
	known, err := p.known(s, c.ID)
	switch {
	case err != nil:
		r.answer <- result{err: err}
	case known != nil && !r.lookup && known.hash != c.Meta.CommandHash:
		p.rest(s, wait[C]{request: r, repeat: -1, result: result{
			err: ErrReused.Because("%q was given to another command on %q", c.ID, c.Stream).WithFix("use a new Idempotency-Key for every new command"),
		}})
	case known != nil && known.batch != 0:
		p.attach(known.batch, wait[C]{request: r, repeat: known.slot})
	case known != nil:
		a := receipt(p.at, s.id, known)
		a.Replayed = !r.retried && !r.lookup && !c.Repeat
		p.rest(s, wait[C]{request: r, repeat: -1, result: result{receipt: a}})
	case r.lookup:
		p.rest(s, wait[C]{request: r, repeat: -1, result: result{err: ErrUnknownCommand.Because("%q on %q", c.ID, c.Stream)}})
	case c.Expect != nil && *c.Expect != s.version:
		p.rest(s, wait[C]{request: r, repeat: -1, result: result{
			err: ErrVersion.Because("%q is at %d, expected %d", c.Stream, s.version, *c.Expect).WithCurrent(int64(s.version)).WithFix("read the stream again and decide anew"),
		}})
	default:
		p.decide(s, r)
	}
}

// decide asks the decider and takes the events.
func (p *partition[S, C, E]) decide(s *stream[S], r *request[C]) {
	c := &r.command
	events, state, err := p.consult(s, c)
	switch {
	case err != nil:
		p.rest(s, wait[C]{request: r, repeat: -1, result: result{err: err}})
	case len(events) == 0:
		p.note(s, r)
	default:
		p.take(s, r, events, state)
	}
}

// consult runs the author's code: a panic in it is an answer to this one command, not the end of the partition.
func (p *partition[S, C, E]) consult(s *stream[S], c *Command[C]) (events []E, state S, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = p.panicked(v, s.id, fmt.Sprintf("%T", c.Payload))
		}
	}()
	events, err = p.engine.decider.Decide(s.state, c.Payload, c.Meta)
	if err != nil {
		return nil, state, err
	}
	state = s.state
	for _, e := range events {
		state = p.engine.decider.Evolve(state, e)
	}
	return events, state, nil
}

func (p *partition[S, C, E]) panicked(v any, id es.StreamID, what string) error {
	p.engine.cfg.Logger.Error("decider panicked", "partition", p.at.String(), "stream", string(id), "in", what, "panic", v, "stack", string(debug.Stack()))
	return ErrDecider.Because("panic: %v", v)
}

// note takes a command that has nothing to do. It is noted in the log: decided again, on a later state, it might have something to do,
// although its caller was told that there was nothing.
func (p *partition[S, C, E]) note(s *stream[S], r *request[C]) {
	b, c := p.filling, &r.command
	if b.encoded.Len() >= p.engine.cfg.BatchRecords {
		p.held = r
		return
	}
	t := taken[S, C]{request: r, stream: s, first: s.version + 1, place: b.encoded.Len(), begin: len(b.arena), meta: c.Meta}
	err := p.engine.events.AddNote(b.encoded, es.Envelope[E]{Stream: s.id, Version: s.version, Meta: c.Meta}, p.engine.cfg.Marks, p.engine.cfg.Identity)
	switch {
	case errors.Is(err, eventlog.ErrBatchFull) && b.encoded.Len() > 0:
		p.held = r
		return
	case err != nil:
		p.rest(s, wait[C]{request: r, repeat: -1, result: result{err: err}})
		return
	}
	b.parts = append(b.parts, part{"", len(b.arena)})
	if s.version == 0 {
		p.filter.begun(s.id)
	}
	p.accept(s, r, t)
}

// accept makes a command that is in the batch part of its stream's past.
func (p *partition[S, C, E]) accept(s *stream[S], r *request[C], t taken[S, C]) {
	b := p.filling
	s.batch = b.seq
	s.remember(past{id: r.command.ID, hash: r.command.Meta.CommandHash, first: t.first, types: t.types, batch: b.seq, slot: len(b.taken)}, p.stored.get())
	b.taken = append(b.taken, t)
}

// take encodes the events, all in one batch, and makes them part of the stream's state.
func (p *partition[S, C, E]) take(s *stream[S], r *request[C], events []E, state S) {
	e, b, c := p.engine, p.filling, &r.command
	if n := b.encoded.Len(); n > 0 && n+len(events) > e.cfg.BatchRecords {
		p.held = r
		return
	}
	t := taken[S, C]{request: r, stream: s, first: s.version + 1, place: b.encoded.Len(), begin: len(b.arena), meta: c.Meta}
	save := b.encoded.Savepoint()
	for i, event := range events {
		if err := p.encode(&t, i, len(events), event); err != nil {
			b.encoded.Rollback(save)
			b.arena, b.parts = b.arena[:t.begin], b.parts[:t.place]
			switch {
			case errors.Is(err, eventlog.ErrBatchFull) && b.encoded.Len() > 0:
				p.held = r
			case errors.Is(err, eventlog.ErrBatchFull), errors.Is(err, eventlog.ErrTooLarge):
				p.rest(s, wait[C]{request: r, repeat: -1, result: result{
					err: ErrTooLarge.Because("%d events, more than %d bytes", len(events), e.cfg.BatchBytes).WithFix("split the command"),
				}})
			default:
				e.cfg.Logger.Error("event cannot be encoded", "partition", p.at.String(), "stream", string(s.id), "error", err)
				p.rest(s, wait[C]{request: r, repeat: -1, result: result{err: ErrDecider.Because("event %d", i).Wrap(err)}})
			}
			return
		}
	}
	if s.version == 0 {
		p.filter.begun(s.id)
	}
	s.state, s.version = state, s.version+es.Version(len(events))
	p.accept(s, r, t)
}

func (p *partition[S, C, E]) encode(t *taken[S, C], index, count int, event E) error {
	e, b := p.engine, p.filling
	start := len(b.arena)
	var err error
	if b.arena, err = e.codec.Append(b.arena, event); err != nil {
		return err
	}
	env := es.Envelope[E]{
		ID: es.EventID(t.stream.id, t.meta.CommandID, index), Type: e.codec.TypeName(event), Stream: t.stream.id,
		Version: t.first + es.Version(index), Index: index, Count: count, Time: t.meta.Time, Meta: t.meta, Event: event,
	}
	if count == 1 {
		t.types = p.typeOf(env.Type)
	} else {
		t.types = append(t.types, env.Type)
	}
	// What the log takes and the store does not would stop the partition for good.
	if len(b.arena)-start > maxFrame {
		return eventlog.ErrTooLarge.Because("event %d has %d bytes, at most %d are allowed", index, len(b.arena)-start, maxFrame)
	}
	b.parts = append(b.parts, part{env.ID, len(b.arena)})
	return e.events.AddFrame(b.encoded, &env, b.arena[start:])
}

// rest gives an answer that appends nothing as soon as everything it rests on is in the log, and it is sure that this process was the
// owner not longer than Config.Lease ago: a deposed owner does not know that its state is old.
func (p *partition[S, C, E]) rest(s *stream[S], w wait[C]) {
	switch {
	case s.batch != 0:
		p.attach(s.batch, w)
	case p.fresh():
		w.request.answer <- w.result
	default:
		p.filling.waits = append(p.filling.waits, w) // answered with the next write, a barrier if there is nothing to write
	}
}

// fresh reports whether an append was sent within the lease that was acknowledged since. An owner that should not be one any more, or
// only guesses that it should, has no lease: another one may have claimed the partition at any moment.
func (p *partition[S, C, E]) fresh() bool {
	return p.wish.sure() && time.Since(time.Unix(0, p.proven.Load())) < p.engine.cfg.Lease
}

func (p *partition[S, C, E]) attach(seq uint64, w wait[C]) {
	b := p.filling
	if p.flying != nil && p.flying.seq == seq {
		b = p.flying
	}
	b.waits = append(b.waits, w)
}

func (p *partition[S, C, E]) newBatch() *batch[S, C] {
	p.batches++
	b, ok := p.engine.batches.Get().(*batch[S, C])
	if !ok {
		b = new(batch[S, C])
	}
	b.seq = p.batches
	if n := len(p.spare); n > 0 {
		b.encoded, p.spare = p.spare[n-1], p.spare[:n-1]
	} else {
		b.encoded = eventlog.NewBatch(p.engine.cfg.BatchBytes)
	}
	return b
}

// recycle keeps the memory of a batch that is in the log and in the store. One that was lost is left to the collector: its requests live on.
func (p *partition[S, C, E]) recycle(b *batch[S, C]) {
	clear(b.taken)
	clear(b.waits)
	clear(b.parts)
	if cap(b.arena) > 4<<20 {
		b.arena = nil // an exceptional batch should not pin its memory
	}
	*b = batch[S, C]{taken: b.taken[:0], waits: b.waits[:0], parts: b.parts[:0], arena: b.arena[:0]}
	p.engine.batches.Put(b)
}

// send starts the write of what has gathered, if none is on its way.
func (p *partition[S, C, E]) send() {
	if p.flying != nil || p.filling.encoded.Len() == 0 && len(p.filling.waits) == 0 {
		return
	}
	p.flying, p.filling = p.filling, p.newBatch()
	p.waiting.Store(time.Now().UnixNano())
	acks := p.acks
	if p.flying.encoded.Len() == 0 {
		p.owner.Barrier(func(err error) { acks <- ack{0, err} })
		return
	}
	p.owner.Append(p.flying.encoded, func(base int64, err error) { acks <- ack{base, err} })
}

// confirm gives the answers that rest on the write that was acknowledged, and hands its events to the store.
func (p *partition[S, C, E]) confirm(base int64) {
	b := p.flying
	p.flying = nil
	if b.encoded.Len() > 0 {
		p.acked.Store(base + int64(b.encoded.Len()))
	}
	if len(b.taken) > 0 && !b.taken[0].request.retried {
		p.admission.answered(time.Since(b.taken[0].request.since))
	}
	cursor := p.owner.Cursor()
	b.encoded.Reset()
	p.spare = append(p.spare, b.encoded)
	b.encoded = nil
	for i := range b.taken {
		t := &b.taken[i]
		s := t.stream
		s.last = base + int64(t.last())
		if s.batch == b.seq {
			s.batch = 0
		}
		if of := s.find(t.meta.CommandID); of != nil {
			of.batch, of.offset = 0, s.last
		}
		t.request.answer <- result{receipt: p.receipt(b, t, base)}
	}
	for _, w := range b.waits {
		if w.repeat >= 0 {
			w.result.receipt = p.receipt(b, &b.taken[w.repeat], base)
			w.result.receipt.Replayed = !w.request.retried && !w.request.lookup && !w.request.command.Repeat
		}
		w.request.answer <- w.result
	}
	p.engine.storing.add(storeJob{
		bytes: len(b.arena) + 256*len(b.parts), cursor: cursor,
		write: func(w *rowWriter, into *store.Batch, from int) (int, error) { return p.write(w, into, b, base, from) },
		done: func() {
			p.stored.set(cursor.Next)
			p.recycle(b)
		},
	})
}

// receipt is what package function receipt says of the same command later, with the ids that were made for the log.
func (p *partition[S, C, E]) receipt(b *batch[S, C], t *taken[S, C], base int64) Receipt {
	r := Receipt{
		ID: t.stream.id, Version: t.first + es.Version(len(t.types)) - 1, Events: make([]EventRef, len(t.types)),
		Position: es.Position{TopicPartition: p.at, Offset: base + int64(t.last())},
	}
	for i, typ := range t.types {
		r.Events[i] = EventRef{Type: typ, ID: b.parts[t.place+i].id, Version: t.first + es.Version(i)}
	}
	return r
}

// write puts the rows of an acked batch from its from-th event on into a store batch; -1 = all are in, else the event to go on with.
func (p *partition[S, C, E]) write(w *rowWriter, into *store.Batch, b *batch[S, C], base int64, from int) (int, error) {
	for i := range b.taken {
		t := &b.taken[i]
		if len(t.types) == 0 && t.place >= from {
			r := row{offset: base + int64(t.place), time: t.meta.Time, meta: t.meta}
			if err := w.note(into, p.at.Partition, t.stream.id, t.first-1, &r); err != nil {
				return t.place, err
			}
		}
		start := t.begin
		for j := range t.types {
			place := t.place + j
			end := b.parts[place].end
			if place >= from {
				r := row{offset: base + int64(place), index: j, count: len(t.types), time: t.meta.Time, typ: t.types[j], meta: t.meta, frame: b.arena[start:end]}
				if err := w.put(into, p.at.Partition, t.stream.id, t.first+es.Version(j), &r); err != nil {
					return place, err
				}
				p.engine.keeping.wrote(p.at.Partition, t.stream.id, t.first+es.Version(j), r.offset)
			}
			start = end
		}
	}
	return -1, nil
}

// dropAll forgets everything in memory at the end of an ownership; what was not answered is decided again under the next claim.
func (p *partition[S, C, E]) dropAll() {
	var open []*request[C]
	for _, b := range []*batch[S, C]{p.flying, p.filling} {
		if b == nil {
			continue
		}
		for i := range b.taken {
			open = append(open, b.taken[i].request)
		}
		for _, w := range b.waits {
			open = append(open, w.request)
		}
	}
	if p.held != nil {
		open = append(open, p.held)
	}
	for _, r := range open {
		r.retried = true
	}
	p.again = append(open, p.again...)
	p.flying, p.filling, p.held, p.cache, p.spare = nil, nil, nil, nil, nil
	p.waiting.Store(0)
}

// refuseAll answers everybody who still waits when the partition ends.
func (p *partition[S, C, E]) refuseAll() {
	for _, r := range p.again {
		r.answer <- result{err: ErrOutcome.Because("this instance stopped before it was known whether the command took effect").WithFix("repeat the command with the same Idempotency-Key")}
	}
	p.again = nil
	for {
		select {
		case r := <-p.queue:
			if r.state.CompareAndSwap(queued, admitted) {
				r.answer <- result{err: errStopping}
			}
		default:
			return
		}
	}
}

// waitStored waits until everything that was acknowledged before the call is in the store.
func (p *partition[S, C, E]) waitStored(ctx context.Context) error {
	select {
	case <-p.ready:
	case <-ctx.Done():
		return ErrUnavailable.Because("%s is being claimed", p.at).After(time.Second)
	}
	return p.stored.wait(ctx, p.acked.Load(), p.engine.storing)
}
