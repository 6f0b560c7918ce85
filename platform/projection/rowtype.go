package projection

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
)

var (
	jsonMarshaler   = reflect.TypeFor[json.Marshaler]()
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textMarshaler   = reflect.TypeFor[encoding.TextMarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// checkRowType returns an error for a row type that loses something on its way through JSON: its rows would depend on whether they
// were in memory or read back, and so on the timing.
func checkRowType(t reflect.Type) error { return checkType(t, t.String(), map[reflect.Type]bool{}) }

func checkType(t reflect.Type, path string, seen map[reflect.Type]bool) error {
	if seen[t] {
		return nil
	}
	seen[t] = true
	p := reflect.PointerTo(t)
	if p.Implements(jsonMarshaler) && p.Implements(jsonUnmarshaler) || p.Implements(textMarshaler) && p.Implements(textUnmarshaler) {
		return nil
	}
	switch t.Kind() {
	case reflect.Interface:
		return fmt.Errorf("%s is an interface: JSON does not say which type to read back", path)
	case reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer, reflect.Uintptr:
		return fmt.Errorf("%s is a %s, which JSON cannot hold", path, t.Kind())
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return checkType(t.Elem(), path+"[]", seen)
	case reflect.Map:
		if err := checkType(t.Key(), path+" key", seen); err != nil {
			return err
		}
		return checkType(t.Elem(), path+"[]", seen)
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			name := path + "." + f.Name
			if !f.IsExported() && !f.Anonymous {
				return fmt.Errorf("%s is not exported, so JSON drops it", name)
			}
			if f.Tag.Get("json") == "-" {
				return fmt.Errorf("%s has the tag json:\"-\", so JSON drops it", name)
			}
			if err := checkType(f.Type, name, seen); err != nil {
				return err
			}
		}
	default: // numbers, strings and booleans are what JSON is made for
	}
	return nil
}
