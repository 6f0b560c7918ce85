package gate

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

const good = `{
  "type": "record",
  "name": "ThingDone",
  "namespace": "org.things.v1",
  "doc": "A thing was done.",
  "owner": "things",
  "retention": "forever",
  "fields": [
    {"name": "thing_id", "type": "string", "doc": "The thing.", "pii": false},
    {"name": "done_at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "doc": "When.", "pii": false},
    {"name": "state", "type": {"type": "enum", "name": "State", "doc": "How it is.", "symbols": ["UNKNOWN", "NEW"], "default": "UNKNOWN"}, "doc": "State.", "pii": false},
    {"name": "count", "type": "int", "doc": "How many.", "pii": false},
    {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}, "doc": "Price.", "pii": false},
    {"name": "note", "type": ["null", "string"], "default": null, "doc": "A note.", "pii": true},
    {"name": "grade", "type": "int", "default": 1, "doc": "A grade.", "pii": false},
    {"name": "choice", "type": ["null", "string", "long"], "default": null, "doc": "A choice.", "pii": false},
    {"name": "mode", "type": {"type": "enum", "name": "Mode", "doc": "Its mode.", "symbols": ["A", "B"]}, "doc": "Mode.", "pii": false},
    {"name": "code", "type": {"type": "fixed", "name": "Code", "doc": "A code.", "size": 4}, "doc": "Code.", "pii": false}
  ]
}
`

// folder returns a folder of one schema; in place of the parts old there are those new.
func folder(t *testing.T, settings string, replace ...string) Folder {
	t.Helper()
	text := good
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(text, replace[i]) {
			t.Fatalf("there is no %q in the schema", replace[i])
		}
		text = strings.Replace(text, replace[i], replace[i+1], 1)
	}
	return files(t, map[string]string{"contracts.yaml": "topic: things.events\n" + settings, "org.things.v1.ThingDone.avsc": text})[0]
}

func files(t *testing.T, texts map[string]string) []Folder {
	t.Helper()
	root := fstest.MapFS{}
	for name, text := range texts {
		root[name] = &fstest.MapFile{Data: []byte(text), Mode: fs.ModePerm}
	}
	all, err := Read(root, "schemas")
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func rulesOf(all []Finding) string {
	var names []string
	for _, f := range all {
		names = append(names, strings.TrimSuffix(fmt.Sprintf("%s@%s/%s", f.Rule, f.Pointer, f.Direction), "/"))
	}
	return strings.Join(names, " ")
}

// In good there are things that lint refuses, for the rules about changes need them.
const settingsOfGood = `allow:
  - {rule: UNION_BRANCHES, reason: a test of unions}
  - {rule: ENUM_NO_DEFAULT, subjects: "things.*", pointer: /fields/8/type, reason: a test of enums}
`

func TestLint(t *testing.T) {
	for _, tc := range []struct {
		replace []string
		want    string
	}{
		{nil, ""},
		{[]string{"org.things.v1", "org.things"}, "FILE_NAME@/name NAMESPACE_FORM@/namespace"},
		{[]string{"ThingDone", "Thing_Done"}, "FILE_NAME@/name RECORD_NAME@/name"},
		{[]string{"ThingDone", "DoThing"}, "FILE_NAME@/name RECORD_TENSE@/name"},
		{[]string{`"thing_id"`, `"thingId"`}, "FIELD_NAME@/fields/0"},
		{[]string{`"doc": "When."`, `"doc": " "`}, "DOC_MISSING@/fields/1"},
		{[]string{`"doc": "How it is.", `, ``}, "DOC_MISSING@/fields/2/type"},
		{[]string{`"owner": "things",`, ``}, "PROPERTY_MISSING@"},
		{[]string{`, "pii": true`, ``}, "PROPERTY_MISSING@/fields/5"},
		{[]string{`, "default": "UNKNOWN"`, ``}, "ENUM_NO_DEFAULT@/fields/2/type"},
		{[]string{`"UNKNOWN", "NEW"`, `"NEW", "UNKNOWN"`}, "ENUM_UNKNOWN_FIRST@/fields/2/type"},
		{[]string{`["null", "string"], "default": null`, `["string", "null"], "default": ""`}, "NULLABLE_FORM@/fields/5/type"},
		{[]string{`["null", "string"], "default": null`, `["null", "string"]`}, "NULLABLE_FORM@/fields/5"},
		{[]string{`["null", "string", "long"], "default": null`, `["long", "string"], "default": "x"`}, "DEFAULT_FIRST_BRANCH@/fields/7/default"},
		{[]string{`{"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}`, `"double"`}, "MONEY_FLOAT@/fields/4"},
		{[]string{`{"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}`, `"long"`}, "MONEY_CURRENCY@/fields/4"},
		{[]string{`timestamp-micros`, `timestamp-millis`}, "TIME_LOGICAL@/fields/1"},
		{[]string{`timestamp-micros`, `local-timestamp-micros`}, "TIME_LOGICAL@/fields/1"},
		{[]string{`{"type": "long", "logicalType": "timestamp-micros"}`, `"string"`}, "TIME_LOGICAL@/fields/1"},
		{[]string{`"thing_id", "type": "string"`, `"thing_id", "type": "long"`}, "ID_TYPE@/fields/0"},
		{[]string{`"count", "type": "int"`, `"count", "type": {"type": "map", "values": {"type": "record", "name": "R", "doc": "r", "fields": []}}`}, "MAP_OF_RECORDS@/fields/3/type"},
		{[]string{`"count", "type": "int"`, `"count", "type": ["null", "ThingDone"], "default": null`}, "RECURSIVE_TYPE@"},
		{[]string{`"count", "type": "int"`, `"count", "type": ` + strings.Repeat(`{"type": "array", "items": `, 9) + `"int"` + strings.Repeat("}", 9)}, "MAX_DEPTH@"},
		{[]string{`"A thing was done."`, `"` + strings.Repeat("x", maxLintBytes) + `"`}, "MAX_BYTES@"},
		{[]string{`"default": 1`, `"default": 1.5`}, "SCHEMA_INVALID@/fields/6/default"},
		{[]string{`"count", "type": "int"`, `"count", "type": "Cuont"`}, "SCHEMA_INVALID@/fields/3/type"},
		{[]string{`"type": "record"`, `"type": `}, "SCHEMA_INVALID@"},
	} {
		t.Run(tc.want, func(t *testing.T) {
			got := Lint([]Folder{folder(t, settingsOfGood, tc.replace...)})
			want := strings.Fields(tc.want)
			have := strings.Fields(rulesOf(got))
			slices.Sort(want)
			slices.Sort(have)
			if !slices.Equal(have, want) {
				t.Errorf("got %q, want %q", have, want)
			}
			for _, f := range got {
				if Explain(f.Rule) == "" || f.Fix == "" {
					t.Errorf("%s has no explanation, or no fix: %s", f.Rule, f)
				}
			}
		})
	}
	if got := rulesOf(Lint([]Folder{folder(t, "")})); got != "UNION_BRANCHES@/fields/7/type ENUM_NO_DEFAULT@/fields/8/type" {
		t.Errorf("nothing is allowed: %s", got)
	}
}

func TestTwoDefinitions(t *testing.T) {
	all := files(t, map[string]string{"contracts.yaml": "topic: things.events\n" + settingsOfGood, "org.things.v1.ThingDone.avsc": good,
		"org.things.v1.ThingLost.avsc": strings.Replace(good, "ThingDone", "ThingLost", 1)})
	got := Lint(all)
	var twice []string
	for _, f := range got {
		if f.Rule == "TYPE_DEFINED_TWICE" {
			twice = append(twice, f.Name)
		}
	}
	if want := []string{"org.things.v1.State", "org.things.v1.Mode", "org.things.v1.Code"}; !slices.Equal(twice, want) {
		t.Errorf("got %q, want %q", twice, want)
	}
}

func TestBreaking(t *testing.T) {
	for _, tc := range []struct {
		name    string
		replace []string
		want    string
	}{
		{"nothing", nil, ""},
		{"only the layout", []string{"    {", "{", `"doc": "When."`, `"doc": "When it was."`}, ""},
		{"add with default", []string{`"doc": "A thing`, `"doc": "One thing`, `    {"name": "count"`, `    {"name": "extra", "type": "int", "default": 0, "doc": "x", "pii": false},` + "\n" + `    {"name": "count"`}, ""},
		{"add without default", []string{`    {"name": "count"`, `    {"name": "extra", "type": "string", "doc": "x", "pii": false},` + "\n" + `    {"name": "count"`}, "FIELD_ADDED_NO_DEFAULT@/fields/3/BACKWARD"},
		{"remove without default", []string{`    {"name": "count", "type": "int", "doc": "How many.", "pii": false},` + "\n", ``}, "FIELD_REMOVED_NO_DEFAULT@/FORWARD"},
		{"remove with default", []string{`    {"name": "grade", "type": "int", "default": 1, "doc": "A grade.", "pii": false},` + "\n", ``}, ""},
		{"rename", []string{`"count"`, `"number"`}, "FIELD_RENAMED_NO_ALIAS@/FORWARD FIELD_RENAMED_NO_ALIAS@/fields/3/BACKWARD"},
		{"rename with alias", []string{`"count"`, `"number", "aliases": ["count"]`}, "FIELD_RENAMED_NO_ALIAS@/fields/3/FORWARD"},
		{"two claim one", []string{`"grade", "type": "int"`, `"grade", "type": "int", "aliases": ["count"]`}, ""},
		{"an alias that is a field, too", []string{`"name": "grade"`, `"name": "mark", "aliases": ["count"]`}, "FIELD_ALIAS_COLLISION@/fields/6/BACKWARD"},
		{"narrow", []string{`"timestamp-micros"`, `"timestamp-micros"`, `"count", "type": "int"`, `"count", "type": "boolean"`}, "FIELD_TYPE_NARROWED@/fields/3/type/BACKWARD FIELD_TYPE_PROMOTED_FORWARD_BREAK@/fields/3/type/FORWARD"},
		{"promote", []string{`"count", "type": "int"`, `"count", "type": "long"`}, "FIELD_TYPE_PROMOTED_FORWARD_BREAK@/fields/3/type/FORWARD"},
		{"nullable", []string{`"count", "type": "int"`, `"count", "type": ["null", "int"]`}, "FIELD_NULLABILITY@/fields/3/type/FORWARD"},
		{"not nullable", []string{`["null", "string"], "default": null`, `"string", "default": ""`}, "FIELD_NULLABILITY@/fields/5/type/BACKWARD DEFAULT_VALUE_CHANGED@/fields/5/default"},
		{"branch added", []string{`["null", "string", "long"]`, `["null", "string", "long", "boolean"]`}, "UNION_BRANCH_ADDED@/fields/7/type/FORWARD"},
		{"branch removed", []string{`["null", "string", "long"]`, `["null", "string"]`}, "UNION_BRANCH_REMOVED@/fields/7/type/BACKWARD"},
		{"branches reordered", []string{`["null", "string", "long"]`, `["null", "long", "string"]`}, "UNION_ORDER_CHANGED@/fields/7/type"},
		{"symbol added, default", []string{`["UNKNOWN", "NEW"]`, `["UNKNOWN", "NEW", "OLD"]`}, ""},
		{"symbol removed, default", []string{`["UNKNOWN", "NEW"]`, `["UNKNOWN"]`}, ""},
		{"symbol added", []string{`["A", "B"]`, `["A", "B", "C"]`}, "ENUM_SYMBOL_ADDED_NO_DEFAULT@/fields/8/type/FORWARD"},
		{"symbol removed", []string{`["A", "B"]`, `["A"]`}, "ENUM_SYMBOL_REMOVED@/fields/8/type/BACKWARD"},
		{"enum default", []string{`"default": "UNKNOWN"`, `"default": "NEW"`}, "ENUM_DEFAULT_CHANGED@/fields/2/type"},
		{"fixed", []string{`"size": 4`, `"size": 5`}, "FIXED_SIZE@/fields/9/type/BACKWARD FIXED_SIZE@/fields/9/type/FORWARD"},
		{"scale", []string{`"scale": 2`, `"scale": 3`}, "DECIMAL_PRECISION_SCALE@/fields/4/type/BACKWARD DECIMAL_PRECISION_SCALE@/fields/4/type/FORWARD"},
		{"millis", []string{`timestamp-micros`, `timestamp-millis`}, "LOGICAL_TYPE_CHANGED@/fields/1/type/BACKWARD LOGICAL_TYPE_CHANGED@/fields/1/type/FORWARD"},
		{"default", []string{`"default": 1`, `"default": 2`}, "DEFAULT_VALUE_CHANGED@/fields/6/default"},
		{"no pii", []string{`"doc": "A note.", "pii": true`, `"doc": "A note.", "pii": false`}, "TAG_PII_REMOVED@/fields/5"},
		{"nested renamed", []string{`"name": "Code"`, `"name": "Cipher"`}, "RECORD_RENAMED_NO_ALIAS@/fields/9/type/BACKWARD RECORD_RENAMED_NO_ALIAS@/fields/9/type/FORWARD"},
		{"event renamed", []string{`"ThingDone"`, `"ThingMade"`}, "DELETED_EVENT_TYPE@"},
		{"nested namespace", []string{`"name": "Code"`, `"name": "Code", "namespace": "org.others.v1"`}, "NAMESPACE_CHANGED@/fields/9/type"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			old, err := OldOf(folder(t, ""), "main")
			if err != nil {
				t.Fatal(err)
			}
			got, err := Breaking(folder(t, "", tc.replace...), old, "", 1)
			if err != nil {
				t.Fatal(err)
			}
			want, have := strings.Fields(tc.want), strings.Fields(rulesOf(got))
			slices.Sort(want)
			slices.Sort(have)
			if !slices.Equal(have, want) {
				t.Errorf("got %q, want %q", have, want)
				for _, f := range got {
					t.Log(f)
				}
			}
			for _, f := range got {
				if Explain(f.Rule) == "" || f.Fix == "" {
					t.Errorf("%s has no explanation, or no fix: %s", f.Rule, f)
				}
			}
			none, err := Breaking(folder(t, "", tc.replace...), old, "NONE", 1)
			if err != nil || len(none) > 0 && none[0].Rule != "DELETED_EVENT_TYPE" {
				t.Errorf("level NONE: %v, %v", none, err)
			}
			back, err := Breaking(folder(t, "levels: [{subjects: 'things.*', level: WIRE_BACKWARD_TRANSITIVE}]\n", tc.replace...), old, "", 1)
			if err != nil || strings.Contains(rulesOf(back), Forward) || strings.Count(rulesOf(back), Backward) != strings.Count(tc.want, Backward) {
				t.Errorf("level BACKWARD: %v, %v", back, err)
			}
		})
	}
}

// TestVersions names all versions that break in one finding.
func TestVersions(t *testing.T) {
	old := Old{Versions: map[string][]Version{}}
	for i := range 5 {
		grade := "1"
		if i == 2 {
			grade = "2"
		}
		f := folder(t, "", `"default": 1`, `"default": `+grade, "A thing", fmt.Sprint("A thing ", i))
		old.Versions["org.things.v1.ThingDone"] = append(old.Versions["org.things.v1.ThingDone"], Version{fmt.Sprint("v", i+1), f.Files[0].Schema})
	}
	got, err := Breaking(folder(t, "", `    {"name": "count"`, `    {"name": "extra", "type": "string", "doc": "x", "pii": false},`+"\n"+`    {"name": "count"`), old, "", 1)
	if err != nil || len(got) != 2 {
		t.Fatalf("got %v, %v", got, err)
	}
	want := `schemas/org.things.v1.ThingDone.avsc:12:5: error FIELD_ADDED_NO_DEFAULT /fields/3 "extra": new field without default; v1–v5 data cannot be read (BACKWARD). fix: add "default"`
	if got[0].String() != want {
		t.Errorf("got  %s\nwant %s", got[0], want)
	}
	if got[1].Rule != "DEFAULT_VALUE_CHANGED" || got[1].Against != "v3" {
		t.Errorf("got %+v, want a changed default against v3", got[1])
	}
}

// TestSimulation: a writer whose data the rules let pass, but which the codec cannot read, is found. The rules have no such hole that is known,
// so the verdict is left out.
func TestSimulation(t *testing.T) {
	is, was := folder(t, "").Files[0], folder(t, "", `"count", "type": "int"`, `"count", "type": "string"`).Files[0]
	c := &change{file: is, level: WireFull, merged: map[string]int{}}
	c.simulate(Backward, Version{"v1", was.Schema}, false, 1)
	c.simulate(Forward, Version{"v1", was.Schema}, false, 1)
	if got := rulesOf(c.found); got != "SIMULATION_FAILED@/BACKWARD SIMULATION_FAILED@/FORWARD" {
		t.Errorf("got %s", got)
	}
}

func TestSettings(t *testing.T) {
	for settings, want := range map[string]string{
		"levels: [{subjects: x, level: FULLER}]":    "is no level",
		"allow: [{rule: NO_SUCH, reason: because}]": "needs the name of a rule",
		"allow: [{rule: DOC_MISSING}]":              "and a reason",
	} {
		_, err := Read(fstest.MapFS{"a/contracts.yaml": &fstest.MapFile{Data: []byte("topic: things.events\n" + settings)}}, "schemas")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", settings, err, want)
		}
	}
	if _, err := Read(fstest.MapFS{}, "schemas"); err == nil {
		t.Error("an empty folder was read")
	}
}

// TestRetired: a type that moved to retired is not deleted, but it must not change there.
func TestRetired(t *testing.T) {
	was := folder(t, "")
	old, err := OldOf(was, "main")
	if err != nil {
		t.Fatal(err)
	}
	is := files(t, map[string]string{"contracts.yaml": "topic: other.events\n", "retired/org.things.v1.ThingDone.avsc": strings.Replace(good, `"count"`, `"number"`, 1)})[0]
	got, err := Breaking(is, old, "", 1)
	if want := "FIELD_RENAMED_NO_ALIAS@/FORWARD SUBJECT_STRATEGY_CHANGED@ FIELD_RENAMED_NO_ALIAS@/fields/3/BACKWARD"; err != nil || len(got) != 3 {
		t.Errorf("got %s, %v; want %s", rulesOf(got), err, want)
	}
}

func FuzzLocate(f *testing.F) {
	f.Add(good, "/fields/3")
	f.Add("{", "/a")
	f.Fuzz(func(t *testing.T, text, pointer string) {
		line, col := locate(text, pointer)
		if line < 1 || col < 1 || line > strings.Count(text, "\n")+1 {
			t.Errorf("%d:%d in %q", line, col, text)
		}
	})
}
