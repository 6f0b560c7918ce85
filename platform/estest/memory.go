package estest

import (
	"reflect"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
)

// A snapshot is a copy of all that a value refers to, also of what lies behind the length of its slices: there an append to a slice that
// somebody else holds leaves its trace.
type snapshot struct{ of, copied reflect.Value }

// snap takes a snapshot of what v points to.
func snap[T any](v *T) snapshot {
	of := reflect.ValueOf(v).Elem()
	copied := reflect.New(of.Type()).Elem()
	copyAll(copied, of, map[unsafe.Pointer]reflect.Value{})
	return snapshot{of, copied}
}

// changed returns what is different since the snapshot was taken, "" if nothing is.
func (s snapshot) changed() string {
	now := reflect.New(s.of.Type()).Elem()
	copyAll(now, s.of, map[unsafe.Pointer]reflect.Value{})
	return cmp.Diff(s.copied.Interface(), now.Interface(), all)
}

var timeType = reflect.TypeFor[time.Time]()

// copyAll copies src to dst, which is addressable; pointers are copied once, so that what goes in circles ends.
func copyAll(dst, src reflect.Value, known map[unsafe.Pointer]reflect.Value) {
	switch src.Kind() {
	case reflect.Struct:
		dst.Set(src)
		if src.Type() == timeType {
			return
		}
		if !src.CanAddr() {
			holder := reflect.New(src.Type()).Elem()
			holder.Set(src)
			src = holder
		}
		for i := range src.NumField() {
			from, to := src.Field(i), dst.Field(i)
			// Fields that are not exported count, too.
			copyAll(reflect.NewAt(to.Type(), to.Addr().UnsafePointer()).Elem(), reflect.NewAt(from.Type(), from.Addr().UnsafePointer()).Elem(), known)
		}
	case reflect.Slice:
		if src.IsNil() {
			dst.SetZero()
			return
		}
		whole := src.Slice(0, src.Cap())
		fresh := reflect.MakeSlice(src.Type(), whole.Len(), whole.Len())
		for i := range whole.Len() {
			copyAll(fresh.Index(i), whole.Index(i), known)
		}
		dst.Set(fresh)
	case reflect.Array:
		for i := range src.Len() {
			copyAll(dst.Index(i), src.Index(i), known)
		}
	case reflect.Map:
		if src.IsNil() {
			dst.SetZero()
			return
		}
		fresh := reflect.MakeMapWithSize(src.Type(), src.Len())
		for key, value := range src.Seq2() {
			v := reflect.New(value.Type()).Elem()
			copyAll(v, value, known)
			fresh.SetMapIndex(key, v)
		}
		dst.Set(fresh)
	case reflect.Pointer:
		if src.IsNil() {
			dst.SetZero()
			return
		}
		at := src.UnsafePointer()
		fresh, ok := known[at]
		if !ok || fresh.Type() != src.Type() {
			fresh = reflect.New(src.Type().Elem())
			known[at] = fresh
			copyAll(fresh.Elem(), src.Elem(), known)
		}
		dst.Set(fresh)
	case reflect.Interface:
		if src.IsNil() {
			dst.SetZero()
			return
		}
		held := reflect.New(src.Elem().Type()).Elem()
		copyAll(held, src.Elem(), known)
		dst.Set(held)
	default:
		dst.Set(src)
	}
}
