package filter_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/filter"
)

// An order has a field of every kind.
type order struct {
	ID       string          `json:"id"`
	Status   status          `json:"status,omitempty"`
	Total    float64         `json:"total"`
	Count    int             `json:"count,omitempty"`
	Big      uint64          `json:"big,string,omitempty"`
	Paid     bool            `json:"paid,omitempty"`
	At       time.Time       `json:"at,omitzero"`
	Wait     time.Duration   `json:"wait,omitempty"`
	Hash     []byte          `json:"hash,omitempty"`
	Items    []item          `json:"items,omitempty"`
	Labels   map[string]int  `json:"labels,omitempty"`
	Floors   map[int]string  `json:"floors,omitempty"`
	Customer *customer       `json:"customer,omitempty"`
	Discount *int64          `json:"discount"`
	Shade    shade           `json:"shade"`
	Extra    any             `json:"extra,omitempty"`
	Raw      json.RawMessage `json:"raw,omitempty"`
	Corner   [2]int          `json:"corner,omitzero"`
	Next     *order          `json:"next,omitempty"`
	Dashed   int             `json:"dashed-name,omitempty"`
	Type     string          `json:"type,omitempty"`
	In       string          `json:"in,omitempty"`
	Hidden   string          `json:"-"`
	address
}

type status string

type item struct {
	SKU  string   `json:"sku"`
	Qty  int32    `json:"qty"`
	Tags []string `json:"tags,omitempty"`
}

type customer struct {
	Name string   `json:"name"`
	VIP  bool     `json:"vip,omitempty"`
	Home *address `json:"home,omitempty"`
}

type address struct {
	City string
	Zip  int `json:"zip,omitempty"`
}

type shade int

func (s shade) MarshalText() ([]byte, error) { return []byte([]string{"light", "dark"}[s]), nil }

var orderType = reflect.TypeFor[order]()

var discount = int64(5)

var full = order{ID: "o-1", Status: "open", Total: 100, Count: 3, Big: 1 << 62, Paid: true, At: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC), Wait: time.Second, Hash: []byte{1, 2},
	Items: []item{{"A-1", 2, []string{"red"}}, {"B-\"2\"", 1, nil}}, Labels: map[string]int{"x": 1}, Floors: map[int]string{-1: "cellar"}, Customer: &customer{"Zoë", true, &address{"Ulm", 0}},
	Discount: &discount, Shade: 1, Extra: map[string]any{"a": 1.5, "l": []any{"p"}}, Raw: json.RawMessage(`{"deep":[1]}`), Corner: [2]int{7, 8}, Next: &order{ID: "o-2"}, Dashed: 4, Type: "gift", In: "x", address: address{"Bonn", 53}}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		text        string
		full, empty bool // on full, and on the zero row
	}{
		{`true`, true, true},
		{`id == "o-1"`, true, false},
		{`status in ["open", "paid"]`, true, false},
		{`status != "open"`, false, true},
		{`total > 99`, true, false},
		{`total == 100.0 && count == 3`, true, false},
		{`total == 0.0 && count == 0 && !paid && status == ""`, false, true},
		{`count > 2.5`, true, false},
		{`big == 4611686018427387904`, true, false},
		{`paid`, true, false},
		{`at >= timestamp("2026-01-31T13:00:00+01:00")`, true, false},
		{`at < timestamp("2026-01-31T12:00:01Z") && at.getFullYear() == 2026`, true, false},
		{`at + duration("1h") > timestamp("2026-01-31T12:59:59Z")`, true, false},
		{`wait == 1000000000`, true, false},
		{`hash == b"\x01\x02" && size(hash) == 2`, true, false},
		{`items.exists(i, i.sku.startsWith("A-") && i.qty > 1)`, true, false},
		{`items.all(i, size(i.tags) <= 1)`, true, true},
		{`size(items) > 1 && items[1].sku == "B-\"2\""`, true, false},
		{`"x" in labels && labels["x"] == 1`, true, false},
		{`has(labels.x)`, true, false},
		{`-1 in floors && floors[-1] == "cellar"`, true, false},
		{`customer.name == "Zoë"`, true, false},
		{`customer.home.City == "Ulm" && customer.home.zip == 0`, true, false},
		{`has(row.customer) && has(row.customer.home) && !has(row.customer.home.zip)`, true, false},
		{`discount > 4`, true, false},
		{`discount == 0 && !has(row.discount)`, false, true},
		{`shade == "dark"`, true, false},
		{`shade == "light"`, false, true},
		{`extra != null && extra.a == 1.5 && extra.l[0] == "p"`, true, false},
		{`extra == null`, false, true},
		{`has(row.raw) && raw.deep[0] == 1.0`, true, false},
		{`corner[1] == 8`, true, false},
		{`corner == [0, 0]`, false, true},
		{`next.id == "o-2" && next.next.next.id == ""`, true, false},
		{`next.next == next.next.next`, true, true},
		{`next == row`, false, true}, // the zero row, written, is the zero value
		{"row.`dashed-name` == 4", true, false},
		{`type == "gift" && type(count) == int`, true, false},
		{"row.`in` == \"x\"", true, false},
		{`City == "Bonn" && zip == 53`, true, false},
		{`row.id + status == "o-1open"`, true, false},
		{`id.matches("^o-[0-9]+$")`, true, false},
		{`row == row`, true, true},
		{`string(count) == "3"`, true, false},
		{strings.Repeat("!", 2000) + "paid", true, false},
		{`paid ? total > 1 : count == 0`, true, true},
		{`"A-1" in items.map(i, i.sku)`, true, false},
	} {
		f, err := filter.Compile(orderType, c.text)
		if err != nil {
			t.Errorf("%s: %s", c.text, fault.Lines(err))
			continue
		}
		for i, row := range []order{full, {}} {
			want := c.full
			if i == 1 {
				want = c.empty
			}
			text, err := json.Marshal(row)
			if err != nil {
				t.Fatal(err)
			}
			got, err := f.Matches(text)
			if err != nil || got != want {
				t.Errorf("%s of %s: %v, %v, want %v", c.text, text, got, err, want)
			}
		}
	}
}

// Whatever omitempty leaves out is as if it were there.
func TestAbsentIsZero(t *testing.T) {
	type tight struct {
		A int               `json:"a"`
		B string            `json:"b"`
		C []int             `json:"c"`
		D *struct{ E bool } `json:"d"`
		F time.Time         `json:"f"`
	}
	l, err := filter.NewLanguage(reflect.TypeFor[tight]())
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{`a == 0`, `b == ""`, `c == []`, `!d.E`, `f < timestamp("0001-01-01T00:00:01Z")`} {
		f, err := l.Compile(text)
		if err != nil {
			t.Fatalf("%s: %s", text, fault.Lines(err))
		}
		for _, row := range []string{`{}`, `{"a":null,"b":null,"c":null,"d":null,"f":null}`, `{"f":"0001-01-01T00:00:00Z","d":{},"c":[],"b":"","a":0}`, ` { "unknown" : [ { } ] } `} {
			if got, err := f.Matches([]byte(row)); err != nil || !got {
				t.Errorf("%s of %s: %v, %v", text, row, got, err)
			}
		}
	}
}

// TestRefused is the golden table of what a filter may not be, and of what is said about it.
func TestRefused(t *testing.T) {
	for _, c := range []struct{ text, code, why, fix string }{
		{``, "invalid_filter", "is empty", `id == "abc"`},
		{`totl > 1.0`, "invalid_filter", "column 1: there is no field totl", "did you mean total?"},
		{`true && custmer.name == "x"`, "invalid_filter", "column 9: there is no field custmer", "did you mean customer?"},
		{`customer.namee == "x"`, "invalid_filter", "column 9: there is no field namee", "did you mean name?"},
		{`items.exists(i, i.skuu == "x")`, "invalid_filter", "column 18: there is no field skuu", "did you mean sku?"},
		{`customer.home.xyzzyx == "x"`, "invalid_filter", "there is no field xyzzyx", "the fields are City, zip"},
		{`Hidden == "x"`, "invalid_filter", "there is no field Hidden", "fields are"},
		{`sizeof(items) > 1`, "invalid_filter", "there is no function sizeof", "did you mean size?"},
		{`total == 5`, "invalid_filter", "column 7: == does not go with (double, int)", "5.0"},
		{`at > "2026-01-31T12:00:00Z"`, "invalid_filter", "> does not go with (timestamp, string)", `timestamp("`},
		{`discount == null`, "invalid_filter", "== does not go with (int, null)", "has(row.field)"},
		{`count == "3"`, "invalid_filter", "== does not go with (int, string)", "quotes"},
		{`count`, "invalid_filter", "says int of a row, not bool", "compare"},
		{`has(total)`, "invalid_filter", "has() takes a field of an object", "has(row.name)"},
		{`total = 5.0`, "invalid_filter", "column 7: = compares nothing", "write =="},
		{`paid AND total > 5.0`, "invalid_filter", "column 6: ", "write && instead of AND"},
		{`paid &&`, "invalid_filter", "column 8: ", "such as"},
		{"paid &&\n  totl > 1.0", "invalid_filter", "line 2, column 3: there is no field totl", "did you mean total?"},
		{`id.matches("(")`, "invalid_filter", "column 12: ", ""},
		{`at > timestamp("yesterday")`, "invalid_filter", "column 16: ", ""},
		{`items.exists(a, items.exists(b, items.exists(c, items.exists(d, a.sku == d.sku))))`, "invalid_filter", "", ""},
		{`items.exists(a, items.exists(b, items.exists(c, a.sku == c.sku)))`, "filter_too_costly", "steps", "lists inside lists"},
		{`items.all(i, i.tags.all(g, next.items.all(k, g.matches(k.sku))))`, "filter_too_costly", "steps", "lists inside lists"},
		{`id == "` + strings.Repeat("x", filter.MaxText) + `"`, "filter_too_costly", "4104 bytes, at most 4096", "less"},
		{strings.Repeat("(", 1000) + "paid" + strings.Repeat(")", 1000), "invalid_filter", "", ""},
		{strings.Repeat("paid ? ", 500) + "paid", "invalid_filter", "", ""},
		{`google.protobuf.Struct{} == extra`, "invalid_filter", "", ""},
	} {
		_, err := filter.Compile(orderType, c.text)
		e := fault.From(err)
		if e == nil {
			t.Errorf("%.60s: %v", c.text, err)
			continue
		}
		if e.Code != c.code || e.Kind != fault.Invalid || !strings.Contains(err.Error(), c.why) || !strings.Contains(e.Fix, c.fix) || e.Fix == "" {
			t.Errorf("%.60s: %s", c.text, fault.Lines(err))
		}
	}
}

// What fails on a row fails the query: no row is left out silently.
func TestFails(t *testing.T) {
	for _, c := range []struct {
		text, row string
		code, why string
	}{
		{`labels["y"] == 1`, `{"labels":{"x":1}}`, "invalid_filter", "column 7: no such key"},
		{`items[3].qty == 1`, `{"items":[]}`, "invalid_filter", "index out of bounds: 3"},
		{`10 / count == 1`, `{}`, "invalid_filter", "column 4: division by zero"},
		{`int(id) == 1`, `{"id":"x"}`, "invalid_filter", "column 4: "},
		{`count * 4611686018427387904 > 1`, `{"count":4}`, "invalid_filter", "overflow"},
		{`extra.a == 1.0`, `{"extra":{}}`, "invalid_filter", "no such key: a"},
		{`count == 1`, `{"count":"x"}`, "row_unreadable", `the field count: "\"x\"" is no int`},
		{`count == 1`, `{"count":1.5}`, "row_unreadable", "the field count: 1.5 is no integer"},
		{`big == 1`, `{"big":"18446744073709551615"}`, "row_unreadable", "the field big: 18446744073709551615 is no integer of 64 bits"},
		{`at == at`, `{"at":"noon"}`, "row_unreadable", "the field at: "},
		{`hash == b""`, `{"hash":"!"}`, "row_unreadable", "the field hash: "},
		{`customer.name == ""`, `{"customer":[]}`, "row_unreadable", "the field customer: "},
		{`items == []`, `{"items":[{},3]}`, "row_unreadable", "the field items: "},
		{`floors == {}`, `{"floors":{"one":""}}`, "row_unreadable", "the field floors: "},
		{`true`, ``, "row_unreadable", "empty"},
		{`true`, `{"id":"x"`, "row_unreadable", "no JSON at byte 9"},
		{`true`, `{} {}`, "row_unreadable", "no JSON at byte 2"},
		{`true`, `[]`, "row_unreadable", "is no "},
		{`true`, strings.Repeat("[", 100_000), "row_unreadable", "no JSON"},
		{`items.exists(i, items.exists(j, i.qty > j.qty))`, `{"items":[` + strings.Repeat(`{"sku":"x","qty":1},`, 5000) + `{"sku":"x","qty":1}]}`, "filter_too_costly", "more than 300000 steps"},
	} {
		f, err := filter.Compile(orderType, c.text)
		if err != nil {
			t.Errorf("%s: %s", c.text, fault.Lines(err))
			continue
		}
		_, err = f.Matches([]byte(c.row))
		if e := fault.From(err); e == nil || e.Code != c.code || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s of %.60s: %v, want %s with %q", c.text, c.row, err, c.code, c.why)
		}
	}
}

type left struct{ Both, Own, Name int }
type right struct {
	Both int
	Name int `json:"Tagged"`
}
type Deeper struct {
	Deep int
	*Deeper
}

// What encoding/json leaves out of two embedded fields of one name is no field.
func TestEmbedded(t *testing.T) {
	type row struct {
		left
		right
	}
	if _, err := filter.Compile(reflect.TypeFor[row](), `Both == 1`); !errors.Is(err, filter.ErrInvalid) {
		t.Error(err)
	}
	if _, err := filter.Compile(reflect.TypeFor[row](), `Own + Name + Tagged == 1`); err != nil {
		t.Error(err)
	}
}

// Rows of other types have row alone.
func TestOtherRows(t *testing.T) {
	for _, c := range []struct {
		of        reflect.Type
		text, row string
	}{
		{reflect.TypeFor[int](), `row > 3`, `4`},
		{reflect.TypeFor[map[string]float64](), `row["a"] > 3`, `{"a":4}`},
		{reflect.TypeFor[[]string](), `"x" in row`, `["y","x"]`},
		{reflect.TypeFor[*string](), `row == ""`, `null`},
		{reflect.TypeFor[any](), `row.a == "b"`, `{"a":"b"}`},
		{reflect.TypeFor[**int](), `row == 3`, `3`},
		{reflect.TypeFor[struct {
			left
			right
			*Deeper
			Own int
		}](), `Own == 1 && Tagged == 2 && Deep == 5`, `{"Own":1,"Tagged":2,"Deep":5}`},
		{reflect.TypeFor[item](), `row.qty == 0`, `null`},
		{reflect.TypeFor[struct {
			Row int `json:"row"`
		}](), `row.row == 1`, `{"row":1}`},
		{reflect.TypeFor[struct {
			A float64 `json:",string"`
			B string  `json:",string"`
			C bool    `json:",string"`
		}](), `A == 1.5 && B == "x" && C`, `{"A":"1.5","B":"\"x\"","C":"true"}`},
	} {
		f, err := filter.Compile(c.of, c.text)
		if err != nil {
			t.Errorf("%s: %s", c.text, fault.Lines(err))
			continue
		}
		if got, err := f.Matches([]byte(c.row)); err != nil || !got {
			t.Errorf("%s of %s: %v, %v", c.text, c.row, got, err)
		}
	}
}

// One filter serves many goroutines.
func TestConcurrent(t *testing.T) {
	f, err := filter.Compile(orderType, `items.exists(i, i.qty == count) && labels["x"] == 1`)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for n := range 4 {
		group.Go(func() {
			for i := range 200 {
				row := fmt.Sprintf(`{"count":%d,"items":[{"qty":%d}],"labels":{"x":1}}`, i, i+n%2)
				if got, err := f.Matches([]byte(row)); err != nil || got != (n%2 == 0) {
					t.Errorf("%s: %v, %v", row, got, err)
				}
				if _, err := f.Matches([]byte(`{"items":[{}]}`)); !errors.Is(err, filter.ErrInvalid) {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
}

func BenchmarkMatches(b *testing.B) {
	row, err := json.Marshal(order{ID: "o-1001", Status: "open", Total: 42.5, Count: 3, At: time.Unix(1.7e9, 0).UTC(), Items: []item{{"A-1", 1, nil}, {"B-2", 2, nil}}, Customer: &customer{Name: "Ada"}})
	if err != nil {
		b.Fatal(err)
	}
	for _, text := range []string{`total > 40.0`, `status == "open"`, `status == "open" && total > 40.0 && customer.name != "Bob"`, `at > timestamp("2026-01-31T12:00:00Z")`, `items.exists(i, i.sku == "B-2")`, `id.contains("100")`} {
		f, err := filter.Compile(orderType, text)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(text, func(b *testing.B) {
			b.SetBytes(int64(len(row)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f.Matches(row); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

func BenchmarkNewLanguage(b *testing.B) {
	for b.Loop() {
		if _, err := filter.NewLanguage(orderType); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	l, err := filter.NewLanguage(orderType)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := l.Compile(`status == "open" && total > 40.0`); err != nil {
			b.Fatal(err)
		}
	}
}
