package command

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/embedded"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

// until waits until a condition holds.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(30 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not %s after 30 s", what)
		}
	}
}

// A fleet is instances of one service over one broker; their network is function calls.
type fleet struct {
	t      testing.TB
	addr   string
	env    string
	topic  eventlog.Topic
	memory *contract.Memory
	codec  *contract.Codec[event]
	marks  eventlog.Marks

	mu        sync.Mutex
	instances map[string]*instance // by address
	began     int
}

type instance struct {
	fleet   *fleet
	address string
	engine  *Engine[account, cmd, event]
	stop    func() // as SIGTERM does
	kill    func() // as kill -9 does, as far as the others can see
	gone    atomic.Bool
}

func newFleet(t testing.TB, partitions int32) *fleet {
	t.Helper()
	f := &fleet{t: t, env: fmt.Sprintf("fleet-%d", time.Now().UnixNano()), memory: contract.NewMemory(), instances: map[string]*instance{}}
	if f.addr = realKafka(); f.addr == "" {
		broker, err := embedded.Start(embedded.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(broker.Close)
		f.addr = broker.Addr()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	log, err := eventlog.Open(ctx, eventlog.Config{Brokers: []string{f.addr}, Env: f.env})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	name := accounts.Topic + "." + f.env
	if f.topic, err = log.EnsureTopic(ctx, eventlog.TopicSpec{Name: name, Partitions: partitions}); err != nil {
		t.Fatal(err)
	}
	if f.codec, err = contract.Bind(ctx, accounts, f.memory); err != nil {
		t.Fatal(err)
	}
	if f.marks, err = eventlog.AvroMarks(ctx, name, f.memory); err != nil {
		t.Fatal(err)
	}
	return f
}

// start adds an instance.
func (f *fleet) start(change ...func(*eventlog.Config)) *instance {
	f.t.Helper()
	f.mu.Lock()
	f.began++
	name := fmt.Sprint("i-", f.began, ":1")
	f.mu.Unlock()
	return f.startAt(name, name, change...)
}

// startAt adds an instance of a name at an address, which another one may have had before.
func (f *fleet) startAt(name, address string, change ...func(*eventlog.Config)) *instance {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	i := &instance{fleet: f, address: address}
	f.mu.Lock()
	f.instances[i.address] = i
	f.mu.Unlock()
	cfg := eventlog.Config{Brokers: []string{f.addr}, Env: f.env}
	for _, c := range change {
		c(&cfg)
	}
	log, err := eventlog.Open(ctx, cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	db, err := store.Open(filepath.Join(f.t.TempDir(), "streams"), store.Options{})
	if err != nil {
		f.t.Fatal(err)
	}
	i.engine = New[account, cmd, event](Config{
		Log: log, Topic: f.topic, Store: db, Marks: f.marks, Source: "/test", Group: f.env,
		Identity: eventlog.Identity{Instance: name, Address: address},
		Succeed: func(ctx context.Context, before eventlog.Identity, partition int32) {
			f.mu.Lock()
			old := f.instances[before.Address]
			f.mu.Unlock()
			if old != nil && !old.gone.Load() {
				_ = old.engine.Confirm(ctx, partition)
			}
		},
	}, decider, f.codec)
	run, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- i.engine.Run(run) }()
	var once sync.Once
	finish := func() {
		once.Do(func() {
			i.gone.Store(true)
			stop()
			if err := <-ended; err != nil {
				f.t.Errorf("%s: %v", i.address, err)
			}
			log.Close()
			if err := db.Close(); err != nil {
				f.t.Error(err)
			}
		})
	}
	i.stop = func() {
		leave, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		i.engine.HandOver(leave)
		finish()
	}
	i.kill = func() {
		i.gone.Store(true)
		log.Close() // nothing of it reaches the brokers any more
		finish()
	}
	f.t.Cleanup(finish)
	return i
}

// send gives a command to an instance, which forwards it if need be.
func (i *instance) send(ctx context.Context, stream, id string, c cmd) (got Receipt, err error) {
	order := Command[cmd]{Stream: es.StreamID(stream), ID: id, Payload: c}
	var answer error
	err = i.engine.Dispatch(ctx, order.Stream, func(repeat bool) (err error) {
		order.Repeat = repeat
		got, err = i.engine.Handle(ctx, order)
		return err
	}, func(ctx context.Context, owner eventlog.Identity, repeat bool) error {
		i.fleet.mu.Lock()
		to := i.fleet.instances[owner.Address]
		i.fleet.mu.Unlock()
		if to == nil || to.gone.Load() {
			return ErrGone
		}
		order.Repeat = repeat
		receipt, e := to.engine.Handle(ctx, order)
		if errors.Is(e, ErrElsewhere) || errors.Is(e, ErrMoved) {
			return e
		}
		got, answer = receipt, e
		return nil
	})
	return got, errors.Join(err, answer)
}

// serves reports whether each of the instances owns something, and together everything.
func (f *fleet) serves(instances ...*instance) func() bool {
	return func() bool {
		sum := 0
		for _, i := range instances {
			n := i.engine.Serves()
			if n == 0 {
				return false
			}
			sum += n
		}
		return sum == int(f.topic.Partitions)
	}
}

// TestInstances: partitions spread over the instances that there are and move when one comes, leaves or dies, while every instance takes
// every command: none is lost, made twice or refused.
//
// G20: Any instance takes any command, also while partitions change hands: it reaches the owner, or waits for one until its caller's deadline.
func TestInstances(t *testing.T) {
	f := newFleet(t, 8)
	one := f.start()
	until(t, "all at the first", f.serves(one))

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var live sync.Map // *instance → true
	live.Store(one, true)
	var sent atomic.Int64
	var worst atomic.Int64
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for c := range 8 {
		clients.Go(func() {
			for n := 1; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				var at *instance
				live.Range(func(k, _ any) bool { at = k.(*instance); return n%2 == 0 })
				began := time.Now()
				stream := fmt.Sprint("s-", c)
				got, err := at.send(ctx, stream, fmt.Sprint(stream, "-", n), credit{Amount: 1})
				if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrOutcome) {
					n-- // the instance was going: again, at another one
					continue
				}
				if err != nil || got.Version != es.Version(n) {
					t.Errorf("%s: command %d: %+v, %v", stream, n, got, err)
					return
				}
				sent.Add(1)
				for d := int64(time.Since(began)); ; {
					if old := worst.Load(); d <= old || worst.CompareAndSwap(old, d) {
						break
					}
				}
			}
		})
	}
	more := func() {
		t.Helper()
		before := sent.Load()
		until(t, "going on", func() bool { return sent.Load() > before+100 })
	}
	more()
	two := f.start()
	until(t, "shared by two", f.serves(one, two))
	live.Store(two, true)
	more()
	three := f.start()
	until(t, "shared by three", f.serves(one, two, three))
	live.Store(three, true)
	more()
	t.Logf("%d commands, the slowest took %v", sent.Load(), time.Duration(worst.Swap(0)))
	live.Delete(one)
	one.stop()
	until(t, "shared by the two that stay", f.serves(two, three))
	more()
	t.Logf("%d commands, the slowest took %v", sent.Load(), time.Duration(worst.Swap(0)))
	live.Delete(two)
	two.kill()
	more()
	until(t, "all at the last", f.serves(three))
	more()
	t.Logf("%d commands, the slowest took %v", sent.Load(), time.Duration(worst.Swap(0)))
	close(stop)
	clients.Wait()
	for c := range 8 {
		state, version, err := three.engine.State(ctx, es.StreamID(fmt.Sprint("s-", c)), nil)
		if err != nil || state.Balance != int64(version) {
			t.Errorf("s-%d: %+v at %d, %v", c, state, version, err)
		}
	}
}

// TestFormerLife: a process that was killed and started again at the same address takes what it had, though the group still counts on
// its former life.
func TestFormerLife(t *testing.T) {
	f := newFleet(t, 8)
	one := f.start()
	until(t, "all at the first", f.serves(one))
	log, err := eventlog.Open(t.Context(), eventlog.Config{Brokers: []string{f.addr}, Env: f.env})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	// It stands for the former life: it is given partitions and claims none.
	given := make(chan struct{})
	var once sync.Once
	member, err := log.Join(f.env, f.topic, func(mine []int32) {
		if len(mine) > 0 {
			once.Do(func() { close(given) })
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := member.Leave(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-given:
	case <-time.After(30 * time.Second):
		t.Fatal("the second member was given nothing")
	}
	one.kill()
	again := f.startAt("second life", one.address)
	until(t, "all at its second life", f.serves(again))
}
