package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

func versions(page Page[event]) []es.Version {
	var all []es.Version
	for _, env := range page.Events {
		all = append(all, env.Version)
	}
	return all
}

func TestReadPages(t *testing.T) {
	r := newRig(t)
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 5 {
		_, err := r.engine.Handle(t.Context(), Command[cmd]{Stream: "a", ID: fmt.Sprint("k-", i), Payload: credit{Amount: int64(i), Times: 2},
			Meta: es.Meta{Time: began.Add(time.Duration(i) * time.Hour)}})
		if err != nil {
			t.Fatal(err)
		}
	}
	r.mustSend("a-", "k", credit{Amount: 1})
	for _, tc := range []struct {
		name string
		o    ReadOptions
		want []es.Version
		next es.Version
	}{
		{"all", ReadOptions{}, []es.Version{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 0},
		{"from a version", ReadOptions{From: 4, Limit: 3}, []es.Version{4, 5, 6}, 7},
		{"up to a version", ReadOptions{From: 8, To: 9}, []es.Version{8, 9}, 0},
		{"up to one that is not there", ReadOptions{From: 9, To: 12}, []es.Version{9, 10}, 0},
		{"after the last", ReadOptions{From: 11}, nil, 0},
		{"exactly the rest", ReadOptions{From: 9, Limit: 2}, []es.Version{9, 10}, 0},
		{"backwards", ReadOptions{Backwards: true, Limit: 3}, []es.Version{10, 9, 8}, 7},
		{"backwards from a version", ReadOptions{Backwards: true, From: 3}, []es.Version{3, 2, 1}, 0},
		{"backwards from one that is not there", ReadOptions{Backwards: true, From: 30, To: 9}, []es.Version{10, 9}, 0},
		{"up to a time", ReadOptions{From: 3, Until: began.Add(2 * time.Hour)}, []es.Version{3, 4, 5, 6}, 0},
		{"just before a time", ReadOptions{Until: began.Add(time.Hour - 1)}, []es.Version{1, 2}, 0},
		{"before there was anything", ReadOptions{Until: began.Add(-1)}, nil, 0},
		{"backwards from a time", ReadOptions{Backwards: true, Until: began.Add(3 * time.Hour), Limit: 2}, []es.Version{8, 7}, 6},
		{"at least one, whatever its size", ReadOptions{Bytes: 1}, []es.Version{1}, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := r.engine.Read(t.Context(), "a", tc.o)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, versions(got)); diff != "" || got.Next != tc.next || got.Last != 10 {
				t.Errorf("next %d, want %d; last %d (-want +got):\n%s", got.Next, tc.next, got.Last, diff)
			}
		})
	}
	t.Run("bytes", func(t *testing.T) {
		one, err := r.engine.Read(t.Context(), "a", ReadOptions{Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		line := rowOf(&one.Events[0], must(r.codec.Append(nil, one.Events[0].Event)))
		size := len(line.append(nil))
		for n := 1; n < 10; n++ {
			got, err := r.engine.Read(t.Context(), "a", ReadOptions{Bytes: n*size + size/2})
			if err != nil || len(got.Events) != n || got.Next != es.Version(n+1) {
				t.Errorf("room for %d: %d events, next %d, %v", n, len(got.Events), got.Next, err)
			}
		}
	})
	if _, err := r.engine.Read(t.Context(), "b", ReadOptions{From: 2, Backwards: true}); !errors.Is(err, ErrStreamNotFound) {
		t.Errorf("no stream: %v", err)
	}
	got, err := r.engine.Metadata(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	last, err := r.engine.Read(t.Context(), "a", ReadOptions{Backwards: true, Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	want := Metadata{ID: "a", First: 1, Last: 10, Events: 10, Bytes: got.Bytes, Began: began, Changed: began.Add(4 * time.Hour), Position: last.Events[0].Position}
	if diff := cmp.Diff(want, got); diff != "" || got.Bytes < 10*7 {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	if _, err := r.engine.Metadata(t.Context(), "b"); !errors.Is(err, ErrStreamNotFound) {
		t.Errorf("metadata of no stream: %v", err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestAt(t *testing.T) {
	r := newRig(t)
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 4 {
		_, err := r.engine.Handle(t.Context(), Command[cmd]{Stream: "a", ID: fmt.Sprint("k-", i), Payload: credit{Amount: 1 << i}, Meta: es.Meta{Time: began.Add(time.Duration(i) * time.Hour)}})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name    string
		at      Point
		balance int64
		version es.Version
		next    []Change
	}{
		{"now", Point{Diff: true}, 15, 4, nil},
		{"a version", Point{Version: 2, Diff: true}, 3, 2, []Change{{Op: "replace", Path: "/Balance", From: json.RawMessage("3"), To: json.RawMessage("7")}}},
		{"a version, no diff", Point{Version: 2}, 3, 2, nil},
		{"a time", Point{Time: began.Add(2*time.Hour + 1)}, 7, 3, nil},
		{"a version and a time", Point{Version: 2, Time: began.Add(2 * time.Hour)}, 3, 2, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := r.engine.At(t.Context(), "a", tc.at)
			if err != nil || got.State.Balance != tc.balance || got.Version != tc.version || got.Last != 4 || got.Position.IsZero() ||
				!got.Time.Equal(began.Add(time.Duration(tc.version-1)*time.Hour)) {
				t.Fatalf("got %+v, %v", got, err)
			}
			var next []Change
			if got.Next != nil {
				next = got.Next.Changes
				if got.Next.Version != tc.version+1 || len(got.Next.Events) != 1 || got.Next.Events[0].Version != tc.version+1 {
					t.Errorf("the next: %+v", got.Next)
				}
			}
			if diff := cmp.Diff(tc.next, next); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for _, at := range []Point{{Version: 5}, {Time: began.Add(-1)}} {
		if got, err := r.engine.At(t.Context(), "a", at); !errors.Is(err, ErrStreamNotFound) {
			t.Errorf("%+v: %+v, %v", at, got, err)
		}
	}
}

// TestHole: a stream with a hole in its versions is not served from any side. It ends the engine, and the store is not opened again.
func TestHole(t *testing.T) {
	reads := map[string]func(r *rig) error{
		"forwards": func(r *rig) error { _, err := r.engine.Read(t.Context(), "a", ReadOptions{}); return err },
		"backwards": func(r *rig) error {
			_, err := r.engine.Read(t.Context(), "a", ReadOptions{Backwards: true})
			return err
		},
		"state":    func(r *rig) error { _, _, err := r.engine.State(t.Context(), "a", nil); return err },
		"metadata": func(r *rig) error { _, err := r.engine.Metadata(t.Context(), "a"); return err },
		"command":  func(r *rig) error { _, err := r.send("a", "more", credit{Amount: 1}); return err },
	}
	for name, read := range reads {
		for _, missing := range []es.Version{1, 4} {
			t.Run(fmt.Sprintf("%s without %d", name, missing), func(t *testing.T) {
				r := newRig(t)
				for i := range 6 {
					r.mustSend("a", fmt.Sprint("k-", i), credit{Amount: 1})
				}
				r.restart(false)
				if _, err := r.engine.Metadata(t.Context(), "a"); err != nil {
					t.Fatal(err)
				}
				b := r.engine.cfg.Store.NewBatch()
				if err := errors.Join(b.Delete(eventKey(nil, r.engine.partition("a").at.Partition, "a", missing)), b.Commit()); err != nil {
					t.Fatal(err)
				}
				if err := read(r); !errors.Is(err, ErrStore) {
					t.Errorf("got %v", err)
				}
				<-r.engine.stopped
				if err := r.stopped(); !errors.Is(err, ErrStore) {
					t.Errorf("the engine ended with %v", err)
				}
				if db, err := store.Open(filepath.Join(r.dir, "streams"), store.Options{}); !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), "is missing") {
					t.Errorf("opened again: %v, %v", db, err)
				}
			})
		}
	}
}

// TestHoleAtStart: a hole is found when the store is used again, whether anybody reads the stream or not.
func TestHoleAtStart(t *testing.T) {
	r := newRig(t)
	for i := range 6 {
		r.mustSend("a", fmt.Sprint("k-", i), credit{Amount: 1})
	}
	r.mustSend("b", "k", nothing{})
	r.restart(false)
	r.balance("a")
	b := r.engine.cfg.Store.NewBatch()
	if err := errors.Join(b.Delete(eventKey(nil, r.engine.partition("a").at.Partition, "a", 2)), b.Commit()); err != nil {
		t.Fatal(err)
	}
	if err := r.stopped(); err != nil {
		t.Fatal(err)
	}
	r.start()
	<-r.engine.stopped
	if err := r.stopped(); !errors.Is(err, ErrStore) || !strings.Contains(err.Error(), "event 2 of") {
		t.Errorf("the engine ended with %v", err)
	}
}

// TestCategory reads what a random history of many streams wrote, in pages of all sizes, and compares with the log.
func TestCategory(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	r := newRig(t)
	write := func(n int) {
		for range n {
			stream := fmt.Sprint("a-", rnd.IntN(20))
			if rnd.IntN(3) == 0 {
				_, _ = r.send(stream, fmt.Sprint(rnd.Uint64()), debit{1}) // refused if there is nothing
				continue
			}
			r.mustSend(stream, fmt.Sprint(rnd.Uint64()), credit{Amount: 5, Times: 1 + rnd.IntN(4)})
		}
	}
	write(60)
	r.restart(false) // another claim in the middle
	write(60)
	want := r.readLog()
	check := func(name string, got []es.Envelope[event], keep func(es.Envelope[event]) bool) {
		t.Helper()
		all := map[es.StreamID][]es.Envelope[event]{}
		at := map[int32]int64{}
		for _, env := range got {
			if env.Position.Offset < at[env.Position.Partition] {
				t.Fatalf("%s: %s comes after %d", name, env.Position, at[env.Position.Partition])
			}
			at[env.Position.Partition] = env.Position.Offset
			all[env.Stream] = append(all[env.Stream], env)
		}
		kept := map[es.StreamID][]es.Envelope[event]{}
		for id, envs := range want {
			if envs = slices.DeleteFunc(slices.Clone(envs), func(env es.Envelope[event]) bool { return !keep(env) }); len(envs) > 0 {
				kept[id] = envs
			}
		}
		if diff := cmp.Diff(kept, all); diff != "" {
			t.Fatalf("%s (-log +read):\n%s", name, diff)
		}
	}
	every := func(es.Envelope[event]) bool { return true }
	pages := func(o CategoryOptions) (all []es.Envelope[event], cursors []string, seen es.Positions) {
		t.Helper()
		for {
			page, err := r.engine.Category(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if o.Limit > 0 && len(page.Events) > o.Limit {
				t.Fatalf("%d events, at most %d were asked for", len(page.Events), o.Limit)
			}
			all, cursors = append(all, page.Events...), append(cursors, page.Next)
			for _, at := range page.Positions {
				seen = seen.With(at)
			}
			if o.Cursor, o.After = page.Next, nil; page.End {
				return all, cursors, seen
			}
		}
	}
	all, cursors, ends := pages(CategoryOptions{})
	check("one page", all, every)
	if len(cursors) != 1 {
		t.Errorf("%d pages", len(cursors))
	}
	all, _, _ = pages(CategoryOptions{Limit: 1 + rnd.IntN(40)})
	check("small pages", all, every)
	all, _, _ = pages(CategoryOptions{Bytes: 30})
	check("pages of few bytes", all, every)
	all, _, _ = pages(CategoryOptions{Types: []string{"test.v1.Debited"}, Limit: 3})
	check("one type", all, func(env es.Envelope[event]) bool { return env.Type == "test.v1.Debited" })
	// From positions of events on, in random partitions.
	for range 5 {
		var after es.Positions
		for _, envs := range want {
			if rnd.IntN(2) == 0 {
				after = after.With(envs[rnd.IntN(len(envs))].Position)
			}
		}
		all, _, _ := pages(CategoryOptions{After: after, Limit: 50})
		check("after "+after.String(), all, func(env es.Envelope[event]) bool {
			offset, ok := after.Offset(env.Position.TopicPartition)
			return !ok || env.Position.Offset > offset
		})
	}
	// Waiting: what comes later ends it, and nothing more than the time.
	page, err := r.engine.Category(t.Context(), CategoryOptions{Cursor: cursors[0], Wait: time.Millisecond})
	if err != nil || len(page.Events) > 0 || !page.End {
		t.Errorf("nothing new: %+v, %v", page, err)
	}
	done := make(chan CategoryPage[event], 1)
	go func() {
		page, err := r.engine.Category(t.Context(), CategoryOptions{After: ends, Wait: time.Minute})
		if err != nil {
			t.Error(err)
		}
		done <- page
	}()
	sent := r.mustSend("late", "k", credit{Amount: 1})
	if page := <-done; len(page.Events) != 1 || page.Events[0].Position != sent.Position {
		t.Errorf("waited for %s, got %+v", sent.Position, page)
	}
	// A command that had nothing to do has a position, too.
	noted := r.mustSend("late", "k-2", nothing{})
	if page, err := r.engine.Category(t.Context(), CategoryOptions{After: es.Positions{noted.Position}}); err != nil || slices.ContainsFunc(page.Events, func(env es.Envelope[event]) bool { return env.Stream == "late" }) {
		t.Errorf("after a note: %v, %v", err, page)
	}
	for _, o := range []CategoryOptions{{Cursor: "x"}, {Cursor: "Ag"}, {Cursor: cursors[0][:len(cursors[0])/2]}} {
		if _, err := r.engine.Category(t.Context(), o); !errors.Is(err, ErrCategoryCursor) {
			t.Errorf("cursor %q: %v", o.Cursor, err)
		}
	}
	beyond := es.Position{TopicPartition: sent.Position.TopicPartition, Offset: 1 << 40}
	mark := es.Position{TopicPartition: sent.Position.TopicPartition}
	for _, at := range []es.Position{beyond, mark} {
		if _, err := r.engine.Category(t.Context(), CategoryOptions{After: es.Positions{at}}); !errors.Is(err, eventlog.ErrCursor) {
			t.Errorf("after %s: %v", at, err)
		}
	}
	beyond.Partition = 99
	if _, err := r.engine.Category(t.Context(), CategoryOptions{After: es.Positions{beyond}}); !errors.Is(err, es.ErrPosition) {
		t.Errorf("a partition that is not there: %v", err)
	}
}

// TestCategoryParts: the parts of a stored event are on one page.
func TestCategoryParts(t *testing.T) {
	exchanging := contract.Set[event]{Topic: accounts.Topic, Types: append(accounts.Types[:2:2], contract.For[exchanged, event](exchangedSchema))}
	r := newRig(t, func(r *rig) { r.set, r.cfg.Topic.Partitions = exchanging, 1 })
	r.mustSend("a", "k", emit{Amounts: []int64{10, 20}})
	r.set = contract.Set[event]{Topic: accounts.Topic, Types: accounts.Types, Upcasters: []contract.Upcaster[event]{
		contract.Split(exchangedSchema, func(e exchanged) []event { return []event{debited{e.Out}, credited{e.In, "exchanged"}} }),
	}}
	r.restart(false)
	page, err := r.engine.Category(t.Context(), CategoryOptions{Limit: 1})
	if err != nil || len(page.Events) != 2 || page.Events[1].Part != 1 || page.End {
		t.Errorf("%+v, %v", page, err)
	}
}

func FuzzCategoryCursor(f *testing.F) {
	topic := eventlog.Topic{Name: "t", Partitions: 3}
	next := topic.Start(1)
	next.Next, next.ProducerID, next.Epoch = 7, 1, 2
	text, err := categoryEnd([]eventlog.Cursor{topic.Start(0), next, topic.Start(2)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add("")
	f.Add("AQ")
	f.Add("AQD_")
	f.Fuzz(func(t *testing.T, text string) {
		into := []eventlog.Cursor{topic.Start(0), topic.Start(1), topic.Start(2)}
		if parseCategory(text, into) != nil {
			return
		}
		again, err := categoryEnd(into)
		if err != nil {
			t.Fatal(err)
		}
		back := []eventlog.Cursor{topic.Start(0), topic.Start(1), topic.Start(2)}
		if err := parseCategory(again, back); err != nil {
			t.Fatal(err)
		}
		for i := range back {
			if into[i].Next > 0 && into[i] != back[i] {
				t.Fatalf("%+v, then %+v", into[i], back[i])
			}
		}
	})
}

// TestDiff applies the changes to the old document and compares with the new one, for random documents.
func TestDiff(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 5000 {
		a := randomJSON(rnd, 4)
		b := mutate(rnd, a)
		if rnd.IntN(10) == 0 {
			b = randomJSON(rnd, 4)
		}
		from, to := must(json.Marshal(a)), must(json.Marshal(b))
		changes, err := Diff(from, to)
		if err != nil {
			t.Fatal(err)
		}
		doc := must(decodeJSON(from))
		for _, c := range changes {
			doc = apply(t, doc, c)
		}
		if diff := cmp.Diff(must(decodeJSON(to)), doc); diff != "" {
			t.Fatalf("%s\n%s\n%s\n(-want +applied):\n%s", from, to, must(json.Marshal(changes)), diff)
		}
		if string(from) == string(to) && len(changes) > 0 {
			t.Fatalf("equal, but changed by %s", must(json.Marshal(changes)))
		}
	}
	for _, tc := range []struct{ from, to, want string }{
		{`{"lines":[1,2]}`, `{"lines":[1,2,3]}`, `[{"op":"add","path":"/lines/2","to":3}]`},
		{`{"lines":[1,2,3]}`, `{"lines":[1,3]}`, `[{"op":"remove","path":"/lines/1","from":2}]`},
		{`{"a/b":9007199254740993}`, `{"a/b":9007199254740992}`, `[{"op":"replace","path":"/a~1b","from":9007199254740993,"to":9007199254740992}]`},
		{`{"a":{"b":1}}`, `{"a":{"b":1,"c":"<"}}`, `[{"op":"add","path":"/a/c","to":"<"}]`},
		{`null`, `{}`, `[{"op":"replace","path":"","from":null,"to":{}}]`},
		{`{}`, `{}`, `[]`},
	} {
		changes, err := Diff([]byte(tc.from), []byte(tc.to))
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(changes); err != nil || strings.TrimSpace(b.String()) != tc.want {
			t.Errorf("%s to %s: %s, want %s", tc.from, tc.to, b.String(), tc.want)
		}
	}
	for _, bad := range []string{"", "{", "1 2", "[1]]"} {
		if _, err := Diff([]byte(bad), []byte("1")); err == nil {
			t.Errorf("%q was taken for a document", bad)
		}
	}
}

func randomJSON(rnd *rand.Rand, depth int) any {
	kind := rnd.IntN(6)
	if depth == 0 {
		kind = rnd.IntN(4)
	}
	switch kind {
	case 0:
		return nil
	case 1:
		return rnd.IntN(2) == 0
	case 2:
		return rnd.Int64N(3)
	case 3:
		return []string{"", "a", "/~", "<é>"}[rnd.IntN(4)]
	case 4:
		list := []any{}
		for range rnd.IntN(5) {
			list = append(list, randomJSON(rnd, depth-1))
		}
		return list
	default:
		object := map[string]any{}
		for range rnd.IntN(5) {
			object[[]string{"", "a", "b/c", "~", "~1"}[rnd.IntN(5)]] = randomJSON(rnd, depth-1)
		}
		return object
	}
}

func mutate(rnd *rand.Rand, v any) any {
	switch v := v.(type) {
	case []any:
		list := slices.Clone(v)
		for range rnd.IntN(3) {
			at := rnd.IntN(len(list) + 1)
			switch {
			case rnd.IntN(3) == 0:
				list = slices.Insert(list, at, randomJSON(rnd, 2))
			case at < len(list) && rnd.IntN(2) == 0:
				list = slices.Delete(list, at, at+1)
			case at < len(list):
				list[at] = mutate(rnd, list[at])
			}
		}
		return list
	case map[string]any:
		object := map[string]any{}
		for name, value := range v {
			switch rnd.IntN(4) {
			case 0:
				object[name] = mutate(rnd, value)
			case 1:
			default:
				object[name] = value
			}
		}
		return object
	}
	if rnd.IntN(2) == 0 {
		return v
	}
	return randomJSON(rnd, 2)
}

// apply does what RFC 6902 says, and checks what is said to have been there.
func apply(t *testing.T, doc any, c Change) any {
	t.Helper()
	value := func(raw json.RawMessage) any {
		v, err := decodeJSON(raw)
		if err != nil {
			t.Fatalf("%s of %s: %v", raw, c.Path, err)
		}
		return v
	}
	was := func(v any) {
		if diff := cmp.Diff(value(c.From), v); diff != "" {
			t.Fatalf("what %s %s takes away (-said +there):\n%s", c.Op, c.Path, diff)
		}
	}
	if c.Path == "" {
		was(doc)
		return value(c.To)
	}
	var walk func(v any, path []string) any
	walk = func(v any, path []string) any {
		name := strings.NewReplacer("~1", "/", "~0", "~").Replace(path[0])
		switch v := v.(type) {
		case map[string]any:
			switch {
			case len(path) > 1:
				v[name] = walk(v[name], path[1:])
			case c.Op == "remove":
				was(v[name])
				delete(v, name)
			case c.Op == "add":
				if _, ok := v[name]; ok {
					t.Fatalf("add %s: it is there", c.Path)
				}
				v[name] = value(c.To)
			default:
				was(v[name])
				v[name] = value(c.To)
			}
			return v
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i > len(v) {
				t.Fatalf("%s %s: no such element", c.Op, c.Path)
			}
			switch {
			case len(path) > 1:
				v[i] = walk(v[i], path[1:])
			case c.Op == "remove":
				was(v[i])
				v = slices.Delete(v, i, i+1)
			case c.Op == "add":
				v = slices.Insert(v, i, value(c.To))
			default:
				was(v[i])
				v[i] = value(c.To)
			}
			return v
		}
		t.Fatalf("%s %s leads nowhere", c.Op, c.Path)
		return nil
	}
	return walk(doc, strings.Split(c.Path, "/")[1:])
}
