package service

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/command"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/rest"
)

type batchReply struct {
	Results []struct {
		Status    int
		CommandID string `json:"command_id"`
		Receipt   *command.Receipt
		Replayed  bool
		Problem   *rest.Problem
	}
}

// TestBatch: commands of several streams and aggregates are decided together, those of a stream in their order, each by itself; the same
// batch under the same key gets the same receipts.
//
// G21: The commands of a batch that are for one stream are decided in their order, each by itself, and the same batch under the same key
// gets the same receipts.
func TestBatch(t *testing.T) {
	r := launch(t, App{Roles: []Role{accounts("accounts"), accounts("wallets"), balances("accounts")}})
	const n = 40
	var commands []string
	add := func(format string, args ...any) { commands = append(commands, fmt.Sprintf(format, args...)) }
	for i := range n {
		add(`{"aggregate":"accounts","id":"a-%d","command":"pay-in","data":{"amount":%d}}`, i%4, i)
		add(`{"aggregate":"wallets","id":"a-0","command":"pay-in","expected_version":%d,"data":{"amount":1}}`, i)
	}
	add(`{"aggregate":"accounts","id":"b","command":"take-out","data":{"amount":5}}`)
	add(`{"aggregate":"accounts","id":"b","command":"pay-in","command_id":"my \"own\"","data":{"amount":5}}`)
	add(`{"aggregate":"accounts","id":"b","command":"take-out","expected_version":0,"data":{"amount":5}}`)
	add(`{"aggregate":"accounts","id":"b","command":"take-out","data":{"amount":5}}`)
	add(`{"aggregate":"accounts","id":"b","command":"take-out"}`)
	add(`{"aggregate":"accounts","id":"b","command":"pay-in","command_id":"my \"own\"","data":{"amount":6}}`)
	add(`{"aggregate":"accounts","id":"b","command":"take-out","data":{"amount":-1}}`)
	body := `{"commands":[` + strings.Join(commands, ",") + `]}`
	var first batchReply
	answer := r.send("POST", "/v1/batch", body, "Idempotency-Key: k").want(t, http.StatusOK, &first)
	if len(first.Results) != len(commands) || answer.header.Get("Idempotency-Key") != "k" {
		t.Fatalf("%d results, key %q: %s", len(first.Results), answer.header.Get("Idempotency-Key"), answer.body)
	}
	for i := range 2 * n {
		got := first.Results[i]
		want := es.Version(i/8 + 1)
		if i%2 == 1 {
			want = es.Version(i/2 + 1)
		}
		if got.Status != 200 || got.Receipt == nil || got.Receipt.Version != want || got.CommandID != fmt.Sprint("k:", i) || got.Replayed {
			t.Fatalf("result %d: %+v, want version %d", i, got, want)
		}
	}
	tail := first.Results[2*n:]
	for i, want := range []struct {
		status int
		code   string
		id     string
	}{
		{422, "overdrawn", "k:80"}, {200, "", `my "own"`}, {412, "version_conflict", "k:82"}, {200, "", "k:83"}, {200, "", "k:84"},
		{422, "idempotency_key_reused", `my "own"`}, {500, "internal", "k:86"},
	} {
		got := tail[i]
		if got.Status != want.status || got.CommandID != want.id || (got.Receipt != nil) != (want.code == "") || got.Problem != nil && (got.Problem.Code != want.code || got.Problem.Status != want.status) {
			t.Errorf("%s: %+v, want %+v", commands[2*n+i], got, want)
		}
	}
	if strings.Contains(answer.body, "negative amount") {
		t.Errorf("the text of a panic is answered: %s", answer.body)
	}
	positions, err := es.ParsePositions(answer.header.Get("Millrace-Position"))
	if err != nil || len(positions) < 2 {
		t.Errorf("position %q, %v", answer.header.Get("Millrace-Position"), err)
	}
	for _, one := range first.Results {
		if one.Receipt == nil || one.Receipt.Position.IsZero() {
			continue
		}
		if at, ok := positions.Offset(one.Receipt.Position.TopicPartition); !ok || at < one.Receipt.Position.Offset {
			t.Errorf("%v does not include %v", positions, one.Receipt.Position)
		}
	}
	var again batchReply
	r.send("POST", "/v1/batch", body, `Idempotency-Key: "k"`, "Prefer: respond-async").want(t, http.StatusOK, &again)
	for i, one := range again.Results {
		was := first.Results[i]
		if one.Replayed != (was.Receipt != nil) {
			t.Errorf("result %d again: replayed is %v", i, one.Replayed)
		}
		if diff := cmp.Diff(was.Receipt, one.Receipt); diff != "" {
			t.Errorf("result %d has another receipt (-first +again):\n%s", i, diff)
		}
	}
	var state account
	r.send("GET", "/v1/wallets/a-0", "").want(t, http.StatusOK, &state)
	if state.Balance != n {
		t.Errorf("balance %d, want %d", state.Balance, n)
	}
	var made batchReply
	answer = r.send("POST", "/v1/batch", `{"commands":[{"aggregate":"accounts","id":"c","command":"pay-in","data":{"amount":1}}]}`).want(t, http.StatusOK, &made)
	if key := answer.header.Get("Idempotency-Key"); key == "" || made.Results[0].CommandID != key+":0" {
		t.Errorf("made key %q, command %q", key, made.Results[0].CommandID)
	}
}

// TestBatchBadInput: a batch that is not understood is refused with everything that is wrong with it, and nothing of it is decided.
func TestBatchBadInput(t *testing.T) {
	r := launch(t, App{Roles: []Role{accounts("accounts"), accounts("wallets")}})
	good := `{"aggregate":"accounts","id":"a","command":"pay-in","data":{"amount":1}}`
	batch := func(commands ...string) string { return `{"commands":[` + strings.Join(commands, ",") + `]}` }
	for _, tc := range []struct {
		name, body string
		header     []string
		status     int
		code       string
		pointers   []string
	}{
		{"no body", ``, nil, 415, "unsupported_media_type", nil},
		{"not JSON", `x`, nil, 400, "invalid_body", []string{""}},
		{"nothing in it", `{}`, nil, 400, "invalid_body", []string{"/commands"}},
		{"no commands", batch(), nil, 400, "invalid_body", []string{"/commands"}},
		{"an unknown member", `{"commands":[` + good + `],"atomic":true}`, nil, 400, "invalid_body", []string{"/atomic"}},
		{"an unknown member of a command", batch(good, `{"aggregat":"accounts"}`), nil, 400, "invalid_body", []string{"/commands/1/aggregat"}},
		{"everything wrong", batch(good,
			`{"aggregate":"ships","id":"","command":"sail"}`,
			`{"aggregate":"accounts","id":"a/b","command":"sail","command_id":"a\u0007","expected_version":-1}`,
			`{"aggregate":"wallets","id":"a","command":"pay-in","command_id":"`+strings.Repeat("x", 257)+`","data":{"amount":"1","colour":1}}`,
			`{"aggregate":"wallets","id":"a","command":"pay-in","data":null}`,
			`{"aggregate":"wallets","id":"ä","command":"pay-in","command_id":"ä"}`),
			nil, 400, "invalid_body", []string{
				"/commands/1/id", "/commands/1/aggregate", "/commands/2/id", "/commands/2/command_id", "/commands/2/expected_version", "/commands/2/command",
				"/commands/3/command_id", "/commands/3/data/amount", "/commands/3/data/colour", "/commands/4/data", "/commands/5/command_id",
			}},
		{"too many commands", batch(strings.Split(strings.Repeat("{};", MaxBatch)+"{}", ";")...), nil, 413, "batch_too_large", nil},
		{"too many bytes", batch(`{"aggregate":"` + strings.Repeat("x", 256<<10) + `"}`), nil, 413, "body_too_large", nil},
		{"a version for the whole", batch(good), []string{`If-Match: "1"`}, 400, "invalid_condition", nil},
		{"create the whole", batch(good), []string{`If-None-Match: *`}, 400, "invalid_condition", nil},
		{"a key that is none", batch(good), []string{`Idempotency-Key: ""`}, 400, "invalid_idempotency_key", nil},
		{"a key with no room for a number", batch(good), []string{`Idempotency-Key: ` + strings.Repeat("k", 253)}, 400, "invalid_idempotency_key", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var p rest.Problem
			r.send("POST", "/v1/batch", tc.body, tc.header...).want(t, tc.status, &p)
			var pointers []string
			for _, f := range p.Errors {
				pointers = append(pointers, f.Pointer)
			}
			if diff := cmp.Diff(tc.pointers, pointers); p.Code != tc.code || diff != "" {
				t.Errorf("code %q, want %q; pointers (-want +got):\n%s", p.Code, tc.code, diff)
			}
		})
	}
	r.send("POST", "/v1/batch?dry=1", batch(good)).want(t, 400, nil)
	r.send("GET", "/v1/accounts/a", "").want(t, 404, nil)
}

// TestManyEvents: a command causes up to 1,000 events in one piece, alone and in a batch; one more, or too many bytes, is refused before
// anything is written.
func TestManyEvents(t *testing.T) {
	r := launch(t, App{Roles: []Role{accounts("accounts")}})
	pay := func(times, note int) string {
		body, err := json.Marshal(PayIn{Amount: 1, Times: times, Note: strings.Repeat("x", note)})
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	var receipt command.Receipt
	r.send("POST", "/v1/accounts/full/pay-in", pay(MaxEvents, 0)).want(t, 200, &receipt)
	if receipt.Version != MaxEvents || len(receipt.Events) != MaxEvents {
		t.Errorf("version %d, %d events", receipt.Version, len(receipt.Events))
	}
	var page pageJSON
	r.send("GET", "/v1/accounts/full/events?limit=1000", "").want(t, 200, &page)
	if len(page.Events) != MaxEvents || page.Next != 0 {
		t.Fatalf("%d events, next %d", len(page.Events), page.Next)
	}
	// One write: their offsets follow each other.
	for i, e := range page.Events {
		if e.Position.Offset != page.Events[0].Position.Offset+int64(i) || e.CommandID != page.Events[0].CommandID {
			t.Fatalf("event %d is at %v, the first at %v", i, e.Position, page.Events[0].Position)
		}
	}
	for _, tc := range []struct {
		name string
		body string
	}{{"one event too many", pay(MaxEvents+1, 0)}, {"too many bytes", pay(MaxEvents, 2000)}} {
		t.Run(tc.name, func(t *testing.T) {
			var p rest.Problem
			r.send("POST", "/v1/accounts/none/pay-in", tc.body).want(t, http.StatusRequestEntityTooLarge, &p)
			if p.Code != "command_too_large" || p.Fix == "" || p.Retryable {
				t.Errorf("%+v", p)
			}
			var b batchReply
			r.send("POST", "/v1/batch", `{"commands":[{"aggregate":"accounts","id":"none","command":"pay-in","data":`+tc.body+`}]}`).want(t, 200, &b)
			if b.Results[0].Status != http.StatusRequestEntityTooLarge {
				t.Errorf("in a batch: %+v", b.Results[0])
			}
			r.send("GET", "/v1/accounts/none", "").want(t, 404, nil)
		})
	}
	// Nothing took a place in the log either.
	r.send("POST", "/v1/accounts/full/pay-in", pay(1, 0)).want(t, 200, &receipt)
	if want := page.Events[MaxEvents-1].Position.Offset + 1; receipt.Position.Offset != want {
		t.Errorf("the next event is at %d, want %d", receipt.Position.Offset, want)
	}
}
