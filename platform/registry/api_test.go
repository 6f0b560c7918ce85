package registry

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// One conversation with the registry, step after step, as the reference server would have it.
func TestAPI(t *testing.T) {
	url := start(t, broker(t, "").Addr(), "one").url
	a, ab, abDefault := recordSchema("R", "a"), recordSchema("R", "a", "b"), recordSchema("R", "a", "b=0")
	odd := "/subjects/a%2Fb%20%C3%A4%3A%3F"
	quoted := func(s string) string { return strings.ReplaceAll(s, `"`, `\"`) }
	for i, tt := range []struct {
		method, path, body string
		status             int
		want               string // "=" and the whole body, or a part of it
	}{
		{"GET", "/", "", 200, "={}"},
		{"GET", "/subjects", "", 200, "=[]"},
		{"GET", "/config", "", 200, `={"compatibilityLevel":"FULL_TRANSITIVE"}`},
		{"GET", "/mode", "", 200, `={"mode":"READWRITE"}`},
		{"GET", "/schemas/types", "", 200, `=["AVRO"]`},
		{"GET", "/contexts", "", 200, `=["."]`},
		{"GET", "/associations/resources/-/orders.events?resourceType=topic&associationType=value&offset=0&limit=-1", "", 200, "=[]"},

		{"POST", "/subjects/s/versions", body(a), 200, `={"id":1,"version":1,"guid":`},
		{"POST", "/subjects/s/versions?normalize=False", body(a), 200, `"id":1,"version":1`},
		{"POST", "/subjects/s/versions", strings.Replace(body(a), "{", `{"references":[],"metadata":null,"ruleSet":{},"schemaType":"AVRO",`, 1), 200, `"id":1,"version":1`},
		{"POST", "/subjects/t/versions/", body(a), 200, `"id":1,"version":1`},
		{"POST", "//subjects//s//versions", body(abDefault), 200, `"id":2,"version":2`},
		{"POST", "/subjects/s/versions", body(ab), 409, `"error_code":409,"message":"Schema being registered is incompatible with an earlier schema for subject \"s\"`},
		{"POST", odd + "/versions", body(`"int"`), 200, `"id":3`},
		{"GET", odd + "/versions/latest", "", 200, `"subject":"a/b ä:?"`},
		{"POST", "/subjects/%3A.%3As/versions", body(a), 200, `"id":1,"version":1`},

		{"GET", "/subjects", "", 200, `=["a/b ä:?","s","t"]`},
		{"GET", "/subjects?subjectPrefix=%3A%2A%3A", "", 200, `=["a/b ä:?","s","t"]`},
		{"GET", "/subjects?subjectPrefix=s", "", 200, `=["s"]`},
		{"GET", "/subjects?offset=1&limit=1", "", 200, `=["s"]`},
		{"GET", "/subjects?offset=9&limit=-1", "", 200, `=[]`},
		{"GET", "/subjects?limit=x", "", 400, `"error_code":400`},
		{"GET", "/subjects/s/versions", "", 200, `=[1,2]`},
		{"GET", "/subjects/x/versions", "", 404, `={"error_code":40401,"message":"Subject 'x' not found."}`},
		{"GET", "/subjects/s/versions/1", "", 200, `={"subject":"s","id":1,"version":1,"guid":"`},
		{"GET", "/subjects/s/versions/2?format=&deleted=False&unknown=1", "", 200, `"version":2`},
		{"GET", "/subjects/s/versions/-1", "", 200, `"version":2`},
		{"GET", "/subjects/s/versions/3", "", 404, `"error_code":40402`},
		{"GET", "/subjects/x/versions/1", "", 404, `"error_code":40401`},
		{"GET", "/subjects/s/versions/0", "", 422, `"error_code":42202`},
		{"GET", "/subjects/s/versions/2147483648", "", 422, `"error_code":42202`},
		{"GET", "/subjects/s/versions/earliest", "", 422, `"error_code":42202`},
		{"GET", "/subjects/s/versions/1/schema", "", 200, "=" + a},
		{"GET", "/subjects/s/versions/1/referencedby", "", 200, "=[]"},
		{"POST", "/subjects/s", body(a), 200, `={"subject":"s","id":1,"version":1,"guid":"`},
		{"POST", "/subjects/s", body(ab), 404, `"error_code":40403`},
		{"POST", "/subjects/x", body(a), 404, `"error_code":40401`},

		{"GET", "/schemas/ids/1", "", 200, `={"schema":"` + quoted(a) + `"}`},
		{"GET", "/schemas/ids/1?fetchMaxId=true&subject=s", "", 200, `"maxId":3`},
		{"GET", "/schemas/ids/1/schema", "", 200, "=" + a},
		{"GET", "/schemas/ids/1/subjects", "", 200, `=["s","t"]`},
		{"GET", "/schemas/ids/1/versions", "", 200, `=[{"subject":"s","version":1},{"subject":"t","version":1}]`},
		{"GET", "/schemas/ids/4", "", 404, `={"error_code":40403,"message":"Schema 4 not found"}`},
		{"GET", "/schemas/ids/4/versions", "", 404, `"error_code":40403`},
		{"GET", "/schemas/ids/99999999999999999999", "", 404, `"error_code":40403`},
		{"GET", "/schemas/ids/abc", "", 404, `"error_code":40403`},
		{"GET", "/schemas/guids/nope", "", 404, `"error_code":40403`},
		{"GET", "/schemas?latestOnly=TRUE&subjectPrefix=s", "", 200, `=[{"subject":"s","id":2,"version":2,`},

		{"POST", "/compatibility/subjects/s/versions/latest", body(abDefault), 200, `={"is_compatible":true}`},
		{"POST", "/compatibility/subjects/s/versions/1?verbose=True", body(ab), 200, `={"is_compatible":false,"messages":["the new schema cannot read data of version 1: `},
		{"POST", "/compatibility/subjects/s/versions/1", body(ab), 200, `={"is_compatible":false}`},
		{"POST", "/compatibility/subjects/s/versions", body(ab), 200, `={"is_compatible":false}`},
		{"POST", "/compatibility/subjects/new/versions/latest", body(ab), 200, `={"is_compatible":true}`},
		{"POST", "/compatibility/subjects/s/versions/9", body(ab), 404, `"error_code":40402`},
		{"POST", "/compatibility/subjects/s/versions/zero", body(ab), 422, `"error_code":42202`},
		{"POST", "/compatibility/subjects/s/versions/latest", body("{"), 422, `"error_code":42201`},

		{"GET", "/config/s", "", 404, `"error_code":40408`},
		{"GET", "/config/s?defaultToGlobal=TRUE", "", 200, `={"compatibilityLevel":"FULL_TRANSITIVE"}`},
		{"PUT", "/config/s", `{"compatibility":"none"}`, 200, `={"compatibility":"NONE"}`},
		{"GET", "/config/s", "", 200, `={"compatibilityLevel":"NONE"}`},
		{"POST", "/subjects/s/versions", body(ab), 200, `"id":4,"version":3`},
		{"PUT", "/config/s", `{"compatibility":"SIDEWAYS"}`, 422, `"error_code":42203`},
		{"DELETE", "/config/s", "", 200, `={"compatibilityLevel":"NONE"}`},
		{"DELETE", "/config/s", "", 404, `"error_code":40408`},
		{"PUT", "/config", `{"compatibility":"BACKWARD"}`, 200, `={"compatibility":"BACKWARD"}`},
		{"GET", "/config", "", 200, `={"compatibilityLevel":"BACKWARD"}`},
		{"DELETE", "/config", "", 200, `BACKWARD`},
		{"GET", "/config", "", 200, `={"compatibilityLevel":"FULL_TRANSITIVE"}`},

		{"GET", "/mode/s", "", 404, `"error_code":40409`},
		{"PUT", "/mode/s", `{"mode":"READONLY"}`, 200, `={"mode":"READONLY"}`},
		{"POST", "/subjects/s/versions", body(recordSchema("R", "a", "b", "c=0")), 422, `"error_code":42205`},
		{"GET", "/mode/s?defaultToGlobal=true", "", 200, `={"mode":"READONLY"}`},
		{"DELETE", "/mode/s", "", 200, `={"mode":"READONLY"}`},
		{"PUT", "/mode/s", `{"mode":"SOMETIMES"}`, 422, `"error_code":42204`},

		{"DELETE", "/subjects/t?permanent=true", "", 404, `"error_code":40405`},
		{"DELETE", "/subjects/t", "", 200, `=[1]`},
		{"DELETE", "/subjects/t", "", 404, `"error_code":40404`},
		{"GET", "/subjects", "", 200, `=["a/b ä:?","s"]`},
		{"GET", "/subjects?deleted=true", "", 200, `=["a/b ä:?","s","t"]`},
		{"GET", "/subjects?deletedOnly=true", "", 200, `=["t"]`},
		{"GET", "/subjects/t/versions/1?deleted=true", "", 200, `"deleted":true`},
		{"GET", "/subjects/t/versions/latest?deleted=true", "", 404, `"error_code":40401`}, // the newest that is not deleted
		{"POST", "/subjects/t?deleted=true", body(a), 200, `"version":1`},
		{"GET", "/schemas/ids/1/subjects?deleted=true", "", 200, `=["s","t"]`},
		{"DELETE", "/subjects/t?permanent=True", "", 200, `=[1]`},
		{"GET", "/subjects?deleted=true", "", 200, `=["a/b ä:?","s"]`},
		{"DELETE", "/subjects/s/versions/latest", "", 200, `=3`},
		{"DELETE", "/subjects/s/versions/3", "", 404, `"error_code":40406`},
		{"GET", "/subjects/s/versions/latest", "", 200, `"version":2`},
		{"GET", "/subjects/s/versions/latest?deleted=true", "", 200, `"version":2`},
		{"DELETE", "/subjects/s/versions/2?permanent=true", "", 404, `"error_code":40407`},
		{"DELETE", "/subjects/s/versions/latest?permanent=true", "", 404, `"error_code":40407`},
		{"DELETE", "/subjects/s/versions/3?permanent=true", "", 200, `=3`},
		{"GET", "/schemas/ids/4", "", 404, `"error_code":40403`},
		{"POST", "/subjects/new/versions", body(`"bytes"`), 200, `"id":5`},

		{"POST", "/subjects/s/versions", "", 400, `"error_code":400`},
		{"POST", "/subjects/s/versions", "{", 400, `"error_code":400`},
		{"POST", "/subjects/s/versions", "{\"schema\":\"\xff\"}", 400, `"error_code":400`},
		{"POST", "/subjects/s/versions", `{"schema":7}`, 422, `"error_code":422`},
		{"POST", "/subjects/s/versions", `{}`, 422, `"error_code":42201`},
		{"POST", "/subjects/s/versions", `{"schema":"\"int\"","schemaType":"JSON"}`, 422, `only AVRO is`},
		{"POST", "/subjects/s/versions", body(strings.Repeat("x", 300_000)), 422, `"error_code":42209`},
		{"POST", "/subjects/s/versions", body(strings.Repeat("x", 10_000_000)), 422, `"error_code":42209`},
		{"POST", "/compatibility/subjects/s/versions/latest", body(strings.Repeat("x", 2_000_000)), 422, `"error_code":42209`},
		{"PUT", "/config", body(strings.Repeat("x", 2_000_000)), 413, `"error_code":413`},
		{"POST", "/subjects/%3A.ctx%3A/versions", body(a), 422, `"error_code":42208`},
		{"POST", "/subjects/s/versions", body(strings.Repeat(`{"type":"array","items":`, 10_000) + `"int"` + strings.Repeat("}", 10_000)), 422, `"error_code":42201`},
		{"GET", "/v1/metadata/id", "", 200, `={"id":"","scope":{"clusters":{"schema-registry-cluster":"schema-registry"},"path":[]}}`},
		{"GET", "/v1/metadata/version", "", 200, `"version":`},
		{"POST", "/subjects/s/versions/1/tags", "{}", 200, `"id":1,"version":1`},
		{"POST", "/subjects/s/versions/9/tags", "{}", 404, `"error_code":40402`},
		{"GET", "/nope", "", 404, `={"error_code":404,"message":"HTTP 404 Not Found"}`},
		{"GET", "/subjects/s/nope", "", 404, `"error_code":404`},
		{"GET", "/subjects/..", "", 404, `"error_code":404`},
		{"POST", "/schemas/ids/1", "{}", 405, `={"error_code":405,"message":"HTTP 405 Method Not Allowed"}`},
		{"GET", "/dek-registry/v1/keks", "", 404, `"error_code":404`},
		{"GET", "/subjects?limit=%zz", "", 400, `"error_code":400`},
	} {
		status, got, header := do(t, tt.method, url+tt.path, tt.body)
		whole, isWhole := strings.CutPrefix(tt.want, "=")
		ok := strings.Contains(got, tt.want)
		if isWhole {
			ok = got == whole || (!balanced(whole) && strings.HasPrefix(got, whole))
		}
		if status != tt.status || !ok {
			t.Errorf("%d: %s %s %.80s:\n got %d %s\nwant %d %s", i, tt.method, tt.path, tt.body, status, got, tt.status, tt.want)
		}
		if header.Get("Content-Type") != contentType {
			t.Errorf("%s %s: content type %q", tt.method, tt.path, header.Get("Content-Type"))
		}
	}
}

func balanced(s string) bool { return strings.Count(s, "{") == strings.Count(s, "}") }

func TestContentTypes(t *testing.T) {
	url := start(t, broker(t, "").Addr(), "one").url
	for _, tt := range []struct{ accept, want string }{
		{"", contentType},
		{"*/*", contentType},
		{"application/json", "application/json"},
		{"application/vnd.schemaregistry+json", "application/vnd.schemaregistry+json"},
		{"application/json; q=0.5, application/vnd.schemaregistry.v1+json; q=0.9", contentType},
		{"text/html", contentType},
	} {
		if _, _, h := do(t, "GET", url+"/subjects", "", "Accept", tt.accept); h.Get("Content-Type") != tt.want {
			t.Errorf("Accept %q: got %q, want %q", tt.accept, h.Get("Content-Type"), tt.want)
		}
	}
	for _, tt := range []struct {
		header, value string
		want          int
	}{
		{"Content-Type", "application/json", 200},
		{"Content-Type", "application/octet-stream", 200},
		{"Content-Type", "application/vnd.schemaregistry+json; charset=utf-8", 200},
		{"Content-Type", "application/x-www-form-urlencoded", http.StatusUnsupportedMediaType},
		{"Content-Type", "text/plain", http.StatusUnsupportedMediaType},
		{"Content-Encoding", "gzip", http.StatusUnsupportedMediaType},
		{"Confluent-Accept-Unknown-Properties", "true", 200},
	} {
		if status, got, _ := do(t, "POST", url+"/subjects/s/versions", body(`"int"`), tt.header, tt.value); status != tt.want {
			t.Errorf("%s %s: got %d %s", tt.header, tt.value, status, got)
		}
	}
}

func TestGUIDs(t *testing.T) {
	url := start(t, broker(t, "").Addr(), "one").url
	_, got, _ := do(t, "POST", url+"/subjects/s/versions", body(`"int"`))
	_, rest, _ := strings.Cut(got, `"guid":"`)
	guid, _, _ := strings.Cut(rest, `"`)
	if _, got, _ := do(t, "GET", url+"/schemas/guids/"+guid, ""); got != `{"schema":"\"int\""}` {
		t.Errorf("got %s", got)
	}
	if _, got, _ := do(t, "GET", fmt.Sprintf("%s/schemas/guids/%s/ids", url, guid), ""); got != `[{"context":".","id":1}]` {
		t.Errorf("got %s", got)
	}
}
