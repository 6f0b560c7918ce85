package command

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/store"
)

// snapshot returns the version of a stream's snapshot.
func (r *rig) snapshot(id string) es.Version {
	m, err := r.engine.Metadata(r.t.Context(), es.StreamID(id))
	if err != nil {
		r.t.Fatal(err)
	}
	return m.Snapshot
}

// folded returns the state of a stream after its first n events, by a fold of the log.
func folded(envs []es.Envelope[event], n es.Version, evolve func(account, event) account) account {
	var s account
	for _, env := range envs[:n] {
		s = evolve(s, env.Event)
	}
	return s
}

// TestSnapshots: with snapshots of any policy, states at any version, versions and receipts are those of the log.
func TestSnapshots(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for _, every := range []int{2, 3 + rnd.IntN(20), 70 + rnd.IntN(60)} {
		t.Run(fmt.Sprint("every ", every), func(t *testing.T) {
			r := newRig(t, func(r *rig) { r.cfg.Streams, r.cfg.SnapshotEvery, r.cfg.SnapshotCheck = 1, every, 1 })
			type sent struct {
				stream, id string
				c          cmd
				receipt    Receipt
			}
			var all []sent
			write := func(n int) {
				for range n {
					s := sent{stream: fmt.Sprint("a-", rnd.IntN(6)), id: fmt.Sprint("k-", len(all)), c: credit{Amount: rnd.Int64N(100), Times: 1 + rnd.IntN(7)}}
					if rnd.IntN(3) == 0 {
						s.c = debit{Amount: rnd.Int64N(50)}
					}
					var err error
					if s.receipt, err = r.send(s.stream, s.id, s.c); err == nil {
						all = append(all, s)
					} else if !errors.Is(err, errOverdrawn) {
						t.Fatal(err)
					}
				}
			}
			check := func(when string) {
				t.Helper()
				for id, envs := range r.readLog() {
					for _, v := range []es.Version{es.Version(len(envs)), es.Version(1 + rnd.IntN(len(envs)))} {
						got, err := r.engine.At(t.Context(), id, Point{Version: v})
						if err != nil || got.State != folded(envs, v, decider.Evolve) || got.Version != v || got.Position != envs[v-1].Position {
							t.Fatalf("%s: %s at %d: %+v, %v, want %+v", when, id, v, got, err, folded(envs, v, decider.Evolve))
						}
					}
					v := es.Version(len(envs))
					got, err := r.engine.Handle(t.Context(), Command[cmd]{Stream: id, ID: fmt.Sprint("probe-", rnd.Uint64()), Payload: debit{folded(envs, v, decider.Evolve).Balance + 1}})
					if !errors.Is(err, errOverdrawn) {
						t.Fatalf("%s: a debit of more than there is on %s: %+v, %v", when, id, got, err)
					}
				}
				for _, i := range rnd.Perm(len(all))[:min(len(all), 150)] {
					s := all[i]
					got := r.mustSend(s.stream, s.id, s.c)
					if !got.Replayed {
						t.Fatalf("%s: %s on %s was decided again", when, s.id, s.stream)
					}
					got.Replayed = false
					if diff := cmp.Diff(s.receipt, got); diff != "" {
						t.Fatalf("%s: the receipt of %s (-first +repeated):\n%s", when, s.id, diff)
					}
				}
			}
			write(200 + 2*every)
			until(t, "snapshots are made", func() bool { return r.engine.Snapshots().Kept >= 3 })
			check("at once")
			r.restart(false)
			until(t, "the fold is known", func() bool { return r.engine.keeping.fold.Load() != nil })
			write(50)
			check("after a restart")
			if s := r.engine.Snapshots(); s.Used == 0 {
				t.Errorf("no snapshot was used: %+v", s)
			}
			until(t, "snapshots are checked", func() bool { return r.engine.Snapshots().Checked > 0 })
			if s := r.engine.Snapshots(); s.Wrong != 0 || s.Refused != 0 {
				t.Errorf("%+v", s)
			}
			r.restart(true)
			check("after the store was lost")
		})
	}
}

// TestSnapshotBound: what is folded of a long stream when it is loaded is bounded, and a stream that has none yet gets its snapshot when
// it is loaded.
func TestSnapshotBound(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.SnapshotEvery = -1 })
	r.mustSend("a", "k", credit{Amount: 1, Times: 1000})
	r.cfg.SnapshotEvery = 100
	evolved := 0
	r.decider = decider
	r.decider.Evolve = func(s account, e event) account { evolved++; return decider.Evolve(s, e) }
	r.restart(false)
	r.mustSend("a", "k-1", credit{Amount: 1})
	until(t, "a snapshot", func() bool { return r.snapshot("a") >= 1000 })
	r.restart(false)
	until(t, "the fold is known", func() bool { return r.engine.keeping.fold.Load() != nil })
	evolved = 0
	r.mustSend("a", "k-2", credit{Amount: 1})
	if evolved > 200 {
		t.Errorf("%d events were folded", evolved)
	}
	if b, _ := r.balance("a"); b != 1002 {
		t.Errorf("balance %d", b)
	}
}

// TestChangedFold: the states kept under another fold are not used. If the author did not say that the fold has changed, the check finds
// it, and nothing kept is used any more, after a restart neither.
//
// G23: A state that is kept to load a long stream faster is used only if it is the fold of the stream's events under the code that runs.
func TestChangedFold(t *testing.T) {
	twice := decider
	twice.Evolve = func(s account, e event) account {
		if e, ok := e.(credited); ok {
			s.Balance += 2 * e.Amount
			return s
		}
		return decider.Evolve(s, e)
	}
	begin := func(t *testing.T, fold int) *rig {
		r := newRig(t, func(r *rig) {
			r.cfg.SnapshotEvery, r.cfg.SnapshotCheck, r.cfg.Streams = 10, 1, 1
			r.decider = decider
			r.decider.Fold = fold
		})
		for i := range 30 {
			r.mustSend("a", fmt.Sprint("k-", i), credit{Amount: 1})
		}
		until(t, "a snapshot", func() bool { return r.snapshot("a") == 30 })
		return r
	}
	t.Run("told", func(t *testing.T) {
		r := begin(t, 1)
		r.decider = twice
		r.decider.Fold = 2
		r.restart(false)
		if b, _ := r.balance("a"); b != 60 {
			t.Errorf("balance %d", b)
		}
		r.mustSend("a", "k", debit{60})
		until(t, "a snapshot under the new fold", func() bool { return r.snapshot("a") >= 30 })
		if s := r.engine.Snapshots(); s.Wrong != 0 {
			t.Errorf("%+v", s)
		}
		keys := 0
		err := r.engine.cfg.Store.Read(func(rd *store.Reader) error {
			for _, err := range rd.Scan(store.Prefix([]byte{'s'})) {
				if keys++; err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || keys != 1 {
			t.Errorf("%d snapshots are in the store, %v", keys, err)
		}
	})
	t.Run("not told", func(t *testing.T) {
		r := begin(t, 1)
		heard := warnings{make(chan string, 64)}
		r.logger = slog.New(heard)
		r.decider = twice
		r.decider.Fold = 1
		r.restart(false)
		until(t, "the fold is known", func() bool { return r.engine.keeping.fold.Load() != nil })
		r.mustSend("a", "k", credit{Amount: 1})
		until(t, "the check has found it", func() bool { return r.engine.Snapshots().Wrong == 1 })
		if b, _ := r.balance("a"); b != 62 {
			t.Errorf("balance %d", b)
		}
		// What is in memory rests on it, too.
		if _, err := r.send("a", "k-0", credit{Amount: 1}); err != nil {
			t.Fatal(err)
		}
		r.mustSend("a", "k-all", debit{62})
		if !strings.Contains(<-heard.c, "kept states are wrong") {
			t.Error("nothing was said")
		}
		r.restart(false)
		until(t, "it is remembered", func() bool { return strings.Contains(<-heard.c, "found wrong before") })
		if _, err := r.send("a", "k-more", debit{1}); !errors.Is(err, errOverdrawn) {
			t.Errorf("got %v", err)
		}
		if s := r.engine.Snapshots(); s.Used != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// TestFoldID: what may change a fold changes its id.
func TestFoldID(t *testing.T) {
	type inner struct{ A int }
	type list struct {
		Next *list
		M    map[string][]inner
	}
	type other struct {
		Next *other
		M    map[string][]struct{ A int64 }
	}
	first := foldOf(&es.Decider[list, cmd, event]{Fold: 1}, [32]byte{})
	if again := foldOf(&es.Decider[list, cmd, event]{Fold: 1}, [32]byte{}); again != first {
		t.Error("the same fold has two ids")
	}
	if a, b := foldOf(&es.Decider[list, cmd, event]{}, [32]byte{}), foldOf(&es.Decider[list, cmd, event]{}, [32]byte{}); a != b {
		t.Error("the same program has two ids")
	}
	for name, id := range map[string]foldID{
		"number":   foldOf(&es.Decider[list, cmd, event]{Fold: 2}, [32]byte{}),
		"program":  foldOf(&es.Decider[list, cmd, event]{}, [32]byte{}),
		"schemas":  foldOf(&es.Decider[list, cmd, event]{Fold: 1}, [32]byte{1}),
		"state":    foldOf(&es.Decider[other, cmd, event]{Fold: 1}, [32]byte{}),
		"nullable": foldOf(&es.Decider[*list, cmd, event]{Fold: 1}, [32]byte{}),
	} {
		if id == first {
			t.Errorf("another %s, but the same id", name)
		}
	}
}

// TestSaveState: a state that does not come back as it was is not kept.
func TestSaveState(t *testing.T) {
	type hidden struct {
		A int
		b int
	}
	type open struct {
		At   time.Time
		List []string
		Any  any
	}
	save := func(s any, d func() ([]byte, error)) {
		t.Helper()
		data, err := d()
		if err != nil {
			t.Errorf("%+v: %v", s, err)
		}
		if len(data) == 0 {
			t.Errorf("%+v: no bytes", s)
		}
	}
	refuse := func(s any, d func() ([]byte, error)) {
		t.Helper()
		if data, err := d(); err == nil {
			t.Errorf("%+v was saved as %s", s, data)
		}
	}
	byJSON := &es.Decider[open, cmd, event]{}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	good := open{At: at, List: []string{"a"}}
	save(good, func() ([]byte, error) { return saveState(byJSON, good) })
	for _, bad := range []open{{List: []string{}, Any: 1}, {Any: struct{}{}}, {Any: func() {}}, {At: at.In(time.FixedZone("x", 3600))}} {
		refuse(bad, func() ([]byte, error) { return saveState(byJSON, bad) })
	}
	refuse("hidden", func() ([]byte, error) { return saveState(&es.Decider[hidden, cmd, event]{}, hidden{1, 2}) })
	own := &es.Decider[hidden, cmd, event]{
		Save: func(s hidden) ([]byte, error) { return fmt.Appendf(nil, "%d %d", s.A, s.b), nil },
		Restore: func(data []byte) (s hidden, err error) {
			_, err = fmt.Sscan(string(data), &s.A, &s.b)
			return s, err
		},
	}
	save("own", func() ([]byte, error) { return saveState(own, hidden{1, 2}) })
	if s, err := restoreState(own, []byte("1 2")); err != nil || s != (hidden{1, 2}) {
		t.Errorf("%+v, %v", s, err)
	}
	own.Restore = func([]byte) (hidden, error) { return hidden{}, nil }
	refuse("forgetful", func() ([]byte, error) { return saveState(own, hidden{1, 2}) })
}

// TestStateNotKept: streams whose states cannot be kept work all the same, and that is said once.
func TestStateNotKept(t *testing.T) {
	heard := warnings{make(chan string, 64)}
	r := newRig(t, func(r *rig) {
		r.cfg.SnapshotEvery, r.logger = 10, slog.New(heard)
		r.decider = decider
		r.decider.Save = func(account) ([]byte, error) { return bytes.Repeat([]byte("x"), snapshotBytes+1), nil }
		r.decider.Restore = func([]byte) (account, error) { return account{}, nil }
	})
	for i := range 40 {
		r.mustSend(fmt.Sprint("a-", i%2), fmt.Sprint("k-", i), credit{Amount: 1})
	}
	until(t, "they are refused", func() bool { return r.engine.Snapshots().Refused >= 2 })
	if text := <-heard.c; !strings.Contains(text, "cannot be kept") {
		t.Errorf("heard %q", text)
	}
	if len(heard.c) > 0 {
		t.Errorf("heard more: %q", <-heard.c)
	}
	r.restart(false)
	if b, v := r.balance("a-1"); b != 20 || v != 20 {
		t.Errorf("balance %d at %d", b, v)
	}
	if s := r.engine.Snapshots(); s.Used != 0 {
		t.Errorf("%+v", s)
	}
}

// TestBadSnapshot: a snapshot that cannot be read, or does not belong to its stream, is as good as none.
func TestBadSnapshot(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.SnapshotEvery, r.cfg.SnapshotCheck = 10, -1 })
	for i := range 30 {
		r.mustSend("a", fmt.Sprint("k-", i), credit{Amount: 1})
	}
	until(t, "a snapshot", func() bool { return r.snapshot("a") == 30 })
	fold := *r.engine.keeping.fold.Load()
	key := snapshotKey(nil, streamAt{r.engine.partition("a").at.Partition, "a"}, fold)
	var good []byte
	if err := r.engine.cfg.Store.Read(func(rd *store.Reader) (err error) { good, err = rd.Get(key); return err }); err != nil {
		t.Fatal(err)
	}
	s, state, err := parseSnapshot[account](good)
	if err != nil || string(state) != `{"Balance":30}` || len(s.early) != 30 {
		t.Fatalf("%+v, %s, %v", s, state, err)
	}
	later, elsewhere := s, s
	later.version++
	elsewhere.offset++
	for name, bad := range map[string][]byte{
		"empty": nil, "cut off": good[:4], "no state": good[:len(good)-1], "beyond the end": later.append(nil, state), "of another event": elsewhere.append(nil, state),
	} {
		b := r.engine.cfg.Store.NewBatch()
		if err := errors.Join(b.Set(key, bad), b.Commit()); err != nil {
			t.Fatal(err)
		}
		if got := r.snapshot("a"); got != 0 {
			t.Errorf("%s: it is taken for one of version %d", name, got)
		}
		r.restart(false)
		until(t, "the fold is known", func() bool { return r.engine.keeping.fold.Load() != nil })
		if got := r.mustSend("a", "k-3", credit{Amount: 1}); !got.Replayed || got.Version != 4 {
			t.Errorf("%s: %+v", name, got)
		}
		if b, v := r.balance("a"); b != 30 || v != 30 {
			t.Errorf("%s: balance %d at %d", name, b, v)
		}
		if s := r.engine.Snapshots(); s.Used != 0 {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func FuzzSnapshot(f *testing.F) {
	s := snapshot[account]{version: 70, offset: 300, early: []uint64{1, 1 << 63}}
	f.Add(s.append(nil, []byte(`{"Balance":1}`)))
	f.Add([]byte{})
	f.Add([]byte{1, 1, 1, 64})
	f.Add(binary.AppendUvarint([]byte{1}, 1<<63))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, state, err := parseSnapshot[account](b)
		if err != nil {
			return
		}
		again, rest, err := parseSnapshot[account](s.append(nil, state))
		if err != nil || !reflect.DeepEqual(s, again) || !bytes.Equal(state, rest) {
			t.Fatalf("%+v, then %+v, %v", s, again, err)
		}
	})
}

// TestSnapshotKeys: the keys of one stream's snapshots are not those of another's.
func TestSnapshotKeys(t *testing.T) {
	for _, id := range []es.StreamID{"a", "a\x00", "ab", ""} {
		at := streamAt{3, id}
		key := snapshotKey(nil, at, foldID{1, 2})
		back, fold, err := parseSnapshotKey(key)
		if err != nil || back != at || fold != (foldID{1, 2}) {
			t.Errorf("%q: %+v, %v, %v", id, back, fold, err)
		}
		for _, other := range []es.StreamID{"a", "a\x00", "ab", ""} {
			if other != id && bytes.HasPrefix(key, snapshotPrefix(nil, streamAt{3, other})) {
				t.Errorf("the key of %q begins like those of %q", id, other)
			}
		}
	}
	if _, _, err := parseSnapshotKey([]byte("s")); err == nil {
		t.Error("half a key was accepted")
	}
}
