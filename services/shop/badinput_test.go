package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/platform/eventlog"
)

// TestBadInput: each kind of bad input gets its status, code and, where there is one, JSON pointer, and changes nothing.
func TestBadInput(t *testing.T) {
	p := start(t, append([]string{"dev", "--ephemeral"}, anyPorts...)...)
	good := `{"customer_id":"c-1","currency":"USD","lines":[{"sku":"cd","quantity":2,"amount":2933}]}`
	first := request(t, "POST", p.at.HTTP+"/v1/orders/o-1/place", good, `Idempotency-Key: "k-1"`)
	if first.status != http.StatusOK {
		t.Fatalf("%d %s", first.status, first.body)
	}
	second := request(t, "POST", p.at.HTTP+"/v1/orders/o-2/place", good)
	if second.status != http.StatusOK {
		t.Fatalf("%d %s", second.status, second.body)
	}
	line := func(s string) string { return `{"customer_id":"c-1","currency":"USD","lines":[` + s + `]}` }
	var other struct{ Next string }
	request(t, "GET", p.at.HTTP+"/v1/views/orders?limit=1", "",
		"Millrace-At-Least: "+first.header.Get("Millrace-Position")+","+second.header.Get("Millrace-Position")).json(t, &other)
	if other.Next == "" {
		t.Fatal("no cursor to misuse")
	}
	post := func(path string) string { return "POST /v1/orders/" + path }
	before := ends(t, p)
	for _, tc := range []struct {
		name, target, body string
		header             []string
		status             int
		code, pointer      string
	}{
		{"not JSON", post("o-9/place"), `what`, nil, 400, "invalid_body", ""},
		{"half of it", post("o-9/place"), `{"customer_id":`, nil, 400, "invalid_body", ""},
		{"an unknown field", post("o-9/place"), `{"customer_id":"c-1","colour":"red"}`, nil, 400, "invalid_body", "/colour"},
		{"a field in another case", post("o-9/place"), `{"Customer_ID":"c-1"}`, nil, 400, "invalid_body", "/Customer_ID"},
		{"a duplicate field", post("o-9/place"), `{"customer_id":"c-1","customer_id":"c-2"}`, nil, 400, "invalid_body", "/customer_id"},
		{"trailing bytes", post("o-9/place"), good + ` {}`, nil, 400, "invalid_body", ""},
		{"a wrong type", post("o-9/place"), line(`{"sku":"cd","quantity":"two","amount":1}`), nil, 400, "invalid_body", "/lines/0/quantity"},
		{"a fraction", post("o-9/place"), line(`{"sku":"cd","quantity":1.5,"amount":1}`), nil, 400, "invalid_body", "/lines/0/quantity"},
		{"an amount over int64", post("o-9/place"), line(`{"sku":"cd","quantity":1,"amount":9223372036854775808}`), nil, 400, "invalid_body", "/lines/0/amount"},
		{"a total over int64", post("o-9/place"), line(`{"sku":"a","quantity":1,"amount":1},{"sku":"b","quantity":1,"amount":9223372036854775807}`), nil, 422, "invalid_order", "/lines/1/amount"},
		{"a year that no event can hold", post("o-9/place"), `{"customer_id":"c-1","currency":"USD","ordered_at":"9999-12-31T23:30:00-01:00","lines":[{"sku":"a","quantity":1,"amount":1}]}`, nil, 422, "invalid_order", "/ordered_at"},
		{"events of nothing, from the second on", "GET /v1/orders/o-404/events?from=2", ``, nil, 404, "stream_not_found", ""},
		{"a version written otherwise", "GET /v1/orders/o-1?version=01", ``, nil, 400, "invalid_query", ""},
		{"invalid UTF-8", post("o-9/place"), "{\"customer_id\":\"\xff\"}", nil, 400, "invalid_body", ""},
		{"too deep", post("o-9/place"), `{"lines":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, nil, 400, "invalid_body", ""},
		{"empty lines", post("o-9/place"), line(``), nil, 422, "invalid_order", "/lines"},
		{"a negative quantity", post("o-9/place"), line(`{"sku":"cd","quantity":-1,"amount":1}`), nil, 422, "invalid_order", "/lines/0/quantity"},
		{"a zero quantity", post("o-9/place"), line(`{"sku":"cd","quantity":0,"amount":1}`), nil, 422, "invalid_order", "/lines/0/quantity"},
		{"a negative amount", post("o-9/place"), line(`{"sku":"cd","quantity":1,"amount":-1}`), nil, 422, "invalid_order", "/lines/0/amount"},
		{"no body", post("o-9/place"), ``, nil, 422, "invalid_order", "/customer_id"},
		{"an empty id", post("/place"), good, nil, 400, "invalid_id", ""},
		{"an over-long id", post(strings.Repeat("x", 257) + "/place"), good, nil, 400, "invalid_id", ""},
		{"an id with a slash", post("a%2Fb/place"), good, nil, 400, "invalid_id", ""},
		{"an id with a control character", post("a%0Ab/place"), good, nil, 400, "invalid_id", ""},
		{"an id with an invisible character", post("a%E2%80%AEb/place"), good, nil, 400, "invalid_id", ""},
		{"an id that is a path", post("%2E%2E/place"), good, nil, 400, "invalid_id", ""},
		{"a body over 256 KB", post("o-9/place"), `{"customer_id":"` + strings.Repeat("x", 256<<10) + `"}`, nil, 413, "body_too_large", ""},
		{"a wrong content type", post("o-9/place"), good, []string{"Content-Type: text/plain"}, 415, "unsupported_media_type", ""},
		{"no content type", post("o-9/place"), good, []string{"Content-Type: "}, 415, "unsupported_media_type", ""},
		{"a compressed body", post("o-9/place"), good, []string{"Content-Encoding: gzip"}, 415, "", ""},
		{"an unknown command", post("o-1/fly"), good, nil, 404, "command_unknown", ""},
		{"an unknown aggregate", "POST /v1/ships/s-1/sail", good, nil, 404, "route_not_found", ""},
		{"a wrong method", "DELETE /v1/orders/o-1", ``, nil, 405, "", ""},
		{"a query on a command", post("o-9/place?dry=1"), good, nil, 400, "", ""},
		{"an unknown order", post("o-404/confirm"), ``, nil, 404, "order_not_found", ""},
		{"an unknown order's state", "GET /v1/orders/o-404", ``, nil, 404, "stream_not_found", ""},
		{"an unknown order's events", "GET /v1/orders/o-404/events", ``, nil, 404, "stream_not_found", ""},
		{"another order under the id", post("o-1/place"), strings.Replace(good, "c-1", "c-2", 1), nil, 409, "order_exists", ""},
		{"a wrong If-Match", post("o-1/confirm"), ``, []string{`If-Match: "7"`}, 412, "version_conflict", ""},
		{"an If-Match that is no version", post("o-1/confirm"), ``, []string{`If-Match: W/"1"`}, 400, "invalid_condition", ""},
		{"create what exists", post("o-1/place"), good, []string{`If-None-Match: *`}, 412, "version_conflict", ""},
		{"another body under the same key", post("o-1/place"), strings.Replace(good, "2933", "2934", 1), []string{`Idempotency-Key: "k-1"`}, 422, "idempotency_key_reused", ""},
		{"another command under the same key", post("o-1/confirm"), ``, []string{`Idempotency-Key: "k-1"`}, 422, "idempotency_key_reused", ""},
		{"an empty key", post("o-1/confirm"), ``, []string{`Idempotency-Key: ""`}, 400, "invalid_idempotency_key", ""},
		{"an over-long key", post("o-1/confirm"), ``, []string{`Idempotency-Key: "` + strings.Repeat("k", 300) + `"`}, 400, "invalid_idempotency_key", ""},
		{"a position that is none", "GET /v1/views/orders/o-1", ``, []string{`Millrace-At-Least: yesterday`}, 400, "invalid_position", ""},
		{"a position of an unknown topic", "GET /v1/views/orders/o-1", ``, []string{`Millrace-At-Least: ships.events/0@1`}, 400, "foreign_position", ""},
		{"a position of an unknown partition", "GET /v1/views/orders/o-1", ``, []string{`Millrace-At-Least: orders.events/99@1`}, 400, "foreign_position", ""},
		{"a position beyond the end", "GET /v1/views/orders/o-1", ``, []string{`Millrace-At-Least: orders.events/3@99999999`}, 400, "position_ahead", ""},
		{"limit 0", "GET /v1/views/orders?limit=0", ``, nil, 400, "", ""},
		{"limit −1", "GET /v1/views/orders?limit=-1", ``, nil, 400, "", ""},
		{"a huge limit", "GET /v1/views/orders?limit=2147483648", ``, nil, 400, "", ""},
		{"a limit that is no number", "GET /v1/views/orders?limit=many", ``, nil, 400, "", ""},
		{"a forged cursor", "GET /v1/views/orders?cursor=AAAA", ``, nil, 400, "bad_cursor", ""},
		{"a cursor of another view", "GET /v1/views/customers?cursor=" + other.Next, ``, nil, 400, "bad_cursor", ""},
		{"a cursor of another query", "GET /v1/views/orders?status=placed&cursor=" + other.Next, ``, nil, 400, "bad_cursor", ""},
		{"an unknown parameter", "GET /v1/views/orders?colour=red", ``, nil, 400, "", ""},
		{"a range upside down", "GET /v1/views/sales?from=2&to=1", ``, nil, 400, "invalid_query", ""},
		{"two indexes", "GET /v1/views/orders?status=placed&customer=c-1", ``, nil, 400, "invalid_query", ""},
		{"an unknown view", "GET /v1/views/ships/s-1", ``, nil, 404, "", ""},
		{"an unknown row", "GET /v1/views/orders/o-404", ``, nil, 404, "row_not_found", ""},
		{"a version that is not there", "GET /v1/orders/o-1?version=7", ``, nil, 404, "stream_not_found", ""},
		{"a version that is none", "GET /v1/orders/o-1?version=x", ``, nil, 400, "invalid_query", ""},
		{"a time that is none", "GET /v1/orders/o-1?at=noon", ``, nil, 400, "invalid_query", ""},
		{"an operation that is none", "GET /v1/operations/AAAA", ``, nil, 404, "operation_not_found", ""},
		{"a long URL", "GET /v1/views/orders?cursor=" + strings.Repeat("x", 9000), ``, nil, 414, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			method, path, _ := strings.Cut(tc.target, " ")
			a := request(t, method, p.at.HTTP+path, tc.body, tc.header...)
			var problem struct {
				Status            int
				Type, Title, Code string
				Errors            []struct{ Pointer string }
				CurrentVersion    *int64 `json:"current_version"`
			}
			if a.status != tc.status {
				t.Errorf("status %d, want %d: %s", a.status, tc.status, a.body)
			}
			if got := a.header.Get("Content-Type"); got != "application/problem+json" {
				t.Fatalf("content type %q: %s", got, a.body)
			}
			a.json(t, &problem)
			if problem.Status != a.status || problem.Title == "" || !strings.HasSuffix(problem.Type, problem.Code) || problem.Code == "" {
				t.Errorf("no full problem document: %s", a.body)
			}
			if tc.code != "" && problem.Code != tc.code {
				t.Errorf("code %q, want %q: %s", problem.Code, tc.code, a.body)
			}
			if tc.pointer != "" && !slices.ContainsFunc(problem.Errors, func(e struct{ Pointer string }) bool { return e.Pointer == tc.pointer }) {
				t.Errorf("no pointer %q: %s", tc.pointer, a.body)
			}
			if tc.status == http.StatusPreconditionFailed && (problem.CurrentVersion == nil || *problem.CurrentVersion != 1) {
				t.Errorf("the current version is not told: %s", a.body)
			}
		})
	}
	if after := ends(t, p); !slices.Equal(before, after) {
		t.Errorf("bad input wrote something: the log ended at %v, now at %v", before, after)
	}
	for _, id := range []string{"o-9", "a/b", ".."} {
		if a := request(t, "GET", p.at.HTTP+"/v1/views/orders?from="+id+"&to="+id, ""); a.status != http.StatusOK || !strings.HasPrefix(a.body, `{"rows":[]`) {
			t.Errorf("rows of %q: %d %s", id, a.status, a.body)
		}
	}
}

// ends returns the end of each partition of the orders' topic.
func ends(t *testing.T, p *process) []int64 {
	t.Helper()
	log, err := eventlog.Open(t.Context(), eventlog.Config{Brokers: []string{p.at.Kafka}})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	topic, err := log.EnsureTopic(t.Context(), eventlog.TopicSpec{Name: "orders.events"})
	if err != nil {
		t.Fatal(err)
	}
	all, err := log.Ends(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestAsync: a command that is not waited for is answered 202 with the place where its outcome will be.
func TestAsync(t *testing.T) {
	p := start(t, append([]string{"dev", "--ephemeral"}, anyPorts...)...)
	good := `{"customer_id":"c-1","currency":"USD","lines":[{"sku":"cd","quantity":2,"amount":2933}]}`
	outcome := func(id, body string) answer {
		t.Helper()
		a := request(t, "POST", p.at.HTTP+"/v1/orders/"+id+"/place", body, "Prefer: respond-async", fmt.Sprintf("Idempotency-Key: %q", "k-"+id))
		if a.status != http.StatusAccepted || a.header.Get("Location") == "" || a.header.Get("Preference-Applied") != "respond-async" {
			t.Fatalf("%d %v %s", a.status, a.header, a.body)
		}
		at := p.at.HTTP + a.header.Get("Location")
		p.until("done with "+id, func() bool {
			a = request(t, "GET", at, "")
			return a.status != http.StatusAccepted
		})
		return a
	}
	if a := outcome("o-1", good); a.status != http.StatusOK || !strings.Contains(a.body, `"version":1`) || a.header.Get("Millrace-Position") == "" {
		t.Errorf("accepted: %d %s", a.status, a.body)
	}
	if a := outcome("o-2", `{"customer_id":"c-1","currency":"USD","lines":[]}`); a.status != http.StatusUnprocessableEntity || !strings.Contains(a.body, "invalid_order") {
		t.Errorf("refused: %d %s", a.status, a.body)
	}
}

// TestMetrics: what was decided and how far the views are can be read from the admin address, and only from there.
func TestMetrics(t *testing.T) {
	p := start(t, append([]string{"dev", "--ephemeral"}, anyPorts...)...)
	a := request(t, "POST", p.at.HTTP+"/v1/orders/o-1/place", `{"customer_id":"c-1","currency":"USD","lines":[{"sku":"cd","quantity":2,"amount":2933}]}`)
	request(t, "POST", p.at.HTTP+"/v1/orders/o-1/confirm", "", `If-Match: "9"`)
	request(t, "POST", p.at.HTTP+"/v1/orders/o-2/confirm", "")
	request(t, "GET", p.at.HTTP+"/v1/views/orders/o-1", "", "Millrace-At-Least: "+a.header.Get("Millrace-Position"))
	got := request(t, "GET", p.at.Admin+"/metrics", "").body
	for _, want := range []string{
		`millrace_build_info{version="`,
		`millrace_command_duration_seconds_count{aggregate="orders",command="place",outcome="accepted"} 1`,
		`millrace_command_duration_seconds_count{aggregate="orders",command="confirm",outcome="conflict"} 1`,
		`millrace_command_duration_seconds_count{aggregate="orders",command="confirm",outcome="rejected"} 1`,
		`millrace_commands_total{aggregate="orders",command="place",outcome="accepted"} 1`,
		`millrace_events_appended_total{event_type="shop.orders.v1.OrderPlaced",topic="orders.events"} 1`,
		`millrace_view_lag_records{partition="0",topic="orders.events",view="sales"} `,
		`millrace_view_lag_seconds{partition="11",topic="orders.events",view="customers"} `,
		`millrace_view_state{state="running",view="orders"} 1`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s", want)
		}
	}
	if a := request(t, "GET", p.at.Admin+"/debug/pprof/cmdline", ""); a.status != http.StatusOK {
		t.Errorf("profiles: %d", a.status)
	}
	for _, path := range []string{"/metrics", "/debug/pprof/"} {
		if a := request(t, "GET", p.at.HTTP+path, ""); a.status != http.StatusNotFound {
			t.Errorf("%s on the public address: %d", path, a.status)
		}
	}
	for _, path := range []string{"/livez", "/readyz", "/readyz?verbose"} {
		if a := request(t, "GET", p.at.HTTP+path, ""); a.status != http.StatusOK {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}
