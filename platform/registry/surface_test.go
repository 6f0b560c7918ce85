package registry

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// A step is one request of a conversation and what must come back.
type step struct {
	method, path, body string
	status             int
	want               string // "=" and the whole body, or a part of it
}

func converse(t *testing.T, url string, steps []step) {
	t.Helper()
	for i, tt := range steps {
		status, got, _ := do(t, tt.method, url+tt.path, tt.body)
		whole, isWhole := strings.CutPrefix(tt.want, "=")
		if status != tt.status || isWhole && got != whole || !isWhole && !strings.Contains(got, tt.want) {
			t.Errorf("%d: %s %s %.200s:\n got %d %s\nwant %d %s", i, tt.method, tt.path, tt.body, status, got, tt.status, tt.want)
		}
	}
}

// with returns a schema's request with more fields.
func with(schema, fields string) string {
	b, err := json.Marshal(schema)
	if err != nil {
		panic(err)
	}
	return `{"schema":` + string(b) + `,` + fields + `}`
}

func refer(subject string, version int) string {
	return fmt.Sprintf(`{"name":"n","subject":%q,"version":%d}`, subject, version)
}

const (
	moneySchema  = `{"type":"record","name":"Money","namespace":"shop.v1","fields":[{"name":"minor","type":"long"}]}`
	orderSchema  = `{"type":"record","name":"Order","namespace":"shop.v1","fields":[{"name":"total","type":"Money"}]}`
	orderSchema2 = `{"type":"record","name":"Order","namespace":"shop.v1","fields":[{"name":"total","type":"Money"},{"name":"tax","type":["null","Money"],"default":null}]}`
)

func TestReferences(t *testing.T) {
	url := start(t, broker(t, "").Addr(), "one").url
	order := with(orderSchema, `"references":[`+refer("money", 1)+`]`)
	converse(t, url, []step{
		{"POST", "/subjects/order/versions", order, 422, `version 1 of subject \"money\", which does not exist`},
		{"POST", "/subjects/order/versions", body(orderSchema), 422, `"error_code":42201`},
		{"POST", "/subjects/money/versions", body(moneySchema), 200, `"id":1`},
		{"POST", "/subjects/order/versions", order, 200, `"references":[{"name":"n","subject":"money","version":1}]`},
		{"POST", "/subjects/order/versions", order, 200, `"id":2,"version":1`},
		{"POST", "/subjects/order", order, 200, `"id":2,"version":1`},
		{"POST", "/subjects/order", body(orderSchema), 404, `40403`},
		{"GET", "/schemas/ids/2", "", 200, `"references":[{"name":"n","subject":"money","version":1}],"schema":"{\"type\":\"record\",\"name\":\"Order\"`},
		{"GET", "/schemas/ids/2?format=resolved", "", 200, `={"schema":"{\"type\":\"record\",\"name\":\"Order\",\"namespace\":\"shop.v1\",\"fields\":[{\"name\":\"total\",\"type\":{\"type\":\"record\",\"name\":\"Money\",\"fields\":[{\"name\":\"minor\",\"type\":\"long\"}]}}]}"}`},
		{"GET", "/subjects/order/versions/1/schema?format=RESOLVED", "", 200, `"name":"Money"`},
		{"GET", "/subjects/money/versions/1/referencedby", "", 200, `=[2]`},
		{"GET", "/subjects/money/versions/latest/referencedby", "", 200, `=[2]`},
		{"DELETE", "/subjects/money/versions/1", "", 422, `"error_code":42206`},
		{"DELETE", "/subjects/money", "", 422, `"error_code":42206`},

		// compatibility is of what the references stand for
		{"POST", "/subjects/order/versions", with(orderSchema2, `"references":[`+refer("money", 1)+`]`), 200, `"id":3,"version":2`},
		{"POST", "/subjects/money/versions", body(strings.Replace(moneySchema, `}]}`, `},{"name":"currency","type":"string"}]}`, 1)), 409, `currency`},
		{"PUT", "/config/money", `{"compatibility":"NONE"}`, 200, `NONE`},
		{"POST", "/subjects/money/versions", body(strings.Replace(moneySchema, `}]}`, `},{"name":"currency","type":"string"}]}`, 1)), 200, `"version":2`},
		{"POST", "/subjects/order/versions", with(orderSchema2, `"references":[`+refer("money", 2)+`]`), 409, `FIELD_NO_DEFAULT`},
		{"POST", "/compatibility/subjects/order/versions/latest?verbose=true", with(orderSchema2, `"references":[`+refer("money", 2)+`]`), 200, `"is_compatible":false,"messages":["the new schema cannot read data of version 2: FIELD_NO_DEFAULT`},

		// a version that only deleted ones use
		{"DELETE", "/subjects/order", "", 200, `=[1,2]`},
		{"GET", "/subjects/money/versions/1/referencedby", "", 200, `=[]`},
		{"GET", "/subjects/money/versions/1/referencedby?deleted=true", "", 200, `=[2,3]`},
		{"DELETE", "/subjects/money/versions/1", "", 200, `=1`},
		{"DELETE", "/subjects/money/versions/1?permanent=true", "", 422, `42206`},
		{"GET", "/schemas/ids/2?format=resolved", "", 200, `Money`},
		{"DELETE", "/subjects/order?permanent=true", "", 200, `=[1,2]`},
		{"DELETE", "/subjects/money/versions/1?permanent=true", "", 200, `=1`},
	})
}

func TestReferenceDepthAndCycles(t *testing.T) {
	l := newLab()
	l.level(t, globalSubject, "NONE")
	record := func(i int) string {
		field := ""
		if i > 0 {
			field = fmt.Sprintf(`{"name":"f","type":"T%d"}`, i-1)
		}
		return fmt.Sprintf(`{"type":"record","name":"T%d","fields":[%s]}`, i, field)
	}
	for i := range 11 {
		r := &schemaRequest{Schema: record(i)}
		if i > 0 {
			r.References = []reference{{"n", fmt.Sprintf("t%d", i-1), 1}}
		}
		records, _, err := l.s.planRegister(fmt.Sprintf("t%d", i), r)
		if want := i > maxReferenceDepth; (code(err) == codeInvalidSchema) != want || want && !strings.Contains(err.text, "levels deep") {
			t.Fatalf("%d levels: got %v", i, err)
		}
		if err != nil {
			break
		}
		l.commit(t, records)
	}
	// Another registry's log may hold anything.
	for i, to := range []string{"b", "a"} {
		name := []string{"a", "b"}[i]
		l.commit(t, []change{{
			key:   []byte(fmt.Sprintf(`{"keytype":"SCHEMA","subject":%q,"version":1,"magic":1}`, name)),
			value: []byte(fmt.Sprintf(`{"subject":%q,"version":1,"id":%d,"references":[%s],"schema":"\"int\"","deleted":false}`, name, 100+i, refer(to, 1))),
		}})
	}
	if _, _, err := l.s.planRegister("c", &schemaRequest{Schema: `"int"`, References: []reference{{"n", "a", 1}}}); code(err) != codeInvalidSchema || !strings.Contains(err.text, "cycle") {
		t.Errorf("a cycle: got %v", err)
	}
	if _, _, err := l.s.planRegister("self", &schemaRequest{Schema: `"int"`, References: []reference{{"n", "self", 1}}}); code(err) != codeInvalidSchema || !strings.Contains(err.text, "cycle") {
		t.Errorf("a schema that refers to itself: got %v", err)
	}
	if _, err := l.s.resolved(l.s.in(defaultContext).byID[100]); code(err) != codeInvalidSchema {
		t.Errorf("resolving a cycle: got %v", err)
	}
	l.level(t, "a", "FULL")
	if _, err := l.register(t, "a", `"int"`); code(err) != codeIncompatible || !strings.Contains(err.text, "cannot be checked") {
		t.Errorf("after a version that cannot be resolved: got %v", err)
	}
}

// A change is a record; a function above has that name.
type change = record

func TestContexts(t *testing.T) {
	url := start(t, broker(t, "").Addr(), "one").url
	converse(t, url, []step{
		{"GET", "/contexts", "", 200, `=["."]`},
		{"POST", "/subjects/s/versions", body(`"int"`), 200, `"id":1`},
		{"POST", "/subjects/%3A.staging%3As/versions", body(`"long"`), 200, `"id":1,"version":1`},
		{"POST", "/contexts/.staging/subjects/t/versions", body(`"int"`), 200, `"id":2,"version":1`},
		{"POST", "/contexts/staging/subjects/t/versions", body(`"int"`), 200, `"id":2,"version":1`},
		{"POST", "/contexts/%3A.staging%3A/subjects/t/versions", body(`"int"`), 200, `"id":2,"version":1`},
		{"POST", "/contexts/./subjects/s/versions", body(`"int"`), 200, `"id":1,"version":1`},
		{"GET", "/contexts", "", 200, `=[".",".staging"]`},
		{"GET", "/contexts?offset=1&limit=1", "", 200, `=[".staging"]`},
		{"GET", "/contexts?contextPrefix=.st", "", 200, `=[".staging"]`},
		{"GET", "/subjects", "", 200, `=[":.staging:s",":.staging:t","s"]`},
		{"GET", "/subjects?subjectPrefix=%3A.%3A", "", 200, `=["s"]`},
		{"GET", "/subjects?subjectPrefix=%3A.staging%3A", "", 200, `=[":.staging:s",":.staging:t"]`},
		{"GET", "/subjects?subjectPrefix=%3A*%3As", "", 200, `=[":.staging:s","s"]`},
		{"GET", "/contexts/.staging/subjects", "", 200, `=[":.staging:s",":.staging:t"]`},
		{"GET", "/contexts/.staging/subjects?subjectPrefix=t", "", 200, `=[":.staging:t"]`},
		{"GET", "/contexts/.staging/schemas", "", 200, `[{"subject":":.staging:s","id":1`},
		{"GET", "/contexts/.staging/schemas/ids/1", "", 200, `={"schema":"\"long\""}`},
		{"GET", "/schemas/ids/1", "", 200, `={"schema":"\"int\""}`},
		{"GET", "/schemas/ids/1?subject=%3A.staging%3As", "", 200, `={"schema":"\"long\""}`},
		{"GET", "/schemas/ids/2", "", 404, `40403`},
		{"GET", "/schemas/ids/2?subject=t", "", 200, `={"schema":"\"int\""}`},
		{"GET", "/contexts/.staging/schemas/ids/2/versions", "", 200, `=[{"subject":":.staging:t","version":1}]`},
		{"GET", "/contexts/.staging/subjects/s/versions/1", "", 200, `"subject":":.staging:s","id":1,"version":1`},
		{"GET", "/contexts/.nope/schemas/ids/1", "", 404, `40403`},

		// settings of a context, below those of all and above those of a subject
		{"PUT", "/contexts/.staging/config", `{"compatibility":"NONE"}`, 200, `NONE`},
		{"GET", "/config/%3A.staging%3A", "", 200, `={"compatibilityLevel":"NONE"}`},
		{"GET", "/config", "", 200, `FULL_TRANSITIVE`},
		{"POST", "/contexts/.staging/subjects/s/versions", body(`"bytes"`), 200, `"id":3,"version":2`},
		{"POST", "/subjects/s/versions", body(`"bytes"`), 409, `409`},
		{"PUT", "/mode/%3A.staging%3A", `{"mode":"READONLY"}`, 200, `READONLY`},
		{"POST", "/contexts/.staging/subjects/s/versions", body(`"float"`), 422, `42205`},
		{"GET", "/contexts/.staging/mode/s?defaultToGlobal=true", "", 200, `READONLY`},
		{"PUT", "/mode?recursive=true", `{"mode":"READWRITE"}`, 200, `READWRITE`},
		{"GET", "/contexts/.staging/mode", "", 200, `READWRITE`},

		// references stay in their context unless they name another one
		{"POST", "/contexts/.staging/subjects/money/versions", body(moneySchema), 200, `"id":4`},
		{"POST", "/subjects/order/versions", with(orderSchema, `"references":[`+refer("money", 1)+`]`), 422, `42201`},
		{"POST", "/subjects/order/versions", with(orderSchema, `"references":[`+refer(":.staging:money", 1)+`]`), 200, `"id":2`},
		{"POST", "/contexts/.staging/subjects/order/versions", with(orderSchema, `"references":[`+refer("money", 1)+`]`), 200, `"id":5`},
		{"GET", "/contexts/.staging/subjects/money/versions/1/referencedby", "", 200, `=[2,5]`},

		{"DELETE", "/contexts/.staging", "", 422, `42211`},
		{"DELETE", "/contexts/.nope", "", 404, `404`},
		{"DELETE", "/contexts/.", "", 404, `404`},
		{"DELETE", "/subjects/order", "", 200, `=[1]`},
		{"DELETE", "/subjects/order?permanent=true", "", 200, `=[1]`},
		{"DELETE", "/contexts/.staging/subjects/order", "", 200, `=[1]`},
		{"DELETE", "/contexts/.staging/subjects/order?permanent=true", "", 200, `=[1]`},
		{"DELETE", "/contexts/.staging/subjects/money", "", 200, `=[1]`},
		{"DELETE", "/contexts/.staging/subjects/money?permanent=true", "", 200, `=[1]`},
		{"DELETE", "/contexts/.staging/subjects/s", "", 200, `=[1,2]`},
		{"DELETE", "/contexts/.staging/subjects/s?permanent=true", "", 200, `=[1,2]`},
		{"DELETE", "/contexts/.staging/subjects/t", "", 200, `=[1]`},
		{"DELETE", "/contexts/.staging", "", 422, `42211`},
		{"DELETE", "/contexts/.staging/subjects/t?permanent=true", "", 200, `=[1]`},
		{"DELETE", "/contexts/.staging", "", 204, `=`},
		{"GET", "/contexts", "", 200, `=["."]`},
		{"GET", "/config/%3A.staging%3A?defaultToGlobal=true", "", 200, `FULL_TRANSITIVE`},
		{"POST", "/contexts/.staging/subjects/t/versions", body(`"int"`), 200, `"id":6,"version":1`}, // ids never come back
	})
}

func TestMetadata(t *testing.T) {
	url := start(t, broker(t, "").Addr(), "one").url
	rules := `{"domainRules":[{"name":"pii","kind":"TRANSFORM","type":"ENCRYPT","mode":"WRITEREAD","tags":["PII"],"params":{"a":"1"}}],"enableAt":"x"}`
	meta := `{"tags":{"**.email":["PII"]},"properties":{"owner":"shop","major":"1"},"sensitive":["owner"]}`
	a, ab := recordSchema("R", "a"), recordSchema("R", "a", "b=0")
	converse(t, url, []step{
		{"POST", "/subjects/s/versions", with(a, `"metadata":`+meta+`,"ruleSet":`+rules), 200, `"metadata":` + meta + `,"ruleSet":` + rules},
		{"GET", "/schemas/ids/1", "", 200, `{"metadata":` + meta + `,"ruleSet":` + rules + `,"schema":`},
		{"GET", "/subjects/s/versions/1", "", 200, `"metadata":` + meta},
		{"POST", "/subjects/s/versions", body(a), 200, `"id":1,"version":1`}, // as a serializer does
		{"POST", "/subjects/s", body(a), 200, `"id":1,"version":1`},
		{"POST", "/subjects/s/versions", body(ab), 200, `"id":2,"version":2`}, // a new version keeps what it does not replace
		{"GET", "/schemas/ids/2", "", 200, `{"metadata":` + meta + `,"ruleSet":` + rules + `,"schema":`},
		{"POST", "/subjects/s/versions", with(ab, `"metadata":{"properties":{"major":"2"}}`), 200, `"id":3,"version":3`},
		{"GET", "/subjects/s/metadata?key=major&value=1", "", 200, `"version":2`},
		{"GET", "/subjects/s/metadata?key=major&value=2", "", 200, `"version":3`},
		{"GET", "/subjects/s/metadata?key=major&value=1&key=owner&value=shop", "", 200, `"version":2`},
		{"GET", "/subjects/s/metadata?key=major&value=3", "", 404, `40403`},
		{"GET", "/subjects/x/metadata?key=major&value=3", "", 404, `40401`},
		{"GET", "/subjects/s/metadata?key=major", "", 400, `400`},
		{"PUT", "/config/d", `{"defaultMetadata":{"properties":{"owner":"nobody","a":"1"}},"overrideMetadata":{"properties":{"a":"2"}},"defaultRuleSet":{"domainRules":[{"name":"r"}]}}`, 200, `"overrideMetadata":{"properties":{"a":"2"}}`},
		{"POST", "/subjects/d/versions", with(a, `"metadata":{"properties":{"owner":"shop"}}`), 200, `"metadata":{"properties":{"a":"2","owner":"shop"}},"ruleSet":{"domainRules":[{"name":"r"}]}`},
		{"POST", "/subjects/d/versions", with(a, `"metadata":{"properties":{"owner":"shop"}}`), 200, `"version":1`},
		{"POST", "/subjects/d/versions", body(a), 200, `"version":1`},
		{"POST", "/subjects/s/versions", with(a, `"metadata":[]`), 422, `"error_code":422`},
		{"POST", "/subjects/s/versions", with(a, `"ruleSet":{"domainRules":[{}]}`), 422, `"error_code":42210`},
	})
}

func TestAliasAndNormalize(t *testing.T) {
	url := start(t, broker(t, "").Addr(), "one").url
	long := `{"fields":[{"type":{"type":"long"},"name":"a"}],"name":"shop.test.v1.R","type":"record"}`
	converse(t, url, []step{
		{"POST", "/subjects/s/versions", body(recordSchema("R", "a")), 200, `"id":1`},
		{"POST", "/subjects/s/versions", body(long), 200, `"id":2,"version":2`},
		{"POST", "/subjects/s/versions?normalize=True", body(long), 200, `"id":1,"version":1`},
		{"POST", "/subjects/s?normalize=true", body(long), 200, `"id":1,"version":1`},
		{"PUT", "/config/n", `{"normalize":true}`, 200, `={"normalize":true}`},
		{"POST", "/subjects/n/versions", body(long), 200, `"id":1,"version":1`},
		{"GET", "/config/n", "", 200, `={"normalize":true,"compatibilityLevel":"FULL_TRANSITIVE"}`},
		{"PUT", "/config/other", `{"alias":"s"}`, 200, `={"alias":"s"}`},
		{"GET", "/subjects/other/versions", "", 200, `=[1,2]`},
		{"POST", "/subjects/other/versions", body(recordSchema("R", "a", "b=0")), 200, `"version":3`},
		{"GET", "/subjects/s/versions", "", 200, `=[1,2,3]`},
		{"POST", "/compatibility/subjects/other/versions/latest", body(`"int"`), 200, `false`},
		{"PUT", "/config/other", `{"alias":""}`, 200, `={}`},
		{"GET", "/subjects/other/versions", "", 404, `40401`},
		{"GET", "/config/other", "", 404, `40408`},
	})
}

// Our own rules hold everywhere and can be turned off for a subject.
func TestOwnRules(t *testing.T) {
	recursive := `{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"],"default":null}]}`
	outside := `{"type":"record","name":"D","fields":[{"name":"a","type":"int","default":3000000000}]}`
	field := func(typ string) string {
		return `{"type":"record","name":"R","fields":[{"name":"a","type":` + typ + `}]}`
	}
	decimal := func(scale int) string {
		return field(fmt.Sprintf(`{"type":"bytes","logicalType":"decimal","precision":9,"scale":%d}`, scale))
	}
	for _, tt := range []struct {
		rule        string
		first, then string
	}{
		{"LOGICAL_TYPE_CHANGED", field(`{"type":"long","logicalType":"timestamp-millis"}`), field(`{"type":"long","logicalType":"timestamp-micros"}`)},
		{"DECIMAL_PRECISION_SCALE", decimal(2), decimal(4)},
		{"FIELD_ALIAS_COLLISION", recordSchema("R", "a"), `{"type":"record","name":"R","namespace":"shop.test.v1","fields":[{"name":"a","type":"long"},{"name":"b","type":"long","default":0,"aliases":["a"]}]}`},
		{"RECURSIVE_TYPE", "", recursive},
		{"DEFAULT_OUT_OF_RANGE", "", outside},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			l := newLab()
			if tt.first != "" {
				if _, err := l.register(t, "s", tt.first); err != nil {
					t.Fatal(err)
				}
			}
			before := dump(l.s)
			if _, err := l.register(t, "s", tt.then); err == nil || tt.rule != ruleDefault && !strings.Contains(err.text, tt.rule) {
				t.Fatalf("got %v, want a refusal that names the rule", err)
			}
			set := func(scope string, off ...string) {
				t.Helper()
				records, _, err := l.s.planConfig(scope, &configRequest{DisabledRules: &off})
				if err != nil {
					t.Fatal(err)
				}
				l.commit(t, records)
			}
			set("other", tt.rule)
			if _, err := l.register(t, "s", tt.then); err == nil {
				t.Fatal("another subject's setting counts")
			}
			set(globalSubject, tt.rule)
			set("s")
			if _, err := l.register(t, "s", tt.then); err == nil {
				t.Fatal("the subject's own setting does not count")
			}
			set("s", tt.rule)
			if _, err := l.register(t, "s", tt.then); err != nil {
				t.Fatal(err)
			}
			if got := dump(fold(t, compacted(l.log, false))); !slices.Equal(got, dump(l.s)) || slices.Equal(got, before) {
				t.Errorf("the log gives %v", got)
			}
		})
	}
}

func TestImport(t *testing.T) {
	url := start(t, broker(t, "").Addr(), "one").url
	order := func(id, version int) string {
		return with(orderSchema, fmt.Sprintf(`"id":%d,"version":%d,"references":[%s]`, id, version, refer("money", 3)))
	}
	at := func(schema string, id, version int) string {
		return with(schema, fmt.Sprintf(`"id":%d,"version":%d`, id, version))
	}
	converse(t, url, []step{
		{"POST", "/subjects/s/versions", at(`"int"`, 7, 1), 422, `42205`},
		{"PUT", "/mode", `{"mode":"import"}`, 200, `={"mode":"IMPORT"}`},
		{"POST", "/subjects/money/versions", body(moneySchema), 422, `42205`},
		{"POST", "/subjects/money/versions", at(moneySchema, 40, 3), 200, `"id":40,"version":3`},
		{"POST", "/subjects/money/versions", at(moneySchema, 40, 3), 200, `"id":40,"version":3`},
		{"POST", "/subjects/money/versions", at(moneySchema, 41, 3), 422, `42207`},
		{"POST", "/subjects/money/versions", at(`"int"`, 40, 4), 422, `42205`},
		{"POST", "/subjects/money/versions", at(`"int"`, 41, 3), 422, `42205`},
		{"POST", "/subjects/order/versions", order(12, 5), 200, `"id":12,"version":5`},
		{"POST", "/subjects/money/versions", at(`"long"`, 39, 1), 200, `"id":39,"version":1`}, // no compatibility check
		{"GET", "/subjects/money/versions", "", 200, `=[1,3]`},
		{"PUT", "/mode", `{"mode":"READWRITE"}`, 200, `READWRITE`},
		{"POST", "/subjects/new/versions", body(`"int"`), 200, `"id":41,"version":1`},
		{"PUT", "/mode", `{"mode":"IMPORT"}`, 422, `42205`},
		{"PUT", "/mode?force=true", `{"mode":"IMPORT"}`, 200, `IMPORT`},
		{"PUT", "/mode", `{"mode":"FORWARD"}`, 200, `FORWARD`},
		{"POST", "/subjects/new/versions", body(`"bytes"`), 422, `forward mode, a schema needs the id`},
		{"POST", "/subjects/new/versions", at(`"bytes"`, 90, 7), 200, `"id":90,"version":7`}, // what another registry has accepted
		{"PUT", "/config/new", `{"compatibility":"NONE"}`, 200, `NONE`},
		{"PUT", "/mode/new", `{"mode":"FORWARD"}`, 422, `42204`},
		{"PUT", "/mode/%3A.c%3A", `{"mode":"FORWARD"}`, 422, `42204`},
		{"PUT", "/mode/new", `{"mode":"READONLY_OVERRIDE"}`, 422, `42204`},
		{"DELETE", "/mode", "", 200, `FORWARD`},
	})
}

// The highest id of a context is remembered for itself, also when compaction has left nothing of its schemas.
func TestHighestIDOfContext(t *testing.T) {
	l := newLab()
	for i, subject := range []string{"s", ":.c:s", ":.c:t"} {
		if _, err := l.register(t, subject, recordSchema("R", fmt.Sprintf("f%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	for _, subject := range []string{":.c:s", ":.c:t"} {
		for _, permanent := range []bool{false, true} {
			records, _, err := l.s.planDeleteSubject(subject, permanent)
			if err != nil {
				t.Fatal(err)
			}
			l.commit(t, records)
		}
	}
	records, err := l.s.planDeleteContext(".c")
	if err != nil {
		t.Fatal(err)
	}
	l.commit(t, records)
	l.s = fold(t, compacted(l.log, true))
	for subject, want := range map[string]int32{"s": 2, ":.c:s": 3, ":.d:s": 1} {
		if v, err := l.register(t, subject, recordSchema("R", "f0", "new=0")); err != nil || v.content.id != want {
			t.Errorf("%s: got %+v, %v, want id %d", subject, v, err, want)
		}
	}
}
