package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/embedded"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/store"
)

// The model under test: an account that is credited and debited, and never below zero.

type event interface{ isEvent() }

type credited struct {
	Amount int64  `avro:"amount"`
	Note   string `avro:"note"`
}
type debited struct {
	Amount int64 `avro:"amount"`
}

// exchanged is a type that was written once; exchanging has it, accounts does not.
type exchanged struct {
	Out int64 `avro:"out"`
	In  int64 `avro:"in"`
}

func (credited) isEvent()  {}
func (debited) isEvent()   {}
func (exchanged) isEvent() {}

type account struct{ Balance int64 }

type cmd interface{}

type credit struct {
	Amount int64
	Times  int `json:",omitempty"` // as many events
	Note   string
}
type debit struct{ Amount int64 }
type nothing struct{}
type sweep struct{ Above int64 } // debits what is above, which may be nothing
type bug struct{}
type emit struct{ Amounts []int64 } // exchanged events, followed by a credit of 1

var errOverdrawn = fault.New(fault.Rejected, "overdrawn", "not enough money")

var decider = es.Decider[account, cmd, event]{
	Decide: func(s account, c cmd, _ es.Meta) ([]event, error) {
		switch c := c.(type) {
		case credit:
			events := make([]event, max(1, c.Times))
			for i := range events {
				events[i] = credited{c.Amount, c.Note}
			}
			return events, nil
		case debit:
			if c.Amount > s.Balance {
				return nil, errOverdrawn.Because("%d of %d", c.Amount, s.Balance)
			}
			return []event{debited(c)}, nil
		case emit:
			var events []event
			for _, n := range c.Amounts {
				events = append(events, exchanged{n, n / 2})
			}
			return append(events, credited{1, ""}), nil
		case sweep:
			if s.Balance > c.Above {
				return []event{debited{s.Balance - c.Above}}, nil
			}
		case bug:
			panic("the decider has a bug")
		}
		return nil, nil
	},
	Evolve: func(s account, e event) account {
		switch e := e.(type) {
		case credited:
			s.Balance += e.Amount
		case debited:
			s.Balance -= e.Amount
		}
		return s
	},
}

var accounts = contract.Set[event]{
	Topic: "accounts.events",
	Types: []contract.Type[event]{
		contract.For[credited, event](`{"type":"record","name":"Credited","namespace":"test.v1","fields":[{"name":"amount","type":"long"},{"name":"note","type":"string"}]}`),
		contract.For[debited, event](`{"type":"record","name":"Debited","namespace":"test.v1","fields":[{"name":"amount","type":"long"}]}`),
	},
}

// A rig is a broker with an engine on it that can be stopped, and started again with or without its store.
type rig struct {
	t       testing.TB
	addr    string
	dir     string
	env     string
	cfg     Config
	broker  string // where the embedded broker keeps its log; "" = in memory
	store   store.Options
	dial    func(ctx context.Context, network, host string) (net.Conn, error)
	memory  *contract.Memory
	log     *eventlog.Client
	topic   eventlog.Topic
	set     contract.Set[event] // accounts by default
	codec   *contract.Codec[event]
	decider es.Decider[account, cmd, event] // decider by default
	logger  *slog.Logger
	marks   eventlog.Marks
	engine  *Engine[account, cmd, event]
	stopped func() error
}

// newRig starts a broker, or takes the real one of MILLRACE_TEST_KAFKA, and an engine.
func newRig(t testing.TB, change ...func(*rig)) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), memory: contract.NewMemory(), env: fmt.Sprintf("test-%d", time.Now().UnixNano())}
	r.cfg.Topic.Partitions = 4
	for _, f := range change {
		f(r)
	}
	if r.addr = realKafka(); r.addr == "" {
		broker, err := embedded.Start(embedded.Options{Dir: r.broker})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(broker.Close)
		r.addr = broker.Addr()
	}
	r.start()
	return r
}

func (r *rig) start() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var err error
	if r.log, err = eventlog.Open(ctx, eventlog.Config{Brokers: strings.Split(r.addr, ","), Env: r.env, Dial: r.dial}); err != nil {
		r.t.Fatal(err)
	}
	name := accounts.Topic + "." + r.env
	if r.topic, err = r.log.EnsureTopic(ctx, eventlog.TopicSpec{Name: name, Partitions: r.cfg.Topic.Partitions}); err != nil {
		r.t.Fatal(err)
	}
	if r.set.Topic == "" {
		r.set = accounts
	}
	if r.codec, err = contract.Bind(ctx, r.set, r.memory); err != nil {
		r.t.Fatal(err)
	}
	if r.marks, err = eventlog.AvroMarks(ctx, name, r.memory); err != nil {
		r.t.Fatal(err)
	}
	db, err := store.Open(filepath.Join(r.dir, "streams"), r.store)
	if err != nil {
		r.t.Fatal(err)
	}
	cfg := r.cfg
	if r.decider.Decide == nil {
		r.decider = decider
	}
	cfg.Logger = r.logger
	cfg.Log, cfg.Topic, cfg.Store, cfg.Marks, cfg.Source = r.log, r.topic, db, r.marks, "/test"
	cfg.Identity = eventlog.Identity{Instance: "test", Address: "127.0.0.1:1"}
	r.engine = New[account, cmd, event](cfg, r.decider, r.codec)
	run, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.engine.Run(run) }()
	running := true
	r.stopped = func() error {
		if !running {
			return nil
		}
		running = false
		stop()
		err := <-ended
		r.log.Close()
		return errors.Join(err, db.Close())
	}
	r.t.Cleanup(func() {
		if err := r.stopped(); err != nil {
			r.t.Error(err)
		}
	})
}

// restart stops the engine and starts another on the same store, or an empty one.
func (r *rig) restart(wipe bool) {
	r.t.Helper()
	if err := r.stopped(); err != nil {
		r.t.Fatal(err)
	}
	if wipe {
		if err := os.RemoveAll(r.dir); err != nil {
			r.t.Fatal(err)
		}
		if err := os.MkdirAll(r.dir, 0o755); err != nil {
			r.t.Fatal(err)
		}
	}
	r.start()
}

func (r *rig) send(stream, id string, c cmd) (Receipt, error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return r.engine.Handle(ctx, Command[cmd]{Stream: es.StreamID(stream), ID: id, Payload: c})
}

func (r *rig) mustSend(stream, id string, c cmd) Receipt {
	r.t.Helper()
	got, err := r.send(stream, id, c)
	if err != nil {
		r.t.Fatalf("%s %+v on %s: %v", id, c, stream, err)
	}
	return got
}

func (r *rig) balance(stream string) (int64, es.Version) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s, v, err := r.engine.State(ctx, es.StreamID(stream), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return s.Balance, v
}

// readLog returns the events of each stream in the order of the log.
func (r *rig) readLog() map[es.StreamID][]es.Envelope[event] {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ends, err := r.log.Ends(ctx, r.topic)
	if err != nil {
		r.t.Fatal(err)
	}
	var from []eventlog.Cursor
	left := map[int32]int64{}
	for p, end := range ends {
		from = append(from, r.topic.Start(int32(p)))
		if end > 0 {
			left[int32(p)] = end
		}
	}
	source, err := r.log.NewSource(ctx, from...)
	if err != nil {
		r.t.Fatal(err)
	}
	defer source.Close()
	events := eventlog.NewEvents(r.codec, "")
	all := map[es.StreamID][]es.Envelope[event]{}
	for len(left) > 0 {
		fetched, err := source.Poll(ctx)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, f := range fetched {
			for _, rec := range f.Records {
				if rec.Mark != 0 {
					continue
				}
				env, err := events.Envelope(ctx, rec)
				if err != nil {
					r.t.Fatal(err)
				}
				all[env.Stream] = append(all[env.Stream], env)
			}
			if p := f.Cursor.TopicPartition.Partition; f.Cursor.Next >= left[p] {
				delete(left, p)
			}
		}
	}
	return all
}

// realKafka returns the addresses, comma separated, of the Kafka to test on; "" = the embedded one.
func realKafka() string { return os.Getenv("MILLRACE_TEST_KAFKA") }
