package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/platform/command"
	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/embedded"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/store"
)

// A vault is a log, with what is known to be in it, beside which stores can be broken.
type vault struct {
	t      testing.TB
	addr   string
	topic  eventlog.Topic
	codec  *contract.Codec[accountEvent]
	marks  eventlog.Marks
	states map[es.StreamID]account
	events map[es.StreamID][]accountEvent
	last   map[es.StreamID]command.Receipt // of the command with the id "last"
}

type vaultEngine = command.Engine[account, accountCommand, accountEvent]

func newVault(t testing.TB) *vault {
	t.Helper()
	broker, err := embedded.Start(embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	v := &vault{t: t, addr: broker.Addr(), states: map[es.StreamID]account{}, events: map[es.StreamID][]accountEvent{}, last: map[es.StreamID]command.Receipt{}}
	log := v.open()
	memory := contract.NewMemory()
	set := accounts("vault").Contract
	if v.topic, err = log.EnsureTopic(t.Context(), eventlog.TopicSpec{Name: set.Topic, Partitions: 2}); err != nil {
		t.Fatal(err)
	}
	if v.codec, err = contract.Bind(t.Context(), set, memory); err != nil {
		t.Fatal(err)
	}
	if v.marks, err = eventlog.AvroMarks(t.Context(), set.Topic, memory); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *vault) open() *eventlog.Client {
	v.t.Helper()
	log, err := eventlog.Open(v.t.Context(), eventlog.Config{Brokers: []string{v.addr}, FetchWait: 10 * time.Millisecond})
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(log.Close)
	return log
}

// run starts an engine on the stores below dir, as a service does, and calls use; it returns why the engine did not start, or ended.
func (v *vault) run(dir string, use func(e *vaultEngine)) (err error) {
	v.t.Helper()
	log := v.open()
	defer log.Close()
	h := newHost(App{Name: "bank"}, Config{DataDir: dir}, slog.New(slog.DiscardHandler))
	h.log = log
	defer func() { err = errors.Join(err, h.close()) }()
	db, err := h.openStreams(v.t.Context(), "vault", v.topic)
	if err != nil {
		return err
	}
	d := accountDecider
	d.Fold = 1
	e := command.New(command.Config{
		Log: log, Topic: v.topic, Store: db, Marks: v.marks, Source: "/test", SnapshotEvery: 20, SnapshotCheck: 3, Streams: 2,
		Identity: eventlog.Identity{Instance: "vault", Address: "127.0.0.1:1"},
	}, d, v.codec)
	ctx, stop := context.WithCancel(v.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	use(e)
	stop()
	return <-ended
}

// fill writes random histories in several lives of the store, so that it has several tables.
func (v *vault) fill(dir string, rnd *rand.Rand) {
	v.t.Helper()
	for life := range 4 {
		err := v.run(dir, func(e *vaultEngine) {
			for i := range 12 {
				id := es.StreamID(fmt.Sprint("a-", i))
				for n := range 4 {
					c := PayIn{Amount: rnd.Int64N(100), Note: "n", Times: 1 + rnd.IntN(8)}
					v.send(e, id, fmt.Sprint(life, "-", n), c)
				}
			}
		})
		if err != nil {
			v.t.Fatal(err)
		}
	}
	err := v.run(dir, func(e *vaultEngine) {
		for id := range v.states {
			v.last[id] = v.send(e, id, "last", PayIn{Amount: 1})
		}
	})
	if err != nil {
		v.t.Fatal(err)
	}
}

func (v *vault) send(e *vaultEngine, id es.StreamID, command_ string, c PayIn) command.Receipt {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), 20*time.Second)
	defer cancel()
	got, err := e.Handle(ctx, command.Command[accountCommand]{Stream: id, ID: command_, Payload: c})
	if err != nil {
		v.t.Fatal(err)
	}
	for range max(1, c.Times) {
		event := paidIn{c.Amount, c.Note}
		v.events[id] = append(v.events[id], event)
		v.states[id] = accountDecider.Evolve(v.states[id], event)
	}
	return got
}

// check compares everything that an engine answers with the log. An error of it is the first refusal to answer.
func (v *vault) check(e *vaultEngine) error {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), 20*time.Second)
	defer cancel()
	for id, want := range v.states {
		m, err := e.At(ctx, id, command.Point{})
		if err != nil {
			return err
		}
		if !reflect.DeepEqual(m.State, want) || int(m.Version) != len(v.events[id]) {
			v.t.Fatalf("%s is %+v at %d, want %+v at %d", id, m.State, m.Version, want, len(v.events[id]))
		}
		page, err := e.Read(ctx, id, command.ReadOptions{})
		if err != nil {
			return err
		}
		for i, env := range page.Events {
			if env.Event != v.events[id][i] {
				v.t.Fatalf("%s: event %d is %+v, want %+v", id, i+1, env.Event, v.events[id][i])
			}
		}
		got, err := e.Handle(ctx, command.Command[accountCommand]{Stream: id, ID: "last", Payload: PayIn{Amount: 1}})
		if err != nil {
			return err
		}
		if !got.Replayed || got.Version != v.last[id].Version || got.Position != v.last[id].Position {
			v.t.Fatalf("%s: the repeat got %+v, the command %+v", id, got, v.last[id])
		}
		if _, err := e.Handle(ctx, command.Command[accountCommand]{Stream: id, ID: "much", Payload: TakeOut{want.Balance + 1}}); !errors.Is(err, errOverdrawn) {
			return err
		}
	}
	return nil
}

// TestBrokenStores breaks the files of a store in every way that a disk does: what is served afterwards is the fold of the log, or nothing
// is.
//
// G22: A stream store that is damaged, or belongs to another log, is built again or refused: what is served is the fold of the log.
func TestBrokenStores(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	v := newVault(t)
	closed, killed := t.TempDir(), t.TempDir()
	v.fill(closed, rnd)
	// What a kill leaves: a copy while the store is open.
	err := v.run(closed, func(e *vaultEngine) {
		if err := v.check(e); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(killed, os.DirFS(closed)); err != nil {
			t.Fatal(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	refused, moved, stopped := 0, 0, 0
	for i := range 100 {
		from := closed
		if i >= 92 {
			from = killed
		}
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
		what := v.breakFile(dir, rnd)
		// A store that is found damaged while it is served ends the process: the next start heals it.
		for life := 0; ; life++ {
			var unanswered error
			err := v.run(dir, func(e *vaultEngine) { unanswered = v.check(e) })
			if err == nil && unanswered == nil {
				break
			}
			if life == 3 {
				t.Fatalf("trial %d, %s: still broken: %v, %v", i, what, err, unanswered)
			}
			if unanswered != nil {
				stopped++
				t.Logf("trial %d, %s: ended with %v", i, what, err)
				continue
			}
			refused++
			if e := fault.From(err); e == nil || e.Fix == "" {
				t.Errorf("trial %d, %s: refused without a word about what to do: %v", i, what, err)
			}
			t.Logf("trial %d, %s: refused: %s", i, what, fault.Line(err))
			break
		}
		if aside, err := filepath.Glob(filepath.Join(dir, "vault", "*.damaged-*")); err != nil || len(aside) > 0 {
			moved++
		}
		_ = os.RemoveAll(dir)
	}
	t.Logf("of 100, %d were moved aside, %d refused, %d found while they were served", moved, refused, stopped)
	if moved < 20 {
		t.Error("hardly any was found damaged: the test shows nothing")
	}
}

// breakFile breaks one file of a store and says how.
func (v *vault) breakFile(dir string, rnd *rand.Rand) string {
	v.t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "vault", "streams", "*"))
	if err != nil {
		v.t.Fatal(err)
	}
	names = append(names, filepath.Join(dir, "vault", "streams.sentinel"))
	name := names[rnd.IntN(len(names))]
	data, err := os.ReadFile(name)
	if err != nil {
		v.t.Fatal(err)
	}
	var what string
	switch kind := rnd.IntN(5); {
	case kind == 0:
		what = "removed"
		err = os.Remove(name)
	case kind == 1 || len(data) == 0:
		what = "emptied"
		err = os.WriteFile(name, nil, 0o600)
	case kind == 2:
		n := rnd.IntN(len(data))
		what = fmt.Sprintf("cut to %d of %d", n, len(data))
		err = os.WriteFile(name, data[:n], 0o600)
	case kind == 3:
		from := rnd.IntN(len(data))
		n := min(len(data)-from, 1+rnd.IntN(4096))
		what = fmt.Sprintf("%d zeroes at %d of %d", n, from, len(data))
		clear(data[from : from+n])
		err = os.WriteFile(name, data, 0o600)
	default:
		// Where there is something: files of logs are mostly holes.
		bit := rnd.IntN(len(data) * 8)
		for try := 0; try < 1000 && data[bit/8] == 0; try++ {
			bit = rnd.IntN(len(data) * 8)
		}
		what = fmt.Sprintf("bit %d of %d flipped", bit, len(data)*8)
		data[bit/8] ^= 1 << (bit % 8)
		err = os.WriteFile(name, data, 0o600)
	}
	if err != nil {
		v.t.Fatal(err)
	}
	return filepath.Base(name) + " " + what
}

// TestForeignStores: a store of another log is refused, with the command that helps.
func TestForeignStores(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	v := newVault(t)
	dir := t.TempDir()
	v.fill(dir, rnd)
	refuse := func(name, why string) {
		t.Helper()
		err := v.run(dir, func(*vaultEngine) { t.Errorf("%s: it was started", name) })
		if e := fault.From(err); !errors.Is(err, eventlog.ErrCursor) || !strings.Contains(err.Error(), why) || !strings.Contains(e.Fix, "bank streams rebuild --aggregate vault --data-dir "+dir) {
			t.Errorf("%s: %s", name, fault.Line(err))
		}
		if aside, _ := filepath.Glob(filepath.Join(dir, "vault", "*.damaged-*")); len(aside) > 0 {
			t.Errorf("%s: the store was moved aside", name)
		}
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(v.addr))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := kadm.NewClient(client).DeleteTopics(t.Context(), v.topic.Name); err != nil {
		t.Fatal(err)
	}
	log := v.open()
	if v.topic, err = log.EnsureTopic(t.Context(), eventlog.TopicSpec{Name: v.topic.Name, Partitions: 2}); err != nil {
		t.Fatal(err)
	}
	refuse("a topic that was created anew", "created anew")
	// The same with a log that ends too early: the cursors are of this topic, but beyond its end.
	h := newHost(App{Name: "bank"}, Config{DataDir: dir}, slog.New(slog.DiscardHandler))
	if err := store.Remove(filepath.Join(dir, "vault", "streams")); err != nil {
		t.Fatal(err)
	}
	db, err := h.openStore(streamsDir("vault"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for id := range int32(2) {
		c := v.topic.Start(id)
		c.Next, c.ProducerID, c.Epoch = 1000, 1, 1
		text, err := c.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		b := db.NewBatch()
		if err := errors.Join(b.Set([]byte{'p', 0, 0, 0, byte(id)}, text), b.Commit()); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.close(); err != nil {
		t.Fatal(err)
	}
	refuse("a log that is shorter", "the log lost its end")
}
