package registry

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// G32: Nothing is registered that the subject's compatibility level or a rule that is on refuses, and nothing of a refused request is
// written.
func TestBadInput(t *testing.T) {
	one := start(t, broker(t, "").Addr(), "one")
	named := func(name string) string { return body(fmt.Sprintf(`{"type":"enum","name":%q,"symbols":["A"]}`, name)) }
	in := func(namespace string) string {
		return body(fmt.Sprintf(`{"type":"enum","name":"E","namespace":%q,"symbols":["A"]}`, namespace))
	}
	deep := func(n int) string {
		return body(strings.Repeat(`{"type":"array","items":`, n) + `"int"` + strings.Repeat("}", n))
	}
	for _, request := range []struct{ subject, body string }{
		{"money", body(moneySchema)}, {"order", with(orderSchema, `"references":[`+refer("money", 1)+`]`)}, {"s", body(recordSchema("R", "a"))},
	} {
		if status, got, _ := do(t, "POST", one.url+"/subjects/"+request.subject+"/versions", request.body); status != 200 {
			t.Fatal(got)
		}
	}
	before, log := one.dump(), one.end()
	const versions = "/subjects/s/versions"
	for _, tt := range []struct {
		name, method, path, body string
		status, code             int
	}{
		{"no JSON", "POST", versions, `{"schema":`, 400, 400},
		{"not UTF-8", "POST", versions, "{\"schema\":\"\xff\"}", 400, 400},
		{"no schema", "POST", versions, `{}`, 422, 42201},
		{"schema of the wrong type", "POST", versions, `{"schema":{"type":"int"}}`, 422, 422},
		{"broken schema", "POST", versions, body(`{"type":"record","name":"R","fields":[`), 422, 42201},
		{"no type", "POST", versions, body(`{}`), 422, 42201},
		{"unknown type", "POST", versions, body(`{"type":"table","name":"T"}`), 422, 42201},
		{"unknown name", "POST", versions, body(`"shop.v1.Missing"`), 422, 42201},
		{"no name", "POST", versions, body(`{"type":"enum","symbols":["A"]}`), 422, 42201},
		{"empty name", "POST", versions, named(""), 422, 42201},
		{"name that begins with a digit", "POST", versions, named("1E"), 422, 42201},
		{"name with a dash", "POST", versions, named("my-E"), 422, 42201},
		{"name with a space", "POST", versions, named("my E"), 422, 42201},
		{"name of a primitive type", "POST", versions, named("int"), 422, 42201},
		{"namespace with two dots", "POST", versions, in("a..b"), 422, 42201},
		{"namespace that begins with a digit", "POST", versions, in("a.1b"), 422, 42201},
		{"namespace with a dash", "POST", versions, in("a-b"), 422, 42201},
		{"field name with a dot", "POST", versions, body(recordSchema("R", "a.b")), 422, 42201},
		{"field twice", "POST", versions, body(recordSchema("R", "a", "a")), 422, 42201},
		{"type twice", "POST", versions, body(recordSchema("R", `a:{"type":"fixed","name":"F","size":1}`, `b:{"type":"fixed","name":"F","size":2}`)), 422, 42201},
		{"default of the wrong type", "POST", versions, body(recordSchema("R", "a", `b="x"`)), 422, 42201},
		{"default out of range", "POST", versions, body(`{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":3000000000}]}`), 422, 42201},
		{"recursive type", "POST", versions, body(`{"type":"record","name":"R","fields":[{"name":"next","type":["null","R"]}]}`), 422, 42201},
		{"unknown reference", "POST", versions, with(`"int"`, `"references":[`+refer("nobody", 1)+`]`), 422, 42201},
		{"unknown version of a reference", "POST", versions, with(`"int"`, `"references":[`+refer("money", 7)+`]`), 422, 42201},
		{"reference to itself", "POST", versions, with(`"int"`, `"references":[`+refer("s", 2)+`]`), 422, 42201},
		{"reference without a version", "POST", versions, with(`"int"`, `"references":[{"name":"n","subject":"money"}]`), 422, 42201},
		{"other schema type", "POST", versions, with(`"int"`, `"schemaType":"PROTOBUF"`), 422, 42201},
		{"10 MB", "POST", versions, body(`"` + strings.Repeat("x", 10_000_000) + `"`), 422, 42209},
		{"300 KB", "POST", versions, body(`"` + strings.Repeat("x", 300_000) + `"`), 422, 42209},
		{"depth 10,000", "POST", versions, deep(10_000), 422, 42201},
		{"depth 10,000 in a compatibility check", "POST", "/compatibility" + versions + "/latest", deep(10_000), 422, 42201},
		{"incompatible", "POST", versions, body(recordSchema("R", "a", "b")), 409, 409},
		{"incompatible by a rule of our own", "POST", versions, body(`{"type":"record","name":"R","namespace":"shop.test.v1","fields":[{"name":"a","type":"long"},{"name":"b","type":"long","default":0,"aliases":["a"]}]}`), 409, 409},
		{"an id", "POST", versions, with(recordSchema("R", "a", "b=0"), `"id":9`), 422, 42205},
		{"a version that is not the next", "POST", versions, with(recordSchema("R", "a", "b=0"), `"version":9`), 422, 42201},
		{"rule without name", "POST", versions, with(recordSchema("R", "a", "b=0"), `"ruleSet":{"domainRules":[{}]}`), 422, 42210},
		{"metadata of the wrong form", "POST", versions, with(recordSchema("R", "a", "b=0"), `"metadata":{"properties":{"a":1}}`), 422, 422},
		{"no subject but a context", "POST", "/subjects/%3A.ctx%3A/versions", body(`"int"`), 422, 42208},
		{"subject with a control character", "POST", "/subjects/a%01/versions", body(`"int"`), 422, 42208},
		{"subject that is too long", "POST", "/subjects/" + strings.Repeat("x", 2000) + "/versions", body(`"int"`), 422, 42208},
		{"unknown level", "PUT", "/config/s", `{"compatibility":"SIDEWAYS"}`, 422, 42203},
		{"unknown rule", "PUT", "/config/s", `{"disabledRules":["ALL"]}`, 422, 422},
		{"unknown mode", "PUT", "/mode/s", `{"mode":"WRITEONLY"}`, 422, 42204},
		{"deletion of a version that is referred to", "DELETE", "/subjects/money/versions/1", "", 422, 42206},
		{"deletion of a subject that is referred to", "DELETE", "/subjects/money", "", 422, 42206},
		{"deletion for good of what is in use", "DELETE", "/subjects/s?permanent=true", "", 404, 40405},
		{"deletion of what is not there", "DELETE", "/subjects/nobody", "", 404, 40401},
		{"version that is none", "DELETE", "/subjects/s/versions/first", "", 422, 42202},
		{"other method", "PATCH", versions, body(`"int"`), 405, 405},
		{"other route", "POST", "/subjects/s/version", body(`"int"`), 404, 404},
	} {
		status, got, _ := do(t, tt.method, one.url+tt.path, tt.body)
		if status != tt.status || !strings.HasPrefix(got, fmt.Sprintf(`{"error_code":%d,"message":"`, tt.code)) {
			t.Errorf("%s: got %d %.300s, want %d, code %d", tt.name, status, got, tt.status, tt.code)
		}
	}
	for _, mediaType := range []string{"text/plain", "application/xml", "multipart/form-data; boundary=x", "nonsense/"} {
		if status, got, _ := do(t, "POST", one.url+versions, body(recordSchema("R", "a", "b=0")), "Content-Type", mediaType); status != 415 || !strings.HasPrefix(got, `{"error_code":415,`) {
			t.Errorf("%s: got %d %s", mediaType, status, got)
		}
	}
	if got := one.dump(); !slices.Equal(got, before) || one.end() != log {
		t.Errorf("something was written: %v, was %v; the log went from %d to %d", got, before, log, one.end())
	}
}

// A reference cycle cannot be made: a reference leads to what is there already. One that another registry made is refused, not followed.
func TestReferenceCycleOverHTTP(t *testing.T) {
	addr := broker(t, "").Addr()
	one := start(t, addr, "one")
	one.stop()
	vandal(t, addr, []byte(`{"keytype":"SCHEMA","subject":"a","version":1,"magic":1}`), []byte(`{"subject":"a","version":1,"id":1,"references":[`+refer("b", 1)+`],"schema":"\"int\"","deleted":false}`))
	vandal(t, addr, []byte(`{"keytype":"SCHEMA","subject":"b","version":1,"magic":1}`), []byte(`{"subject":"b","version":1,"id":2,"references":[`+refer("a", 1)+`],"schema":"\"long\"","deleted":false}`))
	two := start(t, addr, "two")
	converse(t, two.url, []step{
		{"GET", "/schemas/ids/1", "", 200, `"references":[{"name":"n","subject":"b","version":1}]`},
		{"GET", "/schemas/ids/1?format=resolved", "", 422, `cycle`},
		{"GET", "/schemas/ids/1?findTags=*", "", 422, `cycle`},
		{"POST", "/subjects/c/versions", with(`"int"`, `"references":[`+refer("a", 1)+`]`), 422, `cycle`},
		{"POST", "/subjects/a/versions", body(`"int"`), 409, `cannot be checked`},
		{"POST", "/subjects/c/versions", body(`"int"`), 200, `"id":3`},
	})
}
