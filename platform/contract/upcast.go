package contract

import (
	"fmt"
	"reflect"
	"unsafe"

	"github.com/hamba/avro/v2"
	"github.com/modern-go/reflect2"

	"github.com/millrace/millrace/platform/fault"
)

// ErrUpcast is returned for a stored event of a retired type whose upcaster fails: it panics, returns no event, or one that is not
// of the set or could not be written. It is a mistake in the upcaster.
var ErrUpcast = fault.New(fault.Internal, "upcast_failed", "the stored event cannot be turned into events of today")

// ErrSplit is returned by Decode for a stored event that an upcaster turns into several: DecodeAll reads it.
var ErrSplit = fault.New(fault.Internal, "event_split", "the stored event is read as several events")

// An Upcaster turns the events of one retired type, which are in the log for ever but are not written any more, into events of today.
// A set names it beside its types. Make it with Upcast or Split.
type Upcaster[E any] struct {
	schema string
	old    reflect.Type
	next   reflect.Type // what one step returns; nil after a Split
	step   func(any) any
	split  func(any) []E
	open   func(*binding) reading[any]
}

// Upcast returns the upcaster from the retired type Old, a struct with its schema, the text of its last .avsc, to New: a type of the
// set, E itself if the event decides which, or the Old of another upcaster, so that upcasters form a chain. f is pure.
func Upcast[E, Old, New any](schema string, f func(Old) New) Upcaster[E] {
	u := retired[E, Old](schema)
	u.next = reflect.TypeFor[New]()
	u.step = func(v any) any { return f(v.(Old)) }
	return u
}

// Split returns the upcaster from the retired type Old to at least one event, in the order in which they are to be applied: all of them
// are the stored event's version of the stream. f is pure.
func Split[E, Old any](schema string, f func(Old) []E) Upcaster[E] {
	u := retired[E, Old](schema)
	u.split = func(v any) []E { return f(v.(Old)) }
	return u
}

func retired[E, Old any](schema string) Upcaster[E] {
	return Upcaster[E]{schema: schema, old: reflect.TypeFor[Old](), open: func(b *binding) reading[any] {
		return reading[any]{
			library: func(r *avro.Reader) (any, error) {
				p := new(Old)
				b.dec.Decode(unsafe.Pointer(p), r)
				if r.Error == nil && b.trim != nil {
					b.trim(unsafe.Pointer(p))
				}
				return *p, r.Error
			},
			straight: func(r *straightReader, payload []byte) (any, bool) {
				p := new(Old)
				ok := r.read(b.straight, unsafe.Pointer(p), payload)
				return *p, ok
			},
		}
	}}
}

// Schema returns the text of the retired type's schema.
func (u Upcaster[E]) Schema() string { return u.schema }

// SchemaOf returns the schema of the type T of a set, for an upcaster from a type of an earlier package; "" if T is not in the set.
func SchemaOf[T, E any](s Set[E]) string {
	for _, t := range s.Types {
		if t.typ == reflect.TypeFor[T]() {
			return t.schema
		}
	}
	for _, u := range s.Upcasters {
		if u.old == reflect.TypeFor[T]() {
			return u.schema
		}
	}
	return ""
}

// A lineage is how the events of one retired type become events of today.
type lineage[E any] struct {
	read  reading[any]
	steps []Upcaster[E]
}

// bindUpcasters makes the retired types of the set readable.
func (c *Codec[E]) bindUpcasters(s Set[E], g guards) error {
	byOld := map[reflect.Type]Upcaster[E]{}
	today := map[reflect.Type]bool{}
	for _, t := range s.Types {
		today[t.typ] = true
	}
	for _, u := range s.Upcasters {
		switch {
		case u.open == nil:
			return ErrContract.Because("a zero Upcaster is in the set; make upcasters with Upcast or Split")
		case today[u.old]:
			return ErrContract.Because("%s is a type of the set and has an upcaster: a retired type is not written any more", u.old)
		}
		if _, twice := byOld[u.old]; twice {
			return ErrContract.Because("%s has two upcasters", u.old)
		}
		byOld[u.old] = u
	}
	for _, u := range s.Upcasters {
		schema, err := Parse(u.schema)
		if err != nil {
			return fmt.Errorf("contract: schema of %s: %w", u.old, err)
		}
		bd, err := newBinding(schema, u.old, g)
		if err != nil {
			return err
		}
		b := &bound[E]{binding: bd, subject: SubjectName(s.Topic, schema.Name()), old: &lineage[E]{read: u.open(bd)}}
		if err := c.claim(b); err != nil {
			return err
		}
		for at, n := u, 0; ; n++ {
			b.old.steps = append(b.old.steps, at)
			if at.next == nil || today[at.next] || at.next == reflect.TypeFor[E]() {
				break
			}
			next, ok := byOld[at.next]
			switch {
			case !ok:
				return ErrContract.Because("the upcaster of %s returns %s, which is neither a type of the set nor has an upcaster", at.old, at.next)
			case n > len(s.Upcasters):
				return ErrContract.Because("the upcasters from %s on go round in a circle", u.old)
			}
			at = next
		}
	}
	return nil
}

// claim makes a type known under the name of its record and the names it had before.
func (c *Codec[E]) claim(b *bound[E]) error {
	for _, name := range append([]string{b.schema.Name()}, b.schema.root.aliases...) {
		if c.byName[name] != nil {
			return ErrContract.Because("two types of the set claim the record %s", name)
		}
		c.byName[name] = b
	}
	return nil
}

// upcast appends what a value of a retired type is today. It runs the author's code: a panic in it is an error of this one event.
func (c *Codec[E]) upcast(dst []E, steps []Upcaster[E], v any) (out []E, err error) {
	from := len(dst)
	defer func() {
		if p := recover(); p != nil {
			out, err = dst[:from], ErrUpcast.Because("%T: panic: %.300v", v, p)
		}
	}()
	last := steps[len(steps)-1]
	for _, u := range steps[:len(steps)-1] {
		v = u.step(v)
	}
	if last.split != nil {
		dst = append(dst, last.split(v)...)
	} else if e, ok := last.step(v).(E); ok {
		dst = append(dst, e)
	}
	if len(dst) == from {
		return dst, ErrUpcast.Because("the upcaster of %s returns no event", last.old)
	}
	for _, e := range dst[from:] {
		b := c.byType[reflect2.RTypeOf(e)]
		if b == nil {
			return dst[:from], ErrUpcast.Because("the upcaster of %s returns a %T, which is no type of the set", last.old, e)
		}
		if err := b.valid(e); err != nil {
			return dst[:from], ErrUpcast.Because("the upcaster of %s returns a %s that could not be written", last.old, b.schema.Name()).Wrap(err)
		}
	}
	return dst, nil
}
