package service

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/forward"
	"github.com/millrace/millrace/platform/rest"
)

// keys is an Authenticator: the token is the name.
func keys(_ context.Context, r *http.Request) (rest.Principal, error) {
	name, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return rest.Principal{}, errors.New("no token")
	}
	return rest.Principal{Name: name}, nil
}

// TestNoRouteEscapes: every route of a process but those for health and the document is answered 401 to a stranger, 403 to somebody who
// may nothing, and tells the rule what it is about.
//
// G24: Nothing is decided or read for somebody whom the application's rules do not know or do not allow.
func TestNoRouteEscapes(t *testing.T) {
	var mu sync.Mutex
	var asked []rest.Access
	r := launch(t, App{
		Roles: []Role{accounts("accounts"), balances("balances")}, Authenticate: keys,
		Authorize: func(_ context.Context, a rest.Access) error {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, a)
			return errors.New("nobody may anything")
		},
	})
	// take returns what the rule was asked since the last time.
	take := func() []rest.Access {
		mu.Lock()
		defer mu.Unlock()
		all := asked
		asked = nil
		return all
	}
	open := map[string]bool{"/livez": true, "/readyz": true, "/openapi.json": true, "/openapi.yaml": true}
	op := operationID("accounts", "a", "k", "127.0.0.1:1")
	path := strings.NewReplacer("/v1/operations/:id", "/v1/operations/"+op, ":id", "a", ":command", "steal", ":key", "a")
	for _, route := range r.host.http.Routes() {
		if open[route.Pattern] || strings.HasPrefix(route.Pattern, forward.Path) { // a peer's requests are judged one by one
			continue
		}
		t.Run(route.Method+" "+route.Pattern, func(t *testing.T) {
			at := path.Replace(route.Pattern)
			a := r.send(route.Method, at, "").want(t, http.StatusUnauthorized, nil)
			if a.header.Get("Www-Authenticate") == "" {
				t.Error("it is not told how to say who one is")
			}
			if asked := take(); len(asked) > 0 {
				t.Errorf("the rule was asked about a stranger: %+v", asked)
			}
			r.send(route.Method, at, "", "Authorization: Bearer ada").want(t, http.StatusForbidden, nil)
			asked := take()
			if len(asked) != 1 || asked[0].Principal.Name != "ada" || asked[0].Action == "" || asked[0].Header.Get("Authorization") == "" {
				t.Fatalf("the rule was asked %+v", asked)
			}
			got := asked[0]
			got.Principal, got.Header = rest.Principal{}, nil
			want := map[string]rest.Access{
				"/v1/accounts/:id":          {Action: rest.ActStream, Aggregate: "accounts", Stream: "a"},
				"/v1/accounts/:id/events":   {Action: rest.ActStream, Aggregate: "accounts", Stream: "a"},
				"/v1/accounts/:id/metadata": {Action: rest.ActStream, Aggregate: "accounts", Stream: "a"},
				"/v1/accounts/:id/pay-in":   {Action: rest.ActCommand, Aggregate: "accounts", Stream: "a", Command: "pay-in"},
				"/v1/accounts/:id/take-out": {Action: rest.ActCommand, Aggregate: "accounts", Stream: "a", Command: "take-out"},
				"/v1/accounts/:id/:command": {Action: rest.ActCommand, Aggregate: "accounts", Stream: "a", Command: "steal"},
				"/v1/events/accounts":       {Action: rest.ActCategory, Aggregate: "accounts"},
				"/v1/operations/:id":        {Action: rest.ActOperation, Aggregate: "accounts", Stream: "a"},
				"/v1/batch":                 {Action: rest.ActBatch},
				"/v1/views/balances":        {Action: rest.ActView, View: "balances"},
				"/v1/views/balances/:key":   {Action: rest.ActView, View: "balances", Key: "a"},
			}[route.Pattern]
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the rule was told (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAuthorize: the rules of the application and of the aggregate decide command by command, also in a batch, before anything is decided;
// who is allowed becomes the actor of the events.
func TestAuthorize(t *testing.T) {
	a := accounts("accounts")
	a.Authorize = func(_ context.Context, a rest.Access) error {
		if a.Command == "take-out" && a.Principal.Name != string(a.Stream) {
			return rest.ErrForbidden.Because("only %s may take out of it", a.Stream)
		}
		return nil
	}
	r := launch(t, App{
		Roles: []Role{a}, Authenticate: keys,
		Authorize: func(_ context.Context, a rest.Access) error {
			switch {
			case a.Principal.Name == "eve":
				return errors.New("the secret reason")
			case a.Stream == "later":
				return fault.New(fault.Unavailable, "policy_unavailable", "the rules cannot be read at the moment")
			}
			return nil
		},
	})
	ada, eve := "Authorization: Bearer ada", "Authorization: Bearer eve"
	r.send("POST", "/v1/accounts/ada/pay-in", `{"amount":5}`, ada).want(t, 200, nil)
	r.send("POST", "/v1/accounts/ada/take-out", `{"amount":1}`, ada).want(t, 200, nil)
	r.send("POST", "/v1/accounts/bob/take-out", `{"amount":1}`, ada).want(t, 403, nil)
	if got := r.send("POST", "/v1/accounts/ada/pay-in", `{"amount":5}`, eve).want(t, 403, nil); strings.Contains(got.body, "secret") {
		t.Errorf("the reason is told: %s", got.body)
	}
	r.send("POST", "/v1/accounts/later/pay-in", `{"amount":5}`, ada).want(t, 503, nil)
	// A body that cannot be read is not even looked at.
	r.send("POST", "/v1/accounts/ada/pay-in", `{`, eve).want(t, 403, nil)
	var b batchReply
	r.send("POST", "/v1/batch", `{"commands":[
		{"aggregate":"accounts","id":"ada","command":"take-out","data":{"amount":1}},
		{"aggregate":"accounts","id":"bob","command":"take-out","data":{"amount":1}},
		{"aggregate":"accounts","id":"later","command":"pay-in","data":{"amount":1}},
		{"aggregate":"accounts","id":"bob","command":"pay-in","data":{"amount":1}}]}`, ada).want(t, 200, &b)
	var got []int
	for _, one := range b.Results {
		got = append(got, one.Status)
	}
	if diff := cmp.Diff([]int{200, 403, 503, 200}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, id := range []string{"ada", "bob"} {
		var page pageJSON
		r.send("GET", "/v1/accounts/"+id+"/events", "", ada).want(t, 200, &page)
		for _, e := range page.Events {
			if e.Actor != "ada" {
				t.Errorf("event %d of %s is of %q", e.Version, id, e.Actor)
			}
		}
	}
	location := r.send("POST", "/v1/accounts/ada/pay-in", `{"amount":5}`, ada, "Prefer: respond-async").want(t, 202, nil).header.Get("Location")
	r.send("GET", location, "", eve).want(t, 403, nil)
	r.send("GET", location, "").want(t, 401, nil)
	if s := r.send("GET", location, "", ada).status; s != 200 && s != 202 {
		t.Errorf("the operation is answered %d", s)
	}
}
