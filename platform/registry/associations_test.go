package registry

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func associate(resource, id string, list ...string) string {
	return fmt.Sprintf(`{"resourceName":%q,"resourceNamespace":"lkc","resourceId":%q,"resourceType":"topic","associations":[%s]}`, resource, id, strings.Join(list, ","))
}

func TestAssociations(t *testing.T) {
	addr := broker(t, "").Addr()
	one := start(t, addr, "one")
	value := `{"subject":"s","associationType":"value","lifecycle":"WEAK"}`
	converse(t, one.url, []step{
		{"GET", "/associations/resources/-/orders?resourceType=topic&associationType=value&offset=0&limit=-1", "", 200, `=[]`},
		{"POST", "/associations", associate("orders", "id-1", value), 409, `"error_code":40907`},
		{"POST", "/subjects/s/versions", body(`"int"`), 200, `"id":1`},
		{"POST", "/contexts/.c/subjects/k/versions", body(`"string"`), 200, `"id":1`},
		{"POST", "/associations", associate("orders", "id-1", value), 200, `={"resourceName":"orders","resourceNamespace":"lkc","resourceId":"id-1","resourceType":"topic","associations":[{"subject":"s","associationType":"value","lifecycle":"WEAK","frozen":false}]}`},
		{"POST", "/associations", associate("orders", "id-1", value), 200, `"subject":"s"`}, // again
		{"POST", "/associations?context=.c", associate("orders", "id-1", `{"subject":"k","associationType":"key"}`), 200, `"subject":":.c:k"`},
		{"POST", "/associations?dryRun=true", associate("other", "", value), 200, `"associations":[]`},
		{"PUT", "/associations/resources/id-2", `{"resourceName":"returns","resourceNamespace":"other","associations":[{"subject":"s","lifecycle":"weak"}]}`, 200, `"resourceId":"id-2"`},
		{"PUT", "/associations/resources/id-2", `{"resourceName":"returns","resourceNamespace":"other","associations":[{"associationType":"value"}]}`, 200, `"subject":"s"`},
		{"GET", "/associations/resources/-/orders", "", 200, `[{"subject":":.c:k","guid":"`},
		{"GET", "/associations/resources/-/orders?resourceType=topic&associationType=value&offset=0&limit=-1", "", 200, `"resourceName":"orders","resourceNamespace":"lkc","resourceId":"id-1","resourceType":"topic","associationType":"value","lifecycle":"WEAK","frozen":false}]`},
		{"GET", "/associations/resources/lkc/-?limit=1", "", 200, `[{"subject":":.c:k"`},
		{"GET", "/associations/resources/none/orders", "", 200, `=[]`},
		{"GET", "/associations/resources/-/orders?associationType=value&lifecycle=STRONG", "", 200, `=[]`},
		{"GET", "/associations/resources/-/orders?resourceType=cluster", "", 200, `=[]`},
		{"GET", "/associations/resources/id-2", "", 200, `"resourceName":"returns"`},
		{"GET", "/associations/subjects/s", "", 200, `"resourceName":"orders"`},

		// what is wrong with a request
		{"POST", "/associations", associate("orders", "id-1", strings.Replace(value, `"s"`, `"t"`, 1)), 409, `40903`},
		{"PUT", "/associations/resources/id-1", associate("orders", "id-1", strings.Replace(value, `"s"`, `"t"`, 1)), 422, `42212`},
		{"PUT", "/associations/resources/id-3", associate("orders", "id-1", value), 422, `42212`},
		{"POST", "/associations", associate("", "id-1", value), 422, `42212`},
		{"POST", "/associations", associate("-", "id-1", value), 422, `42212`},
		{"POST", "/associations", associate("new", "", value), 422, `42212`},
		{"POST", "/associations", associate("new", "id-9"), 422, `42212`},
		{"POST", "/associations", associate("new", "id-9", value, value), 422, `42212`},
		{"POST", "/associations", associate("new", "id-9", `{"associationType":"value"}`), 422, `42212`},
		{"POST", "/associations", associate("new", "id-9", `{"subject":"s","associationType":"header"}`), 422, `42212`},
		{"POST", "/associations", associate("new", "id-9", `{"subject":"s","lifecycle":"STRONG"}`), 422, `42212`},
		{"POST", "/associations", associate("new", "id-9", `{"subject":"s","lifecycle":"SOME"}`), 422, `42212`},
		{"POST", "/associations", associate("new", "id-9", `{"subject":"s","frozen":true}`), 422, `42212`},
		{"POST", "/associations", associate("new", "id-9", `{"subject":"s","schema":{"schema":"\"int\""}}`), 422, `42212`},
		{"POST", "/associations", associate("new", "id-9", `{"subject":":.lkc:new-value"}`), 422, `42212`},
		{"POST", "/associations", strings.Replace(associate("new", "id-9", value), `"topic"`, `"queue"`, 1), 422, `42212`},
		{"POST", "/associations", `[]`, 422, `422`},
		{"PUT", "/mode/s", `{"mode":"READONLY"}`, 200, `READONLY`},
		{"POST", "/associations", associate("new", "id-9", value), 422, `42205`},
		{"DELETE", "/associations/resources/id-1", "", 422, `42205`},
		{"DELETE", "/mode/s", "", 200, `READONLY`},
		{"POST", "/associations:batchGet", `{}`, 404, `404`},

		// a subject in use keeps a version
		{"DELETE", "/subjects/s/versions/1", "", 409, `40907`},
		{"DELETE", "/subjects/s", "", 409, `40904`},
	})
	want := one.dump()
	if !slices.ContainsFunc(want, func(s string) bool { return strings.HasPrefix(s, "association topic/lkc/orders") }) {
		t.Errorf("got %v", want)
	}
	one.stop()
	two := start(t, addr, "two")
	if got := two.dump(); !slices.Equal(got, want) {
		t.Errorf("after a restart: got %v, want %v", got, want)
	}
	converse(t, two.url, []step{
		{"DELETE", "/associations/resources/id-1?associationType=key&dryRun=true", "", 204, `=`},
		{"DELETE", "/associations/resources/id-1?associationType=key", "", 204, `=`},
		{"GET", "/associations/resources/id-1", "", 200, `[{"subject":"s"`},
		{"DELETE", "/associations/resources/id-1?cascadeLifecycle=False&resourceType=topic", "", 204, `=`},
		{"DELETE", "/associations/resources/id-1", "", 404, `40410`},
		{"DELETE", "/subjects/s", "", 409, `40904`},
		{"DELETE", "/associations/resources/id-2", "", 204, `=`},
		{"DELETE", "/subjects/s", "", 200, `=[1]`},
	})
}

// Associations that another registry has made keep what they promise: the subject belongs to the topic.
func TestStrongAssociations(t *testing.T) {
	l := newLab()
	if _, err := l.register(t, ":.lkc:orders-value", recordSchema("R", "a")); err != nil {
		t.Fatal(err)
	}
	key := `{"keytype":"ASSOC","tenant":"default","resourceName":"orders","resourceNamespace":"lkc","resourceType":"topic","associationType":"value","subject":":.lkc:orders-value","magic":0}`
	l.commit(t, []record{{[]byte(key), []byte(`{"subject":":.lkc:orders-value","guid":"g","tenant":"default","resourceName":"orders","resourceNamespace":"lkc","resourceId":"id-1","resourceType":"topic","associationType":"value","lifecycle":"STRONG","frozen":true,"createTs":1}`)}})
	if got := string(encode(l.s.associationsFor(":.lkc:orders-value")[0].key())); got != key {
		t.Errorf("the key is written as %s, was %s", got, key)
	}
	all := func(a *assocValue) bool { return a.ID == "id-1" }
	weak := func() *assocRequest {
		return &assocRequest{"other", "lkc", "id-2", "topic", []assocInfo{{Subject: ":.lkc:orders-value", Type: "value", Lifecycle: lifecycleWeak}}}
	}
	if _, err := l.s.planAssociations("", weak(), true); code(err) != codeSubjectStrong {
		t.Errorf("another association: got %v", err)
	}
	same := weak()
	same.ID, same.Associations[0].Type = "id-1", "key"
	if _, err := l.s.planAssociations("", same, true); code(err) != codeInvalidAssociation {
		t.Errorf("a weak one of the same topic: got %v", err)
	}
	if _, _, err := l.s.planRegister(":.lkc:x", &schemaRequest{Schema: `"int"`, References: []reference{{"n", "orders-value", 1}}}); code(err) != codeNotPermitted {
		t.Errorf("a reference: got %v", err)
	}
	if _, err := l.s.planDeleteAssociations(all, "id-1", false); code(err) != codeFrozen {
		t.Errorf("deletion: got %v", err)
	}
	records, err := l.s.planDeleteAssociations(all, "id-1", true)
	if err != nil {
		t.Fatal(err)
	}
	l.commit(t, records)
	l.s = fold(t, compacted(l.log, true))
	if len(l.s.assocs) > 0 || len(l.s.subjects) > 0 {
		t.Errorf("left: %v", dump(l.s))
	}
	if v, err := l.register(t, ":.lkc:y", `"long"`); err != nil || v.content.id != 2 {
		t.Errorf("got %+v, %v: the id of a deleted schema came back", v, err)
	}
}
