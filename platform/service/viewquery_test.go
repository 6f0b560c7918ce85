package service

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/millrace/millrace/platform/es"
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

// TestTagsOfLetters: pages and rows have other tags once a dead letter is applied, of a view that is divided and of one that is not: it moves no
// position, and whoever comes with the tag of before must not be told that nothing has changed.
func TestTagsOfLetters(t *testing.T) {
	var broken atomic.Bool
	broken.Store(true)
	views := func(name string) Projector {
		return Projector{Name: name + "-views", Views: []View{ViewOf(accounts("accounts").Contract, es.View[balance, accountEvent]{
			Name: name, Version: 1, OnError: es.Park, Stream: es.SameStream,
			Key: func(e es.Envelope[accountEvent]) (string, bool) { return string(e.Stream), true },
			Apply: func(b balance, e es.Envelope[accountEvent]) balance {
				if broken.Load() && e.Version > 1 {
					panic("it can do the first event only")
				}
				b.Balance += e.Event.(paidIn).Amount
				return b
			},
		})}}
	}
	b := &bank{running: launch(t, App{Roles: []Role{accounts("accounts"), views("whole")}})}
	divided := b.startWith("", views("purses"), "MILLRACE_VIEW_COPIES=1")
	b.settles(1, divided)
	var last string
	for _, path := range []string{"a-1", "a-2", "a-1"} {
		last = b.send("POST", "/v1/accounts/"+path+"/pay-in", `{"amount":1}`).want(t, 200, nil).header.Get("Millrace-Position")
		need, err := es.ParsePosition(last)
		if err != nil {
			t.Fatal(err)
		}
		b.need = b.need.With(need)
	}
	engines := map[string][]*projection.Projector{"whole": {b.host.engine(t, "whole")}}
	for _, h := range divided.host.views.spreads["purses"].all() {
		engines["purses"] = append(engines["purses"], h.engine)
	}
	paths := map[string]*running{"whole": b.running, "whole?limit=1": b.running, "whole/a-1": b.running, "purses": divided, "purses?limit=1": divided, "purses/a-1": divided}
	tags := map[string]string{}
	for path, r := range paths {
		a := b.get(r, "/v1/views/"+path, b.need).want(t, 200, nil)
		tags[path] = a.header.Get("Etag")
		if !strings.Contains(a.body, `{"balance":1}`) {
			t.Errorf("%s: %s", path, a.body)
		}
		r.send("GET", "/v1/views/"+path, "", "If-None-Match: "+tags[path]).want(t, 304, nil)
	}
	broken.Store(false)
	for view, all := range engines {
		applied := 0
		for _, p := range all {
			got, err := p.Retry(t.Context(), view, "")
			if err != nil {
				t.Fatal(err)
			}
			applied += got.Applied
		}
		if applied != 1 {
			t.Errorf("%s: %d dead letters are applied", view, applied)
		}
	}
	for path, r := range paths {
		a := r.send("GET", "/v1/views/"+path, "", "If-None-Match: "+tags[path])
		if a.status != 200 || !strings.Contains(a.body, `{"balance":2}`) {
			t.Errorf("%s, with the tag of before: %d %s", path, a.status, a.body)
		}
		r.send("GET", "/v1/views/"+path, "", "If-None-Match: "+a.header.Get("Etag")).want(t, 304, nil)
	}
}
