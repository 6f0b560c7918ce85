package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/fault"
)

func dial(t testing.TB, cfg ClientConfig) *Client {
	t.Helper()
	if cfg.Backoff == 0 {
		cfg.Backoff = time.Millisecond
	}
	c, err := Dial(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// fake answers with the given statuses and bodies in turn, the last one again and again, and counts.
func fake(t testing.TB, answers ...string) (url string, calls *atomic.Int32) {
	calls = new(atomic.Int32)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := int(calls.Add(1)) - 1
		var status int
		text := answers[min(n, len(answers)-1)]
		if _, err := fmt.Sscanf(text, "%d ", &status); err != nil {
			t.Error(err)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text[4:])
	}))
	t.Cleanup(s.Close)
	return s.URL, calls
}

func TestClientAgainstServer(t *testing.T) {
	url := start(t, broker(t, "").Addr(), "one").url
	c := dial(t, ClientConfig{URLs: []string{url + "/"}})
	ctx := t.Context()
	if err := c.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	subject, text := "orders.events-shop.test.v1.R", strings.ReplaceAll(recordSchema("R", "a"), ",", ",\r\n\t")
	if _, err := c.SchemaID(ctx, subject, text); !errors.Is(err, contract.ErrUnregistered) || !strings.Contains(err.Error(), subject) {
		t.Errorf("before: got %v, want ErrUnregistered with the subject", err)
	}
	if _, err := c.SchemaByID(ctx, 1); !errors.Is(err, contract.ErrUnknownSchema) {
		t.Errorf("before: got %v, want ErrUnknownSchema", err)
	}
	c = dial(t, ClientConfig{URLs: []string{url}}) // one that has not learnt that id 1 is unknown
	for range 2 {
		if id, err := c.Register(ctx, contract.Subject{Name: subject, Schema: text}); err != nil || id != 1 {
			t.Fatalf("Register: got %d, %v", id, err)
		}
	}
	if id, err := c.SchemaID(ctx, subject, text); err != nil || id != 1 {
		t.Errorf("SchemaID: got %d, %v", id, err)
	}
	if got, err := c.SchemaByID(ctx, 1); err != nil || got != recordSchema("R", "a") {
		t.Errorf("SchemaByID: got %s, %v", got, err)
	}
	if _, err := c.SchemaID(ctx, subject, recordSchema("R", "a", "b=0")); !errors.Is(err, contract.ErrUnregistered) {
		t.Errorf("another text: got %v, want ErrUnregistered", err)
	}
	if _, err := c.Register(ctx, contract.Subject{Name: subject, Schema: recordSchema("R", "b")}); !errors.Is(err, ErrIncompatible) || !strings.Contains(err.Error(), "version 1") {
		t.Errorf("incompatible: got %v", err)
	}
	if _, err := c.Register(ctx, contract.Subject{Name: subject, Schema: `{"type":"table"}`}); !errors.Is(err, contract.ErrSchema) {
		t.Errorf("no schema: got %v", err)
	}
	if _, err := c.Register(ctx, contract.Subject{Name: "a\x01b", Schema: `"int"`}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "42208") {
		t.Errorf("invalid subject: got %v", err)
	}
}

func TestClientFaults(t *testing.T) {
	closed := "http://" + closedAddr(t)
	for _, tt := range []struct {
		name    string
		answers []string
		want    *fault.Error
		text    string
		calls   int32
	}{
		{"HTML 503 for ever", []string{"503 <html>"}, ErrUnreachable, "MILLRACE_REGISTRY_URL", 4},
		{"internal error for ever", []string{`500 {"error_code":50001,"message":"disk full"}`}, ErrUnreachable, "disk full", 4},
		{"503 once", []string{"503 x", `200 {"schema":"\"int\"","id":3}`}, nil, "", 2},
		{"too many requests", []string{"429 x", "429 x", `200 {"schema":"\"int\"","id":3}`}, nil, "", 3},
		{"no registry", []string{"404 <html>"}, ErrAnswer, "no schema registry at http://", 1},
		{"redirect", []string{"302 x"}, ErrAnswer, "302", 1},
		{"credentials", []string{`401 {"error_code":401,"message":"no"}`}, ErrCredentials, "user name", 1},
		{"unknown id", []string{`404 {"error_code":40403,"message":"no"}`}, contract.ErrUnknownSchema, "id 3", 1},
		{"refusal", []string{`422 {"error_code":42299,"message":"because"}`}, ErrRefused, "because", 1},
		{"not JSON", []string{"200 <html>"}, ErrAnswer, "check", 1},
		{"other type", []string{`200 {"schema":"syntax","schemaType":"PROTOBUF"}`}, ErrAnswer, "PROTOBUF", 1},
		{"cyclic references", []string{`200 {"schema":"\"int\"","id":3,"version":1,"subject":"b","references":[{"name":"a","subject":"b","version":1}]}`}, ErrAnswer, "a cycle", 2},
		{"reference that is not there", []string{`200 {"schema":"\"int\"","references":[{"name":"a","subject":"b","version":1}]}`, `404 {"error_code":40401,"message":"no"}`}, ErrAnswer, "which is not there", 2},
		{"reference that is no JSON", []string{`200 {"schema":"\"int\"","references":[{"name":"a","subject":"b","version":1}]}`, `200 {"schema":"syntax","id":1,"version":1}`}, ErrAnswer, "not JSON", 2},
		{"references that do not fit", []string{`200 {"schema":"{\"type\":\"enum\",\"name\":\"E\",\"symbols\":[\"a\"]}","references":[{"name":"a","subject":"b","version":1}]}`,
			`200 {"schema":"{\"type\":\"enum\",\"name\":\"E\",\"symbols\":[\"a\"]}","id":1,"version":1}`}, ErrAnswer, "do not fit together", 2},
		{"schema that is no JSON", []string{`200 {"schema":"syntax"}`}, ErrAnswer, "not JSON", 1},
		{"schema too large", []string{`200 {"schema":"` + strings.Repeat("x", 300_000) + `"}`}, ErrAnswer, "300000 bytes", 1},
		{"answer too large", []string{`200 {"schema":"` + strings.Repeat("x", 2_000_000) + `"}`}, ErrAnswer, "more than 1048576 bytes", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			url, calls := fake(t, tt.answers...)
			c := dial(t, ClientConfig{URLs: []string{url}})
			got, err := c.SchemaByID(t.Context(), 3)
			switch {
			case tt.want == nil:
				if err != nil || got != `"int"` {
					t.Errorf("got %s, %v", got, err)
				}
			case !errors.Is(err, tt.want) || !strings.Contains(fault.Lines(err), tt.text):
				t.Errorf("got %v, want %s with %q", fault.Lines(err), tt.want.Code, tt.text)
			}
			if calls.Load() != tt.calls {
				t.Errorf("%d calls, want %d", calls.Load(), tt.calls)
			}
		})
	}
	c := dial(t, ClientConfig{URLs: []string{closed}, Setting: "--registry-url"})
	err := c.Ping(t.Context())
	if !errors.Is(err, ErrUnreachable) || fault.KindOf(err) != fault.Unavailable || !strings.Contains(fault.Lines(err), closed) || !strings.Contains(fault.Lines(err), "--registry-url") {
		t.Errorf("got %v", fault.Lines(err))
	}
}

// G34: A registry that lies is not believed: an id that stands for another schema than before or than was asked for, references in a
// circle and an answer of more than 1 MiB are errors, and never a schema.
//
// The latter two are in TestClientFaults, and what was known before in TestClientRemembersIDs.
func TestClientRefusesLies(t *testing.T) {
	for _, answer := range []string{
		`200 {"id":0,"version":1,"schema":"\"int\""}`,
		`200 {"id":7,"version":1,"schema":"\"string\""}`,
		`200 {"id":7,"version":1,"schema":"{"}`,
		`200 {"id":7,"version":1}`,
		`200 {"id":99999999999,"version":1,"schema":"\"int\""}`,
	} {
		url, _ := fake(t, answer)
		if id, err := dial(t, ClientConfig{URLs: []string{url}}).SchemaID(t.Context(), "s", `"int"`); !errors.Is(err, ErrAnswer) {
			t.Errorf("%s: got %d, %v", answer, id, err)
		}
	}
	// Schemas that can be read in one direction only are different ones, too.
	small, large := recordSchema("R", "a"), recordSchema("R", "a", "b")
	for _, tt := range [][2]string{{small, large}, {large, small}} {
		url, _ := fake(t, `200 {"id":7,"version":1,"schema":"`+strings.ReplaceAll(tt[0], `"`, `\"`)+`"}`)
		if id, err := dial(t, ClientConfig{URLs: []string{url}}).SchemaID(t.Context(), "s", tt[1]); !errors.Is(err, ErrAnswer) {
			t.Errorf("asked for %s, got %s: %d, %v", tt[1], tt[0], id, err)
		}
	}
}

func TestClientSeveralURLs(t *testing.T) {
	good, calls := fake(t, `200 {"schema":"\"int\""}`)
	bad, badCalls := fake(t, "503 x")
	c := dial(t, ClientConfig{URLs: []string{"http://" + closedAddr(t), bad, good}, Backoff: time.Hour})
	for id := int32(1); id <= 3; id++ {
		if _, err := c.SchemaByID(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if calls.Load() != 3 || badCalls.Load() != 1 {
		t.Errorf("good %d calls, bad %d: want 3 and 1, the address that answered is asked first", calls.Load(), badCalls.Load())
	}
}

func TestClientCaches(t *testing.T) {
	entered, release := make(chan struct{}, 1), make(chan struct{})
	var calls atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		if r.URL.Path == "/base/schemas/ids/7" {
			entered <- struct{}{}
			<-release
			_, _ = io.WriteString(w, `{"schema":"\"int\""}`)
			return
		}
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"error_code":40403,"message":"no"}`)
	}))
	defer s.Close()
	c := dial(t, ClientConfig{URLs: []string{s.URL + "/base/"}, Negative: time.Hour})

	// The first one gives up; the look-up goes on for the others.
	ctx, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan error, 1)
	go func() { _, err := c.SchemaByID(ctx, 7); gaveUp <- err }()
	<-entered
	cancel()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			if got, err := c.SchemaByID(t.Context(), 7); err != nil || got != `"int"` {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
	close(release)
	wg.Wait()
	if calls.Load() != 1 {
		t.Errorf("%d calls for one id", calls.Load())
	}
	for range 10 {
		if _, err := c.SchemaByID(t.Context(), 8); !errors.Is(err, contract.ErrUnknownSchema) {
			t.Errorf("got %v", err)
		}
	}
	if _, err := c.SchemaByID(t.Context(), -1); !errors.Is(err, contract.ErrUnknownSchema) {
		t.Errorf("got %v", err)
	}
	if calls.Load() != 2 {
		t.Errorf("%d calls, want one more for an unknown id", calls.Load())
	}

	c = dial(t, ClientConfig{URLs: []string{s.URL + "/base/"}, Negative: time.Nanosecond})
	for range 2 {
		_, _ = c.SchemaByID(t.Context(), 8)
	}
	if calls.Load() != 4 {
		t.Errorf("%d calls: the negative cache does not end", calls.Load())
	}
}

func TestClientDeadline(t *testing.T) {
	hang := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer s.Close()
	defer close(hang)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := dial(t, ClientConfig{URLs: []string{s.URL}}).Ping(ctx); !errors.Is(err, ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	c := dial(t, ClientConfig{URLs: []string{s.URL}, Timeout: 5 * time.Millisecond, Attempts: 2})
	if err := c.Ping(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("without a deadline: got %v", err)
	}
}

func TestClientCredentials(t *testing.T) {
	var got atomic.Value
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got.Store(r.Header.Get("Authorization"))
		_, _ = io.WriteString(w, `{"compatibilityLevel":"FULL"}`)
	}))
	defer s.Close()
	for _, tt := range []struct {
		cfg  ClientConfig
		want string
	}{
		{ClientConfig{URLs: []string{s.URL}}, ""},
		{ClientConfig{URLs: []string{s.URL}, Username: "u", Password: "p"}, "Basic dTpw"},
		{ClientConfig{URLs: []string{strings.Replace(s.URL, "http://", "http://u:p@", 1)}}, "Basic dTpw"},
		{ClientConfig{URLs: []string{s.URL}, Token: "t", Username: "u"}, "Bearer t"},
	} {
		if err := dial(t, tt.cfg).Ping(t.Context()); err != nil || got.Load() != tt.want {
			t.Errorf("got %v, %v, want %s", got.Load(), err, tt.want)
		}
	}
	closed := closedAddr(t)
	err := dial(t, ClientConfig{URLs: []string{"http://user:hush@" + closed}, Attempts: 1}).Ping(t.Context())
	if err == nil || strings.Contains(fault.Lines(err), "hush") {
		t.Errorf("got %v", err)
	}
}

func TestDial(t *testing.T) {
	for _, urls := range [][]string{nil, {""}, {"localhost:8081"}, {"ftp://x"}, {"http://"}, {"http://x?y=1"}, {"http://ok", "://"}, {"http://u:hush@x:port"}} {
		_, err := Dial(ClientConfig{URLs: urls})
		if !errors.Is(err, ErrURL) || !strings.Contains(fault.Lines(err), "MILLRACE_REGISTRY_URL") || strings.Contains(fault.Lines(err), "hush") {
			t.Errorf("%q: got %v", urls, fault.Lines(err))
		}
	}
}

// References are resolved by the client: who decodes gets one text.
func TestClientReferences(t *testing.T) {
	url := start(t, broker(t, "").Addr(), "one").url
	for i, request := range []string{body(moneySchema), with(orderSchema, `"references":[`+refer("s/0", 1)+`]`), with(`{"type":"array","items":"shop.v1.Order"}`, `"references":[`+refer("s/1", 1)+`,`+refer("s/0", 1)+`]`)} {
		if status, got, _ := do(t, "POST", fmt.Sprintf("%s/subjects/s%%2F%d/versions", url, i), request); status != 200 {
			t.Fatal(got)
		}
	}
	c := dial(t, ClientConfig{URLs: []string{url}})
	want := `{"type":"array","items":{"type":"record","name":"Order","namespace":"shop.v1","fields":[{"name":"total","type":{"type":"record","name":"Money","fields":[{"name":"minor","type":"long"}]}}]}}`
	if got, err := c.SchemaByID(t.Context(), 3); err != nil || got != want {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
	if got, err := c.Latest(t.Context(), "s/2"); err != nil || got != (Latest{3, 1, want}) {
		t.Errorf("Latest: got %+v, %v", got, err)
	}
}

// A client of one context knows nothing of the others: ids, subjects and references are those of its own.
func TestClientInContext(t *testing.T) {
	url := start(t, broker(t, "").Addr(), "one").url
	register(t, url, "money", `"string"`)
	staging, other := dial(t, ClientConfig{URLs: []string{url + "/contexts/.staging/"}}), dial(t, ClientConfig{URLs: []string{url}})
	ctx := t.Context()
	if id, err := staging.Register(ctx, contract.Subject{Name: "money", Schema: moneySchema}); err != nil || id != 1 {
		t.Fatalf("Register: got %d, %v", id, err)
	}
	if status, got, _ := do(t, "POST", url+"/contexts/.staging/subjects/order/versions", with(orderSchema, `"references":[`+refer("money", 1)+`]`)); status != 200 {
		t.Fatal(got)
	}
	if id, err := staging.SchemaID(ctx, "money", moneySchema); err != nil || id != 1 {
		t.Errorf("SchemaID: got %d, %v", id, err)
	}
	if _, err := other.SchemaID(ctx, "money", moneySchema); !errors.Is(err, contract.ErrUnregistered) {
		t.Errorf("SchemaID in the default context: got %v", err)
	}
	if text, err := staging.SchemaByID(ctx, 1); err != nil || text != moneySchema {
		t.Errorf("SchemaByID: got %s, %v", text, err)
	}
	if text, err := other.SchemaByID(ctx, 1); err != nil || text != `"string"` {
		t.Errorf("SchemaByID in the default context: got %s, %v", text, err)
	}
	whole := strings.Replace(orderSchema, `"Money"`, `{"type":"record","name":"Money","fields":[{"name":"minor","type":"long"}]}`, 1)
	if got, err := staging.Latest(ctx, "order"); err != nil || got != (Latest{2, 1, whole}) {
		t.Errorf("Latest: got %+v, %v", got, err)
	}
	if got, err := staging.Versions(ctx, "money"); err != nil || len(got) != 1 || got[0] != (Registered{1, 1, moneySchema}) {
		t.Errorf("Versions: got %+v, %v", got, err)
	}
	if got, err := staging.Versions(ctx, "order"); err != nil || len(got) != 1 || got[0] != (Registered{1, 2, whole}) {
		t.Errorf("Versions with references: got %+v, %v", got, err)
	}
	for c, want := range map[*Client][]string{staging: {"money", "order"}, other: {":.staging:money", ":.staging:order", "money"}} {
		if got, err := c.Subjects(ctx, ""); err != nil || !slices.Equal(got, want) {
			t.Errorf("Subjects: got %q, %v, want %q", got, err, want)
		}
	}
}

func TestClientLatest(t *testing.T) {
	url := start(t, broker(t, "").Addr(), "one").url
	c := dial(t, ClientConfig{URLs: []string{url}, Latest: time.Hour})
	if _, err := c.Latest(t.Context(), "s"); !errors.Is(err, contract.ErrUnregistered) {
		t.Errorf("before: got %v", err)
	}
	one, two, three := recordSchema("R", "a"), recordSchema("R", "a", "b=0"), recordSchema("R", "a", "c=0")
	register(t, url, "s", one)
	if got, err := c.Latest(t.Context(), "s"); err != nil || got != (Latest{1, 1, one}) {
		t.Errorf("got %+v, %v", got, err)
	}
	register(t, url, "s", two)
	if got, err := c.Latest(t.Context(), "s"); err != nil || got.ID != 1 {
		t.Errorf("within its time: got %+v, %v", got, err)
	}
	if _, err := c.Register(t.Context(), contract.Subject{Name: "s", Schema: three}); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Latest(t.Context(), "s"); err != nil || got != (Latest{3, 3, three}) {
		t.Errorf("after an own registration: got %+v, %v", got, err)
	}
	short := dial(t, ClientConfig{URLs: []string{url}, Latest: time.Nanosecond})
	for i, schema := range []string{recordSchema("R", "a", "d=0"), recordSchema("R", "a", "e=0")} {
		register(t, url, "s", schema)
		if got, err := short.Latest(t.Context(), "s"); err != nil || got.Version != 4+i {
			t.Errorf("after its time: got %+v, %v", got, err)
		}
	}
}

// An id that comes to stand for another schema is a lie, whichever way it was learnt.
func TestClientRemembersIDs(t *testing.T) {
	url, _ := fake(t, `200 {"id":7,"version":1,"schema":"\"int\""}`, `200 {"id":7,"version":1,"schema":"\"long\""}`)
	c := dial(t, ClientConfig{URLs: []string{url}})
	if _, err := c.SchemaID(t.Context(), "s", `"int"`); err != nil {
		t.Fatal(err)
	}
	if _, err := c.SchemaID(t.Context(), "t", `"long"`); !errors.Is(err, ErrAnswer) || !strings.Contains(err.Error(), "id 7") {
		t.Errorf("got %v, want ErrAnswer", err)
	}
	if got, err := c.SchemaByID(t.Context(), 7); err != nil || got != `"int"` {
		t.Errorf("got %s, %v", got, err)
	}
}

// A service that has used a registry starts without it, and one that answers is always asked first.
func TestClientCacheFile(t *testing.T) {
	addr := "http://" + closedAddr(t)
	path := filepath.Join(t.TempDir(), "data", "registry.jsonl")
	cfg := ClientConfig{URLs: []string{addr}, Cache: path, Attempts: 2}
	if dial(t, cfg).Cached() {
		t.Error("an empty cache knows something")
	}
	var down atomic.Bool
	var calls atomic.Int32
	l, err := net.Listen("tcp", strings.TrimPrefix(addr, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		switch {
		case down.Load():
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.Method == http.MethodPost:
			_, _ = io.WriteString(w, `{"id":7,"version":1,"schema":"\"int\""}`)
		default:
			_, _ = io.WriteString(w, `{"schema":"\"long\""}`)
		}
	})}}
	s.Start()
	defer s.Close()
	c := dial(t, cfg)
	if text, err := c.SchemaByID(t.Context(), 8); err != nil || text != `"long"` {
		t.Fatal(text, err)
	}
	if id, err := c.SchemaID(t.Context(), "s", ` "int"`); err != nil || id != 7 {
		t.Fatal(id, err)
	}

	down.Store(true)
	c = dial(t, cfg)
	if !c.Cached() {
		t.Error("the cache knows nothing")
	}
	before := calls.Load()
	for range 3 {
		if id, err := c.SchemaID(t.Context(), "s", ` "int"`); err != nil || id != 7 {
			t.Errorf("SchemaID: got %d, %v", id, err)
		}
	}
	if n := calls.Load() - before; n > 4 {
		t.Errorf("%d requests to a registry that is down", n)
	}
	for id, want := range map[int32]string{7: `"int"`, 8: `"long"`} {
		if text, err := c.SchemaByID(t.Context(), id); err != nil || text != want {
			t.Errorf("SchemaByID %d: got %s, %v", id, text, err)
		}
	}
	if _, err := c.SchemaID(t.Context(), "other", `"int"`); !errors.Is(err, ErrUnreachable) {
		t.Errorf("another subject: got %v", err)
	}
	if _, err := c.SchemaByID(t.Context(), 9); !errors.Is(err, ErrUnreachable) {
		t.Errorf("another id: got %v", err)
	}
	if other := dial(t, ClientConfig{URLs: []string{addr, addr + "/x"}, Cache: path}); other.Cached() {
		t.Error("the cache of another registry counts")
	}

	// A torn line and a damaged one are as if they were not there.
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := strings.Replace(string(data), `\"long\"`, `\"bytes\"`, 1)
	if err := os.WriteFile(path, []byte(damaged[:len(damaged)-1]+"x"), 0o600); err != nil {
		t.Fatal(err)
	}
	c = dial(t, cfg)
	if _, err := c.SchemaByID(t.Context(), 8); !errors.Is(err, ErrUnreachable) {
		t.Errorf("a damaged line: got %v", err)
	}
	down.Store(false)
	c = dial(t, cfg)
	if text, err := c.SchemaByID(t.Context(), 8); err != nil || text != `"long"` {
		t.Errorf("learnt again: got %s, %v", text, err)
	}
	down.Store(true)
	if text, err := dial(t, cfg).SchemaByID(t.Context(), 8); err != nil || text != `"long"` {
		t.Errorf("after a torn line: got %s, %v", text, err)
	}
}

func TestClientTLS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"schema":"\"int\""}`) }))
	defer s.Close()
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if _, err := dial(t, ClientConfig{URLs: []string{s.URL}, Attempts: 1}).SchemaByID(t.Context(), 1); !errors.Is(err, ErrUnreachable) {
		t.Errorf("an unknown authority: got %v", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	if _, err := dial(t, ClientConfig{URLs: []string{s.URL}, TLS: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}).SchemaByID(t.Context(), 1); err != nil {
		t.Error(err)
	}
}
