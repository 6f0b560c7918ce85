package jsontype

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"
)

type Inner struct {
	A, B  int
	Deep  string `json:"deep"`
	Twice int
}

type Other struct {
	Twice int
	C     int `json:"B"`
}

type hidden struct {
	Shown int `json:"shown"`
}

type Named Inner

type Outer struct {
	Inner
	*Other
	hidden
	Named   `json:"named"`
	A       string    `json:"A,omitempty"`
	Skipped int       `json:"-"`
	At      time.Time `json:"at,omitzero"`
	N       *int64    `json:"n,string"`
	When    time.Time `json:"when,string"` //nolint:staticcheck // the option does nothing to it
	List    []int     `json:"list,omitempty"`
	Fixed   [1]int    `json:"fixed,omitempty"`
	private int
	Self    *Outer
}

// TestMembers compares with what encoding/json writes.
func TestMembers(t *testing.T) {
	n := int64(1)
	o := Outer{Other: &Other{}, A: "a", At: time.Now(), N: &n, List: []int{1}, private: 1}
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	var wrote map[string]json.RawMessage
	if err := json.Unmarshal(text, &wrote); err != nil {
		t.Fatal(err)
	}
	members := map[string]Member{}
	for _, m := range Members(reflect.TypeFor[Outer]()) {
		members[m.Name] = m
	}
	if got, want := slices.Sorted(maps.Keys(members)), slices.Sorted(maps.Keys(wrote)); !slices.Equal(got, want) {
		t.Errorf("members %q, written are %q", got, want)
	}
	// The least of it is left out of the zero value, or is absent for the embedded pointer that is nil.
	text, err = json.Marshal(Outer{})
	if err != nil {
		t.Fatal(err)
	}
	clear(wrote)
	if err := json.Unmarshal(text, &wrote); err != nil {
		t.Fatal(err)
	}
	for name, m := range members {
		if _, there := wrote[name]; there == m.Optional {
			t.Errorf("%s: optional is %v", name, m.Optional)
		}
		if m.Absent != (name == "B") || m.Quoted != (name == "n") {
			t.Errorf("%s: absent %v, quoted %v", name, m.Absent, m.Quoted)
		}
	}
}
