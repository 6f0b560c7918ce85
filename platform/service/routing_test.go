package service

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/command"
	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/forward"
)

// TestMadeUpOperation: nobody gets an instance to talk to an address of his choice, and to show it the secret of the instances.
func TestMadeUpOperation(t *testing.T) {
	r := launch(t, App{Short: "A bank", Roles: []Role{accounts("accounts")}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan struct{})
	go func() {
		if conn, err := l.Accept(); err == nil {
			close(asked)
			conn.Close()
		}
	}()
	r.send(http.MethodGet, "/v1/operations/"+operationID("accounts", "a", "k", l.Addr().String()), "").want(t, http.StatusNotFound, nil)
	select {
	case <-asked:
		t.Error("a stranger was asked")
	default:
	}
}

// TestNotNowTwice: an owner that does not take a repeated command now has not answered it, for an earlier attempt may have taken effect.
//
// G10: A caller that is told that its command will not take effect can rely on it; where that is not certain, the answer is outcome_unknown.
func TestNotNowTwice(t *testing.T) {
	busy := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	peer := httptest.NewServer(forward.NewServer(busy, forward.ServerOptions{}))
	defer peer.Close()
	h := newHost(App{Name: "bank"}, Config{}, slog.New(slog.DiscardHandler))
	defer h.close()
	order := &forward.Request{Method: http.MethodPost, Target: "/v1/accounts/a/pay-in"}
	at := peer.Listener.Addr().String()
	if resp, refused, err := h.ask(t.Context(), at, order, false); err != nil || refused != nil || resp.Status != http.StatusServiceUnavailable {
		t.Errorf("the first time: %+v, %v, %v", resp, refused, err)
	}
	if resp, refused, err := h.ask(t.Context(), at, order, true); !errors.Is(err, command.ErrUnavailable) {
		t.Errorf("again: %+v, %v, %v", resp, refused, err)
	}
}

// TestKeyIsTold: whoever sends a command without an id learns the one that it got, also if nobody answers.
func TestKeyIsTold(t *testing.T) {
	h := newHost(App{Name: "bank"}, Config{}, slog.New(slog.DiscardHandler))
	defer h.close()
	a := accounts("accounts")
	codec, err := contract.Bind(context.Background(), a.Contract, contract.NewMemory())
	if err != nil {
		t.Fatal(err)
	}
	engine := command.New[account, accountCommand, accountEvent](command.Config{Topic: eventlog.Topic{Name: "t", Partitions: 1}, Group: "g"}, a.Decider, codec)
	api := &commandAPI[account, accountCommand, accountEvent]{name: a.Name, engine: engine, host: h, timeout: 10 * time.Millisecond}
	h.http.Handle(http.MethodPost, "/v1/accounts/:id/pay-in", api.routed(api.command("pay-in", reflect.TypeFor[PayIn]())))
	r := httptest.NewRequest(http.MethodPost, "/v1/accounts/a/pay-in", strings.NewReader(`{"amount":1}`))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.http.ServeHTTP(w, r)
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Idempotency-Key") == "" {
		t.Errorf("status %d, header %v: %s", w.Code, w.Header(), w.Body)
	}
}
