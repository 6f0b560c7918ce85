package command

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

// Config is what an Engine works with; the zero value of a limit means its default.
type Config struct {
	Log      *eventlog.Client
	Topic    eventlog.Topic
	Store    *store.DB // the stream store, for this engine alone
	Identity eventlog.Identity
	Marks    eventlog.Marks
	Source   string // ce_source of the events, e.g. "/shop/orders"
	Group    string // the consumer group of the instances that share the partitions; "" = this one wants all of them
	Logger   *slog.Logger
	// Succeed tells the owner before this process, whose partition it has just claimed, to ask the log whether it still is the owner
	// (Confirm). Without it an owner that was deposed without noticing may answer from an old state for as long as the lease; nil = it is
	// not told. It returns when the other one knows, or cannot be told, within its context.
	Succeed func(ctx context.Context, before eventlog.Identity, partition int32)

	Queue        int           // commands that wait for one partition before more are refused; default 4096
	Patience     time.Duration // no more are let in than are answered within this time, as far as that is known; default 2 s
	BatchRecords int           // events in one write; default 4096
	BatchBytes   int           // bytes of one write; default 900 KiB; never more than the topic takes
	Streams      int           // streams kept in memory, over all partitions; default 131072
	StreamBytes  int           // of memory, about, that they may take; default 128 MiB
	AckTimeout   time.Duration // a write outstanding for longer stops admission; default 3 s
	// Long streams: every so many events their state is kept, so that loading one folds hardly more; default 256, -1 = never. Of so
	// many streams that are loaded from a kept state one is checked against its full fold; default 64, -1 = none.
	SnapshotEvery, SnapshotCheck int
	Lease                        time.Duration // an answer that appends nothing comes from an owner that was so not longer ago than this; default 3 s
}

func (c *Config) setDefaults() {
	for _, d := range []struct {
		field *int
		value int
	}{{&c.Queue, 4096}, {&c.BatchRecords, 4096}, {&c.BatchBytes, 900 << 10}, {&c.Streams, 1 << 17}, {&c.StreamBytes, 128 << 20}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if c.AckTimeout <= 0 {
		c.AckTimeout = 3 * time.Second
	}
	if c.Patience <= 0 {
		c.Patience = 2 * time.Second
	}
	if c.Lease <= 0 {
		c.Lease = 3 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// An Engine decides the commands C of one aggregate type on the partitions it owns and appends the events E they cause.
// Its methods may be called from any goroutine.
type Engine[S, C, E any] struct {
	cfg        Config
	decider    es.Decider[S, C, E]
	codec      *contract.Codec[E]
	events     *eventlog.Events[E]
	partitions []*partition[S, C, E]
	storing    *storer
	following  *follower[S, C, E]
	keeping    *keeper[S, C, E]
	damaged    *damage
	batches    sync.Pool      // of *batch[S, C]
	requests   sync.Pool      // of *request[C]
	scans      sync.WaitGroup // looks through the store, which must end before it is closed
	running    atomic.Bool
	stopping   chan struct{} // closed when Run is asked to end
	stopped    chan struct{} // closed when it has
	leave      sync.Once
	leaving    chan struct{} // closed to leave the group
	left       chan struct{} // closed when it was left
}

// New returns an Engine for the partitions of the topic; it decides nothing before Run.
func New[S, C, E any](cfg Config, d es.Decider[S, C, E], codec *contract.Codec[E]) *Engine[S, C, E] {
	cfg.setDefaults()
	if most := cfg.Topic.MaxBytes; most > 0 {
		cfg.BatchBytes = min(cfg.BatchBytes, most)
	}
	e := &Engine[S, C, E]{
		cfg:      cfg,
		decider:  d,
		codec:    codec,
		events:   eventlog.NewEvents(codec, cfg.Source),
		storing:  newStorer(cfg.Store, cfg.Logger),
		stopping: make(chan struct{}),
		stopped:  make(chan struct{}),
		leaving:  make(chan struct{}),
		left:     make(chan struct{}),
	}
	e.following = newFollower(e)
	e.keeping = newKeeper(e)
	e.damaged = newDamage()
	for id := range cfg.Topic.Partitions {
		e.partitions = append(e.partitions, newPartition(e, id))
	}
	return e
}

// Run claims the partitions that this process should own, follows the others, and decides commands until ctx ends; then it drains what
// was admitted, gives the partitions up and returns nil. It returns an error if the stream store fails or does not fit the log. It may be
// called once.
func (e *Engine[S, C, E]) Run(ctx context.Context) error {
	if e.running.Swap(true) {
		return errors.New("command: Run called twice")
	}
	defer close(e.stopped)
	// The storer outlives the partitions: what they append while draining must still be written.
	storing := make(chan error, 1)
	g, ctx := errgroup.WithContext(ctx)
	context.AfterFunc(ctx, func() {
		close(e.stopping)
		e.storing.stop()
	})
	go func() { storing <- e.storing.run() }()
	g.Go(func() error { return e.following.run(ctx) })
	g.Go(func() error { return e.place(ctx) })
	g.Go(func() error { return e.keeping.run(ctx) })
	g.Go(func() error { return e.damaged.watch(ctx) })
	for _, p := range e.partitions {
		g.Go(func() error { return p.run(ctx) })
	}
	g.Go(func() error {
		select {
		case <-e.storing.failed:
			return e.storing.err
		case <-ctx.Done():
			return nil
		}
	})
	err := e.damaged.note(e.cfg.Store, g.Wait())
	e.scans.Wait()
	e.storing.close()
	if failed := <-storing; err == nil {
		err = failed
	}
	return err
}

// Ready reports whether every partition takes commands: here, or at an owner that is known while this process keeps up with it.
func (e *Engine[S, C, E]) Ready() bool {
	for _, p := range e.partitions {
		if p.serving.Load() {
			continue
		}
		if r := p.route.get(); r.Here || r.Owner == (eventlog.Identity{}) || !p.warm.is() {
			return false
		}
	}
	return true
}

// Serves returns how many partitions this process owns and decides.
func (e *Engine[S, C, E]) Serves() int {
	n := 0
	for _, p := range e.partitions {
		if p.serving.Load() {
			n++
		}
	}
	return n
}

// Handle decides c and returns its receipt once its events are in the log for good, or the reason why nothing was appended.
// If ctx ends first, ErrUnavailable says that c will not take effect and ErrOutcome that it may: repeat it under the same id.
func (e *Engine[S, C, E]) Handle(ctx context.Context, c Command[C]) (Receipt, error) {
	if p := e.partition(c.Stream); p.admission.full() {
		return Receipt{}, overloaded(p.at, p.admission.waiting.Load()) // before it is worked on
	}
	if err := c.prepare(time.Now()); err != nil {
		return Receipt{}, err
	}
	return e.ask(ctx, &c, ask{})
}

// Lookup returns the receipt of a command that took effect on a stream, or ErrUnknownCommand.
func (e *Engine[S, C, E]) Lookup(ctx context.Context, stream es.StreamID, commandID string) (Receipt, error) {
	return e.ask(ctx, &Command[C]{Stream: stream, ID: commandID}, ask{lookup: true})
}

// Confirm has the log say whether this process is the owner of a partition, and returns nil if it is. If it is not, it knows that then.
func (e *Engine[S, C, E]) Confirm(ctx context.Context, partition int32) error {
	if partition < 0 || int(partition) >= len(e.partitions) {
		return ErrElsewhere.Because("there is no partition %d", partition)
	}
	_, err := e.request(ctx, e.partitions[partition], &Command[C]{}, ask{confirm: true, surely: true})
	return err
}

// An ask says what is wanted other than a decision.
type ask struct{ lookup, confirm, surely bool }

func (e *Engine[S, C, E]) ask(ctx context.Context, c *Command[C], what ask) (Receipt, error) {
	return e.request(ctx, e.partition(c.Stream), c, what)
}

// request has a partition's loop answer.
func (e *Engine[S, C, E]) request(ctx context.Context, p *partition[S, C, E], c *Command[C], what ask) (Receipt, error) {
	if r := p.route.get(); !r.Here {
		return Receipt{}, p.moved()
	}
	if since := p.waiting.Load(); since != 0 && time.Since(time.Unix(0, since)) > e.cfg.AckTimeout {
		return Receipt{}, ErrUnavailable.Because("%s: no broker has confirmed a write for %v", p.at, e.cfg.AckTimeout).After(time.Second)
	}
	if !p.admission.enter(what.surely) {
		return Receipt{}, overloaded(p.at, p.admission.waiting.Load())
	}
	defer p.admission.leave()
	r, ok := e.requests.Get().(*request[C])
	if !ok {
		r = &request[C]{answer: make(chan result, 1)}
	}
	r.ctx, r.command, r.lookup, r.confirm, r.surely, r.since = ctx, *c, what.lookup, what.confirm, what.surely, time.Now()
	select {
	case p.queue <- r:
	case <-e.stopped:
		return Receipt{}, errStopping
	default:
		return Receipt{}, overloaded(p.at, int64(cap(p.queue)))
	}
	select {
	case a := <-r.answer:
		// Answered, so nobody else holds it any more. A request whose caller gives up is left to the partition.
		*r = request[C]{answer: r.answer}
		e.requests.Put(r)
		return a.receipt, a.err
	case <-ctx.Done():
	case <-e.stopped:
	}
	if r.state.CompareAndSwap(queued, abandoned) {
		return Receipt{}, ErrUnavailable.Because("%s did not get to the command in time; it will not take effect", p.at).After(time.Second)
	}
	select {
	case a := <-r.answer:
		return a.receipt, a.err
	default:
		return Receipt{}, ErrOutcome.Because("the deadline passed while the write was on its way").WithFix("repeat the command with the same Idempotency-Key").After(time.Second)
	}
}

var errStopping = ErrUnavailable.Because("this instance is stopping").After(time.Second)

func (e *Engine[S, C, E]) partition(id es.StreamID) *partition[S, C, E] {
	return e.partitions[eventlog.PartitionOf(id, e.cfg.Topic.Partitions)]
}
