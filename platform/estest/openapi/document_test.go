package openapi

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const things = `{
  "openapi": "3.1.0", "info": {"title": "things", "version": "1"},
  "paths": {
    "/things/{id}": {"get": {
      "operationId": "thing", "parameters": [
        {"name": "id", "in": "path", "required": true, "schema": {"type": "string"}},
        {"name": "version", "in": "query", "schema": {"type": "integer", "minimum": 1}}],
      "responses": {
        "200": {"description": "it", "headers": {"Etag": {"schema": {"type": "string", "pattern": "^\"[0-9]+\"$"}}},
          "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}},
        "304": {"description": "still it"},
        "default": {"$ref": "#/components/responses/Problem"}}}},
    "/things/new": {"post": {
      "operationId": "new", "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}},
      "responses": {"200": {"description": "done"}, "default": {"$ref": "#/components/responses/Problem"}}}}},
  "components": {
    "responses": {"Problem": {"description": "a problem", "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}},
    "schemas": {
      "Thing": {"type": "object", "properties": {"size": {"type": "integer"}, "name": {"type": ["string", "null"]}}, "required": ["size"]},
      "Problem": {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}}}}`

// TestCheck: what the document describes passes, and each way to leave it is found.
func TestCheck(t *testing.T) {
	d, err := Parse(t.Context(), []byte(things))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"GET /things/{id}", "POST /things/new"}, d.Operations()); diff != "" {
		t.Errorf("operations (-want +got):\n%s", diff)
	}
	const problem, json = "application/problem+json", "application/json"
	for _, tc := range []struct {
		name, method, target, body string
		status                     int
		header, answer             string
		finds                      string // "" = nothing
	}{
		{"all well", "GET", "/things/a?version=1", "", 200, "Content-Type: " + json + "\nEtag: \"1\"", `{"size":1,"name":null}`, ""},
		{"all well with an escape", "GET", "/things/a%2Fb", "", 200, "Content-Type: " + json, `{"size":1}`, ""},
		{"not modified", "GET", "/things/a", "", 304, "", ``, ""},
		{"only the header", "HEAD", "/things/a", "", 200, "Content-Type: " + json, ``, ""},
		{"refused", "GET", "/things/a?version=0", "", 400, "Content-Type: " + problem, `{"code":"x"}`, ""},
		{"no such route", "GET", "/nothing", "", 404, "Content-Type: " + problem, `{"code":"x"}`, ""},
		{"a body", "POST", "/things/new", `{"size":1}`, 200, "", ``, ""},
		{"a status that is not there", "GET", "/things/a", "", 202, "", ``, "status"},
		{"a header field that is not there", "GET", "/things/a", "", 200, "Content-Type: " + json + "\nLocation: /", `{"size":1}`, "Location"},
		{"a header field of another form", "GET", "/things/a", "", 200, "Content-Type: " + json + "\nEtag: 1", `{"size":1}`, "Etag"},
		{"another type of body", "GET", "/things/a", "", 200, "Content-Type: text/plain", `{"size":1}`, "text/plain"},
		{"a member that is not there", "GET", "/things/a", "", 200, "Content-Type: " + json, `{"size":1,"colour":"red"}`, "colour"},
		{"a member that is missing", "GET", "/things/a", "", 200, "Content-Type: " + json, `{}`, "size"},
		{"a body where there is none", "POST", "/things/new", ``, 200, "Content-Type: " + json, `{}`, "body"},
		{"a parameter that is not there", "GET", "/things/a?colour=red", "", 200, "Content-Type: " + json, `{"size":1}`, "colour"},
		{"a parameter out of bounds", "GET", "/things/a?version=0", "", 200, "Content-Type: " + json, `{"size":1}`, "version"},
		{"a request body that is not allowed", "POST", "/things/new", `{"size":"big"}`, 200, "", ``, "size"},
		{"an operation that is not there", "DELETE", "/things/a", "", 200, "", ``, "operation"},
		{"an error that is no problem", "GET", "/nothing", "", 404, "Content-Type: text/plain", `not found`, "text/plain"},
		{"a problem without its members", "GET", "/nothing", "", 404, "Content-Type: " + problem, `{}`, "code"},
		{"a problem of an operation without its members", "GET", "/things/a", "", 500, "Content-Type: " + problem, `{}`, "code"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			u, err := url.Parse(tc.target)
			if err != nil {
				t.Fatal(err)
			}
			x := Exchange{Method: tc.method, URL: u, Header: http.Header{}, Body: []byte(tc.body), Status: tc.status, Answer: http.Header{}, AnswerBody: []byte(tc.answer)}
			if tc.body != "" {
				x.Header.Set("Content-Type", json)
			}
			for line := range strings.Lines(tc.header) {
				name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
				x.Answer.Set(name, value)
			}
			err = d.Check(t.Context(), x)
			if (err != nil) != (tc.finds != "") || err != nil && !strings.Contains(err.Error(), tc.finds) {
				t.Errorf("found %v, want %q", err, tc.finds)
			}
		})
	}
}

// TestParse: what is no OpenAPI 3.1 is refused.
func TestParse(t *testing.T) {
	for name, change := range map[string][2]string{
		"no title":                    {`"title": "things", `, ``},
		"a version of another kind":   {`"3.1.0"`, `"2.0"`},
		"a response without words":    {`"description": "still it"`, `"x": 1`},
		"a reference to nothing":      {`"#/components/responses/Problem"`, `"#/components/responses/Nothing"`},
		"a parameter in nowhere":      {`"in": "query"`, `"in": "nowhere"`},
		"a type that is none":         {`"type": "integer", "minimum"`, `"type": "number of things", "minimum"`},
		"a parameter missing in path": {`{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}},`, ``},
	} {
		text := strings.Replace(things, change[0], change[1], 1)
		if text == things {
			t.Fatalf("%s: nothing was changed", name)
		}
		if _, err := Parse(t.Context(), []byte(text)); err == nil {
			t.Errorf("%s: not found", name)
		}
	}
}

// TestTransport: an exchange that does not fit fails, one that fits has its whole body, and a server without a document is let be.
func TestTransport(t *testing.T) {
	answer := `{"size":1}`
	serve := func(document string) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			switch {
			case r.URL.Path != "/openapi.json":
				_, _ = w.Write([]byte(answer))
			case document == "":
				w.WriteHeader(http.StatusNotFound)
			default:
				_, _ = w.Write([]byte(document))
			}
		}))
		t.Cleanup(s.Close)
		return s
	}
	client := &http.Client{Transport: new(Transport)}
	get := func(s *httptest.Server) (string, error) {
		resp, err := client.Get(s.URL + "/things/a")
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		var b strings.Builder
		_, err = io.Copy(&b, resp.Body)
		return b.String(), err
	}
	described, silent, broken := serve(things), serve(""), serve(`{"openapi":"3.1.0"}`)
	for _, s := range []*httptest.Server{described, silent} {
		if got, err := get(s); got != answer || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	answer = `{"size":"big"}`
	if _, err := get(described); err == nil || !strings.Contains(err.Error(), "size") {
		t.Errorf("an answer that does not fit: %v", err)
	}
	if got, err := get(silent); got != answer || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := get(broken); err == nil {
		t.Error("a document that is none is let be")
	}
}
