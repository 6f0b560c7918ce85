package command

import "reflect"

// A sizer estimates how much memory values take beside their own struct: how a type is looked at is found out once.
type sizer struct {
	plans map[reflect.Type]*sizing
	nodes int // that may still be looked at
}

// A sizing says where the values of a type hold memory.
type sizing struct {
	kind   reflect.Kind // Invalid = nowhere
	own    int          // bytes of the element, or of key and element
	key    *sizing
	elem   *sizing
	fields []sizedField
}

type sizedField struct {
	index  int
	sizing *sizing
}

// The bounds of one estimate: of long lists a sample stands for the rest.
const (
	sizeNodes  = 4096
	sizeSample = 64
)

func newSizer() *sizer { return &sizer{plans: map[reflect.Type]*sizing{}} }

// of returns the bytes that v holds elsewhere, about.
func (z *sizer) of(v reflect.Value) int {
	z.nodes = sizeNodes
	return z.deep(z.plan(v.Type()), v)
}

// plan returns how the values of a type are looked at.
func (z *sizer) plan(t reflect.Type) *sizing {
	if p := z.plans[t]; p != nil {
		return p
	}
	p := &sizing{kind: t.Kind()}
	z.plans[t] = p // before its parts, which may be of the same type
	switch t.Kind() {
	case reflect.String, reflect.Interface:
	case reflect.Slice, reflect.Pointer:
		p.own, p.elem = int(t.Elem().Size()), z.plan(t.Elem())
		if t.Kind() == reflect.Pointer && t.Elem().PkgPath() == "time" && t.Elem().Name() == "Location" {
			p.kind = reflect.Invalid // the zone of a time, which all times share
		}
	case reflect.Array:
		if p.elem = z.plan(t.Elem()); p.elem.kind == reflect.Invalid {
			p.kind = reflect.Invalid
		}
	case reflect.Map:
		// A table has room for an eighth more than it holds, and a byte for each place.
		p.own = (int(t.Key().Size()+t.Elem().Size()) + 1) * 8 / 7
		p.key, p.elem = z.plan(t.Key()), z.plan(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if f := z.plan(t.Field(i).Type); f.kind != reflect.Invalid {
				p.fields = append(p.fields, sizedField{i, f})
			}
		}
		if len(p.fields) == 0 {
			p.kind = reflect.Invalid
		}
	default:
		p.kind = reflect.Invalid
	}
	return p
}

func (z *sizer) deep(p *sizing, v reflect.Value) int {
	if z.nodes--; z.nodes < 0 {
		return 0
	}
	size := 0
	switch p.kind {
	case reflect.String:
		return v.Len()
	case reflect.Pointer:
		if !v.IsNil() {
			size = p.own + z.deep(p.elem, v.Elem())
		}
	case reflect.Interface:
		if !v.IsNil() {
			v = v.Elem()
			size = int(v.Type().Size()) + z.deep(z.plan(v.Type()), v)
		}
	case reflect.Slice:
		size = v.Cap()*p.own + z.elements(p.elem, v)
	case reflect.Array:
		size = z.elements(p.elem, v)
	case reflect.Map:
		size = v.Len() * p.own
		if p.key.kind == reflect.Invalid && p.elem.kind == reflect.Invalid {
			break
		}
		seen, held := 0, 0
		for i := v.MapRange(); seen < sizeSample && i.Next(); seen++ {
			held += z.deep(p.key, i.Key()) + z.deep(p.elem, i.Value())
		}
		size += scaled(held, seen, v.Len())
	case reflect.Struct:
		for i := range p.fields {
			size += z.deep(p.fields[i].sizing, v.Field(p.fields[i].index))
		}
	}
	return size
}

func (z *sizer) elements(p *sizing, v reflect.Value) int {
	if p.kind == reflect.Invalid {
		return 0
	}
	size, seen := 0, 0
	for ; seen < min(v.Len(), sizeSample); seen++ {
		size += z.deep(p, v.Index(seen))
	}
	return scaled(size, seen, v.Len())
}

func scaled(size, seen, all int) int {
	if seen == 0 {
		return 0
	}
	return size * all / seen
}
