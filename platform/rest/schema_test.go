package rest

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type upper string

func (u upper) MarshalText() ([]byte, error)  { return []byte(u), nil }
func (u *upper) UnmarshalText(b []byte) error { *u = upper(b); return nil }

type odd struct{ X int }

func (odd) MarshalJSON() ([]byte, error)  { return []byte("1"), nil }
func (*odd) UnmarshalJSON(b []byte) error { return nil }

type within struct {
	Deep int    `json:"deep"`
	Same string `json:"same"`
}

type pair[T any] struct {
	A T `json:"a"`
}

type tree struct {
	Name     string  `json:"name"`
	Children []tree  `json:"children,omitempty"`
	Parent   *tree   `json:"parent,omitempty"`
	Forest   []*tree `json:"forest"`
}

type many struct {
	within
	Same     bool `json:"same"`
	I8       int8
	U16      uint16         `json:"u16"`
	U64      uint64         `json:"u64"`
	Big      int64          `json:"big,omitempty"`
	F        float32        `json:"f"`
	When     time.Time      `json:"when"`
	Maybe    *time.Time     `json:"maybe"`
	Left     *int           `json:"left,omitempty"`
	Bytes    []byte         `json:"bytes"`
	Map      map[string]odd `json:"map"`
	Three    [3]bool        `json:"three"`
	Any      any            `json:"any"`
	Upper    upper          `json:"upper"`
	Number   json.Number    `json:"number"`
	Raw      json.RawMessage
	Took     time.Duration `json:"took"`
	Pair     pair[int]     `json:"pair,omitzero"`
	Hidden   int           `json:"-"`
	internal int
}

// TestSchemas: the schemas of a type that has it all, as a body and as an answer.
func TestSchemas(t *testing.T) {
	_ = many{}.internal
	var s Schemas
	refs := []*Schema{s.Body(reflect.TypeFor[many]()), s.Answer(reflect.TypeFor[many]()), s.Answer(reflect.TypeFor[tree]()), s.Body(reflect.TypeFor[tree]())}
	for i, want := range []string{"rest.manyBody", "rest.many", "rest.tree", "rest.treeBody"} {
		if refs[i].Ref != "#/components/schemas/"+want {
			t.Errorf("%s is %q", want, refs[i].Ref)
		}
	}
	pretty := func(text []byte) string {
		var v any
		if err := json.Unmarshal(text, &v); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		b, _ := json.MarshalIndent(v, "", " ")
		return string(b)
	}
	for name, want := range map[string]string{
		"rest.many": `{"type":"object","properties":{
			"deep":{"type":"integer","format":"int64"},"same":{"type":"boolean"},"I8":{"type":"integer","format":"int32","minimum":-128,"maximum":127},
			"u16":{"type":"integer","minimum":0,"maximum":65535},"u64":{"type":"integer","minimum":0},"big":{"type":"integer","format":"int64"},"f":{"type":"number"},
			"when":{"type":"string","format":"date-time"},"maybe":{"type":["string","null"],"format":"date-time"},"left":{"type":"integer","format":"int64"},
			"bytes":{"type":["string","null"],"contentEncoding":"base64"},"map":{"type":["object","null"],"additionalProperties":{}},
			"three":{"type":"array","items":{"type":"boolean"},"minItems":3,"maxItems":3},"any":{},"upper":{"type":"string"},"number":{"type":"number"},"Raw":{},
			"took":{"type":"integer","format":"int64","description":"nanoseconds"},"pair":{"$ref":"#/components/schemas/rest.pair_int_"}},
			"required":["deep","same","I8","u16","u64","f","when","maybe","bytes","map","three","any","upper","number","Raw","took"]}`,
		"rest.treeBody": `{"type":"object","properties":{"name":{"type":"string"},"children":{"type":"array","items":{"$ref":"#/components/schemas/rest.treeBody"}},
			"parent":{"anyOf":[{"$ref":"#/components/schemas/rest.treeBody"},{"type":"null"}]},
			"forest":{"type":"array","items":{"anyOf":[{"$ref":"#/components/schemas/rest.treeBody"},{"type":"null"}]}}},"additionalProperties":false}`,
		"rest.tree": `{"type":"object","properties":{"name":{"type":"string"},"children":{"type":"array","items":{"$ref":"#/components/schemas/rest.tree"}},
			"parent":{"$ref":"#/components/schemas/rest.tree"},
			"forest":{"type":["array","null"],"items":{"anyOf":[{"$ref":"#/components/schemas/rest.tree"},{"type":"null"}]}}},"required":["name","forest"]}`,
	} {
		text, err := json.Marshal(s.Components()[name])
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(pretty([]byte(want)), pretty(text)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	body := s.Components()["rest.manyBody"]
	if body.Required != nil || body.AdditionalProperties == nil || body.AdditionalProperties.Schema != nil {
		t.Errorf("a body requires members, or allows unknown ones: %+v", body)
	}
	first, _ := json.Marshal(s.Components())
	var again Schemas
	again.Body(reflect.TypeFor[many]())
	again.Answer(reflect.TypeFor[many]())
	again.Answer(reflect.TypeFor[tree]())
	again.Body(reflect.TypeFor[tree]())
	if second, _ := json.Marshal(again.Components()); string(first) != string(second) {
		t.Errorf("another text the second time:\n%s\n%s", first, second)
	}
}
