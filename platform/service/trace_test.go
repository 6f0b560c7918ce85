package service

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// TestTrace: the tracer is told of each request and of each command of a batch, with its outcome; the events carry what it began, and the
// request's own traceparent without a tracer. What is no traceparent goes nowhere.
func TestTrace(t *testing.T) {
	var mu sync.Mutex
	var spans []string
	began := 0
	tracer := func(ctx context.Context, s Span) (context.Context, string, func(error)) {
		mu.Lock()
		defer mu.Unlock()
		began++
		mine := fmt.Sprintf("00-%032x-%016x-01", 1, began)
		return ctx, mine, func(err error) {
			mu.Lock()
			defer mu.Unlock()
			spans = append(spans, fmt.Sprint(s.Name, " ", s.Access.Stream, " ", s.TraceParent, " ", err != nil))
		}
	}
	r := launch(t, App{Roles: []Role{accounts("accounts")}, Trace: tracer})
	r.send("POST", "/v1/accounts/a/pay-in", `{"amount":1}`, "Traceparent: "+parent).want(t, 200, nil)
	r.send("POST", "/v1/accounts/a/take-out", `{"amount":5}`, "Traceparent: made-up").want(t, 422, nil)
	r.send("POST", "/v1/batch", `{"commands":[{"aggregate":"accounts","id":"a","command":"pay-in","data":{"amount":1}}]}`).want(t, 200, nil)
	var page pageJSON
	r.send("GET", "/v1/accounts/a/events", "").want(t, 200, &page)
	var parents []string
	for _, e := range page.Events {
		parents = append(parents, strings.TrimPrefix(e.TraceParent, "00-00000000000000000000000000000001-"))
	}
	mu.Lock()
	defer mu.Unlock()
	want := []string{
		"POST /v1/accounts/{id}/pay-in a " + parent + " false",
		"POST /v1/accounts/{id}/take-out a  true",
		"POST /v1/accounts/{id}/pay-in a 00-00000000000000000000000000000001-0000000000000003-01 false",
		"POST /v1/batch   false",
		"GET /v1/accounts/{id}/events a  false",
	}
	if diff := cmp.Diff(want, spans); diff != "" {
		t.Errorf("spans (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"0000000000000001-01", "0000000000000004-01"}, parents); diff != "" {
		t.Errorf("traceparents of the events (-want +got):\n%s", diff)
	}
}

// TestCommandMetrics: each command is counted once under its aggregate, name and outcome, also in a batch, and without a tracer its events
// carry the request's traceparent.
func TestCommandMetrics(t *testing.T) {
	r := launch(t, App{Roles: []Role{accounts("accounts"), accounts("wallets")}})
	for _, name := range []string{"accounts", "wallets"} {
		r.send("POST", "/v1/"+name+"/a/pay-in", `{"amount":1}`, "Idempotency-Key: k", "Traceparent: "+parent).want(t, 200, nil)
		r.send("POST", "/v1/"+name+"/a/pay-in", `{"amount":1}`, "Idempotency-Key: k").want(t, 200, nil)
	}
	r.send("POST", "/v1/accounts/a/take-out", `{"amount":9}`).want(t, 422, nil)
	r.send("POST", "/v1/accounts/a/take-out", `{"amount":1}`, `If-Match: "9"`).want(t, 412, nil)
	r.send("POST", "/v1/accounts/a/take-out", `{"amount":-1}`).want(t, 500, nil)
	r.send("POST", "/v1/batch", `{"commands":[{"aggregate":"accounts","id":"a","command":"pay-in","data":{"amount":1,"times":3}}]}`).want(t, 200, nil)
	for labels, want := range map[[3]string]float64{
		{"accounts", "pay-in", "accepted"}: 2, {"accounts", "pay-in", "duplicate"}: 1, {"wallets", "pay-in", "accepted"}: 1, {"wallets", "pay-in", "duplicate"}: 1,
		{"accounts", "take-out", "rejected"}: 1, {"accounts", "take-out", "conflict"}: 1, {"accounts", "take-out", "error"}: 1, {"accounts", "take-out", "accepted"}: 0,
	} {
		if got := testutil.ToFloat64(r.host.metrics.counted.WithLabelValues(labels[:]...)); got != want {
			t.Errorf("%v: %v, want %v", labels, got, want)
		}
	}
	if got := testutil.ToFloat64(r.host.metrics.appended.WithLabelValues("accounts.events", "test.v1.PaidIn")); got != 4 {
		t.Errorf("%v events appended, want 4", got)
	}
	var page pageJSON
	if r.send("GET", "/v1/accounts/a/events", "").want(t, 200, &page); page.Events[0].TraceParent != parent {
		t.Errorf("the first event's traceparent is %q", page.Events[0].TraceParent)
	}
}
