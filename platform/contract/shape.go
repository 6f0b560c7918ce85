package contract

import "encoding/json"

// A Shape is one type of a schema as tools look at it. A named type that is used several times is one Shape, so a recursive schema is a graph.
type Shape struct {
	Kind      string // null, boolean, int, long, float, double, bytes, string, record, enum, array, map, union, fixed
	Pointer   string // JSON pointer to its definition in the text, "" = the whole
	Name      string // full name of a record, enum or fixed
	Aliases   []string
	Doc       string
	Logical   string // its logical type if it is a valid one
	Precision int    // of a decimal
	Scale     int
	Size      int // of a fixed
	Fields    []FieldShape
	Items     *Shape // of an array or a map
	Branches  []*Shape
	Symbols   []string
	Default   string         // of an enum, "" = none
	Props     map[string]any // all other properties, as encoding/json has them
}

// A FieldShape is one field of a record.
type FieldShape struct {
	Name       string
	Pointer    string
	Aliases    []string
	Doc        string
	Type       *Shape
	HasDefault bool
	Default    string // JSON
	Props      map[string]any
}

// Shape returns the schema's types, to be looked at only.
func (s *Schema) Shape() *Shape { return shapeTree(s.root, map[*node]*Shape{}) }

// Depth returns how many types are inside each other, a type inside itself counted once.
func (s *Schema) Depth() int { return s.root.depth }

func shapeTree(n *node, seen map[*node]*Shape) *Shape {
	if s := seen[n]; s != nil {
		return s
	}
	s := &Shape{Kind: n.kind.String(), Pointer: n.pointer, Name: n.name, Aliases: n.aliases, Doc: n.doc, Logical: n.logical, Precision: n.prec, Scale: n.scale,
		Size: n.size, Symbols: n.symbols, Props: plainMap(n.props)}
	seen[n] = s
	if n.kind == kindEnum && n.fallback >= 0 {
		s.Default = n.symbols[n.fallback]
	}
	for _, f := range n.fields {
		fs := FieldShape{Name: f.name, Pointer: f.pointer, Aliases: f.aliases, Doc: f.doc, Type: shapeTree(f.node, seen), HasDefault: f.hasDef, Props: plainMap(f.props)}
		if f.hasDef {
			fs.Default = plainText(f.def)
		}
		s.Fields = append(s.Fields, fs)
	}
	if n.items != nil {
		s.Items = shapeTree(n.items, seen)
	}
	for _, b := range n.branches {
		s.Branches = append(s.Branches, shapeTree(b, seen))
	}
	return s
}

func plainMap(m map[string]any) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[k] = plain(v)
	}
	return out
}

// plain turns parsed JSON into what encoding/json knows.
func plain(v any) any {
	switch v := v.(type) {
	case *object:
		return plainMap(v.values)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = plain(v[i])
		}
		return out
	}
	return v
}

func plainText(v any) string {
	text, err := json.Marshal(plain(v))
	if err != nil {
		panic("contract: parsed JSON cannot be written: " + err.Error())
	}
	return string(text)
}
