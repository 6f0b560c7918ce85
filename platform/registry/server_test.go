package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/eventlog"
)

func register(t testing.TB, url, subject, schema string) (id, version int32) {
	t.Helper()
	status, got, _ := do(t, "POST", url+"/subjects/"+subject+"/versions", body(schema))
	var a struct{ ID, Version int32 }
	if err := json.Unmarshal([]byte(got), &a); err != nil || status != 200 {
		t.Fatalf("register: %d %s", status, got)
	}
	return a.ID, a.Version
}

// state of an instance, as text.
func (i *instance) dump() []string {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return dump(i.state)
}

// end returns the offset up to which an instance has applied its topic.
func (i *instance) end() int64 {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.applied
}

// Schemas, ids, deletions and settings survive restarts of the registry and of the broker.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	b := broker(t, dir)
	one := start(t, b.Addr(), "one")
	for i := range 20 {
		register(t, one.url, fmt.Sprintf("s%d", i%7), recordSchema(fmt.Sprintf("R%d", i%7), "a", fmt.Sprintf("b%d=0", i)))
	}
	for _, path := range []string{"/subjects/s3", "/subjects/s4", "/subjects/s4?permanent=true", "/subjects/s0/versions/1"} {
		if status, got, _ := do(t, "DELETE", one.url+path, ""); status != 200 {
			t.Fatalf("%s: %d %s", path, status, got)
		}
	}
	do(t, "PUT", one.url+"/config/s1", `{"compatibility":"FORWARD"}`)
	do(t, "PUT", one.url+"/mode/s2", `{"mode":"READONLY"}`)
	want := one.dump()
	one.stop()

	two := start(t, b.Addr(), "one")
	if diff := cmp.Diff(want, two.dump()); diff != "" {
		t.Errorf("after a restart: %s", diff)
	}
	if id, _ := register(t, two.url, "s5", recordSchema("R5", "a", "b5=0")); id != 6 {
		t.Errorf("a known schema has id %d now, was 6", id)
	}
	if id, _ := register(t, two.url, "n", `"int"`); id != 21 {
		t.Errorf("a new schema got id %d, want 21", id)
	}
	want = two.dump()
	two.stop()
	b.Close()

	three := start(t, broker(t, dir).Addr(), "one")
	if diff := cmp.Diff(want, three.dump()); diff != "" {
		t.Errorf("after a restart of the broker: %s", diff)
	}
	if id, _ := register(t, three.url, "m", `"long"`); id != 22 {
		t.Errorf("a new schema got id %d, want 22", id)
	}
}

// G31: Registering the same content again gives the same id and version and writes nothing, however many ask at once and whichever
// instance they ask.
func TestConcurrentRegistrations(t *testing.T) {
	url := start(t, broker(t, "").Addr(), "one").url
	do(t, "PUT", url+"/config", `{"compatibility":"NONE"}`)
	const n = 100
	var mu sync.Mutex
	ids, versions := map[int32]int{}, map[int32]int{}
	all := func(schema func(i int) string, subject func(i int) string) {
		clear(ids)
		clear(versions)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				id, version := register(t, url, subject(i), schema(i))
				mu.Lock()
				defer mu.Unlock()
				ids[id]++
				versions[version]++
			})
		}
		wg.Wait()
	}
	same := func(int) string { return recordSchema("Same", "a") }
	different := func(i int) string { return recordSchema("R", fmt.Sprintf("f%d", i)) }
	s := func(int) string { return "s" }

	all(same, s)
	if len(ids) != 1 || ids[1] != n || versions[1] != n {
		t.Errorf("the same schema in the same subject: ids %v, versions %v", ids, versions)
	}
	all(same, func(i int) string { return fmt.Sprintf("t%d", i) })
	if len(ids) != 1 || ids[1] != n || versions[1] != n {
		t.Errorf("the same schema in many subjects: ids %v, versions %v", ids, versions)
	}
	all(different, s)
	for i := int32(2); i < n+2; i++ {
		if ids[i] != 1 || versions[i] != 1 {
			t.Errorf("different schemas: id %d given %d times, version %d times", i, ids[i], versions[i])
		}
	}
	var got []int32
	_, text, _ := do(t, "GET", url+"/subjects/s/versions", "")
	if err := json.Unmarshal([]byte(text), &got); err != nil || len(got) != n+1 || !slices.IsSorted(got) || got[n] != n+1 {
		t.Errorf("got versions %v", got)
	}
}

// A second instance takes over; the first one forwards its writes, follows, and takes over in turn when the second is gone.
func TestTwoInstances(t *testing.T) {
	addr := broker(t, "").Addr()
	one := start(t, addr, "one")
	register(t, one.url, "s", recordSchema("R", "a"))
	two := start(t, addr, "two")
	if id, version := register(t, two.url, "s", recordSchema("R", "a", "b=0")); id != 2 || version != 2 {
		t.Errorf("on the second instance: id %d version %d", id, version)
	}
	eventually(t, "the first instance has stepped down", func() bool { standby, _, _ := one.role(); return standby })
	if id, version := register(t, one.url, "s", recordSchema("R", "a", "b=0", "c=0")); id != 3 || version != 3 {
		t.Errorf("forwarded: id %d version %d", id, version)
	}
	eventually(t, "the first instance has followed", func() bool { return cmp.Equal(one.dump(), two.dump()) })
	if status, got, _ := do(t, "POST", one.url+"/subjects/s/versions", body(recordSchema("R", "z"))); status != 409 {
		t.Errorf("a forwarded refusal: %d %s", status, got)
	}
	if status, got, _ := do(t, "POST", one.url+"/subjects/s/versions", body(recordSchema("R", "z")), forwarded, "true"); status != 500 || !strings.Contains(got, "50004") {
		t.Errorf("a forwarded write is not forwarded again: %d %s", status, got)
	}
	two.stop()
	eventually(t, "the first instance writes again", func() bool {
		status, _, _ := do(t, "POST", one.url+"/subjects/s/versions", body(recordSchema("R", "a", "d=0")))
		return status == 200
	})
	if got := one.dump(); !slices.Contains(got, "max 4") {
		t.Errorf("got %v", got)
	}
}

// A write that waits for its turn in an instance that is deposed meanwhile is made by the new writer; who sent it notices nothing.
func TestWaitingWritesMove(t *testing.T) {
	addr := broker(t, "").Addr()
	one := start(t, addr, "one")
	busy, release := make(chan struct{}), make(chan struct{})
	go func() {
		_, _ = one.submit(t.Context(), func(*state) ([]record, any, *apiError) {
			close(busy)
			<-release
			return nil, nil, nil
		})
	}()
	<-busy
	const n = 5
	answers := make(chan string, n)
	for i := range n {
		go func() {
			_, got, _ := do(t, "POST", fmt.Sprintf("%s/subjects/s%d/versions", one.url, i), body(recordSchema("R", "a")))
			answers <- got
		}()
	}
	two := start(t, addr, "two")
	close(release)
	for range n {
		if got := <-answers; !strings.Contains(got, `"id":1,"version":1`) {
			t.Errorf("got %s", got)
		}
	}
	if standby, _, _ := one.role(); !standby {
		t.Error("the first instance writes on")
	}
	if got := two.dump(); len(got) != n+1 {
		t.Errorf("got %v", got)
	}
}

// The same where the write has not even had its turn.
func TestWaitingForATurnEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{writes: make(chan *write), turned: make(chan struct{})}
		answered := make(chan *apiError, 1)
		go func() {
			_, err := s.submit(t.Context(), nil)
			answered <- err
		}()
		synctest.Wait()
		s.setStandby(true)
		if err := <-answered; err == nil || !err.moved || err.code != codeUnknownLeader {
			t.Errorf("got %v", err)
		}
		limit, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s.setStandby(false)
		if _, err := s.submit(limit, nil); code(err) != codeTimeout || err.moved {
			t.Errorf("without a writer: got %v", err)
		}
	})
}

// An owner that another instance has fenced stays away; one that ended for a reason of its own claims again.
func TestDeposed(t *testing.T) {
	for err, want := range map[error]bool{
		eventlog.ErrFenced.Wrap(eventlog.ErrDeposed): true, eventlog.ErrDeposed.Because("by another one"): true,
		eventlog.ErrLease: false, eventlog.ErrForeign: false, eventlog.ErrUnreachable: false, context.Canceled: false,
	} {
		if got := deposed(err); got != want {
			t.Errorf("%v: got %v, want %v", err, got, want)
		}
	}
}

// Who was deposed waits until it has read by whom. If nobody shows up, the other one has ended before it made its claim: claim again.
func TestDeposedByNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := func() *Server {
			return &Server{cfg: ServerConfig{Instance: "one", Address: "a:1"}, standby: true, leader: eventlog.Identity{Instance: "one", Address: "a:1"},
				takeover: make(chan struct{}, 1), progress: make(chan struct{}), turned: make(chan struct{}), state: newState()}
		}
		s := server()
		if here, leader := s.writer(t.Context()); here || leader.Address != "" || len(s.takeover) != 1 {
			t.Errorf("got %v, %+v, %d signals", here, leader, len(s.takeover))
		}
		s = server()
		go func() {
			time.Sleep(leaderTime / 2) // fake time
			s.advance([]eventlog.Record{{Mark: eventlog.MarkClaim, Owner: eventlog.Identity{Instance: "two", Address: "b:2"}}}, 1)
		}()
		if here, leader := s.writer(t.Context()); here || leader.Address != "b:2" || len(s.takeover) != 0 {
			t.Errorf("got %v, %+v, %d signals", here, leader, len(s.takeover))
		}
	})
}

// vandal writes a record to the topic as its owner, and returns where it is.
func vandal(t *testing.T, addr string, key, value []byte) string {
	t.Helper()
	log := connect(t, addr)
	topic, err := log.EnsureTopic(t.Context(), eventlog.TopicSpec{Name: Topic, Partitions: 1, Compacted: true})
	if err != nil {
		t.Fatal(err)
	}
	owner, err := log.Claim(t.Context(), topic, 0, eventlog.Identity{Instance: "vandal"}, eventlog.NoopMarks)
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Release()
	b := eventlog.NewBatch(0)
	if err := b.Add(key, value, nil); err != nil {
		t.Fatal(err)
	}
	done := make(chan string, 1)
	owner.Append(b, func(base int64, err error) {
		if err != nil {
			t.Error(err)
		}
		done <- fmt.Sprintf("%s/0@%d", Topic, base)
	})
	return <-done
}

// G35: A record of `_schemas` that is not understood is never skipped: the registry names its offset, refuses every write, and answers
// reads with what it had before. Whether it reads the record at its start or while it runs, and from whatever instance.
func TestPoisonedTopic(t *testing.T) {
	for _, tt := range []struct{ name, key, value string }{
		{"garbage", `{"keytype":"SCHEMA","subject":"s","version":2,"magic":1}`, "garbage"},
		{"a key that is no JSON", `SCHEMA`, `{}`},
		{"no key", ``, `{}`},
		{"an id that stands for another schema", `{"keytype":"SCHEMA","subject":"t","version":1,"magic":1}`, `{"subject":"t","version":1,"id":1,"schema":"\"long\"","deleted":false}`},
		{"an id that is none", `{"keytype":"SCHEMA","subject":"t","version":1,"magic":1}`, `{"subject":"t","version":1,"id":-1,"schema":"\"long\"","deleted":false}`},
		{"a mode of nothing", `{"keytype":"MODE","subject":null,"magic":0}`, `{}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := broker(t, "").Addr()
			running := start(t, addr, "running")
			register(t, running.url, "s", `"int"`)
			before := running.dump()
			at := vandal(t, addr, []byte(tt.key), []byte(tt.value))
			fresh := start(t, addr, "fresh")
			for _, i := range []*instance{running, fresh} {
				for _, w := range []struct{ method, path, body string }{
					{"POST", "/subjects/n/versions", body(`"long"`)},
					{"PUT", "/config", `{"compatibility":"NONE"}`},
					{"PUT", "/mode/s", `{"mode":"READONLY"}`},
					{"DELETE", "/subjects/s", ""},
					{"POST", "/subjects/s/versions/1/tags", `{"metadata":{"properties":{"a":"b"}}}`},
				} {
					var status int
					var got string
					eventually(t, "the instance has read the record", func() bool {
						status, got, _ = do(t, w.method, i.url+w.path, w.body)
						return status != 500 || strings.Contains(got, "50001")
					})
					if status != 500 || !strings.Contains(got, at) || !strings.Contains(got, "read-only") {
						t.Errorf("%s: %s %s: %d %s, want a refusal that names %s", i.cfg.Instance, w.method, w.path, status, got, at)
					}
				}
				if status, got, _ := do(t, "GET", i.url+"/subjects/s/versions/1", ""); status != 200 {
					t.Errorf("%s: a read: %d %s", i.cfg.Instance, status, got)
				}
				if id, _ := register(t, i.url, "s", `"int"`); id != 1 {
					t.Errorf("%s: a known schema: id %d", i.cfg.Instance, id)
				}
				if got := i.dump(); !slices.Equal(got, before) {
					t.Errorf("%s: the record changed the state: %v, was %v", i.cfg.Instance, got, before)
				}
			}
		})
	}
}

// Before the topic has been read every answer says so.
func TestStarting(t *testing.T) {
	s, err := NewServer(t.Context(), ServerConfig{Log: connect(t, broker(t, "").Addr())})
	if err != nil {
		t.Fatal(err)
	}
	if s.Ready() {
		t.Error("ready before Run")
	}
	w := &capture{}
	s.Handler().ServeHTTP(w, request("GET", "/subjects"))
	if w.status != 503 || w.Header().Get("Retry-After") == "" || !strings.Contains(w.body.String(), `"error_code":503`) {
		t.Errorf("got %d %s", w.status, w.body.String())
	}
}

func TestRunEndsWhenTheLogIsGone(t *testing.T) {
	b := broker(t, "")
	log := connect(t, b.Addr())
	s, err := NewServer(t.Context(), ServerConfig{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	eventually(t, "the registry is ready", s.Ready)
	log.Close()
	if err := <-done; !errors.Is(err, ErrServer) {
		t.Errorf("got %v, want ErrServer", err)
	}
}
