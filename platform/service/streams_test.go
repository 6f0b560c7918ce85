package service

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/command"
	"github.com/millrace/millrace/platform/es"
)

const ndjson = "Accept: text/html, application/x-ndjson;q=0.9"

// TestStreamReads: pages of a stream in both directions and between bounds, the whole of it as lines, the state at a version with what
// came next, and what is known beside the events.
func TestStreamReads(t *testing.T) {
	r := launch(t, App{Roles: []Role{accounts("accounts")}})
	for i := range 10 {
		r.send("POST", "/v1/accounts/a/pay-in", fmt.Sprintf(`{"amount":%d}`, i+1)).want(t, 200, nil)
	}
	read := func(query string, header ...string) ([]es.Version, pageJSON) {
		var page pageJSON
		r.send("GET", "/v1/accounts/a/events"+query, "", header...).want(t, 200, &page)
		var got []es.Version
		for _, e := range page.Events {
			if e.Stream != "a" || e.Type != "test.v1.PaidIn" || string(e.Data) != fmt.Sprintf(`{"amount":%d,"note":""}`, e.Version) {
				t.Errorf("event %+v with data %s", e, e.Data)
			}
			got = append(got, e.Version)
		}
		return got, page
	}
	_, all := read("")
	fourth := all.Events[3].Time.Format("2006-01-02T15:04:05.999999Z07:00")
	for _, tc := range []struct {
		query string
		want  []es.Version
		next  es.Version
	}{
		{"", []es.Version{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 0},
		{"?from=3&limit=2", []es.Version{3, 4}, 5},
		{"?from=3&to=4", []es.Version{3, 4}, 0},
		{"?from=3&to=3", []es.Version{3}, 0},
		{"?from=11", nil, 0},
		{"?direction=forward&from=9", []es.Version{9, 10}, 0},
		{"?direction=backward&limit=3", []es.Version{10, 9, 8}, 7},
		{"?direction=backward&from=7&limit=3", []es.Version{7, 6, 5}, 4},
		{"?direction=backward&from=2", []es.Version{2, 1}, 0},
		{"?direction=backward&from=5&to=4", []es.Version{5, 4}, 0},
		{"?until=" + fourth, []es.Version{1, 2, 3, 4}, 0},
		{"?direction=backward&limit=1&until=" + fourth, []es.Version{4}, 3},
		{"?until=1999-12-31T23:59:59Z", nil, 0},
	} {
		got, page := read(tc.query)
		if !slices.Equal(got, tc.want) || page.Next != tc.next || page.Last != 10 {
			t.Errorf("%s: versions %v, next %d, last %d; want %v, %d, 10", tc.query, got, page.Next, page.Last, tc.want, tc.next)
		}
	}
	for query, want := range map[string]int{"": 10, "?limit=3": 3, "?from=4&to=6": 3, "?direction=backward&limit=10": 10} {
		a := r.send("GET", "/v1/accounts/a/events"+query, "", ndjson).want(t, 200, nil)
		if got := strings.Count(a.body, "\n"); got != want || a.header.Get("Content-Type") != typeLines {
			t.Errorf("%s as lines: %d, want %d; %s", query, got, want, a.header.Get("Content-Type"))
		}
	}
	for _, bad := range []string{"?from=0", "?from=x", "?to=0", "?limit=0", "?limit=1001", "?until=noon", "?direction=up", "?direction=", "?from=3&to=2", "?direction=backward&from=2&to=3", "?colour=red", "?from=1&from=2"} {
		r.send("GET", "/v1/accounts/a/events"+bad, "").want(t, 400, nil)
	}
	r.send("GET", "/v1/accounts/none/events?direction=backward", "").want(t, 404, nil)
	r.send("GET", "/v1/accounts/none/events", "", ndjson).want(t, 404, nil)
	r.send("GET", "/v1/accounts/events", "").want(t, 404, nil) // an id like any other

	var m stateJSON[account]
	a := r.send("GET", "/v1/accounts/a?version=3&diff=next", "").want(t, 200, &m)
	want := []command.Change{{Op: "replace", Path: "/balance", From: json.RawMessage("6"), To: json.RawMessage("10")}}
	if m.Version != 3 || m.Last != 10 || m.State.Balance != 6 || m.Next == nil || m.Next.Version != 4 || len(m.Next.Events) != 1 || a.header.Get("Etag") != `"3"` {
		t.Errorf("%s", a.body)
	} else if diff := cmp.Diff(want, m.Next.Changes); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	m = stateJSON[account]{}
	if r.send("GET", "/v1/accounts/a?diff=next", "").want(t, 200, &m); m.Version != 10 || m.Next != nil {
		t.Errorf("at the end: %+v", m)
	}
	var s account
	a = r.send("GET", "/v1/accounts/a?at="+fourth, "").want(t, 200, &s)
	if s.Balance != 10 || a.header.Get("Etag") != `"4"` || a.header.Get("Millrace-Position") != all.Events[3].Position.String() {
		t.Errorf("%v %s", a.header, a.body)
	}
	r.send("GET", "/v1/accounts/a", "", `If-None-Match: "10"`).want(t, 304, nil)
	r.send("GET", "/v1/accounts/a", "", `If-None-Match: "9"`).want(t, 200, nil)
	for _, bad := range []string{"?version=1&at=" + fourth, "?version=0", "?diff=last", "?at=0001-01-01T00:00:00Z"} {
		r.send("GET", "/v1/accounts/a"+bad, "").want(t, 400, nil)
	}
	for _, gone := range []string{"?version=11", "?at=1999-12-31T23:59:59Z"} {
		r.send("GET", "/v1/accounts/a"+gone, "").want(t, 404, nil)
	}
	var meta command.Metadata
	a = r.send("GET", "/v1/accounts/a/metadata", "").want(t, 200, &meta)
	if meta.First != 1 || meta.Last != 10 || meta.Events != 10 || meta.Bytes == 0 || meta.Position != all.Events[9].Position || a.header.Get("Etag") != `"10"` {
		t.Errorf("%+v", meta)
	}
	r.send("GET", "/v1/accounts/none/metadata", "").want(t, 404, nil)
	r.send("HEAD", "/v1/accounts/a/metadata", "").want(t, 200, nil)
}

// TestPagesAreBounded: a page ends before it is too long, whatever its limit, and the next begins where it ended.
func TestPagesAreBounded(t *testing.T) {
	r := launch(t, App{Roles: []Role{accounts("accounts")}})
	const n, size = 30, 100_000
	for range n {
		r.send("POST", "/v1/accounts/a/pay-in", `{"amount":1,"note":"`+strings.Repeat("x", size)+`"}`).want(t, 200, nil)
	}
	read, pages := 0, 0
	for next := "1"; next != "0"; pages++ {
		var page pageJSON
		a := r.send("GET", "/v1/accounts/a/events?limit=1000&from="+next, "").want(t, 200, &page)
		if len(a.body) > pageBytes+size {
			t.Errorf("a page of %d bytes", len(a.body))
		}
		if read += len(page.Events); page.Next != 0 && int(page.Next) != read+1 {
			t.Fatalf("%d events were read, the next is %d", read, page.Next)
		}
		next = strconv.Itoa(int(page.Next))
	}
	if read != n || pages < 3 {
		t.Errorf("%d events on %d pages", read, pages)
	}
	for path, want := range map[string]int{"accounts/a/events": n, "accounts/a/events?limit=25": 25, "events/accounts": n, "events/accounts?limit=25": 25} {
		if a := r.send("GET", "/v1/"+path, "", ndjson).want(t, 200, nil); strings.Count(a.body, "\n") != want {
			t.Errorf("%s: %d lines, want %d", path, strings.Count(a.body, "\n"), want)
		}
	}
}

// TestCategory: the events of all streams page by page, each once and those of a stream in order; after positions; only some types; a
// reader who waits gets what comes.
func TestCategory(t *testing.T) {
	r := launch(t, App{Roles: []Role{accounts("accounts")}})
	var positions es.Positions
	for i := range 40 {
		var receipt command.Receipt
		r.send("POST", fmt.Sprintf("/v1/accounts/a-%d/pay-in", i%7), `{"amount":2}`).want(t, 200, &receipt)
		positions = positions.With(receipt.Position)
		if i%5 == 0 {
			r.send("POST", fmt.Sprintf("/v1/accounts/a-%d/take-out", i%7), `{"amount":1}`).want(t, 200, &receipt)
			positions = positions.With(receipt.Position)
		}
	}
	type category struct {
		Events []eventJSON
		Next   string
		End    bool
	}
	versions := map[es.StreamID]es.Version{}
	var cursor string
	var seen es.Positions
	for pages := 0; ; pages++ {
		var page category
		a := r.send("GET", "/v1/events/accounts?limit=9&cursor="+cursor, "").want(t, http.StatusOK, &page)
		for _, e := range page.Events {
			if versions[e.Stream]++; e.Version != versions[e.Stream] {
				t.Fatalf("event %d of %s, want %d", e.Version, e.Stream, versions[e.Stream])
			}
		}
		if text := a.header.Get("Millrace-Position"); text != "" {
			at, err := es.ParsePositions(text)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range at {
				seen = seen.With(p)
			}
		}
		if len(page.Events) > 9 || pages > 20 {
			t.Fatalf("page %d has %d events", pages, len(page.Events))
		}
		if cursor = page.Next; page.End {
			break
		}
	}
	total := 0
	for _, v := range versions {
		total += int(v)
	}
	if total != 48 || seen.String() != positions.String() {
		t.Errorf("%d events up to %s, want 48 up to %s", total, seen, positions)
	}
	if a := r.send("GET", "/v1/events/accounts", "", ndjson).want(t, 200, nil); strings.Count(a.body, "\n") != 48 {
		t.Errorf("%d lines", strings.Count(a.body, "\n"))
	}
	if a := r.send("GET", "/v1/events/accounts?limit=11", "", ndjson).want(t, 200, nil); strings.Count(a.body, "\n") != 11 {
		t.Errorf("%d lines, want 11", strings.Count(a.body, "\n"))
	}
	var some category
	if r.send("GET", "/v1/events/accounts?types=test.v1.TakenOut,test.v1.Other", "").want(t, 200, &some); len(some.Events) != 8 {
		t.Errorf("%d events of one type, want 8", len(some.Events))
	}
	// From either end of what is there, somebody who waits gets what comes, and nothing else.
	var end category
	for _, from := range []func() string{func() string { return "after=" + positions.String() }, func() string { return "cursor=" + end.Next }} {
		if r.send("GET", "/v1/events/accounts?"+from(), "").want(t, 200, &end); len(end.Events) != 0 || !end.End {
			t.Errorf("%d events after the last", len(end.Events))
		}
		came := make(chan reply)
		go func() {
			a, err := r.do("GET", "/v1/events/accounts?wait=30&"+from(), "")
			if err != nil {
				t.Error(err)
			}
			came <- a
		}()
		var receipt command.Receipt
		r.send("POST", "/v1/accounts/new/pay-in", `{"amount":9}`).want(t, 200, &receipt)
		var waited category
		if (<-came).want(t, 200, &waited); len(waited.Events) != 1 || waited.Events[0].Position != receipt.Position {
			t.Errorf("waited for %d events, want the one at %s", len(waited.Events), receipt.Position)
		}
		positions = positions.With(receipt.Position)
		r.send("GET", "/v1/events/accounts?after="+positions.String(), "").want(t, 200, &end)
	}
	for _, bad := range []string{"?cursor=x", "?after=x", "?after=" + positions.String() + "&cursor=" + end.Next, "?limit=0", "?wait=31", "?wait=-1", "?from=1", "?after=other.events/0@1"} {
		r.send("GET", "/v1/events/accounts"+bad, "").want(t, 400, nil)
	}
	r.send("GET", "/v1/events/accounts?after=accounts.events/0@99999", "").want(t, 409, nil)
	r.send("GET", "/v1/events/ships", "").want(t, 404, nil)
}
