package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/millrace/millrace/platform/command"
	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/estest/check"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

// errGone is what a client meets whose instance is not there, or dies before it answers.
var errGone = errors.New("the instance is gone")

// engine is what is simulated.
type engine = command.Engine[account, request, event]

// settings are what all instances of a simulation have in common.
type settings struct {
	seed   uint64
	memory *contract.Memory // the schema registry
	lease  time.Duration
	most   time.Duration              // latency of a message, at most
	peer   func(address string) *node // finds other nodes; nil = owners do not tell those before them
	group  string                     // the consumer group of the instances; "" = each wants all partitions
	logger *slog.Logger
}

// A node is a place where an instance of the command service runs: a name, a network and a disk. start, stop and kill are for one
// goroutine, the rest for any.
type node struct {
	name    string
	dir     string
	cluster *cluster
	set     settings
	ghosts  sync.WaitGroup // lives that were killed and have not ended yet

	mu       sync.Mutex
	wire     *link
	life     *life // nil = nothing runs here
	stopping *life // asked to stop, before the next one was started
	n        uint64
	ends     []error // why instances ended by themselves
}

// A life is a process and its successors: a supervisor starts another one when it ends by itself.
type life struct {
	node   *node
	name   string // differs from that of every other life
	link   *link
	dir    string
	cancel context.CancelFunc
	before *life         // ends first: it was asked to stop and has the disk until it has
	killed chan struct{} // closed when it was killed
	done   chan struct{} // closed when it has ended

	mu     sync.Mutex
	engine *engine
	db     *store.DB
}

// link returns the network of what runs on the node now, or ran there last.
func (n *node) link() *link {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.wire
}

// start starts an instance, with the store that the last one left.
func (n *node) start(ctx context.Context) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.life != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	n.n++
	n.wire = newLink(n.cluster.network, n.set.seed, n.n<<8|uint64(n.name[len(n.name)-1]), n.set.most)
	n.wire.brokers = n.cluster.unreachable()
	l := &life{node: n, name: fmt.Sprint(n.name, ".", n.n), link: n.wire, dir: n.dir, cancel: cancel, killed: make(chan struct{}), done: make(chan struct{}), before: n.stopping}
	n.life, n.stopping = l, nil
	go l.run(ctx)
}

// stop asks the instance to end and waits until it has; an error if that takes longer than patience.
func (n *node) stop() error {
	l := n.leave(true)
	if l == nil {
		return nil
	}
	go l.retire()
	select {
	case <-l.done:
		return nil
	case <-time.After(patience):
		l.cancel()
		l.link.kill()
		<-l.done
		return fmt.Errorf("%s did not stop in %v", n.name, patience)
	}
}

// retire hands the partitions over before the end, as a process does that got SIGTERM.
func (l *life) retire() {
	defer l.cancel()
	l.mu.Lock()
	e := l.engine
	l.mu.Unlock()
	if e == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	e.HandOver(ctx)
}

// patience is how long an instance may take for what it must get done without faults.
const patience = time.Minute

// kill ends the instance as kill -9 does: nothing leaves it any more, and what is not in its store never gets there.
func (n *node) kill(wipe bool) error {
	l := n.leave(false)
	if l == nil {
		return nil
	}
	l.link.kill()
	close(l.killed)
	l.mu.Lock()
	db := l.db
	l.mu.Unlock()
	var err error
	if db != nil {
		err = db.Close()
	}
	l.cancel()
	n.ghosts.Go(func() {
		<-l.done
		if n.set.group != "" {
			time.Sleep(session)
			n.cluster.expire(n.set.group, l.name)
		}
	})
	if wipe {
		n.dir += "'" // nobody takes the old one from under one that still opens or closes it
	}
	return err
}

// leave takes the life out, so that start can begin another one.
func (n *node) leave(stopping bool) *life {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.life
	n.life = nil
	if stopping && l != nil {
		n.stopping = l
	}
	return l
}

func (l *life) run(ctx context.Context) {
	defer close(l.done)
	if l.before != nil {
		<-l.before.done
	}
	for ctx.Err() == nil {
		err := l.once(ctx)
		if ctx.Err() != nil {
			return
		}
		l.node.set.logger.Error("an instance has ended by itself", "node", l.node.name, "reason", err)
		l.node.mu.Lock()
		l.node.ends = append(l.node.ends, err)
		l.node.mu.Unlock()
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// once runs one instance.
func (l *life) once(ctx context.Context) (err error) {
	n := l.node
	log, err := eventlog.Open(ctx, eventlog.Config{
		Brokers: n.cluster.brokers, Env: "sim", ClientID: l.name, Dial: l.link.dial, Logger: n.set.logger.With("node", n.name),
		RequestTimeout: 300 * time.Millisecond, ConnectionTimeout: 500 * time.Millisecond, FetchWait: 100 * time.Millisecond,
		TopicMissing: time.Second,
	})
	if err != nil {
		return err
	}
	defer log.Close()
	topic, err := log.EnsureTopic(ctx, eventlog.TopicSpec{Name: n.cluster.topic, Partitions: n.cluster.partitions})
	if err != nil {
		return err
	}
	codec, err := contract.Bind(ctx, accounts(topic.Name), n.set.memory)
	if err != nil {
		return err
	}
	marks, err := eventlog.AvroMarks(ctx, topic.Name, n.set.memory)
	if err != nil {
		return err
	}
	db, err := openStore(l.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	e := command.New(command.Config{
		Log: log, Topic: topic, Store: db, Marks: marks, Source: "/sim", Logger: n.set.logger.With("node", n.name),
		Identity: eventlog.Identity{Instance: l.name, Address: n.name}, Lease: n.set.lease, Streams: 3, Group: n.set.group, SnapshotEvery: 8, SnapshotCheck: 1,
		Succeed: l.succeed(),
	}, decider(), codec)
	l.mu.Lock()
	l.engine, l.db = e, db
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.engine, l.db = nil, nil
		l.mu.Unlock()
	}()
	select {
	case <-l.killed:
		return errGone
	default:
	}
	return e.Run(ctx)
}

// succeed returns what tells the owner before this one that it is deposed; nil if the schedule has instances that do not.
func (l *life) succeed() func(context.Context, eventlog.Identity, int32) {
	if l.node.set.peer == nil {
		return nil
	}
	return func(ctx context.Context, before eventlog.Identity, partition int32) {
		// Whether the other one hears it is left open on purpose.
		_ = l.node.set.peer(before.Address).forward(ctx, l.link, func(ctx context.Context, e *engine) { _ = e.Confirm(ctx, partition) })
	}
}

func openStore(dir string) (*store.DB, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return store.Open(filepath.Join(dir, "streams"), store.Options{MemTable: 8 << 20, MinFree: -1})
}

// forward runs do on the instance as a request of another one, over whose link it goes: command.ErrGone if nobody listens here.
func (n *node) forward(ctx context.Context, from *link, do func(context.Context, *engine)) error {
	n.mu.Lock()
	l := n.life
	n.mu.Unlock()
	if l == nil {
		return command.ErrGone
	}
	from.travel()
	from.awake()
	l.link.mu.Lock()
	silent := l.link.down || l.link.deafIn || l.link.deafOut
	l.link.mu.Unlock()
	from.mu.Lock()
	silent = silent || from.down || from.deafIn || from.deafOut
	from.mu.Unlock()
	if silent {
		<-ctx.Done()
		return ctx.Err()
	}
	err := n.call(ctx, do)
	from.awake()
	return err
}

// call runs do on the instance, as a request of a client: it waits while the process is frozen, and ends with errGone if it dies.
func (n *node) call(ctx context.Context, do func(context.Context, *engine)) error {
	n.mu.Lock()
	l := n.life
	n.mu.Unlock()
	if l == nil {
		return errGone
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answered := make(chan struct{})
	refused := false
	go func() {
		defer close(answered)
		l.link.travel()
		l.link.awake()
		l.mu.Lock()
		e := l.engine
		l.mu.Unlock()
		if refused = e == nil; refused {
			return
		}
		do(ctx, e)
		l.link.awake()
		l.link.travel()
	}()
	select {
	case <-answered:
		select {
		case <-l.killed: // the process died before it could answer
			return errGone
		default:
		}
		if refused {
			return errGone
		}
		return nil
	case <-l.killed:
		cancel()
		return errGone
	case <-ctx.Done():
		return ctx.Err()
	}
}

// dump returns the rows of the store that the last instance left.
func (n *node) dump() ([]check.Row, error) {
	db, err := openStore(n.dir)
	if err != nil {
		return nil, err
	}
	var rows []check.Row
	err = db.Read(func(rd *store.Reader) error {
		for pair, err := range rd.Scan(store.Range{}) {
			if err != nil {
				return err
			}
			rows = append(rows, check.Row{Key: append([]byte(nil), pair.Key...), Value: append([]byte(nil), pair.Value...)})
		}
		return nil
	})
	return rows, errors.Join(err, db.Close())
}
