package service

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/rest"
)

// tallies is a view of two versions: the second one has another field, and another index.
func tallies() Projector {
	type first struct {
		Paid int64 `json:"paid"`
	}
	type second struct {
		Paid  int64     `json:"paid"`
		Times int64     `json:"times"`
		At    time.Time `json:"at"`
	}
	key := func(e es.Envelope[accountEvent]) (string, bool) { return string(e.Stream), true }
	return Projector{Name: "tally-views", Views: []View{
		ViewOf(accounts("accounts").Contract, es.View[second, accountEvent]{Name: "tallies", Version: 2, Key: key, Apply: func(s second, e es.Envelope[accountEvent]) second {
			if e, ok := e.Event.(paidIn); ok {
				s.Paid, s.Times = s.Paid+e.Amount, s.Times+1
			}
			return s
		}, Indexes: map[string]es.Index[second]{"times": es.By(es.Number(func(s second) int64 { return s.Times }))}}),
		ViewOf(accounts("accounts").Contract, es.View[first, accountEvent]{Name: "tallies", Version: 1, Key: key, Apply: func(f first, e es.Envelope[accountEvent]) first {
			if e, ok := e.Event.(paidIn); ok {
				f.Paid += e.Amount
			}
			return f
		}, Indexes: map[string]es.Index[first]{"paid": es.By(es.Number(func(f first) int64 { return f.Paid }))}}),
	}}
}

// post sends a request to the admin address.
func (r *running) post(path, body string, v any) {
	r.t.Helper()
	resp, err := http.Post(r.all.Admin+path, "application/json", strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		r.t.Fatalf("%s: %s", path, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		r.t.Fatal(err)
	}
}

// TestReadBuild reads a view as it was, and as an older version of its code has it, while today's build answers queries.
func TestReadBuild(t *testing.T) {
	var asked []rest.Access
	r := launch(t, App{Roles: []Role{accounts("accounts"), tallies()}, Authorize: func(_ context.Context, a rest.Access) error {
		if a.Action == rest.ActView {
			asked = append(asked, a)
		}
		return nil
	}})
	pay := func(id, amount string) string {
		at := r.send("POST", "/v1/accounts/"+id+"/pay-in", `{"amount":`+amount+`}`).want(t, 200, nil).header.Get("Millrace-Position")
		r.send("GET", "/v1/views/tallies/"+id, "", "Millrace-At-Least: "+at).want(t, 200, nil)
		return at
	}
	then, err := es.ParsePositions(pay("a", "1"))
	if err != nil {
		t.Fatal(err)
	}
	before := r.send("GET", "/v1/views/tallies/a", "")
	later := pay("a", "2")
	rebuild := func(body string) string {
		var begun struct{ Build string }
		r.post("/v1/views/tallies/rebuild", body, &begun)
		for range 60_000 {
			var st struct {
				Builds []struct {
					ID       string
					CaughtUp bool `json:"caught_up"`
				}
			}
			if err := json.Unmarshal([]byte(r.admin("/v1/views/tallies").body), &st); err != nil {
				t.Fatal(err)
			}
			for _, b := range st.Builds {
				if b.ID == begun.Build && b.CaughtUp {
					return begun.Build
				}
			}
			time.Sleep(time.Millisecond)
		}
		t.Fatalf("build %s does not catch up", begun.Build)
		return ""
	}
	past := rebuild(`{"until":"` + then.String() + `","force":true}`)
	old := rebuild(`{"version":1,"force":true}`)
	if past != "v2-2" || old != "v1-1" {
		t.Fatalf("builds %s and %s", past, old)
	}

	is := func(query, want string) reply {
		t.Helper()
		a := r.send("GET", "/v1/views/tallies"+query, "").want(t, 200, nil)
		if got := strings.TrimSpace(a.body); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
		return a
	}
	today := is("/a", `{"paid":3,"times":2,"at":"0001-01-01T00:00:00Z"}`)
	was := is("/a?build=v2-2", strings.TrimSpace(before.body))
	if was.header.Get("Millrace-Position") != then.String() || was.header.Get("Millrace-Lag-Seconds") != "0.000" {
		t.Errorf("header %v", was.header)
	}
	is("/a?build=v1-1", `{"paid":3}`)
	is("/a?build=", `{"paid":3,"times":2,"at":"0001-01-01T00:00:00Z"}`)
	is("?build=v2-2&times=1&fields=paid,paid", `{"rows":[{"paid":1}]}`)
	is("?times=1&fields=paid", `{"rows":[]}`)
	is("?build=v2-2&where=times%20%3D%3D%201&count", `{"count":1}`)
	is("?build=v1-1&paid=3&where=paid%20%3E%202", `{"rows":[{"paid":3}]}`) // the index and the fields of its own version
	for query, code := range map[string]string{"?build=v1-1&times=2": "invalid_query", "?build=v1-1&where=times%20%3D%3D%202": "invalid_filter", "/a?build=v1-1&fields=times": "invalid_query", "?paid=3": "invalid_query"} {
		var problem struct{ Code string }
		if r.send("GET", "/v1/views/tallies"+query, "").want(t, 400, &problem); problem.Code != code {
			t.Errorf("%s: %s, want %s", query, problem.Code, code)
		}
	}
	// What would change nothing is refused, not ignored.
	for query, accept := range map[string]string{
		"?changed_by=tallies.events/0@0&where=times%20%3E%202": "", "?changed_by=tallies.events/0@0&times=2": "", "?changed_by=tallies.events/0@0&count": "",
		"?changed_by=tallies.events/0@0&limit=1&cursor=x": "", "?changed_by=tallies.events/0@0&fields=paid": typeNDJSON,
		"?count": typeEvents, "?count&limit=1": typeNDJSON, "?cursor=x": typeNDJSON, "?cursor=y": typeEvents,
	} {
		var said struct{ Code, Fix string }
		r.send("GET", "/v1/views/tallies"+query, "", "Accept: "+accept).want(t, 400, &said)
		if said.Code != "invalid_query" || said.Fix == "" {
			t.Errorf("%s as %s: %+v", query, accept, said)
		}
	}
	if a := r.send("GET", "/v1/views/tallies?build=v2-2&fields=paid", "", ndjson).want(t, 200, nil); a.body != `{"paid":1}`+"\n" {
		t.Error(a.body)
	}
	meta, schema, rows := readAvro(t, r.send("GET", "/v1/views/tallies?build=v1-1", "", avroFile).want(t, 200, nil).body)
	if string(meta["millrace.build"]) != old || strings.Contains(schema, "times") || len(rows) != 1 || rows[0]["row"].(map[string]any)["paid"] != int64(3) {
		t.Errorf("%s, %s: %v", meta["millrace.build"], schema, rows)
	}
	var explained struct{ Build, Position string }
	if r.send("GET", "/v1/views/tallies/a?build=v2-2&explain", "").want(t, 200, &explained); explained.Build != past || explained.Position != then.String() {
		t.Errorf("%+v", explained)
	}

	// A tag is of one build, though the same event changed the row last.
	tag := today.header.Get("Etag")
	r.send("GET", "/v1/views/tallies/a", "", "If-None-Match: "+tag).want(t, 304, nil)
	r.send("GET", "/v1/views/tallies/a?build=v2-1", "", "If-None-Match: "+tag).want(t, 304, nil)
	r.send("GET", "/v1/views/tallies/a?build=v1-1", "", "If-None-Match: "+tag).want(t, 200, nil)

	var problem struct{ Code, Detail, Fix string }
	for _, query := range []string{"/a?build=v2-2", "?build=v2-2"} {
		if r.send("GET", "/v1/views/tallies"+query, "", "Millrace-At-Least: "+later).want(t, 409, &problem); problem.Code != "build_ends" || !strings.Contains(problem.Detail, "the build v2-2 of the view tallies ends before offset") {
			t.Errorf("%s: %+v", query, problem)
		}
		r.send("GET", "/v1/views/tallies"+query, "", "Millrace-At-Least: "+then.String()).want(t, 200, nil)
	}
	for _, query := range []string{"/a?build=v7-7", "?build=v7-7", "?build=nonsense"} {
		if r.send("GET", "/v1/views/tallies"+query, "").want(t, 404, &problem); problem.Code != "build_not_found" || !strings.Contains(problem.Fix, "use one of v1-1, v2-1, v2-2") {
			t.Errorf("%s: %+v", query, problem)
		}
	}

	// Who watches it is told of it, and not of what comes.
	f := follow(r.at + "/v1/views/tallies/a?build=v1-1")
	if err := f.run(t.Context(), func() bool { return f.states > 0 }); err != nil || f.rows["a"] != `{"paid":3}` {
		t.Errorf("%v, %v", f.rows, err)
	}
	if a := asked[len(asked)-1]; a.View != "tallies" || a.Build != "v1-1" || a.Key != "a" || asked[0].Build != "" {
		t.Errorf("who may is asked %+v", a)
	}
}
