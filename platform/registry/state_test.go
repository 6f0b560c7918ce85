package registry

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A lab applies what the plans say, as the writer does, and keeps the log.
type lab struct {
	s   *state
	log []record
}

func newLab() *lab { return &lab{s: newState()} }

func (l *lab) commit(t testing.TB, records []record) {
	t.Helper()
	for _, r := range records {
		if err := l.s.apply(r.key, r.value); err != nil {
			t.Fatalf("the registry does not understand its own record %s %s: %v", r.key, r.value, err)
		}
		l.log = append(l.log, r)
	}
}

func (l *lab) register(t testing.TB, subject, schema string) (*version, *apiError) {
	t.Helper()
	records, v, err := l.s.planRegister(subject, &schemaRequest{Schema: schema})
	l.commit(t, records)
	return v, err
}

func (l *lab) level(t testing.TB, subject, level string) {
	t.Helper()
	records, _, err := l.s.planConfig(subject, &configRequest{Compatibility: level})
	if err != nil {
		t.Fatal(err)
	}
	l.commit(t, records)
}

func code(err *apiError) int {
	if err == nil {
		return 0
	}
	return err.code
}

// recordSchema returns a record with the fields, each "name" (a long without default) or "name=0" (with one), or "name:type".
func recordSchema(name string, fields ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"type":"record","name":%q,"namespace":"shop.test.v1","fields":[`, name)
	for i, f := range fields {
		if i > 0 {
			b.WriteByte(',')
		}
		f, typ, typed := strings.Cut(f, ":")
		f, def, hasDefault := strings.Cut(f, "=")
		if !typed {
			typ = `"long"`
		}
		fmt.Fprintf(&b, `{"name":%q,"type":%s`, f, typ)
		if hasDefault {
			fmt.Fprintf(&b, `,"default":%s`, def)
		}
		b.WriteByte('}')
	}
	b.WriteString(`]}`)
	return b.String()
}

func TestCompatibilityLevels(t *testing.T) {
	a, ab, abDefault, b := recordSchema("R", "a"), recordSchema("R", "a", "b"), recordSchema("R", "a", "b=0"), recordSchema("R", "b")
	all := []string{"NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE"}
	for _, tt := range []struct {
		name    string
		history []string
		next    string
		accept  string // the levels, by their initials: N B BT F FT U UT
	}{
		{"field with default added", []string{a}, abDefault, "N B BT F FT U UT"},
		{"field without default added", []string{a}, ab, "N F FT"},
		{"field with default removed", []string{abDefault}, a, "N B BT F FT U UT"},
		{"field without default removed", []string{ab}, a, "N B BT"},
		{"field replaced", []string{a}, b, "N"},
		{"default taken away, with an older version without the field", []string{a, abDefault}, ab, "N B F FT U"},
		{"field dropped in two steps", []string{ab, abDefault}, a, "N B BT F U"},
		{"type widened", []string{recordSchema("R", `a:"int"`)}, recordSchema("R", `a:"long"`), "N B BT"},
		{"type narrowed", []string{recordSchema("R", `a:"long"`)}, recordSchema("R", `a:"int"`), "N F FT"},
		{"made nullable", []string{recordSchema("R", `a:"long"`)}, recordSchema("R", `a:["null","long"]`), "N B BT"},
		{"timestamp of another unit", []string{recordSchema("R", `a:{"type":"long","logicalType":"timestamp-millis"}`)},
			recordSchema("R", `a:{"type":"long","logicalType":"timestamp-micros"}`), "N"},
		{"decimal of another scale", []string{recordSchema("R", `a:{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}`)},
			recordSchema("R", `a:{"type":"bytes","logicalType":"decimal","precision":9,"scale":4}`), "N"},
		{"other record name", []string{a}, recordSchema("S", "a"), "N"},
		{"first version", nil, a, "N B BT F FT U UT"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for i, level := range all {
				l := newLab()
				l.level(t, "s", "NONE")
				for _, h := range tt.history {
					if _, err := l.register(t, "s", h); err != nil {
						t.Fatal(err)
					}
				}
				l.level(t, "s", strings.ToLower(level))
				want := slices.Contains(strings.Fields(tt.accept), []string{"N", "B", "BT", "F", "FT", "U", "UT"}[i])
				v, err := l.register(t, "s", tt.next)
				if (err == nil) != want || (err != nil && err.code != codeIncompatible) {
					t.Errorf("%s: got %v, want accepted: %v", level, err, want)
				}
				if err == nil && int(v.number) != len(tt.history)+1 {
					t.Errorf("%s: got version %d", level, v.number)
				}
			}
		})
	}
}

func TestIncompatibilityNamesAllReasons(t *testing.T) {
	l := newLab()
	l.level(t, "s", "NONE")
	for _, h := range []string{recordSchema("R", "a"), recordSchema("R", "a", "b=0")} {
		if _, err := l.register(t, "s", h); err != nil {
			t.Fatal(err)
		}
	}
	l.level(t, "s", "FULL_TRANSITIVE")
	_, err := l.register(t, "s", recordSchema("R", "c"))
	if code(err) != codeIncompatible {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"new schema cannot read data of version 1", "new schema cannot read data of version 2", "version 1 cannot read data of the new", "version 2 cannot read data of the new", "FULL_TRANSITIVE"} {
		if !strings.Contains(err.text, want) {
			t.Errorf("the message lacks %q: %s", want, err.text)
		}
	}
}

func TestDefaultLevelIsFullTransitive(t *testing.T) {
	l := newLab()
	if _, err := l.register(t, "s", recordSchema("R", "a")); err != nil {
		t.Fatal(err)
	}
	if _, err := l.register(t, "s", recordSchema("R", "a", "b")); code(err) != codeIncompatible {
		t.Errorf("got %v", err)
	}
	l.level(t, globalSubject, "FORWARD")
	if _, err := l.register(t, "s", recordSchema("R", "a", "b")); err != nil {
		t.Errorf("the global level does not count: %v", err)
	}
}

func TestCompatibilityGroups(t *testing.T) {
	l := newLab()
	group := "major"
	records, _, err := l.s.planConfig("s", &configRequest{CompatibilityGroup: &group})
	if err != nil {
		t.Fatal(err)
	}
	l.commit(t, records)
	register := func(schema, major string) *apiError {
		records, _, err := l.s.planRegister("s", &schemaRequest{Schema: schema, Metadata: json.RawMessage(`{"properties":{"major":"` + major + `"}}`)})
		l.commit(t, records)
		return err
	}
	if err := register(recordSchema("R", "a"), "1"); err != nil {
		t.Fatal(err)
	}
	if err := register(recordSchema("R", "b"), "1"); code(err) != codeIncompatible {
		t.Errorf("same group: got %v", err)
	}
	if err := register(recordSchema("R", "b"), "2"); err != nil {
		t.Errorf("other group: got %v", err)
	}
}

// G30: An id that the registry has given stands for one schema for ever: it never changes and never comes back, also after deletions,
// compaction, kills and takeovers.
func TestIDsAndVersions(t *testing.T) {
	l := newLab()
	l.level(t, globalSubject, "NONE")
	a, b := recordSchema("A", "x"), recordSchema("B", "x")
	step := func(subject, schema string, id, number int32) {
		t.Helper()
		v, err := l.register(t, subject, schema)
		if err != nil || v.content.id != id || v.number != number {
			t.Fatalf("got %+v, %v, want id %d version %d", v, err, id, number)
		}
	}
	del := func(permanent bool, subject string, want ...int32) {
		t.Helper()
		records, got, err := l.s.planDeleteSubject(subject, permanent)
		l.commit(t, records)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("got %v, %v, want %v", got, err, want)
		}
	}
	step("s", a, 1, 1)
	step("s", a, 1, 1) // again
	step("s", " "+strings.ReplaceAll(a, ",", " ,\n "), 1, 1)
	step("t", a, 1, 1) // the same content elsewhere
	step("s", b, 2, 2)
	step("t", b, 2, 2)
	del(false, "s", 1, 2)
	step("s", a, 1, 3) // not the deleted version 1
	del(false, "s", 3)
	del(true, "s", 1, 2, 3)
	step("s", b, 2, 1) // everything is forgotten, but t still has the content
	del(false, "t", 1, 2)
	del(true, "t", 1, 2)
	step("t", a, 3, 1) // content 1 was gone for good: its id never comes back
	del(false, "t", 1)
	del(true, "t", 1)
	step("t", recordSchema("C"), 4, 1) // not even the highest one, which only the counter record remembers

	rebuilt := newState()
	for _, r := range compacted(l.log, false) {
		if err := rebuilt.apply(r.key, r.value); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(dump(l.s), dump(rebuilt)); diff != "" {
		t.Errorf("after compaction: %s", diff)
	}
}

// Hard deletion of the newest schema leaves no trace of its id but the counter record, which survives compaction.
func TestHighestIDSurvivesDeletionAndCompaction(t *testing.T) {
	for name, remove := range map[string]func(s *state, permanent bool) []record{
		"subject": func(s *state, permanent bool) []record { r, _, _ := s.planDeleteSubject("s", permanent); return r },
		"version": func(s *state, permanent bool) []record { r, _, _ := s.planDeleteVersion("s", 1, permanent); return r },
	} {
		l := newLab()
		for i := range 3 {
			if _, err := l.register(t, []string{"a", "b", "s"}[i], recordSchema("R", fmt.Sprintf("f%d", i))); err != nil {
				t.Fatal(err)
			}
		}
		l.commit(t, remove(l.s, false))
		l.commit(t, remove(l.s, true))
		l.s = fold(t, compacted(l.log, true))
		if v, err := l.register(t, "s", recordSchema("R", "new")); err != nil || v.content.id != 4 {
			t.Errorf("%s: got %+v, %v, want id 4", name, v, err)
		}
	}
}

// Clients send back what they got with more in it that says nothing: it is the same schema.
func TestEmptyMembers(t *testing.T) {
	l := newLab()
	request := func(metadata, rules string) *schemaRequest {
		return &schemaRequest{Schema: `"int"`, Metadata: json.RawMessage(metadata), RuleSet: json.RawMessage(rules)}
	}
	records, first, err := l.s.planRegister("s", request(`{"properties":{"major":"5","note":""}}`, `{"domainRules":[{"name":"r","kind":"CONDITION","mode":"WRITE","type":"CEL","expr":"true","params":{"a":""}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	l.commit(t, records)
	for _, tt := range [][2]string{
		{`{"tags":{},"properties":{"note":"","major":"5"},"sensitive":[]}`, `{"migrationRules":[],"domainRules":[{"name":"r","doc":null,"kind":"CONDITION","mode":"WRITE","type":"CEL","tags":[],"params":{"a":""},"expr":"true","onFailure":"","disabled":false}],"encodingRules":null,"enableAt":""}`},
		{` { "properties" : {"major":"5", "note":""}, "tags":null }`, `{"domainRules":[{"expr":"true","name":"r","kind":"CONDITION","mode":"WRITE","type":"CEL","params":{"a":""}}]}`},
	} {
		if records, v, err := l.s.planRegister("s", request(tt[0], tt[1])); err != nil || len(records) > 0 || v.content.id != first.content.id {
			t.Errorf("%s %s: got %d records, %+v, %v", tt[0], tt[1], len(records), v, err)
		}
	}
	for _, tt := range [][2]string{
		{`{"properties":{"major":"5"}}`, string(first.content.ruleSet)},
		{string(first.content.metadata), `{"domainRules":[{"name":"r","kind":"CONDITION","mode":"WRITE","type":"CEL","expr":"true","params":{"a":""},"disabled":true}]}`},
		{string(first.content.metadata), `{"domainRules":[{"name":"r","kind":"CONDITION","mode":"WRITE","type":"CEL","expr":"true"}]}`},
	} {
		if records, _, err := l.s.planRegister("s", request(tt[0], tt[1])); err != nil || len(records) == 0 {
			t.Errorf("%s %s: is the same, %v", tt[0], tt[1], err)
		}
	}
	if got := noNull(json.RawMessage(`{"tags":{},"sensitive":[],"properties":null}`)); got != nil {
		t.Errorf("nothing: got %s", got)
	}
}

func TestRefusals(t *testing.T) {
	l := newLab()
	if _, err := l.register(t, "s", recordSchema("R", "a")); err != nil {
		t.Fatal(err)
	}
	if _, err := l.register(t, "old", recordSchema("R", "a")); err != nil {
		t.Fatal(err)
	}
	records, _, err := l.s.planDeleteSubject("old", false)
	if err != nil {
		t.Fatal(err)
	}
	l.commit(t, records)
	register := func(subject string, r schemaRequest) func() *apiError {
		return func() *apiError { _, _, err := l.s.planRegister(subject, &r); return err }
	}
	for _, tt := range []struct {
		name string
		do   func() *apiError
		want int
	}{
		{"empty schema", register("s", schemaRequest{}), codeInvalidSchema},
		{"not JSON", register("s", schemaRequest{Schema: "{"}), codeInvalidSchema},
		{"not Avro", register("s", schemaRequest{Schema: `{"type":"table"}`}), codeInvalidSchema},
		{"unknown name", register("s", schemaRequest{Schema: `"shop.Missing"`}), codeInvalidSchema},
		{"too large", register("s", schemaRequest{Schema: `"` + strings.Repeat("x", 300_000) + `"`}), codeSchemaTooLarge},
		{"too deep", register("s", schemaRequest{Schema: strings.Repeat(`{"type":"array","items":`, 10_000) + `"int"` + strings.Repeat("}", 10_000)}), codeInvalidSchema},
		{"protobuf", register("s", schemaRequest{Schema: `syntax = "proto3";`, SchemaType: "PROTOBUF"}), codeInvalidSchema},
		{"unknown reference", register("s", schemaRequest{Schema: `"int"`, References: []reference{{"n", "s", 9}}}), codeInvalidSchema},
		{"reference without version", register("s", schemaRequest{Schema: `"int"`, References: []reference{{"n", "s", -1}}}), codeInvalidSchema},
		{"metadata", register("s", schemaRequest{Schema: `"int"`, Metadata: json.RawMessage(`[]`)}), codeUnprocessableInput},
		{"rules that are no list", register("s", schemaRequest{Schema: `"int"`, RuleSet: json.RawMessage(`{"domainRules":{}}`)}), codeInvalidRuleSet},
		{"rule without name", register("s", schemaRequest{Schema: `"int"`, RuleSet: json.RawMessage(`{"domainRules":[{}]}`)}), codeInvalidRuleSet},
		{"rule twice", register("s", schemaRequest{Schema: `"int"`, RuleSet: json.RawMessage(`{"domainRules":[{"name":"a"},{"name":"a"}]}`)}), codeInvalidRuleSet},
		{"recursion", register("new", schemaRequest{Schema: `{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}`}), codeInvalidSchema},
		{"default out of range", register("new", schemaRequest{Schema: `{"type":"record","name":"L","fields":[{"name":"a","type":"int","default":3000000000}]}`}), codeInvalidSchema},
		{"id outside import", register("s", schemaRequest{Schema: `"int"`, ID: 7}), codeNotPermitted},
		{"wrong version", register("s", schemaRequest{Schema: recordSchema("R", "a", "b=0"), Version: 7}), codeInvalidSchema},
		{"context without subject", register(":.staging:", schemaRequest{Schema: `"int"`}), codeInvalidSubject},
		{"context without end", register(":.staging", schemaRequest{Schema: `"int"`}), codeInvalidSubject},
		{"all contexts", register(":.*:s", schemaRequest{Schema: `"int"`}), codeInvalidSubject},
		{"no subject", register("", schemaRequest{Schema: `"int"`}), codeInvalidSubject},
		{"control character", register("a\x00b", schemaRequest{Schema: `"int"`}), codeInvalidSubject},
		{"subject too long", register(strings.Repeat("x", 2000), schemaRequest{Schema: `"int"`}), codeInvalidSubject},
		{"unknown subject", func() *apiError { _, err := l.s.versionOf("x", 1, false); return err }, codeNoSubject},
		{"unknown version", func() *apiError { _, err := l.s.versionOf("s", 9, false); return err }, codeNoVersion},
		{"deleted subject", func() *apiError { _, err := l.s.versionOf("old", latest, false); return err }, codeNoSubject},
		{"delete unknown subject", func() *apiError { _, _, err := l.s.planDeleteSubject("x", false); return err }, codeNoSubject},
		{"delete deleted subject", func() *apiError { _, _, err := l.s.planDeleteSubject("old", false); return err }, codeSubjectDeleted},
		{"delete live subject for good", func() *apiError { _, _, err := l.s.planDeleteSubject("s", true); return err }, codeSubjectNotDeleted},
		{"delete unknown version", func() *apiError { _, _, err := l.s.planDeleteVersion("s", 9, false); return err }, codeNoVersion},
		{"delete version of unknown subject", func() *apiError { _, _, err := l.s.planDeleteVersion("x", 1, false); return err }, codeNoSubject},
		{"delete deleted version", func() *apiError { _, _, err := l.s.planDeleteVersion("old", 1, false); return err }, codeVersionDeleted},
		{"delete live version for good", func() *apiError { _, _, err := l.s.planDeleteVersion("s", 1, true); return err }, codeVersionNotDeleted},
		{"unknown level", func() *apiError { _, _, err := l.s.planConfig("s", &configRequest{Compatibility: "SOME"}); return err }, codeInvalidLevel},
		{"no level", func() *apiError { _, _, err := l.s.planConfig("s", &configRequest{}); return err }, codeInvalidLevel},
		{"alias of all", func() *apiError { _, _, err := l.s.planConfig("", &configRequest{Alias: new("t")}); return err }, codeNotPermitted},
		{"bad alias", func() *apiError { _, _, err := l.s.planConfig("s", &configRequest{Alias: new("\x00")}); return err }, codeInvalidSubject},
		{"unknown rule", func() *apiError {
			_, _, err := l.s.planConfig("s", &configRequest{DisabledRules: &[]string{"TYPE_MISMATCH"}})
			return err
		}, codeUnprocessableInput},
		{"no config to delete", func() *apiError { _, _, err := l.s.planDeleteConfig("s"); return err }, codeNoSubjectLevel},
		{"unknown mode", func() *apiError { _, err := l.s.planMode("s", "WRITEONLY", false, false); return err }, codeInvalidMode},
		{"import over existing", func() *apiError { _, err := l.s.planMode("s", "IMPORT", false, false); return err }, codeNotPermitted},
		{"no mode to delete", func() *apiError { _, _, err := l.s.planDeleteMode("s", false); return err }, codeNoSubjectMode},
	} {
		if got := code(tt.do()); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestModes(t *testing.T) {
	l := newLab()
	mode := func(subject, mode string, force bool) {
		t.Helper()
		records, err := l.s.planMode(subject, mode, force, false)
		if err != nil {
			t.Fatal(err)
		}
		l.commit(t, records)
	}
	a, b := recordSchema("R", "a"), recordSchema("R", "a", "b=0")
	if _, err := l.register(t, "s", a); err != nil {
		t.Fatal(err)
	}
	mode("s", "readonly", false)
	if _, err := l.register(t, "s", b); code(err) != codeNotPermitted {
		t.Errorf("READONLY: got %v", err)
	}
	if _, err := l.register(t, "s", a); err != nil {
		t.Errorf("READONLY, existing schema: got %v", err)
	}
	if _, err := l.register(t, "t", b); err != nil {
		t.Errorf("another subject: got %v", err)
	}
	mode("s", "READWRITE", false)
	mode(globalSubject, "READONLY_OVERRIDE", false)
	if _, err := l.register(t, "s", b); code(err) != codeNotPermitted {
		t.Errorf("READONLY_OVERRIDE: got %v", err)
	}
	mode(globalSubject, "READWRITE", false)

	mode("i", "IMPORT", false)
	imp := func(schema string, id, number int32) (*version, *apiError) {
		records, v, err := l.s.planRegister("i", &schemaRequest{Schema: schema, ID: id, Version: number})
		l.commit(t, records)
		return v, err
	}
	if v, err := imp(recordSchema("X", "a"), 100, 5); err != nil || v.content.id != 100 || v.number != 5 {
		t.Errorf("import: got %+v, %v", v, err)
	}
	if _, err := imp(recordSchema("X", "b"), 100, 6); code(err) != codeNotPermitted {
		t.Errorf("import of another schema under a used id: got %v", err)
	}
	if _, err := imp(recordSchema("X", "b"), 0, 0); code(err) != codeNotPermitted {
		t.Errorf("import without an id: got %v", err)
	}
	if v, err := l.register(t, "new", recordSchema("New", "a")); err != nil || v.content.id != 101 {
		t.Errorf("after the import: got %+v, %v, want id 101", v, err)
	}
}

// The records are byte for byte those of the reference server, which other tools read.
func TestRecordFormat(t *testing.T) {
	l := newLab()
	l.level(t, globalSubject, "NONE")
	l.level(t, "s", "FULL")
	if _, err := l.register(t, "s", `{ "type" : "string" }`); err != nil {
		t.Fatal(err)
	}
	for _, plan := range []func() ([]record, *apiError){
		func() ([]record, *apiError) { return l.s.planMode(globalSubject, "readonly", false, false) },
		func() ([]record, *apiError) { r, _, err := l.s.planDeleteMode(globalSubject, false); return r, err },
		func() ([]record, *apiError) { r, _, err := l.s.planDeleteSubject("s", false); return r, err },
		func() ([]record, *apiError) { r, _, err := l.s.planDeleteSubject("s", true); return r, err },
	} {
		records, err := plan()
		if err != nil {
			t.Fatal(err)
		}
		l.commit(t, records)
	}
	var got []string
	for _, r := range l.log {
		value := string(r.value)
		if r.value == nil {
			value = "null"
		}
		got = append(got, string(r.key)+" "+value)
	}
	want := []string{
		`{"keytype":"CONFIG","subject":null,"magic":0} {"compatibilityLevel":"NONE"}`,
		`{"keytype":"CONFIG","subject":"s","magic":0} {"subject":"s","compatibilityLevel":"FULL"}`,
		`{"keytype":"SCHEMA","subject":"s","version":1,"magic":1} {"subject":"s","version":1,"id":1,"md5":"KAkoS25U0NNAF3Ff/lY2vQ==","schema":"{\"type\":\"string\"}","deleted":false}`,
		`{"keytype":"MODE","subject":null,"magic":0} {"mode":"READONLY"}`,
		`{"keytype":"MODE","subject":null,"magic":0} null`,
		`{"keytype":"DELETE_SUBJECT","subject":"s","magic":0} {"subject":"s","version":1}`,
		`{"keytype":"CONFIG","subject":"s","magic":0} null`,
		`{"keytype":"SCHEMA","subject":"s","version":1,"magic":1} null`,
		`{"keytype":"MILLRACE_MAX_ID","magic":0} {"id":1}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// A topic that another registry wrote is understood: other property orders, fields and key types.
func TestForeignRecords(t *testing.T) {
	s := newState()
	for _, r := range []struct{ key, value string }{
		{`{"magic":0,"keytype":"NOOP"}`, ""},
		{`{"subject":null,"magic":0,"keytype":"CONFIG"}`, `{"compatibilityLevel":"FORWARD","alias":null}`},
		{`{"keytype":"CONTEXT","tenant":"t","context":".c","magic":0}`, `{"tenant":"t","context":".c"}`},
		{`{"magic":1,"version":3,"keytype":"SCHEMA","subject":"proto"}`, `{"version":3,"subject":"proto","id":17,"schemaType":"PROTOBUF","schema":"syntax = \"proto3\";","deleted":false,"guid":"x"}`},
		{`{"keytype":"SCHEMA","subject":"s","version":1,"magic":1}`, `{"subject":"s","version":1,"id":4,"references":[{"name":"p","subject":"proto","version":3}],"schema":"\"int\"","deleted":false}`},
		{`{"keytype":"SCHEMA","subject":"s","version":2,"magic":1}`, `{"subject":"s","version":2,"id":5,"schema":"\"no schema at all","deleted":true}`},
		{`{"keytype":"CLEAR_SUBJECT","subject":"s","magic":0}`, `{"subject":"s"}`},
		{`{"keytype":"SCHEMA","subject":"s","version":9,"magic":1}`, ""},
		{`{"keytype":"SCHEMA","subject":"s","version":1,"magic":1}`, `{"subject":"s","version":1,"id":4,"metadata":{"tags":{}},"references":[{"name":"p","subject":"proto","version":3}],"schema":"\"int\"","deleted":false}`},
	} {
		var value []byte
		if r.value != "" {
			value = []byte(r.value)
		}
		if err := s.apply([]byte(r.key), value); err != nil {
			t.Errorf("%s %s: %v", r.key, r.value, err)
		}
	}
	want := []string{"config /FORWARD", "max 17", `version proto/3 id 17 deleted false PROTOBUF syntax = "proto3";`, `version s/1 id 4 deleted false AVRO "int"`, `version s/2 id 5 deleted true AVRO "no schema at all`}
	if diff := cmp.Diff(want, dump(s)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if got := s.referencedBy("proto", 3, false); !slices.Equal(got, []int32{4}) {
		t.Errorf("referencedBy: got %v", got)
	}
	if _, _, err := s.planDeleteVersion("proto", 3, false); code(err) != codeReferenced {
		t.Errorf("deleting a referenced version: got %v", err)
	}
}

func TestPoisonedRecords(t *testing.T) {
	l := newLab()
	if _, err := l.register(t, "s", recordSchema("R", "a")); err != nil {
		t.Fatal(err)
	}
	before := dump(l.s)
	for _, r := range []struct{ key, value string }{
		{``, `x`}, {`{`, `{}`}, {`[]`, `{}`},
		{`{"keytype":"SCHEMA","subject":"s","version":0}`, `{"id":1,"schema":"\"int\""}`},
		{`{"keytype":"SCHEMA","version":1}`, `{"id":1,"schema":"\"int\""}`},
		{`{"keytype":"SCHEMA","subject":"s","version":2}`, `{`},
		{`{"keytype":"SCHEMA","subject":"s","version":2}`, `{"id":0,"schema":"\"int\""}`},
		{`{"keytype":"SCHEMA","subject":"s","version":2}`, `{"id":4000000000,"schema":"\"int\""}`},
		{`{"keytype":"SCHEMA","subject":"s","version":2}`, `{"id":1,"schema":"\"int\""}`},
		{`{"keytype":"CONFIG","subject":null}`, `7`}, {`{"keytype":"MODE","subject":null}`, `{}`},
		{`{"keytype":"ASSOC","tenant":"default"}`, `{}`}, {`{"keytype":"ASSOC","resourceName":"n","resourceNamespace":"x","resourceType":"topic","associationType":"value","subject":"s"}`, `{}`},
		{`{"keytype":"DELETE_SUBJECT","subject":"s"}`, `"x"`}, {`{"keytype":"MILLRACE_MAX_ID"}`, `[]`},
	} {
		if err := l.s.apply([]byte(r.key), []byte(r.value)); err == nil {
			t.Errorf("%s %s was applied", r.key, r.value)
		}
	}
	if diff := cmp.Diff(before, dump(l.s)); diff != "" {
		t.Errorf("a poisoned record changed the state: %s", diff)
	}
}

// dump lists all that a state knows.
func dump(s *state) []string {
	out := []string{fmt.Sprintf("max %d", s.in(defaultContext).maxID)}
	for context, p := range s.spaces {
		if context != defaultContext {
			out = append(out, fmt.Sprintf("context %s max %d", context, p.maxID))
		}
	}
	for scope, off := range s.rules {
		out = append(out, fmt.Sprintf("rules off %s/%v", scope, off))
	}
	for name, versions := range s.subjects {
		for _, v := range versions {
			out = append(out, fmt.Sprintf("version %s/%d id %d deleted %v %s %s", name, v.number, v.content.id, v.deleted, v.content.schemaType, v.content.text))
		}
	}
	for name, c := range s.configs {
		out = append(out, fmt.Sprintf("config %s/%s", name, c.CompatibilityLevel))
	}
	for name, m := range s.modes {
		out = append(out, fmt.Sprintf("mode %s/%s", name, m))
	}
	for _, a := range s.assocs {
		out = append(out, fmt.Sprintf("association %s/%s/%s %s %s %s %v %s", a.Resource, a.Namespace, a.Name, a.Type, a.Subject, a.Lifecycle, a.Frozen, a.GUID))
	}
	sort.Strings(out)
	return out
}

// compacted returns what compaction leaves of a log; later, the deletions are gone too.
func compacted(log []record, later bool) []record {
	last := map[string]int{}
	for i, r := range log {
		last[string(r.key)] = i
	}
	var out []record
	for i, r := range log {
		if last[string(r.key)] == i && (r.value != nil || !later) {
			out = append(out, r)
		}
	}
	return out
}

func fold(t testing.TB, log []record) *state {
	t.Helper()
	s := newState()
	for _, r := range log {
		if err := s.apply(r.key, r.value); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// Random requests keep what the registry promises: numbers grow by one, an id stands for one content for ever, ids are dense, and
// the log, compacted or not, gives the same state again.
func FuzzRequests(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 40, 80, 120, 160, 200, 240})
	f.Add([]byte("register, delete, register again, and so on, until something breaks"))
	f.Add([]byte{5, 0, 10, 1, 5, 2, 10, 0, 6, 6, 7, 7, 0, 0, 8, 1, 9, 0, 3, 3, 6, 6, 7, 7, 0, 1})
	f.Fuzz(func(t *testing.T, ops []byte) {
		l := newLab()
		owner := map[int32]string{} // id -> content that it was given to
		for _, op := range ops[:min(len(ops), 200)] {
			subject := []string{"s", "t", "u"}[int(op/16)%3]
			arg := int32(op / 48)
			switch op % 16 {
			default:
				schema := recordSchema([]string{"R", "Q"}[op%2], []string{"a", "a=0"}[op/2%2], "b=1")
				if op%16 > 6 {
					schema = recordSchema("R", "a", fmt.Sprintf("c%d=0", op/16))
				}
				top := l.s.in(defaultContext).maxID
				var last int32
				if all := l.s.live(subject, true); len(all) > 0 {
					last = all[len(all)-1].number
				}
				v, err := l.register(t, subject, schema)
				if err != nil {
					continue
				}
				id := v.content.id
				if known, ok := owner[id]; ok && known != v.content.text {
					t.Fatalf("id %d was %s and is %s", id, known, v.content.text)
				} else if !ok && id != top+1 {
					t.Fatalf("id %d after %d", id, top)
				}
				owner[id] = v.content.text
				if v.number > last+1 {
					t.Fatalf("version %d after %d", v.number, last)
				}
			case 10, 11:
				records, _, _ := l.s.planDeleteSubject(subject, op%16 == 11)
				l.commit(t, records)
			case 12, 13:
				records, _, _ := l.s.planDeleteVersion(subject, arg, op%16 == 13)
				l.commit(t, records)
			case 14:
				records, _, _ := l.s.planConfig([]string{subject, globalSubject}[arg%2], &configRequest{Compatibility: []string{"NONE", "full", "BACKWARD"}[arg%3]})
				l.commit(t, records)
			case 15:
				records, _ := l.s.planMode(subject, []string{"READONLY", "READWRITE", "READWRITE"}[arg%3], false, false)
				l.commit(t, records)
			}
		}
		want := dump(l.s)
		for name, log := range map[string][]record{"the log": l.log, "the compacted log": compacted(l.log, false), "the compacted log without deletions": compacted(l.log, true)} {
			if got := dump(fold(t, log)); !reflect.DeepEqual(got, want) {
				t.Fatalf("%s gives another state:\n%s", name, cmp.Diff(want, got))
			}
		}
	})
}

// No record, whatever it holds, panics or leaves the state inconsistent.
func FuzzApply(f *testing.F) {
	f.Add([]byte(`{"keytype":"SCHEMA","subject":"s","version":1,"magic":1}`), []byte(`{"subject":"s","version":1,"id":1,"schema":"\"int\"","deleted":false}`))
	f.Add([]byte(`{"keytype":"SCHEMA","subject":"s","version":1,"magic":1}`), []byte{})
	f.Add([]byte(`{"keytype":"DELETE_SUBJECT","subject":"s","magic":0}`), []byte(`{"subject":"s","version":1}`))
	f.Add([]byte(`{"keytype":"CONFIG","subject":null,"magic":0}`), []byte(`{"compatibilityLevel":"NOPE"}`))
	f.Add([]byte(`{"keytype":"MODE","subject":"s","magic":0}`), []byte(`{"mode":"IMPORT"}`))
	f.Add([]byte(`{"keytype":"ASSOC","tenant":"default","resourceName":"n","resourceNamespace":"x","resourceType":"topic","associationType":"value","subject":"s","magic":0}`), []byte(`{"resourceId":"i","lifecycle":"WEAK"}`))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		s := newState()
		for _, r := range []record{{[]byte(`{"keytype":"SCHEMA","subject":"s","version":1,"magic":1}`), []byte(`{"id":1,"schema":"\"int\""}`)}, {key, value}, {key, nil}, {key, value}} {
			before := dump(s)
			if err := s.apply(r.key, r.value); err != nil && !reflect.DeepEqual(before, dump(s)) {
				t.Fatalf("%s %s: refused with %v, but the state changed", key, value, err)
			}
		}
		for context, p := range s.spaces {
			for id, c := range p.byID {
				if c.id != id || c.context != context || len(c.versions) == 0 || p.byHash[c.hash] == nil || !slices.Contains(s.byGUID[c.guid], c) {
					t.Fatalf("id %d: %+v", id, c)
				}
			}
		}
		if !reflect.DeepEqual(dump(s.clone()), dump(s)) {
			t.Fatal("the clone differs")
		}
		records, _, _ := s.planRegister("s", &schemaRequest{Schema: `"long"`})
		for _, r := range records {
			if err := s.apply(r.key, r.value); err != nil {
				t.Fatal(err)
			}
		}
		s.names("", filter{deleted: true})
		s.configOf("s")
	})
}

// Whatever a request holds, it is refused, or its records are understood and give what was answered.
func FuzzRegister(f *testing.F) {
	f.Add("s", []byte(`{"schema":"\"int\"","schemaType":"AVRO","references":[{"name":"n","subject":"money","version":1}],"metadata":{"properties":{"a":"b"}},"ruleSet":{"domainRules":[{"name":"r"}]}}`))
	f.Add(":.c:s", []byte(`{"schema":"{\"type\":\"array\",\"items\":\"shop.v1.Money\"}","references":[{"name":"n","subject":":.:money","version":1}]}`))
	f.Add("money", []byte(`{"schema":"\"long\"","version":2}`))
	f.Add("imported", []byte(`{"schema":"\"long\"","id":9,"version":2}`))
	f.Fuzz(func(t *testing.T, subject string, text []byte) {
		l := newLab()
		if _, err := l.register(t, "money", moneySchema); err != nil {
			t.Fatal(err)
		}
		records, _, refusal := l.s.planConfig("money", &configRequest{Compatibility: "NONE", OverrideMetadata: json.RawMessage(`{"properties":{"a":"1"},"tags":{"x":["y"]}}`), DefaultRuleSet: json.RawMessage(`{"domainRules":[{"name":"r"}]}`)})
		if refusal != nil {
			t.Fatal(refusal)
		}
		l.commit(t, records)
		if records, refusal = l.s.planMode("imported", modeImport, false, false); refusal != nil {
			t.Fatal(refusal)
		}
		l.commit(t, records)
		for range 2 {
			var r schemaRequest
			if json.Unmarshal(text, &r) != nil {
				return
			}
			subject := qualify(defaultContext, subject)
			records, v, err := l.s.planRegister(subject, &r)
			if err != nil {
				return
			}
			l.commit(t, records)
			got := l.s.at(place{subject, v.number})
			if got == nil || got.content.id != v.content.id || got.content.hash != v.content.hash || l.s.in(v.content.context).byID[v.content.id] != got.content {
				t.Fatalf("%q %s: answered %+v, the state has %+v", subject, text, v, got)
			}
			if again, _, err := l.s.planRegister(subject, &r); err != nil || len(again) > 0 {
				t.Fatalf("%q %s: a second time gives %d records, %v", subject, text, len(again), err)
			}
			if _, err := l.s.schema(got.content); err != nil {
				t.Fatalf("%q %s: registered, but %v", subject, text, err)
			}
		}
		if got := dump(fold(t, l.log)); !reflect.DeepEqual(got, dump(l.s)) {
			t.Fatal("the log gives another state")
		}
	})
}
