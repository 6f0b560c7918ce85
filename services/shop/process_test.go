package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/embedded"
	"github.com/millrace/millrace/platform/estest/openapi"
)

// TestMain lets the test binary be the shop, so that the tests run real processes without building another binary.
func TestMain(m *testing.M) {
	if os.Getenv("MILLRACE_TEST_BE_SHOP") != "" {
		main()
		return
	}
	// Whatever the tests ask a shop, and whatever it answers, must be in its OpenAPI document.
	http.DefaultClient.Transport = new(openapi.Transport)
	os.Exit(m.Run())
}

// sample is the file that the README imports.
const sample = "testdata/orders-sample.csv"

// anyPorts lets a process choose its ports.
var anyPorts = []string{"--http-addr", "127.0.0.1:0", "--kafka-addr", "127.0.0.1:0", "--registry-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"}

// shop returns a command that runs the shop with nothing of this environment's settings.
func shop(args ...string) *exec.Cmd {
	c := exec.Command(os.Args[0], args...)
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "MILLRACE_") {
			c.Env = append(c.Env, e)
		}
	}
	c.Env = append(c.Env, "MILLRACE_TEST_BE_SHOP=1")
	return c
}

// A process is a running shop.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	output *lockedBuffer
	ended  chan struct{}
	err    error
	at     struct{ HTTP, Kafka, Registry, Admin string }
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs the shop until it is ready.
func start(t testing.TB, args ...string) *process {
	t.Helper()
	ready := filepath.Join(t.TempDir(), "ready.json")
	return await(t, shop(append(args, "--ready-file", ready)...), ready)
}

// await starts a command and waits until it has written its ready file.
func await(t testing.TB, cmd *exec.Cmd, ready string) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, output: &lockedBuffer{}, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.output, p.output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(p.kill)
	p.until("ready", func() bool {
		text, err := os.ReadFile(ready)
		return err == nil && json.Unmarshal(text, &p.at) == nil
	})
	return p
}

// until waits for a condition that this process brings about.
func (p *process) until(what string, holds func() bool) {
	p.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(60 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-p.ended:
			p.t.Fatalf("the process ended (%v) before it was %s:\n%s", p.err, what, p.output)
		case <-deadline:
			p.t.Fatalf("not %s after a minute:\n%s", what, p.output)
		}
	}
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// stop is Ctrl-C; the process must end well.
func (p *process) stop() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(30 * time.Second):
		p.t.Fatalf("still there 30 s after SIGTERM:\n%s", p.output)
	}
	if p.err != nil {
		p.t.Errorf("ended with %v:\n%s", p.err, p.output)
	}
}

// An answer is an HTTP answer, read.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) json(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), v); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
}

// request sends one request; header lines are "Name: value".
func request(t testing.TB, method, url, body string, header ...string) answer {
	t.Helper()
	a, err := try(method, url, body, header...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func try(method, url, body string, header ...string) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		if value == "" {
			req.Header.Del(name)
			continue
		}
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(text)}, err
}

// importSample runs shop import and returns its output and exit status.
func importSample(t testing.TB, url string, args ...string) (output string, status int) {
	t.Helper()
	c := shop(append([]string{"import", sample, "--url", url}, args...)...)
	text, err := c.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(text), c.ProcessState.ExitCode()
}

// sums adds up the view of sales through all its pages.
func sums(t testing.TB, url string) (orders, units, cents int64) {
	t.Helper()
	for next := ""; ; {
		var page struct {
			Rows []struct {
				Orders, Units int64
				Revenue       map[string]int64
			}
			Next string
		}
		request(t, "GET", url+"/v1/views/sales?limit=100"+next, "").json(t, &page)
		for _, r := range page.Rows {
			orders, units, cents = orders+r.Orders, units+r.Units, cents+r.Revenue["USD"]
		}
		if page.Next == "" {
			return orders, units, cents
		}
		next = "&cursor=" + page.Next
	}
}

// The sums of the sample, known from the file itself.
const (
	sampleOrders    = 6_919
	sampleUnits     = 16_479
	sampleCents     = 24_409_194
	sampleCustomers = 2_357
)

// checkSample fails unless the views hold the sample exactly once, when they have caught up with the last order placed.
func checkSample(t testing.TB, commands, queries string) {
	t.Helper()
	// Every partition's last position is at least that of a repeated order: repeating the whole file costs nothing and tells them all.
	atLeast := positionOfAll(t, commands)
	for _, view := range []string{"customers", "sales"} { // each is as far as it is
		if a := request(t, "GET", queries+"/v1/views/"+view+"?limit=1", "", "Millrace-At-Least: "+atLeast); a.status != http.StatusOK {
			t.Fatalf("the view %s is not where the commands are: %d %s", view, a.status, a.body)
		}
	}
	if orders, units, cents := sums(t, queries); orders != sampleOrders || units != sampleUnits || cents != sampleCents {
		t.Errorf("sales: %d orders, %d units, %d cents; want %d, %d, %d", orders, units, cents, sampleOrders, sampleUnits, sampleCents)
	}
	customers := 0
	for next := ""; ; {
		var page struct {
			Rows []json.RawMessage
			Next string
		}
		request(t, "GET", queries+"/v1/views/customers?limit=1000"+next, "").json(t, &page)
		if customers += len(page.Rows); page.Next == "" {
			break
		}
		next = "&cursor=" + page.Next
	}
	if customers != sampleCustomers {
		t.Errorf("%d customers, want %d", customers, sampleCustomers)
	}
}

// positionOfAll places one order per partition at least, and cancels it again, to learn positions after everything that was placed.
func positionOfAll(t testing.TB, commands string) string {
	t.Helper()
	last := map[string]string{}
	for i := 0; len(last) < 12 && i < 1000; i++ {
		id := fmt.Sprintf("probe-%d-%d", time.Now().UnixNano(), i)
		a := request(t, "POST", commands+"/v1/orders/"+id+"/place", `{"customer_id":"c-00004","currency":"USD","ordered_at":"1997-01-01T12:00:00Z","lines":[{"sku":"cd","quantity":1,"amount":1}]}`)
		if a.status != http.StatusOK {
			t.Fatalf("probe: %d %s", a.status, a.body)
		}
		if a = request(t, "POST", commands+"/v1/orders/"+id+"/cancel", ""); a.status != http.StatusOK {
			t.Fatalf("probe: %d %s", a.status, a.body)
		}
		position := a.header.Get("Millrace-Position")
		partition, _, _ := strings.Cut(position, "@")
		last[partition] = position
	}
	all := make([]string, 0, len(last))
	for _, p := range last {
		all = append(all, p)
	}
	return strings.Join(all, ",")
}

// otherKafka starts a broker of its own.
func otherKafka(t testing.TB) string {
	t.Helper()
	broker, err := embedded.Start(embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	return broker.Addr()
}
