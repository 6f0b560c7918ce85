package contract

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

type identified struct {
	ID    UUID   `avro:"id"`
	Raw   UUID   `avro:"raw"`
	Other *UUID  `avro:"other"`
	More  []UUID `avro:"more"`
}

func (identified) isEvent() {}

const identifiedSchema = `{"type":"record","name":"Identified","fields":[{"name":"id","type":{"type":"string","logicalType":"uuid"}},{"name":"raw","type":{"type":"fixed","name":"U","size":16,"logicalType":"uuid"}},
	{"name":"other","type":["null",{"type":"string","logicalType":"uuid"}],"default":null},{"name":"more","type":{"type":"array","items":{"type":"string","logicalType":"uuid"}}}]}`

// TestUUID writes and reads UUIDs, in one pass and with the library, and refuses texts that are none.
func TestUUID(t *testing.T) {
	const text = "0191d5a4-0123-7abc-8def-fedcba987654"
	u, err := ParseUUID(text)
	if err != nil || u.String() != text {
		t.Fatalf("got %s, %v", u, err)
	}
	if upper, err := ParseUUID(strings.ToUpper(text)); err != nil || upper != u {
		t.Errorf("got %s, %v", upper, err)
	}
	for _, bad := range []string{"", text[:35], text + "0", "{" + text[1:], strings.Replace(text, "-", "0", 1), strings.Replace(text, "a", "g", 1), strings.Replace(text, "a", "\xff", 1), strings.Replace(text, "f", "-", 1)} {
		if got, err := ParseUUID(bad); err == nil || got != (UUID{}) {
			t.Errorf("%q: got %s, %v", bad, got, err)
		}
	}
	if got, err := json.Marshal(u); err != nil || string(got) != `"`+text+`"` {
		t.Errorf("got %s, %v", got, err)
	}
	want := identified{u, UUID{1}, &u, []UUID{{}, u}}
	for _, g := range []guards{{}, {noTrailing: true}} { // with a guard off it is read by the library
		c, err := bindSet(t.Context(), Set[event]{Topic: "t", Types: []Type[event]{For[identified, event](identifiedSchema)}}, NewMemory(), g)
		if err != nil {
			t.Fatal(err)
		}
		if b := c.byName["Identified"]; (b.straight != nil) != (g == guards{}) {
			t.Errorf("%+v: in one pass: %v", g, b.straight != nil)
		}
		frame, err := c.Append(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Decode(t.Context(), frame); err != nil || !reflect.DeepEqual(got, event(want)) {
			t.Errorf("%+v: got %v, %v", g, got, err)
		}
		for i := 5; i < len(frame); i++ {
			if _, err := c.Decode(t.Context(), frame[:i]); !errors.Is(err, ErrUndecodable) {
				t.Errorf("%+v: %d bytes of it: %v", g, i, err)
			}
		}
		frame[10] = 'x'
		mustRefuse(t, "no UUID", c.try(1, frame[5:]))
	}
	for _, def := range []string{`"default":""`, `"default":"` + text + `"`} {
		s := mustParse(t, rec(`{"name":"f","type":{"type":"string","logicalType":"uuid"},`+def+`}`))
		_, err := newBinding(s, reflect.TypeFor[struct {
			F UUID `avro:"f"`
		}](), guards{})
		if wrong := def == `"default":""`; (err != nil) != wrong {
			t.Errorf("%s: %v", def, err)
		}
	}
}

// FuzzUUID reads any text: what is read is the text, but for the case of its digits.
func FuzzUUID(f *testing.F) {
	f.Add("0191d5a4-0123-7abc-8DEF-fedcba987654")
	f.Add("00000000-0000-0000-0000-00000000000g")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := ParseUUID(text)
		if err == nil && u.String() != strings.ToLower(text) || err != nil && u != (UUID{}) {
			t.Errorf("%q is read as %s, %v", text, u, err)
		}
	})
}
