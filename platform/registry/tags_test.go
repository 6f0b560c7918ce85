package registry

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

const taggedSchema = `{"type":"record","name":"Order","namespace":"shop.v1","fields":[{"name":"buyer","type":{"type":"record","name":"Person","confluent:tags":["PII"],"fields":[{"name":"name","type":"string"}]}},` +
	`{"name":"notes","type":["null",{"type":"array","items":{"type":"map","values":{"type":"record","name":"other.Note","fields":[{"name":"text","type":"string","doc":"é <b>"}]}}}],"default":null}]}`

func field(path string, tags ...string) schemaTags {
	return schemaTags{entity{path, entityField}, tags}
}

func recordTags(path string, tags ...string) schemaTags {
	return schemaTags{entity{path, entityRecord}, tags}
}

func TestRetag(t *testing.T) {
	for _, tt := range []struct {
		name        string
		add, remove []schemaTags
		old, new    string // the only place that changes
		found       []schemaTags
	}{
		{"nothing", nil, nil, "", "", []schemaTags{recordTags("shop.v1.Person", "PII")}},
		{"a field", []schemaTags{field("shop.v1.Order.buyer", "A", "B")}, nil, `}]}},{"name":"notes"`, `}]},"confluent:tags":["A","B"]},{"name":"notes"`,
			[]schemaTags{field("shop.v1.Order.buyer", "A", "B"), recordTags("shop.v1.Person", "PII")}},
		{"by its short name", []schemaTags{field(".Person.name", "A")}, nil, `"name":"name","type":"string"`, `"name":"name","type":"string","confluent:tags":["A"]`,
			[]schemaTags{recordTags("shop.v1.Person", "PII"), field("shop.v1.Person.name", "A")}},
		{"in a union, an array and a map", []schemaTags{field("other.Note.text", "A")}, nil, `"doc":"é <b>"`, `"doc":"é <b>","confluent:tags":["A"]`,
			[]schemaTags{recordTags("shop.v1.Person", "PII"), field("other.Note.text", "A")}},
		{"a record that has some", []schemaTags{recordTags("shop.v1.Person", "PII", "X")}, nil, `["PII"]`, `["PII","X"]`, []schemaTags{recordTags("shop.v1.Person", "PII", "X")}},
		{"one for another", []schemaTags{recordTags("shop.v1.Person", "X")}, []schemaTags{recordTags("shop.v1.Person", "PII")}, `["PII"]`, `["X"]`, []schemaTags{recordTags("shop.v1.Person", "X")}},
		{"all taken away", nil, []schemaTags{recordTags("shop.v1.Person", "PII", "none")}, `,"confluent:tags":["PII"]`, ``, nil},
	} {
		got, err := retag(taggedSchema, tt.add, tt.remove)
		if want := strings.Replace(taggedSchema, tt.old, tt.new, 1); err != nil || got != want {
			t.Errorf("%s: %v\n got %s\nwant %s", tt.name, err, got, want)
		}
		found, err := tagsIn(got, []string{"*"})
		if diff := cmp.Diff(tt.found, found); diff != "" || err != nil {
			t.Errorf("%s: found %s, %v", tt.name, diff, err)
		}
	}
	if got, err := retag(`{"confluent:tags":["a"],"type":"record","name":"R","fields":[]}`, nil, []schemaTags{recordTags("R", "a")}); err != nil || got != `{"type":"record","name":"R","fields":[]}` {
		t.Errorf("the first member: got %s, %v", got, err)
	}
	for _, x := range []schemaTags{field("shop.v1.Order.none", "A"), recordTags("shop.v1.Order.buyer", "A"), field("shop.v2.Order.buyer", "A"), {entity{"shop.v1.Order", "sr_enum"}, nil}} {
		if got, err := retag(taggedSchema, []schemaTags{x}, nil); err == nil {
			t.Errorf("%+v: got %s", x, got)
		}
	}
	for _, text := range []string{"", "{", `{"type":`, strings.Repeat("[", 1000) + strings.Repeat("]", 1000)} {
		if _, err := retag(text, nil, nil); err == nil {
			t.Errorf("%.20q is a schema", text)
		}
	}
}

// A version with other tags, metadata or rules comes out of an older one by one request.
func TestTags(t *testing.T) {
	url := start(t, broker(t, "").Addr(), "one").url
	tags := func(list string, path, kind, more string) string {
		return fmt.Sprintf(`{%q:[{"schemaEntity":{"entityPath":%q,"entityType":%q},"tags":["PII","X"]}]%s}`, list, path, kind, more)
	}
	rule := func(names ...string) string {
		var list []string
		for _, n := range names {
			list = append(list, fmt.Sprintf(`{"name":%q,"kind":"CONDITION","type":"CEL","mode":"WRITE","expr":"true"}`, n))
		}
		return `{"domainRules":[` + strings.Join(list, ",") + `]}`
	}
	converse(t, url, []step{
		{"POST", "/subjects/money/versions", with(moneySchema, `"metadata":{"properties":{"owner":"shop"}}`), 200, `"id":1,"version":1`},
		{"POST", "/subjects/money/versions/latest/tags", tags("tagsToAdd", "shop.v1.Money.minor", "sr_field", `,"newVersion":2`), 200,
			`"id":2,"version":2,`},
		{"GET", "/subjects/money/versions/2", "", 200, `"metadata":{"properties":{"confluent:version":"2","owner":"shop"}},"schema":"{\"type\":\"record\",\"name\":\"Money\",\"namespace\":\"shop.v1\",\"fields\":[{\"name\":\"minor\",\"type\":\"long\",\"confluent:tags\":[\"PII\",\"X\"]}]}"`},
		{"GET", "/schemas/ids/2?findTags=PII", "", 200, `"schemaTags":[{"schemaEntity":{"entityPath":"shop.v1.Money.minor","entityType":"sr_field"},"tags":["PII","X"]}]`},
		{"GET", "/schemas/ids/2?findTags=other&findTags=X", "", 200, `"schemaTags"`},
		{"GET", "/subjects/money/versions/2?findTags=*", "", 200, `"schemaTags"`},
		{"POST", "/subjects/money/versions/2/tags", tags("tagsToRemove", "shop.v1.Money.minor", "sr_field", `,"metadata":{"properties":{"owner":"b"}},"ruleSet":`+rule("a", "b")), 200, `"version":3`},
		{"GET", "/subjects/money/versions/3", "", 200, `"metadata":{"properties":{"owner":"b"}},"ruleSet":` + rule("a", "b") + `,"schema":"{\"type\":\"record\",\"name\":\"Money\",\"namespace\":\"shop.v1\",\"fields\":[{\"name\":\"minor\",\"type\":\"long\"}]}"`},
		{"POST", "/subjects/money/versions/3/tags", `{"rulesToMerge":` + rule("c") + `,"rulesToRemove":["a"]}`, 200, `"ruleSet":` + rule("b", "c")},
		{"GET", "/subjects/money/versions", "", 200, `=[1,2,3,4]`},
		{"POST", "/subjects/money/versions/4/tags", `{}`, 200, `"version":4`}, // nothing changes

		// a schema that refers to it: the tags of what it refers to are found, too
		{"POST", "/subjects/order/versions", with(orderSchema, `"references":[`+refer("money", 2)+`]`), 200, `"version":1`},
		{"POST", "/subjects/order/versions/1/tags", tags("tagsToAdd", "shop.v1.Order", "sr_record", ""), 200, `"references":[{"name":"n","subject":"money","version":2}],"schema":"{\"type\":\"record\",\"name\":\"Order\",\"namespace\":\"shop.v1\",\"fields\":[{\"name\":\"total\",\"type\":\"Money\"}],\"confluent:tags\":[\"PII\",\"X\"]}"`},
		{"GET", "/subjects/order/versions/2?findTags=PII", "", 200, `"schemaTags":[{"schemaEntity":{"entityPath":"shop.v1.Order","entityType":"sr_record"},"tags":["PII","X"]},{"schemaEntity":{"entityPath":"shop.v1.Money.minor","entityType":"sr_field"},"tags":["PII","X"]}]`},

		{"POST", "/subjects/money/versions/1/tags", tags("tagsToAdd", "shop.v1.Money.none", "sr_field", ""), 422, `42201`},
		{"POST", "/subjects/money/versions/1/tags", tags("tagsToAdd", "shop.v1.Money.minor", "sr_field", `,"newVersion":9`), 422, `42201`},
		{"POST", "/subjects/money/versions/1/tags", `{"ruleSet":` + rule("a") + `,"rulesToRemove":["a"]}`, 422, `42210`},
		{"POST", "/subjects/money/versions/1/tags", `{"rulesToMerge":{"domainRules":[{}]}}`, 422, `42210`},
		{"POST", "/subjects/money/versions/1/tags", `{"metadata":[]}`, 422, `422`},
		{"POST", "/subjects/money/versions/one/tags", `{}`, 422, `42202`},
		{"POST", "/subjects/none/versions/1/tags", `{}`, 404, `40401`},
		{"POST", "/subjects/money/versions/1/tags", `{`, 400, `400`},
		{"GET", "/subjects/money/versions", "", 200, `=[1,2,3,4]`},

		// in a context, and references that name it
		{"POST", "/contexts/.c/subjects/money/versions", body(moneySchema), 200, `"id":1`},
		{"POST", "/contexts/.c/subjects/order/versions", with(orderSchema, `"references":[`+refer("money", 1)+`]`), 200, `"id":2`},
		{"POST", "/contexts/.c/subjects/order/versions/1/tags", tags("tagsToAdd", "Order.total", "sr_field", ""), 200, `"id":3,"version":2`},
		{"GET", "/contexts/.c/schemas/ids/3", "", 200, `"references":[{"name":"n","subject":"money","version":1}]`},
		{"GET", "/contexts/.c/schemas/ids/3?referenceFormat=qualified", "", 200, `"references":[{"name":"n","subject":":.c:money","version":1}]`},
		{"GET", "/contexts/.c/schemas/ids/3?reference_format=qualified", "", 200, `":.c:money"`},
		{"GET", "/contexts/.c/subjects/order/versions/2?referenceFormat=qualified", "", 200, `":.c:money"`},
		{"GET", "/contexts/.c/subjects/order/versions/2?referenceFormat=", "", 200, `"subject":"money"`},
		{"GET", "/subjects/order/versions/1?referenceFormat=qualified", "", 200, `"subject":"money"`},
	})
}

// Whatever a text is, tags come out as they were put in, and nothing else of it changes.
func FuzzRetag(f *testing.F) {
	f.Add(taggedSchema, "shop.v1.Order.buyer", "PII")
	f.Add(`{"confluent:tags":["a"],"type":"record","name":"R","fields":[{"name":"f","type":"R","confluent:tags":[]}]}`, "R.f", "é\"")
	f.Add(`[{"type":"array","items":{"type":{"type":"error","name":"a.b","fields":[{"name":"x"}]}}}]`, "a.b.x", "")
	f.Add(`{"type":"record","name":"R"}0`, "R", "0")
	f.Fuzz(func(t *testing.T, text, path, tag string) {
		if !utf8.ValidString(text + tag) { // requests are
			return
		}
		text = compact(text)
		before, err := tagsIn(text, []string{"*"})
		if err != nil {
			return
		}
		for _, kind := range []string{entityField, entityRecord} {
			x := []schemaTags{{entity{path, kind}, []string{tag}}}
			tagged, err := retag(text, x, nil)
			if err != nil {
				continue
			}
			if !json.Valid([]byte(tagged)) {
				t.Fatalf("%s became %s", text, tagged)
			}
			after, err := tagsIn(tagged, []string{"*"})
			if err != nil || len(after) == 0 || !slices.ContainsFunc(after, func(s schemaTags) bool { return slices.Contains(s.Tags, tag) }) {
				t.Fatalf("%s: %q at %q gave %s: %+v, %v", text, tag, path, tagged, after, err)
			}
			if len(before) == 0 {
				back, err := retag(tagged, nil, []schemaTags{{entity{path, kind}, []string{tag}}})
				if err != nil || !strings.Contains(text, tagsProperty) && back != text {
					t.Fatalf("%s became %s, then %s, %v", text, tagged, back, err)
				}
			}
		}
	})
}
