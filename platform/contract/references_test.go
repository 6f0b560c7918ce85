package contract

import (
	"errors"
	"strings"
	"testing"
)

func TestInline(t *testing.T) {
	money := `{"type":"record","name":"Money","namespace":"shop.v1","fields":[{"name":"minor","type":"long"},{"name":"currency","type":{"type":"enum","name":"Currency","symbols":["EUR"]}}]}`
	line := `{"type":"record","name":"shop.v1.Line","fields":[{"name":"price","type":"Money"}]}`
	for _, tt := range []struct {
		name, text string
		references []string
		want       string // "!" and a part of the error
	}{
		{"none", ` "int" `, nil, ` "int" `},
		{"once", `{"type":"record","name":"O","namespace":"shop.v1","fields":[{"name":"a","type":"Money"},{"name":"b","type":["null","shop.v1.Money"],"default":null}]}`, []string{money},
			`{"type":"record","name":"O","namespace":"shop.v1","fields":[{"name":"a","type":{"type":"record","name":"Money","fields":[{"name":"minor","type":"long"},{"name":"currency","type":{"type":"enum","name":"Currency","symbols":["EUR"]}}]}},{"name":"b","type":["null","shop.v1.Money"],"default":null}]}`},
		{"another namespace", `{"type":"record","name":"O","namespace":"other","fields":[{"name":"a","type":"shop.v1.Money"}]}`, []string{money},
			`{"type":"record","name":"O","namespace":"other","fields":[{"name":"a","type":{"type":"record","name":"Money","namespace":"shop.v1","fields":[{"name":"minor","type":"long"},{"name":"currency","type":{"type":"enum","name":"Currency","symbols":["EUR"]}}]}}]}`},
		{"inner type first", `["shop.v1.Currency","shop.v1.Money"]`, []string{money},
			`[{"type":"enum","name":"Currency","namespace":"shop.v1","symbols":["EUR"]},{"type":"record","name":"Money","namespace":"shop.v1","fields":[{"name":"minor","type":"long"},{"name":"currency","type":"shop.v1.Currency"}]}]`},
		{"through another", `{"type":"array","items":"shop.v1.Line"}`, []string{money, line},
			`{"type":"array","items":{"type":"record","name":"Line","namespace":"shop.v1","fields":[{"name":"price","type":{"type":"record","name":"Money","fields":[{"name":"minor","type":"long"},{"name":"currency","type":{"type":"enum","name":"Currency","symbols":["EUR"]}}]}}]}}`},
		{"whole", `"shop.v1.Money"`, []string{strings.Replace(money, `"Currency"`, `"x.Currency"`, 1)},
			`{"type":"record","name":"Money","namespace":"shop.v1","fields":[{"name":"minor","type":"long"},{"name":"currency","type":{"type":"enum","name":"Currency","namespace":"x","symbols":["EUR"]}}]}`},
		{"recursive", `{"type":"map","values":"L"}`, []string{`{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"],"default":null}]}`},
			`{"type":"map","values":{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"],"default":null}]}}`},
		{"twice", `["shop.v1.Money"]`, []string{money, money}, "!defined twice"},
		{"in both", money, []string{money}, "!defined in the text and in a reference"},
		{"no JSON", `"int"`, []string{`{`}, "!reference 1"},
		{"large", `"int"`, []string{`"` + strings.Repeat("x", MaxSchemaBytes) + `"`}, "!more than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Inline(tt.text, tt.references...)
			if part, bad := strings.CutPrefix(tt.want, "!"); bad {
				if !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), part) {
					t.Errorf("got %v, want ErrSchema: %s", err, part)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("got  %s, %v\nwant %s", got, err, tt.want)
			}
			s, err := ParseWith(tt.text, tt.references...)
			if err != nil || s.Text() != tt.text {
				t.Fatalf("ParseWith: %v", err)
			}
			if _, err := s.library(); err != nil {
				t.Errorf("the library: %v", err)
			}
			if alone, err := Parse(got); err != nil || len(Compatible(s, alone)) > 0 || s.Recursive() != (tt.name == "recursive") {
				t.Errorf("the text alone: %v", err)
			}
		})
	}
}

func TestParseLenient(t *testing.T) {
	text := `{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":3000000000}]}`
	if _, err := Parse(text); !errors.Is(err, ErrSchema) {
		t.Errorf("Parse: got %v, want ErrSchema", err)
	}
	if s, err := ParseLenient(text); err != nil || s.Name() != "R" {
		t.Errorf("ParseLenient: %v", err)
	}
	if _, err := ParseLenient(`{"type":"record"}`); !errors.Is(err, ErrSchema) {
		t.Errorf("ParseLenient: got %v, want ErrSchema", err)
	}
}

func TestNormalize(t *testing.T) {
	want := `{"type":"record","name":"R","namespace":"a.b","doc":"d","fields":[{"name":"x","type":"long","default":1.50,"aliases":["y"]},{"name":"z","type":{"type":"map","values":["null","S","c.T"]},"pii":{"a":1,"b":2}}],"owner":"o"}`
	for _, text := range []string{
		want,
		`{"owner":"o","fields":[{"aliases":["y"],"order":"ascending","type":{"type":"long"},"default":1.50,"name":"x"}, {"name":"z","pii":{"b":2,"a":1},"type":{"values":["null","a.b.S","c.T"],"type":"map"}}],"doc":"d","name":"a.b.R","type":"record"}`,
		`{"type":"record","name":"a.b.R","namespace":"ignored","doc":"d","fields":[{"name":"x","type":"long","default":1.50,"aliases":["y"]},{"name":"z","type":{"type":"map","values":["null",{"type":"S"},"c.T"]},"pii":{"a":1,"b":2}}],"owner":"o"}`,
	} {
		if got, err := Normalize(text); err != nil || got != want {
			t.Errorf("got  %s, %v\nwant %s", got, err, want)
		}
	}
	if _, err := Normalize(`{`); !errors.Is(err, ErrSchema) {
		t.Errorf("got %v, want ErrSchema", err)
	}
}

func FuzzInline(f *testing.F) {
	f.Add(`["a.B","int"]`, `{"type":"record","name":"B","namespace":"a","fields":[{"name":"x","type":"a.B"}]}`)
	f.Add(`{"type":"map","values":{"type":"B"}}`, `[{"type":"enum","name":"B","symbols":["a"]},{"type":"fixed","name":"C","size":1}]`)
	f.Fuzz(func(t *testing.T, text, reference string) {
		whole, err := Inline(text, reference)
		if err != nil {
			return
		}
		if _, err := Parse(whole); err != nil {
			return
		}
		again, err := Inline(whole, `"int"`)
		if err != nil {
			t.Fatalf("%s: %v", whole, err)
		}
		if _, err := Parse(again); err != nil {
			t.Errorf("%s became %s: %v", whole, again, err)
		}
		normal, err := Normalize(whole)
		if err != nil {
			t.Fatal(err)
		}
		a, _ := Parse(whole)
		b, err := Parse(normal)
		if err != nil || len(Compatible(a, b)) > 0 || len(Compatible(b, a)) > 0 {
			t.Errorf("%s normalized is %s: %v", whole, normal, err)
		}
		if twice, _ := Normalize(normal); twice != normal {
			t.Errorf("%s normalized twice is %s", normal, twice)
		}
	})
}
