package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/millrace/millrace/platform/command"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/estest/check"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
)

// A recorder keeps what clients were told.
type recorder struct {
	began time.Time

	mu       sync.Mutex
	attempts []check.Attempt
	odd      []error // answers that no client should ever get
}

func (r *recorder) now() time.Duration { return time.Since(r.began) }

func (r *recorder) add(a check.Attempt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempts = append(r.attempts, a)
}

// A sent is a command that somebody sent, for others to repeat.
type sent struct {
	stream, id string
	payload    request
	expect     *int64
}

// A workload is what the clients of one simulation share.
type workload struct {
	nodes   []*node
	auditor *node
	streams []string
	rec     *recorder

	mu       sync.Mutex
	sent     []sent
	versions map[string]int64 // the highest that anybody was told of
}

// client sends commands until it has sent so many.
func (w *workload) client(ctx context.Context, name string, rng *rand.Rand, count int) {
	for i := range count {
		select {
		case <-time.After(time.Duration(rng.Int64N(int64(300 * time.Millisecond)))):
		case <-ctx.Done():
			return
		}
		stream := w.streams[rng.IntN(len(w.streams))]
		node := w.nodes[rng.IntN(len(w.nodes))]
		wait := 50*time.Millisecond + time.Duration(rng.Int64N(int64(3*time.Second)))
		switch n := rng.IntN(20); {
		case n < 3:
			w.read(ctx, name, node, stream, wait)
		case n < 4:
			if s, ok := w.any(rng); ok {
				w.lookup(ctx, name, node, s, wait)
			}
		case n < 7:
			if s, ok := w.any(rng); ok {
				w.send(ctx, name, node, s, wait)
			}
		case n < 8:
			if s, ok := w.any(rng); ok {
				s.payload.Credit++ // another payload under the same id
				w.send(ctx, name, node, s, wait)
			}
		case n < 10:
			s := w.next(rng, name, i, stream)
			other := w.nodes[rng.IntN(len(w.nodes))]
			var both sync.WaitGroup
			both.Go(func() { w.send(ctx, name, node, s, wait) })
			both.Go(func() { w.send(ctx, name+"'", other, s, wait) })
			both.Wait()
		default:
			s := w.next(rng, name, i, stream)
			// A client that does not know repeats, wherever it gets to.
			for try := 0; try < 4; try++ {
				if o := w.send(ctx, name, node, s, wait); o != check.Unknown && o != check.Absent {
					break
				}
				node = w.nodes[rng.IntN(len(w.nodes))]
				select {
				case <-time.After(time.Duration(rng.Int64N(int64(500 * time.Millisecond)))):
				case <-ctx.Done():
					return
				}
			}
		}
	}
}

// next makes a new command.
func (w *workload) next(rng *rand.Rand, name string, i int, stream string) sent {
	s := sent{stream: stream, id: fmt.Sprintf("%s-%d", name, i)}
	switch n := rng.IntN(10); {
	case n < 4:
		s.payload = request{Debit: 1 + rng.Int64N(40)}
	case n < 5:
		s.payload = request{}
	case n < 6:
		s.payload = request{Credit: 1 + rng.Int64N(3), Times: 2 + rng.IntN(30)}
	default:
		s.payload = request{Credit: 1 + rng.Int64N(30), Times: 1}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if rng.IntN(4) == 0 {
		v := w.versions[stream]
		if rng.IntN(4) == 0 {
			v = max(0, v-1)
		}
		s.expect = &v
	}
	w.sent = append(w.sent, s)
	return s
}

// any returns a command that was sent before.
func (w *workload) any(rng *rand.Rand) (sent, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.sent) == 0 {
		return sent{}, false
	}
	return w.sent[rng.IntN(len(w.sent))], true
}

func (w *workload) learn(stream string, version int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.versions[stream] = max(w.versions[stream], version)
}

// send sends a command once and records the answer.
func (w *workload) send(ctx context.Context, client string, n *node, s sent, wait time.Duration) check.Outcome {
	a := check.Attempt{Client: client, Node: n.name, Stream: s.stream, Command: s.id, Payload: s.payload, Expect: s.expect, Call: w.rec.now()}
	c := command.Command[request]{Stream: es.StreamID(s.stream), ID: s.id, Payload: s.payload, Meta: es.Meta{Actor: client}}
	if s.expect != nil {
		v := es.Version(*s.expect)
		c.Expect = &v
	}
	w.ask(ctx, n, wait, &a, func(ctx context.Context, e *engine) func() {
		receipt, err := dispatch(ctx, w, n, e, c.Stream, func(ctx context.Context, e *engine, repeat bool) (command.Receipt, error) {
			c := c
			c.Repeat = repeat
			return e.Handle(ctx, c)
		})
		return func() { w.judge(&a, receipt, err) }
	})
	return a.Outcome
}

// lookup asks for the receipt of a command.
func (w *workload) lookup(ctx context.Context, client string, n *node, s sent, wait time.Duration) {
	a := check.Attempt{Client: client, Node: n.name, Stream: s.stream, Command: s.id, Call: w.rec.now()}
	w.ask(ctx, n, wait, &a, func(ctx context.Context, e *engine) func() {
		receipt, err := dispatch(ctx, w, n, e, es.StreamID(s.stream), func(ctx context.Context, e *engine, _ bool) (command.Receipt, error) {
			return e.Lookup(ctx, es.StreamID(s.stream), s.id)
		})
		return func() { w.judge(&a, receipt, err) }
	})
}

// read reads all events of a stream.
func (w *workload) read(ctx context.Context, client string, n *node, stream string, wait time.Duration) check.Outcome {
	a := check.Attempt{Client: client, Node: n.name, Stream: stream, Call: w.rec.now()}
	w.ask(ctx, n, wait, &a, func(ctx context.Context, e *engine) func() {
		events, err := dispatch(ctx, w, n, e, es.StreamID(stream), func(ctx context.Context, e *engine, _ bool) ([]es.Envelope[event], error) {
			return e.Events(ctx, es.StreamID(stream), 1, 1<<20)
		})
		return func() {
			if errors.Is(err, command.ErrStreamNotFound) {
				a.Outcome = check.Read
				return
			}
			w.judge(&a, command.Receipt{}, err)
			if err != nil {
				return
			}
			a.Outcome = check.Read
			for _, env := range events {
				a.Events = append(a.Events, check.Ref{ID: env.ID, Type: env.Type, Version: int64(env.Version)})
			}
			w.learn(stream, int64(len(events)))
		}
	})
	return a.Outcome
}

// ask runs do on the node for as long as the client waits, and records what came of it: do returns what to do with its answer, which is
// left undone if the answer did not arrive in time.
func (w *workload) ask(ctx context.Context, n *node, wait time.Duration, a *check.Attempt, do func(context.Context, *engine) func()) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	arrived := make(chan func(), 1)
	err := n.call(ctx, func(ctx context.Context, e *engine) {
		// A service gives up before its client does, and says what it knows.
		ctx, cancel := context.WithTimeout(ctx, wait-wait/4)
		defer cancel()
		arrived <- do(ctx, e)
	})
	a.Return = w.rec.now()
	if err == nil {
		(<-arrived)()
	} else {
		a.Outcome, a.Return = check.Unknown, check.Forever
	}
	w.rec.add(*a)
}

// dispatch gets a request to the owner of its stream as a service does that got it from a client: the answer here or there.
func dispatch[A any](ctx context.Context, w *workload, n *node, e *engine, stream es.StreamID, do func(ctx context.Context, e *engine, repeat bool) (A, error)) (A, error) {
	var answer A
	var refused error
	err := e.Dispatch(ctx, stream, func(repeat bool) (err error) {
		answer, err = do(ctx, e, repeat)
		return err
	}, func(ctx context.Context, owner eventlog.Identity, repeat bool) error {
		type reply struct {
			answer A
			err    error
		}
		arrived := make(chan reply, 1)
		if err := w.at(owner.Address).forward(ctx, n.link(), func(ctx context.Context, e *engine) {
			a, err := do(ctx, e, repeat)
			arrived <- reply{a, err}
		}); err != nil {
			return err
		}
		r := <-arrived
		if errors.Is(r.err, command.ErrElsewhere) || errors.Is(r.err, command.ErrMoved) {
			return r.err
		}
		if repeat && fault.KindOf(r.err) == fault.Unavailable {
			return command.ErrUnavailable.Wrap(r.err) // "not now" says nothing of the attempt before
		}
		answer, refused = r.answer, r.err
		return nil
	})
	if err == nil {
		err = refused
	}
	return answer, err
}

// at returns the node with an address.
func (w *workload) at(address string) *node {
	for _, n := range w.nodes {
		if n.name == address {
			return n
		}
	}
	return w.auditor
}

// judge translates an answer.
func (w *workload) judge(a *check.Attempt, r command.Receipt, err error) {
	f := fault.From(err)
	switch {
	case err == nil:
		a.Outcome = check.Acked
		a.Receipt = check.Receipt{Version: int64(r.Version), Partition: -1, Offset: -1, Replayed: r.Replayed}
		if !r.Position.IsZero() {
			a.Receipt.Partition, a.Receipt.Offset = r.Position.Partition, r.Position.Offset
		}
		for _, e := range r.Events {
			a.Receipt.Events = append(a.Receipt.Events, check.Ref{ID: e.ID, Type: e.Type, Version: int64(e.Version)})
		}
		w.learn(a.Stream, int64(r.Version))
	case f == nil:
		a.Outcome, a.Return = check.Unknown, check.Forever
		if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
			w.strange(a, err)
		}
	case errors.Is(err, command.ErrVersion):
		a.Outcome, a.Current = check.Conflict, *f.Current
	case errors.Is(err, command.ErrReused):
		a.Outcome = check.Reused
	case errors.Is(err, command.ErrUnknownCommand):
		a.Outcome = check.NotFound
	case f.Kind == fault.Rejected:
		a.Outcome, a.Code = check.Refused, f.Code
	case f.Kind == fault.Unknown:
		a.Outcome, a.Return = check.Unknown, check.Forever
	case f.Kind.Retryable(), f.Kind == fault.TooLarge:
		a.Outcome = check.Absent
	default:
		a.Outcome, a.Return = check.Unknown, check.Forever
		w.strange(a, err)
	}
}

func (w *workload) strange(a *check.Attempt, err error) {
	w.rec.mu.Lock()
	defer w.rec.mu.Unlock()
	w.rec.odd = append(w.rec.odd, fmt.Errorf("%s on %q at %s: %w", a.Command, a.Stream, a.Node, err))
}
