package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/embedded"
)

// A fleet is the orders service in several processes over one Kafka, and clients that give each command to any of them.
type fleet struct {
	t        *testing.T
	kafka    string
	registry *process

	mu   sync.Mutex
	live []*process
	next int

	sent    atomic.Int64
	slowest atomic.Int64 // nanoseconds
	again   atomic.Int64 // attempts that were answered 503 or 504
	refused atomic.Int64 // attempts that nobody listened to
}

func newFleet(t *testing.T) *fleet {
	f := &fleet{t: t, kafka: os.Getenv("MILLRACE_TEST_KAFKA")}
	if f.kafka == "" {
		broker, err := embedded.Start(embedded.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(broker.Close)
		f.kafka = broker.Addr()
	}
	f.registry = start(t, "serve", "registry", "--kafka-brokers", f.kafka, "--registry-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", "--data-dir", t.TempDir())
	return f
}

// add starts an instance, on a data directory of its own.
func (f *fleet) add(dir string) *process {
	f.t.Helper()
	p := start(f.t, "serve", "orders", "--kafka-brokers", f.kafka, "--registry-url", f.registry.at.Registry, "--registry-register",
		"--http-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", "--data-dir", dir)
	f.mu.Lock()
	f.live = append(f.live, p)
	f.mu.Unlock()
	return p
}

// remove takes an instance from those that clients use.
func (f *fleet) remove(p *process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.live = slices.DeleteFunc(f.live, func(have *process) bool { return have == p })
}

func (f *fleet) any() *process {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	return f.live[f.next%len(f.live)]
}

// send has one command decided, whatever it takes, and returns its receipt.
func (f *fleet) send(order, command, key, body string) (receipt struct {
	Version int64
	Events  []struct{ ID string }
}, err error) {
	began := time.Now()
	defer func() {
		f.sent.Add(1)
		for d := int64(time.Since(began)); ; {
			if old := f.slowest.Load(); d <= old || f.slowest.CompareAndSwap(old, d) {
				return
			}
		}
	}()
	for time.Since(began) < 30*time.Second {
		req, err := http.NewRequest(http.MethodPost, f.any().at.HTTP+"/v1/orders/"+order+"/"+command, bytes.NewBufferString(body))
		if err != nil {
			return receipt, err
		}
		req.Header.Set("Idempotency-Key", key)
		req.Header.Set("Content-Type", "application/json")
		resp, err := clients.Do(req)
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF) {
			f.refused.Add(1)
			continue
		}
		if err != nil {
			return receipt, err
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		switch {
		case err != nil:
			f.refused.Add(1)
		case resp.StatusCode == http.StatusServiceUnavailable, resp.StatusCode == http.StatusGatewayTimeout:
			f.again.Add(1)
		case resp.StatusCode != http.StatusOK:
			return receipt, fmt.Errorf("%s: %s", resp.Status, text)
		default:
			return receipt, json.Unmarshal(text, &receipt)
		}
	}
	return receipt, errors.New("no answer for 30 s")
}

var clients = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 20 * time.Second}

// report logs what clients have met since the last report.
func (f *fleet) report(when string) {
	f.t.Logf("%s: %d commands so far, the slowest took %v; %d answers said try again, %d times nobody listened", when,
		f.sent.Load(), time.Duration(f.slowest.Swap(0)).Round(time.Millisecond), f.again.Swap(0), f.refused.Swap(0))
}

// TestInstances: an orders service grows from one process to three, is restarted one by one, and loses one to kill -9, under clients that
// give every command to any of them: each is decided once, and planned restarts refuse nothing.
//
// G20: Any instance takes any command, also while partitions change hands: it reaches the owner, or waits for one until its caller's deadline.
func TestInstances(t *testing.T) {
	f := newFleet(t)
	first := f.add(t.TempDir())
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var placed sync.Map // order → event id of its placement
	for c := range 6 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("o-%d-%d", c, n)
				got, err := f.send(id, "place", id+"-place", `{"customer_id":"c-1","currency":"USD","lines":[{"sku":"a","quantity":1,"amount":100}]}`)
				if err != nil || got.Version != 1 || len(got.Events) != 1 {
					t.Errorf("%s placed: %+v, %v", id, got, err)
					return
				}
				placed.Store(id, got.Events[0].ID)
				if got, err := f.send(id, "confirm", id+"-confirm", ""); err != nil || got.Version != 2 {
					t.Errorf("%s confirmed: %+v, %v", id, got, err)
					return
				}
			}
		})
	}
	defer wg.Wait()
	defer close(stop)
	more := func(n int64) {
		t.Helper()
		before := f.sent.Load()
		first.until("going on", func() bool { return f.sent.Load() > before+n || t.Failed() })
	}
	more(200)
	dirs := []string{t.TempDir(), t.TempDir()}
	second, third := f.add(dirs[0]), f.add(dirs[1])
	more(500)
	f.report("grown to three")

	for _, old := range []struct {
		p   *process
		dir string
	}{{second, dirs[0]}, {third, dirs[1]}} {
		// Nobody new comes to an instance that stops, as with a load balancer that asks /readyz.
		f.remove(old.p)
		old.p.stop()
		p := f.add(old.dir)
		if old.p == second {
			second = p
		}
		more(200)
	}
	if n := f.again.Load(); n > 0 {
		t.Errorf("%d commands were refused during planned restarts", n)
	}
	f.report("restarted one by one")

	second.kill() // clients are not told
	more(200)
	f.remove(second)
	more(200)
	f.report("one was killed")

	checked := 0
	placed.Range(func(order, event any) bool {
		got, err := f.send(order.(string), "place", order.(string)+"-place", `{"customer_id":"c-1","currency":"USD","lines":[{"sku":"a","quantity":1,"amount":100}]}`)
		if err != nil || got.Version != 1 || got.Events[0].ID != event {
			t.Errorf("%s repeated: %+v, %v, want the first receipt", order, got, err)
		}
		checked++
		return checked < 300
	})
}

// ask sends a request to an instance and returns the status and the body of the answer.
func (p *process) ask(method, path, body string, header ...string) (int, http.Header, string) {
	p.t.Helper()
	req, err := http.NewRequest(method, p.at.HTTP+path, bytes.NewBufferString(body))
	if err != nil {
		p.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

// TestEitherInstance: two instances answer everything about every stream in the same way, whichever of them owns it.
func TestEitherInstance(t *testing.T) {
	f := newFleet(t)
	two := []*process{f.add(t.TempDir())}
	two = append(two, f.add(t.TempDir()))
	owns := func(p *process) bool {
		_, _, text := p.ask(http.MethodGet, "/readyz?verbose", "")
		return strings.Contains(text, "ok")
	}
	two[0].until("both ready", func() bool { return owns(two[0]) && owns(two[1]) })
	const place = `{"customer_id":"c-1","currency":"USD","lines":[{"sku":"a","quantity":1,"amount":100}]}`
	var batch []string
	for i := range 24 { // on each of the twelve partitions, all but surely
		id := fmt.Sprint("either-", i)
		path := "/v1/orders/" + id
		if status, header, text := two[i%2].ask(http.MethodPost, path+"/place", place, "Idempotency-Key: "+id); status != 200 || header.Get("Etag") != `"1"` || header.Get("Idempotency-Key") != id {
			t.Fatalf("%s placed: %d %v %s", id, status, header, text)
		}
		if status, header, text := two[1-i%2].ask(http.MethodPost, path+"/place", place, "Idempotency-Key: "+id); status != 200 || header.Get("Idempotent-Replayed") != "true" {
			t.Errorf("%s repeated at the other: %d %v %s", id, status, header, text)
		}
		if status, _, text := two[i%2].ask(http.MethodPost, path+"/confirm", "", `If-Match: "7"`); status != http.StatusPreconditionFailed {
			t.Errorf("%s with another version: %d %s", id, status, text)
		}
		if status, _, text := two[i%2].ask(http.MethodPost, path+"/add-line", `{"sku":`); status != http.StatusBadRequest {
			t.Errorf("%s with half a body: %d %s", id, status, text)
		}
		for _, what := range []string{"", "/events", "/metadata"} {
			status, _, here := two[0].ask(http.MethodGet, path+what, "")
			_, _, there := two[1].ask(http.MethodGet, path+what, "")
			if status != 200 || here != there {
				t.Errorf("GET %s: %d\n%s\n%s", path+what, status, here, there)
			}
		}
		_, _, here := two[0].ask(http.MethodGet, path+"/events", "", "Accept: application/x-ndjson")
		status, header, there := two[1].ask(http.MethodGet, path+"/events", "", "Accept: application/x-ndjson")
		if status != 200 || here != there || !strings.HasPrefix(header.Get("Content-Type"), "application/x-ndjson") || strings.Count(here, "\n") != 1 {
			t.Errorf("lines of %s: %d %v\n%s\n%s", path, status, header, here, there)
		}
		batch = append(batch, fmt.Sprintf(`{"aggregate":"orders","id":%q,"command":"confirm","expected_version":1}`, id))
	}
	status, _, text := two[1].ask(http.MethodPost, "/v1/batch", `{"commands":[`+strings.Join(batch, ",")+`]}`)
	if status != 200 || strings.Count(text, `"status":200`) != len(batch) {
		t.Errorf("a batch over all: %d %s", status, text)
	}
	for i := range 8 {
		path := fmt.Sprintf("/v1/orders/either-%d/cancel", i)
		want := http.StatusOK
		if i%2 == 1 {
			path, want = fmt.Sprintf("/v1/orders/nowhere-%d/cancel", i), http.StatusNotFound
		}
		status, header, text := two[i/2%2].ask(http.MethodPost, path, "", "Prefer: respond-async")
		if status != http.StatusAccepted {
			t.Fatalf("%s later: %d %s", path, status, text)
		}
		for _, p := range two {
			p.until("decided", func() bool {
				status, _, text = p.ask(http.MethodGet, header.Get("Location"), "")
				// Only the instance that took the command remembers a refusal, and it is asked once it owns something: the second one may not yet.
				return status != http.StatusAccepted && !strings.Contains(text, "command_not_found")
			})
			if status != want || strings.Contains(text, "order_not_found") != (want == http.StatusNotFound) {
				t.Errorf("%s, asked after: %d %s, want %d", path, status, text, want)
			}
		}
	}
}
