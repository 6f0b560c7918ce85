package service

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/platform/projection"
)

// TestRangeBehindIndex asks for ranges of what comes after the parts of an index that have a value: the keys, if all have one.
func TestRangeBehindIndex(t *testing.T) {
	r := launch(t, App{Roles: []Role{accounts("accounts"), balances("accounts")}})
	var last string
	for n := range 4 {
		last = r.send("POST", fmt.Sprintf("/v1/accounts/a-%d/pay-in", n), `{"amount":1}`).want(t, 200, nil).header.Get("Millrace-Position")
		r.send("GET", fmt.Sprintf("/v1/views/accounts/a-%d", n), "", "Millrace-At-Least: "+last).want(t, 200, nil)
	}
	for _, tc := range []struct {
		query  string
		status int
		rows   int
	}{
		{"sign=plus", 200, 4},
		{"sign=zero", 200, 0},
		{"sign=plus&sign.from=a-1", 200, 3},
		{"sign=plus&sign.from=a-1&sign.to=a-2", 200, 2},
		{"sign=plus&sign.prefix=a-3", 200, 1},
		{"sign=plus&from=a-1&to=a-2", 200, 2},
		{"sign=plus&from=a-1&sign.to=a-2", 400, 0},
		{"sign.from=&order=desc", 200, 4}, // all of the index
		{"sign.prefix=pl", 200, 4},
		{"sign.from=q", 200, 0},
		{"sign.from=a&from=a-1", 400, 0},
	} {
		var page struct{ Rows []balance }
		a := r.send("GET", "/v1/views/accounts?"+tc.query, "")
		if a.status != tc.status {
			t.Errorf("%s: status %d, want %d: %s", tc.query, a.status, tc.status, a.body)
			continue
		}
		if tc.status != 200 {
			continue
		}
		if a.want(t, 200, &page); len(page.Rows) != tc.rows {
			t.Errorf("%s: %d rows, want %d: %s", tc.query, len(page.Rows), tc.rows, a.body)
		}
	}
}

// TestChangedAtLeast: which rows an event changed is answered from a state that has the positions asked for, or refused; a row that the event
// has yet to bring is not gone.
//
// G15: A query with Millrace-At-Least answers from a state that holds that position, or says not_caught_up.
func TestChangedAtLeast(t *testing.T) {
	r := launchWith(t, App{Roles: []Role{accounts("accounts"), balances("accounts")}}, true, "MILLRACE_EPHEMERAL=true", "MILLRACE_QUERY_WAIT_MAX=100ms")
	views := r.host.engine(t, "accounts")
	if err := views.Pause("accounts"); err != nil {
		t.Fatal(err)
	}
	last := r.send("POST", "/v1/accounts/a-1/pay-in", `{"amount":1}`).want(t, 200, nil).header.Get("Millrace-Position")
	ask := func(header ...string) reply {
		t.Helper()
		return r.send("GET", "/v1/views/accounts?changed_by="+last, "", header...)
	}
	if a := ask("Millrace-At-Least: " + last); a.status != 503 || !strings.Contains(a.body, projection.ErrNotCaughtUp.Code) {
		t.Errorf("at least %s, of a view that does not have it: %d %s", last, a.status, a.body)
	}
	if a := ask().want(t, 200, nil); !strings.Contains(a.body, `"gone":["a-1"]`) {
		t.Errorf("of what the view has: %s", a.body)
	}
	if err := views.Resume("accounts"); err != nil {
		t.Fatal(err)
	}
	a := ask("Millrace-At-Least: " + last)
	for late := 0; a.status == 503 && late < 100; late++ { // each waits for it
		a = ask("Millrace-At-Least: " + last)
	}
	if a.want(t, 200, nil); !strings.Contains(a.body, `"key":"a-1"`) || !strings.Contains(a.body, `"gone":[]`) {
		t.Errorf("of a view that has it: %s", a.body)
	}
}
