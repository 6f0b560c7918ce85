package contract

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hamba/avro/v2"
	oracle "github.com/twmb/avro"
)

// goTypeOf returns the Go type for n, by the same rules as the generator.
func goTypeOf(n *node) reflect.Type {
	switch n.kind {
	case kindBoolean:
		return reflect.TypeFor[bool]()
	case kindInt, kindLong:
		switch n.logical {
		case "date", "timestamp-millis", "timestamp-micros":
			return timeType
		case "time-millis", "time-micros":
			return durationType
		}
		if n.kind == kindInt {
			return reflect.TypeFor[int32]()
		}
		return reflect.TypeFor[int64]()
	case kindFloat:
		return reflect.TypeFor[float32]()
	case kindDouble:
		return reflect.TypeFor[float64]()
	case kindString, kindEnum:
		if n.logical == "uuid" {
			return uuidType
		}
		return reflect.TypeFor[string]()
	case kindBytes:
		if n.logical == "decimal" {
			return ratType
		}
		return reflect.TypeFor[[]byte]()
	case kindFixed:
		if n.logical == "uuid" {
			return uuidType
		}
		return reflect.ArrayOf(n.size, reflect.TypeFor[byte]())
	case kindArray:
		return reflect.SliceOf(goTypeOf(n.items))
	case kindMap:
		return reflect.MapOf(reflect.TypeFor[string](), goTypeOf(n.items))
	case kindUnion:
		for _, b := range n.branches {
			if b.kind != kindNull {
				return reflect.PointerTo(goTypeOf(b))
			}
		}
	}
	var fields []reflect.StructField
	for _, f := range n.fields {
		fields = append(fields, reflect.StructField{Name: strings.ToUpper(f.name), Type: goTypeOf(f.node), Tag: reflect.StructTag(`avro:"` + f.name + `"`)})
	}
	return reflect.StructOf(fields)
}

// decodeAny reads payload into a new value of the binding's type: with the library, and, if it is straight, also in one pass, which must read the same.
func (b *binding) decodeAny(payload []byte) (_ reflect.Value, err error) {
	p := reflect.New(b.typ)
	if b.straight != nil {
		once := reflect.New(b.typ)
		if new(straightReader).read(b.straight, once.UnsafePointer(), payload) {
			defer func() {
				if err != nil || !equal(once.Elem().Interface(), p.Elem().Interface()) {
					err = fmt.Errorf("in one pass %+v is read, else %+v, %w", once.Elem(), p.Elem(), err)
					panic(err) // no guard may be missing there
				}
			}()
		}
	}
	if err := scan(b.schema.root, payload); err != nil {
		return p.Elem(), err
	}
	r := b.readers.Get().(*avro.Reader)
	r.Reset(payload)
	r.Error = nil
	b.dec.Decode(p.UnsafePointer(), r)
	if b.trim != nil {
		b.trim(p.UnsafePointer())
	}
	return p.Elem(), r.Error
}

// TestRandomTypes decodes random payloads of random schemas into the Go types that belong to them, and encodes them again.
func TestRandomTypes(t *testing.T) {
	t.Logf("seed %d", randomSeed)
	m := &maker{Rand: rand.New(rand.NewPCG(randomSeed, 2)), logical: true, goTypes: true}
	for range 1500 {
		m.names = 0
		text := jsonOf(t, m.record(3))
		s := mustParse(t, text)
		b, err := newBinding(s, goTypeOf(s.root), guards{})
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		o := oracle.MustParse(text)
		for range 3 {
			payload := m.payload(nil, s.root)
			v, err := b.decodeAny(payload)
			if err != nil {
				t.Fatalf("%v\n%x\n%s", err, payload, text)
			}
			again, err := b.encode(nil, v.Interface())
			if err != nil {
				t.Fatalf("%v\n%x\n%s\n%+v", err, payload, text, v)
			}
			back, err := b.decodeAny(again)
			if err != nil || !reflect.DeepEqual(back.Interface(), v.Interface()) {
				t.Fatalf("%v\n%x\n%s\ngot  %+v\nwant %+v", err, payload, text, back, v)
			}
			var got, want any
			if _, err := o.Decode(again, &got); err != nil {
				t.Fatal(err)
			}
			if _, err := o.Decode(payload, &want); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("%x\n%s\ngot  %v\nwant %v", payload, text, got, want)
			}
		}
	}
}

func TestTypesThatDoNotMatch(t *testing.T) {
	one := func(typ string) string { return rec(fld("f", typ)) }
	for _, c := range []struct {
		name, schema string
		value        any
	}{
		{"int for int", one(`"int"`), struct {
			F int `avro:"f"`
		}{}},
		{"int64 for int", one(`"int"`), struct {
			F int64 `avro:"f"`
		}{}},
		{"int32 for long", one(`"long"`), struct {
			F int32 `avro:"f"`
		}{}},
		{"uint32 for long", one(`"long"`), struct {
			F uint32 `avro:"f"`
		}{}},
		{"float32 for double", one(`"double"`), struct {
			F float32 `avro:"f"`
		}{}},
		{"int64 for a timestamp", one(`{"type":"long","logicalType":"timestamp-micros"}`), struct {
			F int64 `avro:"f"`
		}{}},
		{"time for a long", one(`"long"`), struct {
			F time.Time `avro:"f"`
		}{}},
		{"rat by value", one(`{"type":"bytes","logicalType":"decimal","precision":4}`), struct {
			F big.Rat `avro:"f"`
		}{}},
		{"any", one(`"string"`), struct {
			F any `avro:"f"`
		}{}},
		{"value for a nullable", one(`["null","string"]`), struct {
			F string `avro:"f"`
		}{}},
		{"pointer for a value", one(`"string"`), struct {
			F *string `avro:"f"`
		}{}},
		{"union of three", one(`["null","string","int"]`), struct {
			F any `avro:"f"`
		}{}},
		{"null alone", one(`"null"`), struct {
			F *string `avro:"f"`
		}{}},
		{"fixed of another size", one(`{"type":"fixed","name":"F","size":3}`), struct {
			F [2]byte `avro:"f"`
		}{}},
		{"duration", one(`{"type":"fixed","name":"F","size":12,"logicalType":"duration"}`), struct {
			F avro.LogicalDuration `avro:"f"`
		}{}},
		{"map with int keys", one(`{"type":"map","values":"int"}`), struct {
			F map[int]int32 `avro:"f"`
		}{}},
		{"array for an array", one(`{"type":"array","items":"int"}`), struct {
			F [2]int32 `avro:"f"`
		}{}},
		{"int for an enum", one(`{"type":"enum","name":"E","symbols":["A"]}`), struct {
			F int32 `avro:"f"`
		}{}},
		{"a field too few", rec(fld("f", `"int"`) + "," + fld("g", `"int"`)), struct {
			F int32 `avro:"f"`
		}{}},
		{"a field too many", one(`"int"`), struct {
			F int32 `avro:"f"`
			G int32 `avro:"g"`
		}{}},
		{"no tag", one(`"int"`), struct{ F int32 }{}},
		{"tag twice", one(`"int"`), struct {
			F int32 `avro:"f"`
			G int32 `avro:"f"`
		}{}},
		{"not exported", one(`"int"`), struct {
			f int32 `avro:"f"`
		}{}},
		{"embedded", one(`"int"`), struct {
			nothing `avro:"f"`
		}{}},
		{"not a struct", one(`"int"`), map[string]any{}},
		{"schema that is no record", `"int"`, int32(0)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := newBinding(mustParse(t, c.schema), reflect.TypeOf(c.value), guards{}); !errors.Is(err, ErrContract) {
				t.Errorf("got %v, want ErrContract", err)
			}
		})
	}
}

type precise struct {
	At    time.Time            `avro:"at"`
	Milli *time.Time           `avro:"milli"`
	Day   time.Time            `avro:"day"`
	Clock time.Duration        `avro:"clock"`
	Price *big.Rat             `avro:"price"`
	Kind  string               `avro:"kind"`
	Raw   []byte               `avro:"raw"`
	Times map[string]time.Time `avro:"times"`
	Many  []precise            `avro:"many"`
}

func (precise) isEvent() {}

const preciseSchema = `{"type":"record","name":"t.Precise","fields":[{"name":"at","type":{"type":"long","logicalType":"timestamp-micros"}},
	{"name":"milli","type":["null",{"type":"long","logicalType":"timestamp-millis"}]},{"name":"day","type":{"type":"int","logicalType":"date"}},
	{"name":"clock","type":{"type":"int","logicalType":"time-millis"}},{"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":6,"scale":2}},
	{"name":"kind","type":{"type":"enum","name":"K","symbols":["A"]}},{"name":"raw","type":"bytes"},
	{"name":"times","type":{"type":"map","values":{"type":"long","logicalType":"timestamp-micros"}}},{"name":"many","type":{"type":"array","items":"Precise"}}]}`

func validPrecise() precise {
	return precise{At: time.Unix(1, 1000).UTC(), Day: time.Unix(86400, 0).UTC(), Price: big.NewRat(1, 100), Kind: "A", Raw: []byte{}, Times: map[string]time.Time{}, Many: []precise{}}
}

// TestValuesThatAreNotExact writes what the library would cut off, wrap round or panic on.
func TestValuesThatAreNotExact(t *testing.T) {
	b, err := newBinding(mustParse(t, preciseSchema), reflect.TypeFor[precise](), guards{})
	if err != nil {
		t.Fatal(err)
	}
	good := func(name string, set func(*precise)) {
		v := validPrecise()
		set(&v)
		payload, err := b.encode(nil, v)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		back, err := b.decodeAny(payload)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		got := back.Interface().(precise)
		if got.Price.Cmp(v.Price) == 0 {
			got.Price = v.Price // one zero has a denominator, the other has none
		}
		if !reflect.DeepEqual(got, v) {
			t.Errorf("%s: got %+v, want %+v", name, got, v)
		}
	}
	bad := func(name, word string, set func(*precise)) {
		v := validPrecise()
		set(&v)
		if _, err := b.encode(nil, v); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: got %v, want an error with %q", name, err, word)
		}
		w := validPrecise()
		w.Many = []precise{validPrecise(), v}
		if _, err := b.encode(nil, w); err == nil || !strings.Contains(err.Error(), "item 1") {
			t.Errorf("%s, inside: got %v", name, err)
		}
	}
	milli := time.UnixMilli(5).UTC()
	finer := time.Unix(0, 1000).UTC()
	good("zero time", func(v *precise) { v.At = time.Time{} })
	good("before 1970", func(v *precise) { v.At = time.Unix(-5, 999_999_000).UTC() })
	good("milliseconds", func(v *precise) { v.Milli = &milli })
	good("negative decimal", func(v *precise) { v.Price = big.NewRat(-999_999, 100) })
	good("zero decimal", func(v *precise) { v.Price = new(big.Rat) })
	good("map", func(v *precise) { v.Times["a"] = finer })
	bad("nanoseconds", "at: ", func(v *precise) { v.At = time.Unix(0, 1) })
	bad("microseconds as milliseconds", "milli: ", func(v *precise) { v.Milli = &finer })
	bad("year 10000", "at: ", func(v *precise) { v.At = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) })
	bad("year -1", "at: ", func(v *precise) { v.At = time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC) })
	bad("a date at noon", "day: ", func(v *precise) { v.Day = time.Unix(43200, 0) })
	bad("a day and a half", "clock: ", func(v *precise) { v.Clock = 36 * time.Hour })
	bad("a negative time of day", "clock: ", func(v *precise) { v.Clock = -1 })
	bad("microseconds of a day in milliseconds", "clock: ", func(v *precise) { v.Clock = time.Microsecond })
	bad("no decimal", "price: ", func(v *precise) { v.Price = nil })
	bad("half a cent", "price: ", func(v *precise) { v.Price = big.NewRat(1, 200) })
	bad("seven digits", "price: ", func(v *precise) { v.Price = big.NewRat(10_000, 1) })
	bad("a time in a map", "times: ", func(v *precise) { v.Times["a"] = time.Unix(0, 1) })

	v := validPrecise()
	v.Kind = "B"
	if _, err := b.encode(nil, v); err == nil {
		t.Error("an unknown symbol is written")
	}
	v = validPrecise()
	v.Raw = make([]byte, MaxPayloadBytes)
	if _, err := b.encode(nil, v); err == nil {
		t.Error("more than a megabyte is written")
	}
	v = validPrecise()
	for range 40 {
		v = precise{At: v.At, Day: v.Day, Price: v.Price, Kind: v.Kind, Many: []precise{v}}
	}
	if _, err := b.encode(nil, v); err == nil {
		t.Error("a value that is too deep to be read is written")
	}
}

// TestDecodedBytesAreApart appends to decoded bytes: the library cuts them from the same memory as the strings after them.
func TestDecodedBytesAreApart(t *testing.T) {
	type two struct {
		Raw  []byte            `avro:"raw"`
		Map  map[string][]byte `avro:"map"`
		Text string            `avro:"text"`
	}
	b, err := newBinding(mustParse(t, rec(fld("raw", `"bytes"`)+","+fld("map", `{"type":"map","values":"bytes"}`)+","+fld("text", `"string"`))), reflect.TypeFor[two](), guards{})
	if err != nil {
		t.Fatal(err)
	}
	payload, err := b.encode(nil, two{Raw: []byte("ab"), Map: map[string][]byte{"k": []byte("cd")}, Text: "text"})
	if err != nil {
		t.Fatal(err)
	}
	v, err := b.decodeAny(payload)
	if err != nil {
		t.Fatal(err)
	}
	got := v.Interface().(two)
	_ = append(got.Raw, "XXXX"...)
	_ = append(got.Map["k"], "XXXX"...)
	if got.Text != "text" || !bytes.Equal(got.Map["k"], []byte("cd")) {
		t.Errorf("an append to the bytes changed %+v", got)
	}

	e, err := trap(t, guards{}).Decode(context.Background(), frameOf(kitchenID, kitchenPayload("")))
	if err != nil {
		t.Fatal(err)
	}
	if raw := e.(kitchen).Raw; len(raw) != 2 || cap(raw) != 2 {
		t.Errorf("decoded by a codec, %d bytes have a capacity of %d", len(raw), cap(raw))
	}
}
