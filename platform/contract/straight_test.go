package contract

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

type plainThing struct {
	Name  string     `avro:"name"`
	Kind  string     `avro:"kind"`
	Small int32      `avro:"small"`
	Flag  bool       `avro:"flag"`
	Ratio float32    `avro:"ratio"`
	Score float64    `avro:"score"`
	Note  *string    `avro:"note"`
	Rank  *int64     `avro:"rank"`
	Tags  []string   `avro:"tags"`
	Lines []line     `avro:"lines"`
	Maybe []*line2   `avro:"maybe"`
	Place placeThing `avro:"place"`
}

type line2 struct {
	N int64 `avro:"n"`
}

type placeThing struct {
	City string `avro:"city"`
}

const plainSchema = `{"type":"record","name":"t.Plain","fields":[{"name":"name","type":"string"},{"name":"kind","type":{"type":"enum","name":"Kind","symbols":["A","B"]}},
	{"name":"small","type":"int"},{"name":"flag","type":"boolean"},{"name":"ratio","type":"float"},{"name":"score","type":"double"},{"name":"note","type":["null","string"]},
	{"name":"rank","type":["long","null"]},{"name":"tags","type":{"type":"array","items":"string"}},{"name":"lines","type":{"type":"array","items":` + lineSchema + `}},
	{"name":"maybe","type":{"type":"array","items":["null",{"type":"record","name":"N","fields":[{"name":"n","type":"long"}]}]}},
	{"name":"place","type":{"type":"record","name":"Place","fields":[{"name":"city","type":"string"}]}}]}`

// The parts of a payload of plainSchema in their order.
var plainParts = [][]byte{{4, 'a', 'b'}, {2}, {3}, {1}, {0, 0, 128, 63}, {0, 0, 0, 0, 0, 0, 0, 64}, {2, 2, 'n'}, {0, 14}, {4, 2, 'x', 2, 'y', 0},
	{2, 2, 's', 2, 'n', 2, 4, 0}, {4, 0, 2, 6, 0}, {8, 'R', 'o', 'm', 'e'}}

func plainPayload(part int, bad ...byte) []byte {
	var b []byte
	for i, p := range plainParts {
		if i == part {
			p = bad
		}
		b = append(b, p...)
	}
	return b
}

// TestStraight: what is read in one pass is what the walk and the library read, and what they refuse is not read.
func TestStraight(t *testing.T) {
	b, err := newBinding(mustParse(t, plainSchema), reflect.TypeFor[plainThing](), guards{})
	if err != nil {
		t.Fatal(err)
	}
	read := func(payload []byte) bool {
		return new(straightReader).read(b.straight, reflect.New(b.typ).UnsafePointer(), payload)
	}
	good := plainPayload(-1)
	if _, err := b.decodeAny(good); err != nil || !read(good) {
		t.Fatalf("a good payload is not read straight; %v", err)
	}
	for i := range good {
		if read(good[:i]) {
			t.Errorf("%d bytes of it are read", i)
		}
	}
	invalid := bytes2("ff ff ff ff ff ff ff ff ff 02")
	for name, payload := range map[string][]byte{
		"trailing byte":             append(plainPayload(-1), 0),
		"negative length":           plainPayload(0, 1),
		"length beyond the end":     plainPayload(0, 254, 255, 255, 255, 15),
		"length of 2^63":            plainPayload(0, append(bytes2("fe ff ff ff ff ff ff ff ff 01"), 'x')...),
		"not UTF-8":                 plainPayload(0, 2, 0xff),
		"not UTF-8 behind 8 bytes":  plainPayload(0, append([]byte{20}, "12345678\xff0"...)...),
		"enum index":                plainPayload(1, 4),
		"negative enum index":       plainPayload(1, 1),
		"int of 33 bits":            plainPayload(2, 128, 128, 128, 128, 32),
		"varint of 65 bits":         plainPayload(2, invalid...),
		"boolean of 2":              plainPayload(3, 2),
		"branch 2":                  plainPayload(6, 4),
		"branch -1":                 plainPayload(6, 1),
		"rank without end":          plainPayload(7, append([]byte{0}, invalid...)...),
		"more items than bytes":     plainPayload(8, 254, 255, 3),
		"count of 2^62":             plainPayload(8, bytes2("fe ff ff ff ff ff ff ff ff 01")...),
		"an item that is not UTF-8": plainPayload(8, 2, 2, 0xff, 0),
	} {
		if read(payload) {
			t.Errorf("%s: it is read", name)
		}
		if _, err := b.decodeAny(payload); err == nil {
			t.Errorf("%s: the walk does not refuse it, either", name)
		}
	}
	for name, payload := range map[string][]byte{ // rare, valid, and left to the library
		"two blocks":         plainPayload(8, 2, 2, 'x', 2, 2, 'y', 0),
		"a block with sizes": plainPayload(8, 3, 8, 2, 'x', 2, 'y', 0),
	} {
		if _, err := b.decodeAny(payload); err != nil || read(payload) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNotStraight: what needs the walk's budgets is left to it.
func TestNotStraight(t *testing.T) {
	for _, text := range []string{chainSchema, nothingSchema, kitchenSchema} {
		s := mustParse(t, text)
		typ := reflect.TypeFor[chain]()
		if !s.recursive {
			typ = goTypeOf(s.root)
		}
		if b, err := newBinding(s, typ, guards{}); err != nil || b.straight != nil {
			t.Errorf("%s is read in one pass; %v", text, err)
		}
	}
	c, _ := bindTest(t, guards{})
	long := func(n int) []byte { return append(long(int64(n)), strings.Repeat("x", n)...) }
	if err := c.try(2, long(MaxPayloadBytes-3)); err != nil {
		t.Error(err)
	}
	mustRefuse(t, "a byte too many", c.try(2, long(MaxPayloadBytes-2)))
}

func bytes2(hex string) []byte {
	var b []byte
	for word := range strings.FieldsSeq(hex) {
		var x byte
		_, _ = fmt.Sscanf(word, "%x", &x)
		b = append(b, x)
	}
	return b
}

// TestStraightRandom compares the two ways on random types, for random payloads, and for such with random damage.
func TestStraightRandom(t *testing.T) {
	t.Logf("seed %d", randomSeed)
	m := &maker{Rand: rand.New(rand.NewPCG(randomSeed, 9)), logical: true, goTypes: true}
	types, bad := 0, 0
	for range 3000 {
		m.names = 0
		s := mustParse(t, jsonOf(t, m.record(3)))
		b, err := newBinding(s, goTypeOf(s.root), guards{})
		if err != nil {
			t.Fatal(err)
		}
		if b.straight == nil {
			continue
		}
		types++
		for range 5 {
			payload := m.payload(nil, s.root)
			for damage := range 6 {
				p := append([]byte{}, payload...)
				for range damage {
					switch at := m.IntN(len(p) + 1); {
					case at == len(p):
						p = append(p, byte(m.Uint32()))
					case m.IntN(4) == 0:
						p = p[:at]
					default:
						p[at] = byte(m.Uint32())
					}
				}
				if _, err := b.decodeAny(p); err != nil { // which compares the two
					bad++
				}
			}
		}
	}
	if types < 100 || bad < 1000 {
		t.Errorf("%d types are straight and %d payloads were refused: that tests little", types, bad)
	}
}

// TestStraightEvents: the events of the repository are of the fast kind, and a version that differs in what is not on the wire is, too.
func TestStraightEvents(t *testing.T) {
	files, err := filepath.Glob("../../schemas/*/v*/*.avsc")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d schemas, %v", len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s := mustParse(t, string(text))
		if b, err := newBinding(s, goTypeOf(s.root), guards{}); err != nil || b.straight == nil {
			t.Errorf("%s is not read in one pass: %v", file, err)
		}
	}
	c, m := bindTest(t, guards{})
	for _, tc := range []struct {
		text string
		want bool
	}{
		{strings.Replace(placedSchema, `"name":"Placed"`, `"name":"Placed","doc":"Another text."`, 1), true},
		{strings.Replace(placedSchema, `"default":"web"`, `"default":"shop"`, 1), true},
		{placedOldSchema, false},
	} {
		id, err := m.SchemaID(context.Background(), "s", tc.text)
		if err != nil {
			t.Fatal(err)
		}
		if p := c.newPlan(fmt.Sprint(id), tc.text); p.err != nil || p.straight != tc.want {
			t.Errorf("straight %v, want %v, %v: %s", p.straight, tc.want, p.err, tc.text)
		}
	}
	// An enum that grew: what the writer cannot have written is refused, so the payload is walked by the writer's schema.
	grown, old := mustParse(t, rec(fld("f", `{"type":"enum","name":"E","symbols":["A","B"]}`))), mustParse(t, rec(fld("f", `{"type":"enum","name":"E","symbols":["A"]}`)))
	if resolve(grown.root, old.root).op != opCopy || resolve(old.root, grown.root).op == opCopy {
		t.Error("the two are taken for the same")
	}
}
