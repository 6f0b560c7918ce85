package registry

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/rest"
)

// childEnv makes the test program a registry on the brokers that it names.
const childEnv = "MILLRACE_TEST_REGISTRY_BROKERS"

func TestMain(m *testing.M) {
	if brokers := os.Getenv(childEnv); brokers != "" {
		if err := child(brokers); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child runs a registry until it is told to stop, and writes its address once it is ready.
func child(brokers string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log, err := eventlog.Open(ctx, eventlog.Config{Brokers: []string{brokers}})
	if err != nil {
		return err
	}
	defer log.Close()
	server := rest.NewServer(rest.Options{})
	bound, err := server.Listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	s, err := NewServer(ctx, ServerConfig{Log: log, Instance: fmt.Sprint(os.Getpid()), Address: bound.String()})
	if err != nil {
		return err
	}
	server.Mount("/", s.Handler())
	failed := make(chan error, 2)
	go func() { failed <- s.Run(ctx) }()
	go func() { failed <- server.Serve(ctx) }()
	fmt.Println("http://" + bound.String())
	return errors.Join(<-failed, <-failed)
}

// A process is a registry in a process of its own.
type process struct {
	*exec.Cmd
	url string
}

func spawn(t testing.TB, brokers string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+"="+brokers)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: cmd}
	t.Cleanup(p.kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	p.url = strings.TrimSpace(line)
	eventually(t, "the registry's process is ready", func() bool { status, _ := try("GET", p.url+"/subjects", ""); return status == 200 })
	return p
}

// kill ends the process without a chance to do anything.
func (p *process) kill() {
	_ = p.Process.Kill()
	_ = p.Wait()
}

// try sends one request; status 0 means that there was no answer.
func try(method, url, body string) (int, string) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	resp, err := web.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

type registered struct{ ID, Version int32 }

// checkRegistry compares what a registry has with what was acknowledged: ids and versions are dense and unique, nothing acknowledged is
// missing or changed, and every record in the topic is whole.
func checkRegistry(t *testing.T, brokers, url string, acknowledged map[string]registered, total int) {
	t.Helper()
	_, text := try("GET", url+"/schemas", "")
	var all []schemaAnswer
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		t.Fatalf("%.200s: %v", text, err)
	}
	ids, versions, found := map[int32]string{}, map[string][]int32{}, map[string]registered{}
	for _, a := range all {
		if other, twice := ids[a.ID]; twice && other != a.Schema {
			t.Errorf("id %d stands for %s and %s", a.ID, other, a.Schema)
		}
		ids[a.ID] = a.Schema
		versions[a.Subject] = append(versions[a.Subject], a.Version)
		found[a.Schema] = registered{a.ID, a.Version}
	}
	if len(all) != total || len(ids) != total {
		t.Errorf("got %d versions and %d ids, want %d", len(all), len(ids), total)
	}
	for id := int32(1); int(id) <= len(ids); id++ {
		if ids[id] == "" {
			t.Errorf("id %d is missing", id)
		}
	}
	for subject, numbers := range versions {
		for i, n := range slices.Sorted(slices.Values(numbers)) {
			if int(n) != i+1 {
				t.Errorf("%s has the versions %v", subject, numbers)
				break
			}
		}
	}
	for schema, want := range acknowledged {
		if found[schema] != want {
			t.Errorf("%s was acknowledged as %+v and is %+v", schema, want, found[schema])
		}
	}
	log := connect(t, brokers)
	topic, err := log.EnsureTopic(t.Context(), eventlog.TopicSpec{Name: Topic, Partitions: 1, Compacted: true})
	if err != nil {
		t.Fatal(err)
	}
	ends, err := log.Ends(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	source, err := log.NewSource(t.Context(), topic.Start(0))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	s := newState()
	for next := int64(0); next < ends[0]; {
		fetched, err := source.Poll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range fetched {
			next = f.Cursor.Next
			for _, r := range f.Records {
				if r.Mark != 0 {
					continue
				}
				if err := s.apply(r.Key, r.Value); err != nil {
					t.Errorf("%s: %v", r.Position, err)
				}
			}
		}
	}
}

// schemas are n different ones for each of several subjects, which may follow each other in any order.
func schemaNumber(i int) (subject, schema string) {
	return fmt.Sprintf("s%d", i%5), recordSchema(fmt.Sprintf("R%d", i%5), "a", fmt.Sprintf("f%d=0", i))
}

// G33: What was acknowledged is in the log, and ids and versions are dense and unique, also when the registry is killed at any moment
// or another instance takes over.
//
// The registry is killed again and again during 1,000 registrations, and a new process goes on each time.
func TestKilledDuringRegistrations(t *testing.T) {
	const total, kills, workers = 1000, 5, 8
	brokers := broker(t, "").Addr()
	var url atomic.Pointer[string]
	p := spawn(t, brokers)
	url.Store(&p.url)
	do(t, "PUT", p.url+"/config", `{"compatibility":"BACKWARD"}`)

	var mu sync.Mutex
	acknowledged := map[string]registered{}
	progress := make(chan int, total)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < total; i = int(next.Add(1)) - 1 {
				subject, schema := schemaNumber(i)
				for t.Context().Err() == nil {
					status, got := try("POST", *url.Load()+"/subjects/"+subject+"/versions", body(schema))
					if status != 200 {
						if status == 409 || status == 422 {
							t.Errorf("refused: %d %s", status, got)
							break
						}
						continue // killed under way, or not ready yet: a client repeats it
					}
					var r registered
					if err := json.Unmarshal([]byte(got), &r); err != nil {
						t.Errorf("%s: %v", got, err)
					}
					mu.Lock()
					acknowledged[schema] = r
					n := len(acknowledged)
					mu.Unlock()
					progress <- n
					break
				}
			}
		})
	}
	killed := 0
	for n := range total {
		<-progress
		if killed < kills && n >= (killed+1)*total/(kills+1) {
			killed++
			p.kill()
			p = spawn(t, brokers)
			url.Store(&p.url)
		}
	}
	wg.Wait()
	if killed != kills || len(acknowledged) != total {
		t.Errorf("killed %d times, %d of %d acknowledged", killed, len(acknowledged), total)
	}
	checkRegistry(t, brokers, p.url, acknowledged, total)
	p.kill()
	checkRegistry(t, brokers, spawn(t, brokers).url, acknowledged, total)
}

// Two processes: the one that writes is killed, and the other one, which forwarded to it, takes over; then a third comes.
func TestTakeoverBetweenProcesses(t *testing.T) {
	brokers := broker(t, "").Addr()
	acknowledged := map[string]registered{}
	i := 0
	register := func(url string) {
		t.Helper()
		subject, schema := schemaNumber(i)
		i++
		eventually(t, "registered", func() bool {
			status, got := try("POST", url+"/subjects/"+subject+"/versions", body(schema))
			if status == 409 || status == 422 {
				t.Fatalf("refused: %d %s", status, got)
			}
			var r registered
			if status != 200 || json.Unmarshal([]byte(got), &r) != nil {
				return false
			}
			acknowledged[schema] = r
			// What one wrote through an instance it reads from it at once.
			if status, got := try("GET", fmt.Sprintf("%s/schemas/ids/%d", url, r.ID), ""); status != 200 {
				t.Errorf("read after write: %d %s", status, got)
			}
			return true
		})
	}
	one := spawn(t, brokers)
	do(t, "PUT", one.url+"/config", `{"compatibility":"BACKWARD"}`)
	for range 20 {
		register(one.url)
	}
	two := spawn(t, brokers) // takes over at once: it claimed last
	for range 20 {
		register(one.url) // forwards
		register(two.url)
	}
	two.kill()
	for range 20 {
		register(one.url) // has to take over first
	}
	three := spawn(t, brokers)
	one.kill()
	for range 20 {
		register(three.url)
	}
	checkRegistry(t, brokers, three.url, acknowledged, i)
}

// Two processes under load, whichever writes is killed again and again: the other one takes over, and a new one comes beside it. Every
// schema is registered through both at the same time, and both get the same answer.
func TestTakeoverUnderLoad(t *testing.T) {
	const total, kills, workers = 300, 4, 4
	brokers := broker(t, "").Addr()
	processes := [2]*process{spawn(t, brokers), spawn(t, brokers)}
	var urls [2]atomic.Pointer[string]
	for i, p := range processes {
		urls[i].Store(&p.url)
	}
	do(t, "PUT", processes[1].url+"/config", `{"compatibility":"BACKWARD"}`)

	var mu sync.Mutex
	acknowledged := map[string]registered{}
	progress := make(chan struct{}, 2*total)
	var next atomic.Int64
	var wg sync.WaitGroup
	through := func(instance, i int) {
		subject, schema := schemaNumber(i)
		for t.Context().Err() == nil {
			status, got := try("POST", *urls[instance].Load()+"/subjects/"+subject+"/versions", body(schema))
			if status == 409 || status == 422 {
				t.Errorf("refused: %d %s", status, got)
				break
			}
			var r registered
			if status != 200 {
				continue // killed under way, not ready yet, or nobody writes at the moment: a client repeats it
			}
			if err := json.Unmarshal([]byte(got), &r); err != nil {
				t.Errorf("%s: %v", got, err)
			}
			mu.Lock()
			if other, ok := acknowledged[schema]; ok && other != r {
				t.Errorf("%s was acknowledged as %+v and as %+v", schema, other, r)
			}
			acknowledged[schema] = r
			mu.Unlock()
			break
		}
		progress <- struct{}{}
	}
	for range workers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < total; i = int(next.Add(1)) - 1 {
				var both sync.WaitGroup
				both.Go(func() { through(0, i) })
				through(1, i)
				both.Wait()
			}
		})
	}
	killed := 0
	for n := range 2 * total {
		<-progress
		if killed < kills && n >= (killed+1)*2*total/(kills+1) {
			// The one that came last claimed last, as a rule: it is the writer.
			writer := (killed + 1) % 2
			killed++
			processes[writer].kill()
			processes[writer] = spawn(t, brokers)
			urls[writer].Store(&processes[writer].url)
		}
	}
	wg.Wait()
	if killed != kills || len(acknowledged) != total {
		t.Errorf("killed %d times, %d of %d acknowledged", killed, len(acknowledged), total)
	}
	for _, p := range processes {
		checkRegistry(t, brokers, p.url, acknowledged, total)
	}
}

// A write that was made through a standby can be read from it at once.
func TestReadYourForwardedWrite(t *testing.T) {
	addr := broker(t, "").Addr()
	one := start(t, addr, "one")
	two := start(t, addr, "two")
	eventually(t, "the first instance has stepped down", func() bool { standby, _, _ := one.role(); return standby })
	for i := range 50 {
		subject, schema := schemaNumber(i)
		status, got, header := do(t, "POST", one.url+"/contexts/.c/subjects/"+subject+"/versions", body(schema))
		if status != 200 || header.Get(applied) != "" {
			t.Fatalf("%d %s %v", status, got, header)
		}
		if status, got, _ := do(t, "GET", fmt.Sprintf("%s/contexts/.c/schemas/ids/%d", one.url, i+1), ""); status != 200 {
			t.Fatalf("read after write: %d %s", status, got)
		}
	}
	if !slices.Equal(one.dump(), two.dump()) {
		t.Error("the instances differ")
	}
}
