package contract

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hamba/avro/v2"
	oracle "github.com/twmb/avro"
)

// TestEvolution is the whole evolution table: what a reader may do with what an older or newer writer wrote. Where our verdict is
// stricter than Avro's rules for types, the rule is one of ours.
func TestEvolution(t *testing.T) {
	f := func(name, typ, more string) string { return fmt.Sprintf(`{"name":%q,"type":%s%s}`, name, typ, more) }
	one := func(typ string) string { return rec(f("f", typ, "")) }
	enum := func(symbols, more string) string {
		return fmt.Sprintf(`{"type":"enum","name":"E","symbols":%s%s}`, symbols, more)
	}
	decimal := func(p, s int) string {
		return fmt.Sprintf(`{"type":"bytes","logicalType":"decimal","precision":%d,"scale":%d}`, p, s)
	}
	logical := func(typ, l string) string { return fmt.Sprintf(`{"type":%q,"logicalType":%q}`, typ, l) }
	fixed := func(name string, size int) string {
		return fmt.Sprintf(`{"type":"fixed","name":%q,"size":%d}`, name, size)
	}
	a, b := f("a", `"int"`, ""), f("b", `"string"`, "")
	for _, c := range []struct{ name, reader, writer, rules string }{ // rules: "rule pointer …", empty = compatible
		{"add a field with a default", rec(a + "," + f("b", `"string"`, `,"default":""`)), rec(a), ""},
		{"add a field without one", rec(a + "," + b), rec(a), RuleDefault + " /fields/1"},
		{"add two fields without one", rec(a + "," + b + "," + f("c", `"int"`, "")), rec(a), RuleDefault + " /fields/1 " + RuleDefault + " /fields/2"},
		{"remove a field", rec(a), rec(a + "," + b), ""},
		{"reorder fields", rec(b + "," + a), rec(a + "," + b), ""},
		{"rename a field with an alias on the reader", rec(f("n", `"int"`, `,"aliases":["a"]`)), rec(a), ""},
		{"rename a field without an alias", rec(f("n", `"int"`, "")), rec(a), RuleDefault + " /fields/0"},
		{"rename a field with an alias on the writer only", rec(f("n", `"int"`, "")), rec(f("a", `"int"`, `,"aliases":["n"]`)), RuleDefault + " /fields/0"},
		{"int to long", one(`"long"`), one(`"int"`), ""},
		{"int to float", one(`"float"`), one(`"int"`), ""},
		{"int to double", one(`"double"`), one(`"int"`), ""},
		{"long to float", one(`"float"`), one(`"long"`), ""},
		{"long to double", one(`"double"`), one(`"long"`), ""},
		{"float to double", one(`"double"`), one(`"float"`), ""},
		{"string to bytes", one(`"bytes"`), one(`"string"`), ""},
		{"bytes to string", one(`"string"`), one(`"bytes"`), ""},
		{"long to int", one(`"int"`), one(`"long"`), RuleType + " /fields/0/type"},
		{"float to int", one(`"int"`), one(`"float"`), RuleType + " /fields/0/type"},
		{"double to float", one(`"float"`), one(`"double"`), RuleType + " /fields/0/type"},
		{"double to long", one(`"long"`), one(`"double"`), RuleType + " /fields/0/type"},
		{"string to int", one(`"int"`), one(`"string"`), RuleType + " /fields/0/type"},
		{"int to string", one(`"string"`), one(`"int"`), RuleType + " /fields/0/type"},
		{"boolean to int", one(`"int"`), one(`"boolean"`), RuleType + " /fields/0/type"},
		{"string to enum", one(enum(`["A"]`, "")), one(`"string"`), RuleType + " /fields/0/type"},
		{"enum to string", one(`"string"`), one(enum(`["A"]`, "")), RuleType + " /fields/0/type"},
		{"bytes to fixed", one(fixed("F", 2)), one(`"bytes"`), RuleType + " /fields/0/type"},
		{"enum loses a symbol", one(enum(`["A"]`, "")), one(enum(`["A","B"]`, "")), RuleSymbol + " /fields/0/type"},
		{"enum loses a symbol, with a default", one(enum(`["A"]`, `,"default":"A"`)), one(enum(`["A","B"]`, "")), ""},
		{"enum loses a symbol, with a default of the field only", rec(f("f", enum(`["A"]`, ""), `,"default":"A"`)), one(enum(`["A","B"]`, "")), RuleSymbol + " /fields/0/type"},
		{"enum gets a symbol", one(enum(`["A","B"]`, "")), one(enum(`["A"]`, "")), ""},
		{"enum reordered", one(enum(`["B","A"]`, "")), one(enum(`["A","B"]`, "")), ""},
		{"enum renamed with an alias", one(strings.Replace(enum(`["A"]`, `,"aliases":["E"]`), `"E"`, `"G"`, 1)), one(enum(`["A"]`, "")), ""},
		{"enum renamed without an alias", one(strings.Replace(enum(`["A"]`, ""), `"E"`, `"G"`, 1)), one(enum(`["A"]`, "")), RuleName + " /fields/0/type"},
		{"T to nullable T", one(`["null","string"]`), one(`"string"`), ""},
		{"add a branch", one(`["null","string","int"]`), one(`["null","string"]`), ""},
		{"reorder branches", one(`["string","null"]`), one(`["null","string"]`), ""},
		{"nullable T to T", one(`"string"`), one(`["null","string"]`), RuleType + " /fields/0/type"},
		{"remove a branch", one(`["null","string"]`), one(`["null","string","int"]`), RuleBranch + " /fields/0/type"},
		{"[int, long] to long", one(`"long"`), one(`["int","long"]`), ""},
		{"T to a union without it", one(`["null","int"]`), one(`"string"`), RuleBranch + " /fields/0/type"},
		{"T to a union that promotes it", one(`["null","double"]`), one(`"int"`), ""},
		{"record renamed without an alias", strings.Replace(rec(a), "a.R", "a.S", 1), rec(a), RuleName + " "},
		{"record renamed with an alias", strings.Replace(rec(a), `"a.R"`, `"a.S","aliases":["a.R"]`, 1), rec(a), ""},
		{"record renamed with a short alias", strings.Replace(rec(a), `"a.R"`, `"a.S","aliases":["R"]`, 1), rec(a), ""},
		{"namespace changed", strings.Replace(rec(a), "a.R", "b.R", 1), rec(a), ""},
		{"fixed of another size", one(fixed("F", 3)), one(fixed("F", 2)), RuleFixedSize + " /fields/0/type"},
		{"fixed of another name", one(fixed("G", 2)), one(fixed("F", 2)), RuleName + " /fields/0/type"},
		{"array item changed", one(`{"type":"array","items":"int"}`), one(`{"type":"array","items":"string"}`), RuleType + " /fields/0/type/items"},
		{"array item promoted", one(`{"type":"array","items":"long"}`), one(`{"type":"array","items":"int"}`), ""},
		{"map value changed", one(`{"type":"map","values":"int"}`), one(`{"type":"map","values":"string"}`), RuleType + " /fields/0/type/values"},
		{"map to array", one(`{"type":"array","items":"int"}`), one(`{"type":"map","values":"int"}`), RuleType + " /fields/0/type"},
		{"nested record gets a field", one(`{"type":"record","name":"N","fields":[` + b + `]}`), one(`{"type":"record","name":"N","fields":[]}`), RuleDefault + " /fields/0/type/fields/0"},
		{"decimal scale", one(decimal(10, 4)), one(decimal(10, 2)), RuleDecimal + " /fields/0/type"},
		{"decimal precision", one(decimal(12, 2)), one(decimal(10, 2)), RuleDecimal + " /fields/0/type"},
		{"decimal unchanged", one(decimal(10, 2)), one(decimal(10, 2)), ""},
		{"decimal to bytes", one(`"bytes"`), one(decimal(10, 2)), RuleLogical + " /fields/0/type"},
		{"decimal on fixed, scale", one(`{"type":"fixed","name":"F","size":8,"logicalType":"decimal","precision":9,"scale":3}`),
			one(`{"type":"fixed","name":"F","size":8,"logicalType":"decimal","precision":9,"scale":2}`), RuleDecimal + " /fields/0/type"},
		{"timestamp-millis to micros", one(logical("long", "timestamp-micros")), one(logical("long", "timestamp-millis")), RuleLogical + " /fields/0/type"},
		{"long to timestamp-micros", one(logical("long", "timestamp-micros")), one(`"long"`), RuleLogical + " /fields/0/type"},
		{"time-millis to time-micros, int to long", one(logical("long", "time-micros")), one(logical("int", "time-millis")), RuleLogical + " /fields/0/type"},
		{"string to uuid", one(logical("string", "uuid")), one(`"string"`), RuleLogical + " /fields/0/type"},
		{"an unknown logical type", one(logical("long", "stardate")), one(`"long"`), ""},
		{"timestamp in a union", one(`["null",` + logical("long", "timestamp-micros") + `]`), one(`["null",` + logical("long", "timestamp-millis") + `]`), RuleLogical + " /fields/0/type/1"},
		{"union default that is not of the first branch", rec(f("f", `["null","int"]`, `,"default":1`)), rec(""), ""},
		{"two fields claim one by alias", rec(f("x", `"int"`, `,"aliases":["a"]`) + "," + f("y", `"int"`, `,"aliases":["a"]`)), rec(a), RuleAlias + " /fields/1"},
		{"an alias that is a field too", rec(f("x", `"int"`, `,"aliases":["a"]`) + "," + a), rec(a), RuleAlias + " /fields/1"},
		{"recursive type gets a field with a default", rec(f("next", `["null","R"]`, "") + "," + f("v", `"int"`, `,"default":1`)), rec(f("next", `["null","R"]`, "")), ""},
		{"recursive type gets a field without one", rec(f("next", `["null","R"]`, "") + "," + a), rec(f("next", `["null","R"]`, "")), RuleDefault + " /fields/1"},
		{"default changed", rec(f("a", `"int"`, `,"default":2`)), rec(f("a", `"int"`, `,"default":1`)), ""},
		{"doc and properties changed", rec(f("a", `"int"`, `,"doc":"x","pii":true`)), rec(a), ""},
		{"identical", rec(a + "," + b), rec(a + "," + b), ""},
		{"several faults", rec(f("a", `"string"`, "") + "," + f("t", logical("long", "timestamp-micros"), "") + "," + f("n", `"int"`, "")),
			rec(a + "," + f("t", logical("long", "timestamp-millis"), "")), RuleType + " /fields/0/type " + RuleLogical + " /fields/1/type " + RuleDefault + " /fields/2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, i := range Compatible(mustParse(t, c.reader), mustParse(t, c.writer)) {
				got = append(got, i.Rule+" "+i.Pointer)
				if i.Message == "" || strings.HasSuffix(i.Message, ".") {
					t.Errorf("message %q", i.Message)
				}
			}
			if s := strings.Join(got, " "); s != c.rules {
				t.Errorf("got %q, want %q", s, c.rules)
			}
			otherVerdicts(t, c.name, c.reader, c.writer, c.rules)
		})
	}
}

// otherVerdicts compares a verdict of the table with those of the bare library, which knows Avro's rules for types and none of ours, and of the oracle.
func otherVerdicts(t *testing.T, name, reader, writer, rules string) {
	t.Helper()
	typed := rules // what Avro's own rules say
	for _, own := range []string{RuleLogical, RuleDecimal, RuleAlias} {
		for {
			at := strings.Index(typed, own)
			if at < 0 {
				break
			}
			rest := strings.SplitN(typed[at:], " ", 3)
			typed = typed[:at] + strings.Join(rest[min(2, len(rest)):], " ")
		}
	}
	typed = strings.TrimSpace(typed)
	var library error
	r, err1 := avro.ParseWithCache(reader, "", &avro.SchemaCache{})
	w, err2 := avro.ParseWithCache(writer, "", &avro.SchemaCache{})
	if err1 == nil && err2 == nil { // it cannot read all of Avro 1.12
		library = avro.NewSchemaCompatibility().Compatible(r, w)
		if (library == nil) != (typed == "") {
			t.Errorf("the library says %v", library)
		}
	} else if name != "union default that is not of the first branch" {
		t.Errorf("the library cannot read it: %v, %v", err1, err2)
	}
	// The oracle finds decimals as well, and refuses aliases that collide when it reads the text.
	theirs, err := oracle.Parse(reader)
	if err == nil {
		err = oracle.CheckCompatibility(oracle.MustParse(writer), theirs)
	}
	if (err == nil) != (typed == "" && !strings.Contains(rules, RuleDecimal) && !strings.Contains(rules, RuleAlias)) {
		t.Errorf("the oracle says %v", err)
	}
}

// TestManyFindings compares schemas that use one incompatible type in 2^12 places: it is reported once.
func TestManyFindings(t *testing.T) {
	levels := func(leaf string) string {
		s := leaf
		for i := range 12 {
			s = fmt.Sprintf(`{"type":"record","name":"L%d","fields":[%s,%s]}`, i, fld("x", s), fld("y", fmt.Sprintf("%q", nameIn(s))))
		}
		return s
	}
	r := mustParse(t, levels(`{"type":"record","name":"Leaf","fields":[{"name":"v","type":"int"}]}`))
	w := mustParse(t, levels(`{"type":"record","name":"Leaf","fields":[{"name":"v","type":"string"}]}`))
	found := Compatible(r, w)
	if len(found) != 1 || !slices.ContainsFunc(found, func(i Incompatibility) bool { return i.Rule == RuleType }) {
		t.Errorf("got %d findings: %v", len(found), found[:min(len(found), 3)])
	}
}
