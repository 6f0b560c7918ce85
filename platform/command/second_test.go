package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

// warnings tells of each warning and error.
type warnings struct{ c chan string }

func (w warnings) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (w warnings) WithAttrs([]slog.Attr) slog.Handler           { return w }
func (w warnings) WithGroup(string) slog.Handler                { return w }
func (w warnings) Handle(_ context.Context, r slog.Record) error {
	select {
	case w.c <- r.Message:
	default:
	}
	return nil
}

// second runs another instance on the rig's log, with a store of its own.
func (r *rig) second(db *store.DB) (e *Engine[account, cmd, event], warned <-chan string, ended <-chan error) {
	r.t.Helper()
	log, err := eventlog.Open(context.Background(), eventlog.Config{Brokers: []string{r.addr}, Env: r.env})
	if err != nil {
		r.t.Fatal(err)
	}
	w := warnings{make(chan string, 64)}
	e = New[account, cmd, event](Config{
		Log: log, Topic: r.topic, Store: db, Marks: r.marks, Source: "/test", Logger: slog.New(w),
		Identity: eventlog.Identity{Instance: "second", Address: "127.0.0.1:2"},
	}, decider, r.codec)
	ctx, stop := context.WithCancel(context.Background())
	done, closed := make(chan error, 1), make(chan struct{})
	go func() {
		done <- e.Run(ctx)
		close(closed)
	}()
	r.t.Cleanup(func() {
		stop()
		<-closed
		log.Close()
		db.Close()
	})
	return e, w.c, done
}

func (r *rig) openStore(o store.Options) *store.DB {
	r.t.Helper()
	db, err := store.Open(filepath.Join(r.t.TempDir(), "second"), o)
	if err != nil {
		r.t.Fatal(err)
	}
	return db
}

// TestStaleOwner: an owner that was deposed and did not notice gives no answer from its old state once its lease is over.
//
// G19: An answer that appends nothing (a refusal, a repeat, a read) comes from a process that was the partition's owner at most 3 s before.
func TestStaleOwner(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.Lease = 1 })
	r.mustSend("a", "k-1", credit{Amount: 1})
	two, _, _ := r.second(r.openStore(store.Options{}))
	for i, do := range []func(id string){
		func(id string) {
			if got, err := r.send("a", id, debit{Amount: 50}); err != nil {
				t.Errorf("a debit that the log allows: %+v, %v", got, err)
			}
		},
		func(id string) {
			v := es.Version(1)
			_, err := r.engine.Handle(t.Context(), Command[cmd]{Stream: "a", ID: id, Payload: nothing{}, Expect: &v})
			if !errors.Is(err, ErrVersion) {
				t.Errorf("an expected version that the stream does not have any more: %v", err)
			}
		},
		func(string) {
			if _, v := r.balance("a"); v < 2 {
				t.Errorf("a read at version %d", v)
			}
		},
	} {
		// The second takes the partition with a command of its own, so the first is stale each time.
		if _, err := two.Handle(t.Context(), Command[cmd]{Stream: "a", ID: fmt.Sprint("two-", i), Payload: credit{Amount: 100}}); err != nil {
			t.Fatal(err)
		}
		do(fmt.Sprint("one-", i))
	}
}

// TestFullDisk: an instance whose own store takes nothing does not take partitions from others.
func TestFullDisk(t *testing.T) {
	r := newRig(t)
	until(t, "ready", r.engine.Ready)
	r.mustSend("a", "k-1", credit{Amount: 1})
	before, err := r.log.Ends(t.Context(), r.topic)
	if err != nil {
		t.Fatal(err)
	}
	_, warned, ended := r.second(r.openStore(store.Options{MinFree: 1 << 60}))
	for range 3 * len(before) {
		select {
		case <-warned:
		case err := <-ended:
			t.Fatalf("it ended instead of waiting for room: %v", err)
		case <-time.After(20 * time.Second):
			t.Fatal("it says nothing")
		}
	}
	after, err := r.log.Ends(t.Context(), r.topic)
	if err != nil || fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("it wrote to the log: the ends were %v, now %v (%v)", before, after, err)
	}
}

// TestStoreGone: a store that cannot be used any more ends the engine.
func TestStoreGone(t *testing.T) {
	r := newRig(t)
	db := r.openStore(store.Options{})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	_, _, ended := r.second(db)
	select {
	case err := <-ended:
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on")
	}
}

// TestBigEvent: an event that the stream store could not take is refused before it is in the log, which would stop the partition for good.
func TestBigEvent(t *testing.T) {
	r := newRig(t)
	if _, err := r.send("a", "k-1", credit{Amount: 1, Note: strings.Repeat("x", store.MaxValue)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	r.mustSend("a", "k-2", credit{Amount: 1, Note: strings.Repeat("x", maxFrame-100)})
	r.restart(true)
	if b, v := r.balance("a"); b != 1 || v != 1 {
		t.Errorf("balance %d at %d", b, v)
	}
}

// TestRemember: a stream that was busy once gives its memory back.
func TestRemember(t *testing.T) {
	s := &stream[account]{complete: true}
	for i := range 4000 {
		s.remember(past{id: fmt.Sprint(i), first: es.Version(i + 1), offset: int64(i), types: []string{"t"}}, 0) // nothing is stored yet
	}
	s.remember(past{id: "last", first: 4001, offset: 4000, types: []string{"t"}}, 4000)
	if len(s.pasts) != maxPasts || s.complete || len(s.early) != unindexed || s.pasts[maxPasts-1].id != "last" {
		t.Errorf("%d pasts, %d early, complete %v", len(s.pasts), len(s.early), s.complete)
	}
}
