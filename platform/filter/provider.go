package filter

import (
	"slices"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// A provider tells CEL of the objects of a row; of other structs it knows nothing, and none can be made.
type provider struct {
	*types.Registry
	objects map[string]*shape
}

// FindStructType returns the type of an object.
func (p *provider) FindStructType(name string) (*types.Type, bool) {
	if s := p.objects[name]; s != nil {
		return types.NewTypeTypeWithParam(s.cel), true
	}
	return nil, false
}

// FindStructFieldNames returns the names of an object's fields.
func (p *provider) FindStructFieldNames(name string) ([]string, bool) {
	s := p.objects[name]
	if s == nil {
		return nil, false
	}
	return s.names(), true
}

// FindStructFieldType returns the type of a field and how to read it.
func (p *provider) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	s := p.objects[name]
	if s == nil {
		return nil, false
	}
	i, ok := s.places[field]
	if !ok {
		return nil, false
	}
	return &types.FieldType{
		Type: s.fields[i].shape.cel,
		IsSet: func(target any) bool {
			r, ok := target.(*record)
			return ok && r.shape == s && r.has(i)
		},
		GetFrom: func(target any) (any, error) {
			r, ok := target.(*record)
			if !ok || r.shape != s {
				return nil, ErrRow.Because("no object where %s was expected", s.cel)
			}
			return r.at(i), nil
		},
	}, true
}

// NewValue refuses to make an object.
func (p *provider) NewValue(name string, _ map[string]ref.Val) ref.Val {
	return types.NewErr("a filter makes no %s", name)
}

// FindIdent returns the types that a value can be compared with or converted to.
func (p *provider) FindIdent(name string) (ref.Val, bool) {
	if slices.Contains(typeNames, name) {
		return p.Registry.FindIdent(name)
	}
	return nil, false
}

// EnumValue returns an error: there are no enumerations.
func (p *provider) EnumValue(name string) ref.Val { return types.NewErr("there is no %s", name) }

var typeNames = []string{"bool", "bytes", "double", "google.protobuf.Duration", "google.protobuf.Timestamp", "int", "list", "map", "null_type", "string", "type", "uint"}

// names returns the names of an object's fields.
func (s *shape) names() []string {
	names := make([]string, len(s.fields))
	for i, f := range s.fields {
		names[i] = f.name
	}
	return names
}
