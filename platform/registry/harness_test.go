package registry

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/embedded"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/rest"
)

// broker starts a Kafka broker on dir, "" = in memory, and returns its address.
func broker(t testing.TB, dir string) *embedded.Broker {
	t.Helper()
	b, err := embedded.Start(embedded.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func connect(t testing.TB, addr string) *eventlog.Client {
	t.Helper()
	log, err := eventlog.Open(t.Context(), eventlog.Config{Brokers: []string{addr}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	return log
}

// An instance is a running registry.
type instance struct {
	*Server
	url  string
	stop func()
}

// start runs a registry against the broker, over HTTP, until stop or the test's end.
func start(t testing.TB, addr, name string) *instance {
	t.Helper()
	return startWith(t, addr, name, ServerConfig{})
}

func startWith(t testing.TB, addr, name string, cfg ServerConfig) *instance {
	t.Helper()
	log := connect(t, addr)
	server := rest.NewServer(rest.Options{})
	bound, err := server.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Log, cfg.Instance, cfg.Address = log, name, bound.String()
	s, err := NewServer(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	server.Mount("/", s.Handler())
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{s.Run, server.Serve} {
		running.Go(func() {
			if err := run(ctx); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	i := &instance{Server: s, url: "http://" + bound.String(), stop: sync.OnceFunc(func() { cancel(); running.Wait(); log.Close() })}
	t.Cleanup(i.stop)
	i.claims(t)
	return i
}

// claims waits until an instance that was just started answers and writes.
func (i *instance) claims(t testing.TB) {
	t.Helper()
	eventually(t, "the registry is ready", i.Ready)
	eventually(t, "the registry has claimed its topic", func() bool { _, _, leader := i.role(); return leader.Instance == i.cfg.Instance })
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("never: %s", what)
		}
	}
}

// web keeps as many connections as tests have requests at once; the default client would open new ones all the time.
var web = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}

// do sends one request and returns status and body.
func do(t testing.TB, method, url, body string, header ...string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := web.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

// body quotes a schema as a request.
func body(schema string) string {
	b, err := json.Marshal(map[string]string{"schema": schema})
	if err != nil {
		panic(err)
	}
	return string(b)
}

// closedAddr returns an address that nobody listens on.
func closedAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// A capture is a response writer that keeps what it is given.
type capture struct {
	header http.Header
	status int
	body   strings.Builder
}

func (c *capture) Header() http.Header {
	if c.header == nil {
		c.header = http.Header{}
	}
	return c.header
}

func (c *capture) WriteHeader(status int) { c.status = status }

func (c *capture) Write(p []byte) (int, error) { return c.body.Write(p) }

func request(method, path string) *http.Request {
	r, err := http.NewRequest(method, "http://registry"+path, nil)
	if err != nil {
		panic(err)
	}
	return r
}
