package rest

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
)

type line struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
	Amount   int64  `json:"amount"`
}

type place struct {
	CustomerID string     `json:"customer_id"`
	Currency   string     `json:"currency"`
	OrderedAt  *time.Time `json:"ordered_at,omitempty"`
	Lines      []line     `json:"lines"`
}

// everything has a field of each kind that bodies can have.
type everything struct {
	inner
	S     string            `json:"s"`
	B     bool              `json:"b"`
	I8    int8              `json:"i8"`
	I64   int64             `json:"i64"`
	U8    uint8             `json:"u8"`
	U64   uint64            `json:"u64"`
	F     float64           `json:"f"`
	F32   float32           `json:"f32"`
	P     *int64            `json:"p"`
	L     []line            `json:"l"`
	A     [2]string         `json:"a"`
	M     map[string]int64  `json:"m"`
	Any   any               `json:"any"`
	Raw   json.RawMessage   `json:"raw"`
	Num   json.Number       `json:"num"`
	T     time.Time         `json:"t"`
	Pos   es.Position       `json:"pos"`
	Bytes []byte            `json:"bytes"`
	Self  *everything       `json:"self"`
	Slash map[string]string `json:"sl/a~sh"`
	Skip  string            `json:"-"`
	Plain string
}

type inner struct {
	In string `json:"in"`
}

const goodPlace = `{"customer_id":"c-1","currency":"USD","lines":[{"sku":"cd","quantity":2,"amount":2933},{"sku":"lp","quantity":1,"amount":1000}]}`

func TestDecodeAccepts(t *testing.T) {
	at := time.Date(1997, 1, 1, 0, 0, 0, 0, time.UTC)
	n := int64(-9223372036854775808)
	for _, tt := range []struct {
		in   string
		want any
	}{
		{goodPlace, place{"c-1", "USD", nil, []line{{"cd", 2, 2933}, {"lp", 1, 1000}}}},
		{" \t\r\n{ \"lines\" : [ ] ,\n \"currency\":\"\" } \n", place{Lines: []line{}}},
		{`{}`, place{}},
		{`{"ordered_at":null}`, place{}},
		{`{"ordered_at":"1997-01-01T00:00:00Z"}`, place{OrderedAt: &at}},
		{`{"s":"é\u00e9\ud83d\ude00\"\\\/\b\f\n\r\t","in":"x"}`, everything{S: "éé😀\"\\/\b\f\n\r\t", inner: inner{In: "x"}}},
		{`{"\u0073":"escaped name","Plain":"p"}`, everything{S: "escaped name", Plain: "p"}},
		{`{"p":-9223372036854775808,"u64":18446744073709551615,"i8":-128,"u8":255}`, everything{P: &n, U64: 1<<64 - 1, I8: -128, U8: 255}},
		{`{"f":-0.0,"f32":1e-3}`, everything{F: negativeZero(), F32: 1e-3}},
		{`{"f":9007199254740992}`, everything{F: 1 << 53}},
		{`{"a":["x","y"],"m":{"a":1,"b":2},"any":{"k":[1,null,true,"s",{}]}}`,
			everything{A: [2]string{"x", "y"}, M: map[string]int64{"a": 1, "b": 2}, Any: map[string]any{"k": []any{1.0, nil, true, "s", map[string]any{}}}}},
		{`{"raw": {"x": [1 , 2]} ,"num":1e400,"bytes":"aGk=","t":"1997-01-01T00:00:00Z","pos":"orders.events/3@5"}`,
			everything{Raw: json.RawMessage(`{"x": [1 , 2]}`), Num: "1e400", Bytes: []byte("hi"), T: at, Pos: es.Position{TopicPartition: es.TopicPartition{Topic: "orders.events", Partition: 3}, Offset: 5}}},
		{`{"self":{"self":{"s":"deep"}}}`, everything{Self: &everything{Self: &everything{S: "deep"}}}},
		{`{"sl/a~sh":{"":"empty name"}}`, everything{Slash: map[string]string{"": "empty name"}}},
	} {
		got := reflect.New(reflect.TypeOf(tt.want))
		if err := DecodeJSON([]byte(tt.in), got.Interface()); err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got.Elem().Interface(), cmp.AllowUnexported(everything{})); diff != "" {
			t.Errorf("%s: -want +got\n%s", tt.in, diff)
		}
	}
}

func negativeZero() float64 { z := 0.0; return -z * 1 }

func TestDecodeRefuses(t *testing.T) {
	deep := func(n int) string { return `{"any":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}` }
	for _, tt := range []struct {
		in   string
		want []string // "pointer: part of the detail", all of them
	}{
		{``, []string{": the body is empty"}},
		{"  \n", []string{": the body is empty"}},
		{`null`, []string{": must be an object, not null"}},
		{`[]`, []string{": must be an object, not an array"}},
		{`{`, []string{": ends where a name"}},
		{`{"s"`, []string{": ends where a colon"}},
		{`{"s":`, []string{"/s: ends where a string"}},
		{`{"s":"x`, []string{"/s: ends where the closing quote"}},
		{`{"s":"x",}`, []string{": '}' where a name in double quotes is expected, at line 1, column 10"}},
		{"{\n \"s\": 'x'}", []string{"/s: not JSON: '\\'' where a string is expected, at line 2, column 7"}},
		{`{s:"x"}`, []string{": not JSON: 's'"}},
		{`{"s":"x"} {}`, []string{": goes on after the JSON value, at line 1, column 11"}},
		{`{"s":"x"}` + "\x00", []string{": goes on after"}},
		{"\ufeff{}", []string{": not JSON"}},
		{"{}/*c*/", []string{": goes on after"}},
		{`{"i64":NaN}`, []string{"/i64: not JSON"}},
		{`{"i64":+1}`, []string{"/i64: not JSON"}},
		{`{"i64":01}`, []string{": '1' where a comma"}},
		{`{"i64":-}`, []string{"/i64: a digit is expected"}},
		{`{"f":1.}`, []string{"/f: a digit is expected"}},
		{`{"f":1e}`, []string{"/f: a digit is expected"}},
		{`{"f":.5}`, []string{"/f: not JSON"}},
		{`{"b":truE}`, []string{"/b: not JSON: 'E'"}},
		{`{"b":nul}`, []string{"/b: must be a boolean, not null", "/b: where null is expected"}},
		{`{"s":"a` + "\n" + `b"}`, []string{"/s: an escaped control character"}},
		{`{"s":"\x"}`, []string{"/s: an escape such as"}},
		{`{"s":"\u12g4"}`, []string{"/s: an escape such as"}},
		// all that is merely wrong is found at once
		{`{"customer":"x","CURRENCY":"USD","currency":5,"lines":[{"sku":null,"quantity":"2"},3,{"amount":1.5,"amount":9223372036854775808}],"lines":[]}`,
			[]string{"/customer: unknown field: the fields are customer_id, currency, ordered_at, lines", "/CURRENCY: write \"currency\", names are case-sensitive",
				"/currency: must be a string, not a number", "/lines/0/sku: must be a string, not null", "/lines/0/quantity: must be an integer, not a string",
				"/lines/1: must be an object, not a number", "/lines/2/amount: plain digits, not 1.5", "/lines/2/amount: given more than once",
				"/lines/2/amount: from -9223372036854775808 to 9223372036854775807", "/lines: given more than once"}},
		{`{"s":"a","\u0073":"b"}`, []string{"/s: given more than once"}},
		{`{"i8":128,"u8":256,"u64":-1,"i64":1e3}`, []string{"/i8: from -128 to 127", "/u8: from 0 to 255", "/u64: from 0 to 18446744073709551615", "/i64: plain digits"}},
		{`{"i64":-0,"f":1e400,"f32":1e39,"any":9007199254740993}`, []string{"/i64: plain digits", "/f: 64 bits", "/f32: 32 bits", "/any: 2^53"}},
		{`{"s":"\ud800","any":"\udc00\ud800","m":{"\ud800":1},"Plain":"\ud800\ud800x"}`,
			[]string{"/s: half of a surrogate", "/any: half of a surrogate", "/m: half of a surrogate", "/Plain: half of a surrogate"}},
		{`{"s":"a\u0000b","any":["\u0000"]}`, []string{"/s: U+0000", "/any/0: U+0000"}},
		{"{\"s\":\"a\xffb\",\"any\":\"\xc0\x80\",\"Plain\":\"\xed\xa0\x80\"}", []string{"/s: not UTF-8", "/any: not UTF-8", "/Plain: not UTF-8"}},
		{`{"a":["x"],"bytes":"a","t":"yesterday","pos":"nowhere","m":{"k":1,"k":"2"},"any":{"k":1,"k":2},"raw":{"k":{"d":1,"d":1}},"num":"1"}`,
			[]string{"/a: must have 2 elements, not 1", "/bytes: base64", "/t: RFC 3339", "/pos: the position is malformed", "/m/k: more than once", "/m/k: must be an integer",
				"/any/k: more than once", "/raw/k/d: more than once", "/num: must be a number"}},
		{`{"a":["x","y","z"],"l":null,"m":null,"s":null,"t":null}`, []string{"/a: must have 2 elements, not 3", "/l: an array, not null", "/m: an object, not null", "/s: null", "/t: null"}},
		{`{"sl/a~sh":{"a/b":1}}`, []string{"/sl~1a~0sh/a~1b: must be a string"}},
		{deep(32), []string{"/any" + strings.Repeat("/0", 31) + ": deeper than 32"}},
		{deep(100000), []string{"/any" + strings.Repeat("/0", 31) + ": deeper than 32"}},
		{`{"nope":{"x":[{"y":` + strings.Repeat("[", 200000), []string{"/nope: unknown field", "deeper than 32"}},
		{`{"skip":1,"Skip":1,"-":1,"inner":1}`, []string{"/skip: unknown", "/Skip: unknown", "/-: unknown", "/inner: unknown"}},
	} {
		var v any = new(everything)
		if strings.Contains(tt.in, "customer") {
			v = new(place)
		}
		err := DecodeJSON([]byte(tt.in), v)
		e := fault.From(err)
		if e == nil || !errors.Is(err, ErrBody) || e.Kind != fault.Invalid {
			t.Errorf("%.100s: got %v, want ErrBody", tt.in, err)
			continue
		}
		ok := len(e.Fields) == len(tt.want)
		for i := 0; ok && i < len(tt.want); i++ {
			pointer, detail, _ := strings.Cut(tt.want[i], ": ")
			if len(tt.want) > 1 && pointer == tt.want[i] {
				pointer, detail = e.Fields[i].Pointer, tt.want[i]
			}
			ok = e.Fields[i].Pointer == pointer && strings.Contains(e.Fields[i].Detail, detail)
		}
		if !ok {
			t.Errorf("%.200s:\n got %q\nwant %q", tt.in, e.Fields, tt.want)
		}
	}
}

// A body that is wrong in a thousand places costs no more answer than one that is wrong in a few.
func TestDecodeBoundsFindings(t *testing.T) {
	in := `{"l":[` + strings.Repeat("0,", 5000) + `0]}`
	e := fault.From(DecodeJSON([]byte(in), new(everything)))
	if got, want := len(e.Fields), maxFindings+1; got != want {
		t.Errorf("got %d findings, want %d", got, want)
	}
	in = `{"` + strings.Repeat("k", 100000) + `":1}`
	e = fault.From(DecodeJSON([]byte(in), new(everything)))
	if got := len(e.Error()); got > 2000 {
		t.Errorf("got an error of %d bytes", got)
	}
}

func TestDecodeKeepsNothingOfItsInput(t *testing.T) {
	data := []byte(`{"s":"abc","raw":{"a":1},"any":{"kk":"vv"},"m":{"key":1},"num":12,"bytes":"aGk="}`)
	var got everything
	if err := DecodeJSON(data, &got); err != nil {
		t.Fatal(err)
	}
	for i := range data {
		data[i] = 'X'
	}
	want := everything{S: "abc", Raw: json.RawMessage(`{"a":1}`), Any: map[string]any{"kk": "vv"}, M: map[string]int64{"key": 1}, Num: "12", Bytes: []byte("hi")}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(everything{})); diff != "" {
		t.Error(diff)
	}
}

func TestDecodePanicsOnBugs(t *testing.T) {
	var nilPlace *place
	for _, v := range []any{nil, place{}, nilPlace, new(chan int), new(func()), new(struct{ E error }), new(map[int]string),
		new(struct {
			N int `json:"n,string"`
		}),
		new(struct {
			inner
			Twin string `json:"in"`
		})} {
		for range 2 { // the second time, too
			func() {
				defer func() {
					if p := recover(); p == nil || !strings.HasPrefix(fmt.Sprint(p), "rest: ") {
						t.Errorf("%T: got panic %v, want one that says what the bug is", v, p)
					}
				}()
				_ = DecodeJSON([]byte(`{"E":1}`), v)
			}()
		}
	}
}

// What DecodeJSON accepts encoding/json accepts too, with an equal value.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{goodPlace, `{}`, `{"s":"\ud83d\ude00","any":[1,{"a":null}],"raw":[{"x":1e5}],"m":{"a":-0},"f":1e308,"f32":0.1,"i8":-128}`,
		`{"t":"1997-01-01T00:00:00+01:00","pos":"a/1@2","bytes":"aGk=","num":-0.5e-7,"p":null,"self":{"in":"x","a":["\u00e9","\/"]}}`,
		`{"s":"a","s":"b"}`, `{"S":"a"}`, `{"l":[{"sku":"x","quantity":1}],"u64":18446744073709551615,"u8":1,"b":true,"Plain":"\u2028"}`,
		`[1]`, `"\u0000"`, `{"sl/a~sh":{"k":"v"}}`, "{\"s\":\"\xff\"}", `{"i64":9223372036854775808}`, ` { "any" : false } `} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, typ := range []reflect.Type{reflect.TypeFor[everything](), reflect.TypeFor[place](), reflect.TypeFor[any](), reflect.TypeFor[json.RawMessage](), reflect.TypeFor[[]line]()} {
			got, want := reflect.New(typ), reflect.New(typ)
			err := DecodeJSON(data, got.Interface())
			if err != nil {
				if !errors.Is(err, ErrBody) || len(fault.From(err).Fields) == 0 {
					t.Fatalf("%q: error without a finding: %v", data, err)
				}
				if _, bad := json.Marshal(fault.From(err).Fields); bad != nil {
					t.Fatal(bad)
				}
				continue
			}
			if !json.Valid(data) {
				t.Fatalf("%q: accepted, but it is not JSON", data)
			}
			if err := json.Unmarshal(data, want.Interface()); err != nil {
				t.Fatalf("%q: accepted, but encoding/json says %v", data, err)
			}
			if !reflect.DeepEqual(got.Interface(), want.Interface()) {
				t.Fatalf("%q:\n got %+v\nwant %+v", data, got.Elem(), want.Elem())
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	data := []byte(goodPlace)
	b.Run("strict", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			var v place
			if err := DecodeJSON(data, &v); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding-json", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			var v place
			if err := json.Unmarshal(data, &v); err != nil {
				b.Fatal(err)
			}
		}
	})
}
