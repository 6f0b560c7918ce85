package service

import (
	"fmt"
	"testing"
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
