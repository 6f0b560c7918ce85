package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/estest/openapi"
	"github.com/millrace/millrace/platform/fault"
)

// The model under test: accounts that money is paid into and taken out of.

type accountEvent interface{ isEvent() }

type paidIn struct {
	Amount int64  `avro:"amount" json:"amount"`
	Note   string `avro:"note" json:"note"`
}

type takenOut struct {
	Amount int64 `avro:"amount" json:"amount"`
}

func (paidIn) isEvent()   {}
func (takenOut) isEvent() {}

type account struct {
	Balance int64    `json:"balance"`
	Notes   []string `json:"notes"`
}

type accountCommand interface{ isCommand() }

type PayIn struct {
	Amount int64  `json:"amount"`
	Note   string `json:"note,omitempty"`
	Times  int    `json:"times,omitempty"` // as many events
}

type TakeOut struct {
	Amount int64 `json:"amount"`
}

func (PayIn) isCommand()   {}
func (TakeOut) isCommand() {}

var errOverdrawn = fault.New(fault.Rejected, "overdrawn", "there is not enough money")

var accountDecider = es.Decider[account, accountCommand, accountEvent]{
	Decide: func(s account, c accountCommand, _ es.Meta) ([]accountEvent, error) {
		switch c := c.(type) {
		case PayIn:
			events := make([]accountEvent, max(1, c.Times))
			for i := range events {
				events[i] = paidIn{c.Amount, c.Note}
			}
			return events, nil
		case TakeOut:
			switch {
			case c.Amount < 0:
				panic("a negative amount")
			case c.Amount == 0:
				return nil, nil
			case c.Amount > s.Balance:
				return nil, errOverdrawn.Because("%d of %d", c.Amount, s.Balance)
			}
			return []accountEvent{takenOut(c)}, nil
		}
		return nil, errors.New("no rule")
	},
	Evolve: func(s account, e accountEvent) account {
		switch e := e.(type) {
		case paidIn:
			s.Balance += e.Amount
			if e.Note != "" && len(s.Notes) < 3 {
				s.Notes = append(s.Notes[:len(s.Notes):len(s.Notes)], e.Note)
			}
		case takenOut:
			s.Balance -= e.Amount
		}
		return s
	},
}

func accounts(name string) Aggregate[account, accountCommand, accountEvent] {
	return Aggregate[account, accountCommand, accountEvent]{
		Name: name, Decider: accountDecider, Commands: []accountCommand{PayIn{}, TakeOut{}},
		Contract: contract.Set[accountEvent]{Topic: name + ".events", Types: []contract.Type[accountEvent]{
			contract.For[paidIn, accountEvent](`{"type":"record","name":"PaidIn","namespace":"test.v1","fields":[{"name":"amount","type":"long"},{"name":"note","type":"string"}]}`),
			contract.For[takenOut, accountEvent](`{"type":"record","name":"TakenOut","namespace":"test.v1","fields":[{"name":"amount","type":"long"}]}`),
		}},
	}
}

type balance struct {
	Balance int64 `json:"balance"`
}

func balances(name string) Projector {
	return Projector{Name: name + "-views", Views: []View{ViewOf(accounts(name).Contract, es.View[balance, accountEvent]{
		Name: name, Version: 1,
		Key: func(e es.Envelope[accountEvent]) (string, bool) { return string(e.Stream), true },
		Apply: func(b balance, e es.Envelope[accountEvent]) balance {
			switch e := e.Event.(type) {
			case paidIn:
				b.Balance += e.Amount
			case takenOut:
				b.Balance -= e.Amount
			}
			return b
		},
		Indexes: map[string]es.Index[balance]{"sign": es.By(es.Text(func(b balance) string {
			if b.Balance == 0 {
				return "zero"
			}
			return "plus"
		}))},
	})}}
}

// A spy is a role that does nothing but see the host.
type spy struct{ host *host }

func (*spy) role() string                             { return "spy" }
func (*spy) check() error                             { return nil }
func (*spy) contracts() []contract.Subject            { return nil }
func (s *spy) start(_ context.Context, h *host) error { s.host = h; return nil }

// A running application, whose every answer is checked against the OpenAPI document that it serves.
type running struct {
	t      testing.TB
	host   *host
	at     string
	all    addresses
	stop   func() // before the test ends
	client *http.Client
}

// launch runs an application on an embedded broker until the test ends.
func launch(t testing.TB, a App) *running {
	t.Helper()
	return launchWith(t, a, true, "MILLRACE_EPHEMERAL=true")
}

// launchWith runs an application with settings; dev has an embedded broker and a registry.
func launchWith(t testing.TB, a App, dev bool, env ...string) *running {
	t.Helper()
	ready := filepath.Join(t.TempDir(), "ready.json")
	c, err := LoadConfig(nil, append([]string{"MILLRACE_HTTP_ADDR=127.0.0.1:0", "MILLRACE_KAFKA_ADDR=127.0.0.1:0", "MILLRACE_REGISTRY_ADDR=127.0.0.1:0", "MILLRACE_ADMIN_ADDR=127.0.0.1:0", "MILLRACE_READY_FILE=" + ready}, env...))
	if err != nil {
		t.Fatal(err)
	}
	s := new(spy)
	a.Name = "bank"
	a.Roles = append(a.Roles, s)
	out := &awaited{text: "ready in", seen: make(chan struct{})}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	roles := a.Roles
	if dev {
		roles = a.roles()
	}
	go func() { ended <- a.run(ctx, c, roles, dev, out, io.Discard) }()
	select {
	case <-out.seen:
	case err := <-ended:
		stop()
		t.Fatal(err)
	case <-time.After(time.Minute):
		stop()
		t.Fatal("not ready after a minute")
	}
	r := &running{t: t, host: s.host, at: "http://" + s.host.advertise, client: &http.Client{Transport: new(openapi.Transport), Timeout: time.Minute}}
	r.stop = sync.OnceFunc(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
	text, err := os.ReadFile(ready)
	if err == nil {
		err = json.Unmarshal(text, &r.all)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// awaited is a writer that tells when it was given a text.
type awaited struct {
	text string
	seen chan struct{}
	once sync.Once
}

func (a *awaited) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(a.text)) {
		a.once.Do(func() { close(a.seen) })
	}
	return len(p), nil
}

// A reply is an HTTP answer, read.
type reply struct {
	status  int
	header  http.Header
	body    string
	trailer http.Header
}

// send sends a request; header lines are "Name: value".
func (r *running) send(method, path, body string, header ...string) reply {
	r.t.Helper()
	a, err := r.do(method, path, body, header...)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

func (r *running) do(method, path, body string, header ...string) (reply, error) {
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.at+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(text), resp.Trailer}, err
}

// want fails unless the answer has a status, and returns the answer's JSON in v if that is not nil.
func (a reply) want(t testing.TB, status int, v any) reply {
	t.Helper()
	if a.status != status {
		t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	if v != nil {
		if err := json.Unmarshal([]byte(a.body), v); err != nil {
			t.Fatalf("%v in %s", err, a.body)
		}
	}
	return a
}
