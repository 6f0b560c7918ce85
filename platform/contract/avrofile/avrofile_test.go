package avrofile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hamba/avro/v2/ocf"

	"github.com/millrace/millrace/platform/fault"
)

type base struct {
	ID   string `json:"id"`
	Kind int8   `json:"kind,omitempty"`
}

type optional struct {
	Note string `json:"note"`
}

type status string

type upper string

func (u upper) MarshalText() ([]byte, error) { return []byte(strings.ToUpper(string(u))), nil }
func (u *upper) UnmarshalText(b []byte) error {
	*u = upper(strings.ToLower(string(b)))
	return nil
}

type odd struct{ n int }

func (o odd) MarshalJSON() ([]byte, error) { return fmt.Appendf(nil, `{"odd":[%d]}`, o.n), nil }
func (o *odd) UnmarshalJSON(b []byte) error {
	_, err := fmt.Sscanf(string(b), `{"odd":[%d]}`, &o.n)
	return err
}

type line struct {
	SKU    string `json:"sku"`
	Amount *int64 `json:"amount"`
}

type tree struct {
	Name string `json:"name"`
	Kids []tree `json:"kids"`
	Next *tree  `json:"next,omitempty"`
}

type nest []nest

type pair[A, B any] struct {
	A A `json:"a"`
	B B `json:"b"`
}

// all has a field of every kind.
type all struct {
	base
	*optional
	Bool     bool                       `json:"bool"`
	I8       int8                       `json:"i8"`
	I16      int16                      `json:"i16"`
	I32      int32                      `json:"i32"`
	I64      int64                      `json:"i64"`
	Int      int                        `json:"int"`
	U8       uint8                      `json:"u8"`
	U16      uint16                     `json:"u16"`
	U32      uint32                     `json:"u32"`
	U64      uint64                     `json:"u64"`
	Uint     uint                       `json:"uint"`
	F32      float32                    `json:"f32"`
	F64      float64                    `json:"f64"`
	Text     string                     `json:"text"`
	Status   status                     `json:"status,omitempty"`
	Upper    upper                      `json:"upper"`
	Addr     netip.Addr                 `json:"addr"`
	At       time.Time                  `json:"at"`
	Until    *time.Time                 `json:"until,omitempty"`
	Wait     time.Duration              `json:"wait"`
	Bytes    []byte                     `json:"bytes"`
	Hash     [3]byte                    `json:"hash"`
	Array    [2]string                  `json:"array"`
	List     []int64                    `json:"list"`
	Texts    []*string                  `json:"texts"`
	Lines    []line                     `json:"lines"`
	Map      map[string]int64           `json:"map"`
	ByNumber map[int]map[upper][]string `json:"by_number"`
	Pointer  **int32                    `json:"pointer"`
	Line     *line                      `json:"line"`
	Raw      json.RawMessage            `json:"raw"`
	Number   json.Number                `json:"number"`
	Odd      odd                        `json:"odd"`
	Odds     []odd                      `json:"odds"`
	Tree     tree                       `json:"tree"`
	Nest     nest                       `json:"nest"`
	Pair     pair[string, int64]        `json:"pair"`
	Quoted   int64                      `json:"quoted,string"`
	QText    string                     `json:"q_text,string"`
	QPointer *uint64                    `json:"q_pointer,string"`
	Nameless struct {
		X int64 `json:"x"`
	} `json:"nameless"`
	Dashed  int64    `json:"größe-in m"`
	Dashed2 int64    `json:"gr__e_in_m"`
	Digit   int64    `json:"1st"`
	Empty   struct{} `json:"empty"`
	Plain   int64
	Many    map[string]*line `json:"many"`
}

func of[T any](v T) *T { return &v }

func full() all {
	seven := of(int32(7))
	return all{
		base: base{"a-1", -8}, optional: &optional{"there"}, Bool: true, I8: math.MinInt8, I16: math.MinInt16, I32: math.MinInt32, I64: math.MinInt64, Int: math.MaxInt,
		U8: math.MaxUint8, U16: math.MaxUint16, U32: math.MaxUint32, U64: math.MaxUint64, Uint: 1 << 63, F32: 0.1, F64: math.MaxFloat64, Text: "a <b> \" \\ \u2028 ü\n\x00", Status: "placed", Upper: "loud",
		Addr: netip.MustParseAddr("::1"), At: time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.FixedZone("", 5400)), Until: of(time.Unix(-1, 0).UTC()), Wait: time.Hour,
		Bytes: []byte{0, 255}, Hash: [3]byte{1, 2, 3}, Array: [2]string{"x", "y"}, List: []int64{3, -1}, Texts: []*string{nil, of("t")}, Lines: []line{{"cd", of(int64(5))}, {"lp", nil}},
		Map: map[string]int64{"b": 2, "a": 1, "": 0}, ByNumber: map[int]map[upper][]string{-4: {"k": {"v"}, "n": nil}}, Pointer: &seven, Line: &line{SKU: "one"},
		Raw: json.RawMessage(`{"x":[1,"]",{}]}`), Number: "12.50", Odd: odd{3}, Odds: []odd{{1}, {2}}, Tree: tree{"root", []tree{{"kid", nil, &tree{"next", []tree{}, nil}}}, nil}, Nest: nest{nil, nest{}},
		Pair: pair[string, int64]{"p", 1}, Quoted: -12, QText: `in "quotes"`, QPointer: of(uint64(9)), Nameless: struct {
			X int64 `json:"x"`
		}{4}, Dashed: 1, Dashed2: 2, Digit: 3, Plain: 5, Many: map[string]*line{"none": nil, "one": {"m", nil}},
	}
}

// file writes rows, and reads them with the library's own reader.
func file(t testing.TB, f *Form, rows ...Row) (meta map[string][]byte, got []map[string]any, whole []byte) {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, f, map[string]string{"millrace.view": "things"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		if err := w.Write(&rows[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	whole = bytes.Clone(b.Bytes())
	d, err := ocf.NewDecoder(&b)
	if err != nil {
		t.Fatal(err)
	}
	for d.HasNext() {
		var v map[string]any
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		got = append(got, v)
	}
	if d.Error() != nil {
		t.Fatal(d.Error())
	}
	return d.Metadata(), got, whole
}

func form(t testing.TB, v any, o Options) *Form {
	t.Helper()
	o.View = "things"
	f, err := For(reflect.TypeOf(v), o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func asJSON(t testing.TB, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var rats = cmp.Comparer(func(a, b *big.Rat) bool { return a.Cmp(b) == 0 })

func rat(n uint64) *big.Rat { return new(big.Rat).SetInt(new(big.Int).SetUint64(n)) }

// union is how the library decodes a value that is not null of a union of null and a type that has a name.
func union(name string, v any) map[string]any { return map[string]any{name: v} }

// TestKinds writes a row with a field of every kind and reads it with the library's own reader.
func TestKinds(t *testing.T) {
	v := full()
	meta, got, _ := file(t, form(t, v, Options{Explain: true}), Row{Key: "a-1", Position: "things.events/3@4", EventID: "e", JSON: asJSON(t, v)})
	if string(meta["millrace.view"]) != "things" || string(meta["avro.codec"]) != "deflate" {
		t.Errorf("metadata %q", meta)
	}
	want := map[string]any{"key": "a-1", "position": "things.events/3@4", "event_id": "e", "row": map[string]any{
		"id": "a-1", "kind": -8, "note": "there", "bool": true, "i8": math.MinInt8, "i16": math.MinInt16, "i32": math.MinInt32, "i64": int64(math.MinInt64), "int": int64(math.MaxInt64),
		"u8": math.MaxUint8, "u16": math.MaxUint16, "u32": int64(math.MaxUint32), "u64": rat(math.MaxUint64), "uint": rat(1 << 63), "f32": float32(0.1), "f64": math.MaxFloat64,
		"text": "a <b> \" \\ \u2028 ü\n\x00", "status": "placed", "upper": "LOUD", "addr": "::1", "at": time.Date(2026, 1, 2, 1, 34, 5, 678901000, time.UTC), "until": time.Unix(-1, 0).UTC(),
		"wait": int64(time.Hour), "bytes": []byte{0, 255}, "hash": []any{1, 2, 3}, "array": []any{"x", "y"}, "list": union("array", []any{int64(3), int64(-1)}), "texts": union("array", []any{nil, "t"}),
		"lines": union("array", []any{map[string]any{"sku": "cd", "amount": int64(5)}, map[string]any{"sku": "lp", "amount": nil}}), "map": union("map", map[string]any{"": int64(0), "a": int64(1), "b": int64(2)}),
		"by_number": union("map", map[string]any{"-4": union("map", map[string]any{"k": union("array", []any{"v"}), "n": nil})}), "pointer": 7,
		"line": union("millrace.views.things.line", map[string]any{"sku": "one", "amount": nil}), "raw": `{"x":[1,"]",{}]}`, "number": "12.50", "odd": `{"odd":[3]}`, "odds": union("array", []any{`{"odd":[1]}`, `{"odd":[2]}`}),
		"tree": map[string]any{"name": "root", "kids": union("array", []any{map[string]any{"name": "kid", "kids": nil, "next": union("millrace.views.things.tree", map[string]any{"name": "next", "kids": union("array", []any{}), "next": nil})}}), "next": nil},
		"nest": union("array", []any{nil, "[]"}), "pair": map[string]any{"a": "p", "b": int64(1)}, "quoted": int64(-12), "q_text": `in "quotes"`, "q_pointer": rat(9),
		"nameless": map[string]any{"x": int64(4)}, "gr__e_in_m": int64(1), "gr__e_in_m_2": int64(2), "_1st": int64(3), "empty": map[string]any{}, "Plain": int64(5),
		"many": union("map", map[string]any{"none": nil, "one": union("millrace.views.things.line", map[string]any{"sku": "m", "amount": nil})}),
	}}
	if diff := cmp.Diff([]map[string]any{want}, got, rats); diff != "" {
		t.Error(diff)
	}
}

// TestAbsent writes what older code left out, and what nobody set: the zero row is what is read of an empty object.
func TestAbsent(t *testing.T) {
	f := form(t, all{}, Options{})
	_, got, _ := file(t, f, Row{JSON: asJSON(t, all{})}, Row{JSON: []byte(" {} ")}, Row{JSON: []byte(`{"gone":[{"a":"}"}],"text":null}`)}, Row{JSON: []byte("null")})
	// What is no null in JSON though its Go value is zero.
	zero := got[0]["row"].(map[string]any)
	for name, text := range map[string]string{"number": "0", "odd": `{"odd":[0]}`} {
		if zero[name] != text {
			t.Errorf("%s is %v, want %s", name, zero[name], text)
		}
		zero[name] = nil
	}
	for i := range got[1:] {
		if diff := cmp.Diff(got[0], got[i+1], rats); diff != "" {
			t.Errorf("row %d: %s", i+1, diff)
		}
	}
	if at := zero["at"]; at != (time.Time{}) {
		t.Errorf("the zero time is %v", at)
	}
	if zero["note"] != nil || zero["id"] != "" || zero["list"] != nil || zero["line"] != nil {
		t.Errorf("%v", zero)
	}
}

var nameForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// TestSchema looks at the schema itself: names that Avro takes, each once, and the name in JSON where that is another one.
func TestSchema(t *testing.T) {
	f := form(t, all{}, Options{Doc: "rows of \"things\""})
	var schema map[string]any
	if err := json.Unmarshal([]byte(f.Schema()), &schema); err != nil {
		t.Fatal(err)
	}
	if schema["doc"] != `rows of "things"` || schema["name"] != "Entry" || schema["namespace"] != "millrace.views.things" {
		t.Errorf("%v", schema)
	}
	records := map[string]bool{}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, v := range v {
				walk(v)
			}
		case map[string]any:
			if v["type"] == "record" {
				name := v["name"].(string)
				if records[name] || !nameForm.MatchString(name) {
					t.Errorf("record %q", name)
				}
				records[name] = true
				fields := map[string]bool{}
				for _, field := range v["fields"].([]any) {
					name := field.(map[string]any)["name"].(string)
					if fields[name] || !nameForm.MatchString(name) {
						t.Errorf("field %q", name)
					}
					fields[name] = true
				}
			}
			for _, v := range v {
				walk(v)
			}
		}
	}
	walk(schema)
	if want := map[string]bool{"Entry": true, "all": true, "line": true, "tree": true, "pair": true, "all_nameless": true, "all_empty": true}; !cmp.Equal(records, want) {
		t.Errorf("records %v, want %v", records, want)
	}
	for _, want := range []string{`{"name":"gr__e_in_m","json":"größe-in m","type":"long"}`, `{"name":"_1st","json":"1st","type":"long"}`, `{"name":"until","type":["null",{"type":"long","logicalType":"timestamp-micros"}],"default":null}`} {
		if !strings.Contains(f.Schema(), want) {
			t.Errorf("no %s in %s", want, f.Schema())
		}
	}
}

// TestFields selects fields, of a type that holds itself too.
func TestFields(t *testing.T) {
	v := tree{"root", []tree{{Name: "kid"}}, nil}
	f := form(t, v, Options{Fields: []string{"kids", "name", "kids", "unknown"}})
	_, got, _ := file(t, f, Row{Key: "k", JSON: asJSON(t, v)})
	want := map[string]any{"key": "k", "row": map[string]any{"name": "root", "kids": union("array", []any{map[string]any{"name": "kid", "kids": nil, "next": nil}})}}
	if diff := cmp.Diff([]map[string]any{want}, got); diff != "" {
		t.Error(diff)
	}
	if strings.Count(f.Schema(), `"name":"next"`) != 1 {
		t.Error("the row itself has the field next:", f.Schema())
	}
	flat := form(t, line{}, Options{Fields: []string{"sku"}})
	if strings.Contains(flat.Schema(), "amount") {
		t.Error(flat.Schema())
	}
}

// TestOtherRows writes rows that are no structs.
func TestOtherRows(t *testing.T) {
	for _, tc := range []struct {
		v    any
		want any
	}{
		{map[string]int64{"a": 1}, map[string]any{"map": map[string]any{"a": int64(1)}}},
		{int64(4), int64(4)},
		{"text", "text"},
		{json.RawMessage(`[1,{}]`), "[1,{}]"},
		{[]string{}, map[string]any{"array": []any{}}},
		{odd{5}, `{"odd":[5]}`},
		{struct {
			A bool `json:"a"`
		}{true}, map[string]any{"a": true}},
	} {
		if _, got, _ := file(t, form(t, tc.v, Options{}), Row{Key: "k", JSON: asJSON(t, tc.v)}); !cmp.Equal(got[0]["row"], tc.want) {
			t.Errorf("%#v is %#v, want %#v", tc.v, got[0]["row"], tc.want)
		}
	}
}

// TestRefused tries rows that the type cannot hold: the error says where and what, and nothing is written of them.
func TestRefused(t *testing.T) {
	f := form(t, all{}, Options{})
	for _, tc := range []struct{ row, want string }{
		{`{"int":"4"}`, `of the row "k", int is "4", and the type of the row has a whole number there`},
		{`{"int":1.5}`, "int is 1.5"},
		{`{"i8":128}`, "i8 is 128"},
		{`{"u32":-1}`, "u32 is -1"},
		{`{"u64":18446744073709551616}`, "u64 is 18446744073709551616"},
		{`{"f32":1e39}`, "f32 is 1e39"},
		{`{"text":4}`, "text is 4"},
		{`{"bool":0}`, "bool is 0"},
		{`{"at":"yesterday"}`, `at is "yesterday"`},
		{`{"at":"2026-01-01T00:00:00.0000001Z"}`, "at is \"2026-01-01T00:00:00.0000001Z\": the time has more than microseconds"},
		{`{"bytes":"%"}`, `bytes is "%"`},
		{`{"lines":[{},{"amount":[]}]}`, "lines[1].amount is []"},
		{`{"map":{"x y":"z"}}`, `map["x y"] is "z"`},
		{`{"list":{}}`, "list is {}"},
		{`{"map":[]}`, "map is []"},
		{`{"line":[]}`, "line is []"},
		{`{"quoted":4}`, "quoted is 4"},
		{`{"quoted":"x"}`, `quoted is "x"`},
		{`[]`, `it is []`},
		{`{"a":`, "is no JSON"},
		{``, "is no JSON"},
	} {
		_, err := f.Append(nil, &Row{Key: "k", JSON: []byte(tc.row)})
		if !errors.Is(err, ErrRow) || !strings.Contains(fault.Line(err), tc.want) {
			t.Errorf("%s: %v, want %s", tc.row, err, tc.want)
		}
	}
}

// TestBounded writes many rows: blocks go out while the file is written, and what is kept does not grow.
func TestBounded(t *testing.T) {
	type row struct {
		Text string `json:"text"`
	}
	var out counter
	f := form(t, row{}, Options{})
	w, err := NewWriter(&out, f, nil)
	if err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 1000)
	for i := range 2000 {
		for j := range text {
			text[j] = 'a' + byte((i*31+j*j*7)%26)
		}
		if err := w.Write(&Row{Key: fmt.Sprint(i), JSON: asJSON(t, row{string(text)})}); err != nil {
			t.Fatal(err)
		}
	}
	before := out.writes
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if before < 5 || out.most > 2*blockBytes {
		t.Errorf("%d writes before the end, the largest of %d bytes", before, out.most)
	}
}

type counter struct{ writes, most int }

func (c *counter) Write(p []byte) (int, error) {
	c.writes, c.most = c.writes+1, max(c.most, len(p))
	return len(p), nil
}

// TestForeignReader has fastavro, of which MILLRACE_TEST_PYTHON is a Python that has it, read what TestKinds writes.
func TestForeignReader(t *testing.T) {
	python := os.Getenv("MILLRACE_TEST_PYTHON")
	if python == "" {
		t.Skip("MILLRACE_TEST_PYTHON is not set")
	}
	v := full()
	_, _, whole := file(t, form(t, v, Options{Explain: true}), Row{Key: "a-1", Position: "p", EventID: "e", JSON: asJSON(t, v)}, Row{Key: "zero", JSON: asJSON(t, all{})})
	name := filepath.Join(t.TempDir(), "things.avro")
	if err := os.WriteFile(name, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), python, "testdata/read.py", name)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if os.Getenv("MILLRACE_TEST_UPDATE") != "" {
		if err := os.WriteFile("testdata/read.txt", out, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/read.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(out)); diff != "" {
		t.Error(diff)
	}
}
