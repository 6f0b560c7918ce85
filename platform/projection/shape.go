package projection

import (
	"encoding/json"
	"slices"

	"github.com/millrace/millrace/platform/es"
)

// A shape is what of a view's code shows in what is stored: a store that has another one belongs to another code.
type shape struct {
	Topics  []string     `json:"topics"`          // sorted
	Indexes []indexShape `json:"indexes"`         // sorted by name
	Range   *Range       `json:"range,omitempty"` // of the partitions; nil = all
}

// An indexShape is an index without the functions.
type indexShape struct {
	Name   string   `json:"name"`
	Parts  []string `json:"parts"` // es.Kind.String
	Unique bool     `json:"unique,omitempty"`

	kinds []es.Kind
}

func (s shape) binary() ([]byte, error) { return json.Marshal(s) }

func parseShape(text []byte) (shape, error) {
	var s shape
	if err := json.Unmarshal(text, &s); err != nil {
		return shape{}, damaged("the shape of the view is malformed").Wrap(err)
	}
	for i := range s.Indexes {
		for _, part := range s.Indexes[i].Parts {
			kind, err := es.ParseKind(part)
			if err != nil {
				return shape{}, damaged("the shape of the view is malformed").Wrap(err)
			}
			s.Indexes[i].kinds = append(s.Indexes[i].kinds, kind)
		}
	}
	return s, nil
}

// find returns an index and its number, or -1.
func (s shape) find(name string) int {
	return slices.IndexFunc(s.Indexes, func(x indexShape) bool { return x.Name == name })
}

func (s shape) unique() bool {
	return slices.ContainsFunc(s.Indexes, func(x indexShape) bool { return x.Unique })
}

func (s shape) names() []string {
	names := make([]string, len(s.Indexes))
	for i, x := range s.Indexes {
		names[i] = x.Name
	}
	return names
}
