package contract

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/platform/fault"
)

func rec(fields string) string { return `{"type":"record","name":"a.R","fields":[` + fields + `]}` }

func fld(name, typ string) string { return fmt.Sprintf(`{"name":%q,"type":%s}`, name, typ) }

func withDefault(typ, def string) string {
	return rec(fmt.Sprintf(`{"name":"f","type":%s,"default":%s}`, typ, def))
}

func TestParseAccepts(t *testing.T) {
	for _, c := range []struct{ name, text, fullName string }{
		{"primitive", `"string"`, ""},
		{"primitive as an object", `{"type":"long","logicalType":"timestamp-micros"}`, ""},
		{"namespace", `{"type":"record","name":"R","namespace":"a.b","fields":[]}`, "a.b.R"},
		{"full name wins", `{"type":"record","name":"x.R","namespace":"a.b","fields":[]}`, "x.R"},
		{"no namespace inside a namespace", rec(fld("f", `{"type":"enum","name":"E","namespace":"","symbols":["A"]}`) + "," + fld("g", `{"type":"array","items":"a.R"}`)), "a.R"},
		{"reference by short name", rec(fld("f", `{"type":"fixed","name":"F","size":4}`) + "," + fld("g", `"F"`) + "," + fld("h", `{"type":"a.F"}`)), "a.R"},
		{"recursion", rec(fld("next", `["null","R"]`)), "a.R"},
		{"unknown properties", `{"type":"record","name":"R","owner":"me","x":{"y":[1,2]},"fields":[{"name":"f","type":"int","pii":true}]}`, "R"},
		{"unknown logical type", rec(fld("f", `{"type":"long","logicalType":"stardate"}`)), "a.R"},
		{"misplaced logical type", rec(fld("f", `{"type":"string","logicalType":"date"}`)), "a.R"},
		{"empty record", rec(""), "a.R"},
		{"default of a later branch", withDefault(`["null","long"]`, "7"), "a.R"},
		{"null default", withDefault(`["long","null"]`, "null"), "a.R"},
		{"largest long", withDefault(`"long"`, "9223372036854775807"), "a.R"},
		{"smallest int", withDefault(`"int"`, "-2147483648"), "a.R"},
		{"bytes", withDefault(`"bytes"`, `"\u00ff\u0000"`), "a.R"},
		{"fixed", withDefault(`{"type":"fixed","name":"F","size":2}`, `"\u00ffa"`), "a.R"},
		{"array", withDefault(`{"type":"array","items":"int"}`, "[1,2]"), "a.R"},
		{"map", withDefault(`{"type":"map","values":"double"}`, `{"a":1e3}`), "a.R"},
		{"record with a field's own default", withDefault(`{"type":"record","name":"I","fields":[{"name":"x","type":"int","default":3},{"name":"y","type":"int"}]}`, `{"y":4}`), "a.R"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Parse(c.text)
			if err != nil {
				t.Fatal(err)
			}
			if s.Name() != c.fullName || s.Text() != c.text {
				t.Errorf("got %q, %q", s.Name(), s.Text())
			}
			if _, err := s.wire(); err != nil {
				t.Errorf("the library does not take its structure: %v", err)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	nest := func(n int, before, after string) string {
		return strings.Repeat(before, n) + `"int"` + strings.Repeat(after, n)
	}
	chain := func(n int) string { // each record has two fields of the one before: 2^n types when written out
		fields := []string{fld("f0", `{"type":"record","name":"R0","fields":[]}`)}
		for i := 1; i < n; i++ {
			fields = append(fields, fld(fmt.Sprint("f", i), fmt.Sprintf(`{"type":"record","name":"R%d","fields":[%s,%s]}`, i,
				fld("x", fmt.Sprintf(`"R%d"`, i-1)), fld("y", fmt.Sprintf(`"R%d"`, i-1)))))
		}
		return rec(strings.Join(fields, ","))
	}
	wide := func(n int) string {
		fields := []string{fld("next", `["null","R"]`)}
		for i := range n {
			fields = append(fields, fld(fmt.Sprint("f", i), fmt.Sprintf(`{"type":"fixed","name":"F%d","size":1}`, i)))
		}
		return rec(strings.Join(fields, ","))
	}
	// Each of n items of the default fits the second branch of the items' union, after all width^levels ways to read it as the first failed.
	ways := func(levels, width, n int) string {
		item, typ, other := `"no"`, `"int"`, `"string"`
		for l := range levels {
			var branches []string
			for i := range width {
				f := typ
				if i > 0 && l > 0 {
					f = refs(l-1, width)
				}
				branches = append(branches, fmt.Sprintf(`{"type":"record","name":"U%dx%d","fields":[%s]}`, l, i, fld("f", f)))
			}
			typ, item, other = "["+strings.Join(branches, ",")+"]", `{"f":`+item+`}`, `{"type":"map","values":`+other+`}`
		}
		items := fmt.Sprintf(`[{"type":"record","name":"Top","fields":[%s]},{"type":"map","values":%s}]`, fld("f", typ), other)
		return withDefault(`{"type":"array","items":`+items+`}`, "["+strings.TrimSuffix(strings.Repeat(`{"f":`+item+`},`, n), ",")+"]")
	}
	if _, err := Parse(ways(3, 6, 1)); err != nil {
		t.Fatalf("the default that is tried in many ways is not valid itself: %v", err)
	}
	for _, c := range []struct{ name, text, pointer string }{
		{"empty", ``, ""},
		{"not JSON", `{"type":`, ""},
		{"a bare word", `string`, ""},
		{"two schemas", `"string" "string"`, ""},
		{"trailing comma", `["null",]`, ""},
		{"not UTF-8", "\"\xff\"", ""},
		{"a number", `7`, ""},
		{"null", `null`, ""},
		{"key given twice", `{"type":"int","type":"long"}`, "/type"},
		{"no type", rec(`{"name":"f"}`), "/fields/0"},
		{"type that is an object", `{"type":{"type":"int"}}`, "/type"},
		{"unknown type", rec(fld("f", `"Nowhere"`)), "/fields/0/type"},
		{"name used before it is defined", rec(fld("f", `"a.E"`) + "," + fld("g", `{"type":"enum","name":"E","symbols":["A"]}`)), "/fields/0/type"},
		{"defined twice", rec(fld("f", `{"type":"fixed","name":"F","size":1}`) + "," + fld("g", `{"type":"fixed","name":"F","size":1}`)), "/fields/1/type/name"},
		{"no name", `{"type":"record","fields":[]}`, ""},
		{"bad name", `{"type":"record","name":"1R","fields":[]}`, "/name"},
		{"bad namespace", `{"type":"record","name":"R","namespace":"a..b","fields":[]}`, "/name"},
		{"name of a primitive", `{"type":"record","name":"int","fields":[]}`, "/name"},
		{"bad alias", `{"type":"record","name":"R","aliases":["-"],"fields":[]}`, "/aliases/0"},
		{"aliases that are no list", `{"type":"record","name":"R","aliases":"x","fields":[]}`, "/aliases"},
		{"no fields", `{"type":"record","name":"R"}`, ""},
		{"field twice", rec(fld("f", `"int"`) + "," + fld("f", `"int"`)), "/fields/1/name"},
		{"bad field name", rec(fld("f-g", `"int"`)), "/fields/0/name"},
		{"bad field alias", rec(`{"name":"f","type":"int","aliases":["a.b"]}`), "/fields/0/aliases/0"},
		{"bad order", rec(`{"name":"f","type":"int","order":"up"}`), "/fields/0/order"},
		{"doc that is a number", `{"type":"record","name":"R","doc":1,"fields":[]}`, "/doc"},
		{"empty union", `[]`, ""},
		{"union in a union", `["null",["int"]]`, "/1"},
		{"branch twice", `["int","null","int"]`, "/2"},
		{"two longs of different meaning", `["long",{"type":"long","logicalType":"timestamp-micros"}]`, "/1"},
		{"array without items", `{"type":"array"}`, ""},
		{"map without values", `{"type":"map","items":"int"}`, ""},
		{"enum without symbols", `{"type":"enum","name":"E","symbols":[]}`, ""},
		{"symbol twice", `{"type":"enum","name":"E","symbols":["A","A"]}`, "/symbols/1"},
		{"bad symbol", `{"type":"enum","name":"E","symbols":["A b"]}`, "/symbols/0"},
		{"enum default that is no symbol", `{"type":"enum","name":"E","symbols":["A"],"default":"B"}`, "/default"},
		{"fixed without a size", `{"type":"fixed","name":"F"}`, ""},
		{"negative size", `{"type":"fixed","name":"F","size":-1}`, ""},
		{"huge size", `{"type":"fixed","name":"F","size":1048577}`, ""},
		{"int default with a fraction", withDefault(`"int"`, "1.5"), "/fields/0/default"},
		{"int default out of range", withDefault(`"int"`, "3000000000"), "/fields/0/default"},
		{"long default out of range", withDefault(`"long"`, "9223372036854775808"), "/fields/0/default"},
		{"float default out of range", withDefault(`"float"`, "1e39"), "/fields/0/default"},
		{"double default out of range", withDefault(`"double"`, "1e309"), "/fields/0/default"},
		{"double default that is a string", withDefault(`"double"`, `"1"`), "/fields/0/default"},
		{"boolean default", withDefault(`"boolean"`, `0`), "/fields/0/default"},
		{"null default for an int", withDefault(`"int"`, `null`), "/fields/0/default"},
		{"bytes default beyond a byte", withDefault(`"bytes"`, `"\u0100"`), "/fields/0/default"},
		{"fixed default of another size", withDefault(`{"type":"fixed","name":"F","size":2}`, `"a"`), "/fields/0/default"},
		{"enum default of a field", withDefault(`{"type":"enum","name":"E","symbols":["A"],"default":"A"}`, `"B"`), "/fields/0/default"},
		{"array default with a wrong item", withDefault(`{"type":"array","items":"int"}`, `[1,"2"]`), "/fields/0/default/1"},
		{"map default with a wrong value", withDefault(`{"type":"map","values":"int"}`, `{"a/b":null}`), "/fields/0/default/a~1b"},
		{"record default that lacks a field", withDefault(`{"type":"record","name":"I","fields":[{"name":"y","type":"int"}]}`, `{}`), "/fields/0/default"},
		{"record default with more fields", withDefault(`{"type":"record","name":"I","fields":[]}`, `{"z":1}`), "/fields/0/default"},
		{"union default that fits no branch", withDefault(`["null","int"]`, `"x"`), "/fields/0/default"},
		{"default that contains itself", withDefault(`["a.R","null"]`, `{}`), "/fields/0/default"},
		{"JSON of 100,000 levels", strings.Repeat("[", 100_000), ""},
		{"JSON properties of 300 levels", `{"type":"int","x":` + strings.Repeat("[", 300) + strings.Repeat("]", 300) + `}`, ""},
		{"types of 65 levels", nest(65, `{"type":"array","items":`, `}`), ""},
		{"exponential references", chain(32), ""},
		{"default of too much work", ways(3, 6, 5000), "/fields/0/default"},
		{"recursive with 100 types", wide(100), ""},
		{"257 KB", `{"type":"int","doc":"` + strings.Repeat("x", 257<<10) + `"}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse(c.text)
			if !errors.Is(err, ErrSchema) {
				t.Fatalf("got %v, want ErrSchema", err)
			}
			if f := fault.From(err).Fields; c.pointer != "" && (len(f) != 1 || !strings.HasPrefix(f[0].Pointer, c.pointer)) {
				t.Errorf("got %v, want the pointer %s", f, c.pointer)
			}
			if len(err.Error()) > 2000 {
				t.Errorf("the message has %d bytes", len(err.Error()))
			}
		})
	}
}

func refs(level, width int) string {
	var names []string
	for i := range width {
		names = append(names, fmt.Sprintf(`"U%dx%d"`, level, i))
	}
	return "[" + strings.Join(names, ",") + "]"
}
