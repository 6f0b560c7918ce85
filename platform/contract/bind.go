package contract

import (
	"fmt"
	"reflect"
	"sync"
	"unsafe"

	"github.com/hamba/avro/v2"
	"github.com/modern-go/reflect2"
)

// Guards are the defences around the library, each of which a test turns off to show that it is needed. Outside of tests all are on.
type guards struct {
	noScan     bool // walk the payload before it is decoded
	noStrict   bool // take every error of the reader seriously, its wrapped io.EOF too
	noTrailing bool // refuse bytes after the value
	noLimits   bool // bound what the library allocates by itself
	noCheck    bool // look at Go values before, and at bytes after they were encoded
}

// A binding ties one schema to one Go type, with a frozen API of its own: the library caches encoders by a form of the schema that
// leaves out defaults, so two versions in one API could take each other's.
type binding struct {
	guards
	schema    *Schema
	typ       reflect.Type
	rtype     uintptr
	enc       avro.ValEncoder
	dec       avro.ValDecoder
	check     check
	trim      trim
	direct    bool      // an interface holds the value itself, not a pointer to it
	straight  *straight // how it is read in one pass, nil = it is not straight
	writers   *sync.Pool
	readers   *sync.Pool
	straights *sync.Pool
	rewrites  *sync.Pool
}

// A reading reads one value: with the library, or in one pass if the binding is straight.
type reading[E any] struct {
	library  func(r *avro.Reader) (E, error)
	straight func(r *straightReader, payload []byte) (E, bool)
}

// A bound is a Type that was found in the registry.
type bound[E any] struct {
	*binding
	subject string
	id      int32
	read    reading[E]
	old     *lineage[E] // of a retired type: instead of read
}

// openType is what For knows of T.
func openType[T, E any](b *binding) (reading[E], error) {
	if _, ok := any(*new(T)).(E); !ok || reflect.TypeFor[E]().Kind() != reflect.Interface {
		return reading[E]{}, ErrContract.Because("%s does not implement %s", reflect.TypeFor[T](), reflect.TypeFor[E]())
	}
	proto := any(*new(T)).(E)
	return reading[E]{
		library: func(r *avro.Reader) (E, error) {
			p := new(T)
			b.dec.Decode(unsafe.Pointer(p), r)
			if r.Error != nil && !b.noStrict {
				var none E
				return none, r.Error
			}
			if b.trim != nil {
				b.trim(unsafe.Pointer(p))
			}
			return over(proto, unsafe.Pointer(p), b.direct), r.Error
		},
		straight: func(r *straightReader, payload []byte) (none E, ok bool) {
			p := new(T)
			if !r.read(b.straight, unsafe.Pointer(p), payload) {
				return none, false
			}
			return over(proto, unsafe.Pointer(p), b.direct), true
		},
	}, nil
}

// over returns the interface proto with the value at p instead of its own. It takes the memory over, so nobody else may know p:
// a conversion would allocate and copy, and look the method table up each time.
func over[E any](proto E, p unsafe.Pointer, direct bool) E {
	words := (*struct{ table, data unsafe.Pointer })(unsafe.Pointer(&proto)) // an interface in memory
	if direct {
		p = *(*unsafe.Pointer)(p)
	}
	words.data = p
	return proto
}

func bindType[E any](t Type[E], g guards) (*bound[E], error) {
	if t.open == nil {
		return nil, ErrContract.Because("a zero Type is in the set; make types with For")
	}
	schema, err := Parse(t.schema)
	if err != nil {
		return nil, fmt.Errorf("contract: schema of %s: %w", t.typ, err)
	}
	b, err := newBinding(schema, t.typ, g)
	if err != nil {
		return nil, err
	}
	read, err := t.open(b)
	return &bound[E]{binding: b, read: read}, err
}

func newBinding(schema *Schema, typ reflect.Type, g guards) (*binding, error) {
	if schema.root.kind != kindRecord {
		return nil, ErrContract.Because("the schema of %s is a %s; an event is a record", typ, schema.root.kind)
	}
	b := &binding{guards: g, schema: schema, typ: typ}
	var err error
	if b.check, b.trim, err = shapeOf(schema.root, typ); err != nil {
		return nil, ErrContract.Because("%s", schema.Name()).Wrap(err).WithFix("generate the Go types again: millrace contract generate DIR")
	}
	wire, err := schema.wire()
	if err != nil {
		return nil, ErrContract.Because("%s", schema.Name()).Wrap(err)
	}
	config := avro.Config{DisableBlockSizeHeader: true}
	if !g.noLimits {
		config.MaxSliceAllocSize, config.MaxByteSliceSize = MaxItems, MaxPayloadBytes
	}
	api := config.Freeze()
	library := reflect2.Type2(typ)
	b.rtype = library.RType()
	// The zero value of a type that an interface holds directly, a struct of one pointer, is nil in the interface. (The library's own
	// way to tell, by the number of fields, misses structs that have fields without a size beside the pointer.)
	b.direct = reflect2.PtrOf(reflect.Zero(typ).Interface()) == nil
	b.enc = api.EncoderOf(wire, reflect2.PtrTo(library))
	b.dec = api.DecoderOf(wire, reflect2.PtrTo(library))
	b.writers = &sync.Pool{New: func() any { return avro.NewWriter(nil, 1024, avro.WithWriterConfig(api)) }}
	b.readers = &sync.Pool{New: func() any { return avro.NewReader(nil, 0, avro.WithReaderConfig(api)) }}
	b.rewrites = &sync.Pool{New: func() any { return new(rewrite) }}
	b.straights = &sync.Pool{New: func() any { return new(straightReader) }}
	if v, ok := straightOf(schema.root, typ, 0, 0); ok && g == (guards{}) {
		b.straight = &v
	}
	return b, nil
}

// maxKept is the largest buffer that is kept for the next value.
const maxKept = 64 << 10

// pointer returns where the value is that v, whose dynamic type is b's, holds.
func (b *binding) pointer(v any) unsafe.Pointer {
	p := reflect2.PtrOf(v)
	if b.direct {
		word := p
		p = unsafe.Pointer(&word)
	}
	return p
}

// valid says why v, whose dynamic type is b's, could not be written, as far as its Go value shows.
func (b *binding) valid(v any) error {
	if b.check == nil {
		return nil
	}
	return b.check(b.pointer(v))
}

// encode appends the Avro form of v, whose dynamic type is b's.
func (b *binding) encode(dst []byte, v any) ([]byte, error) {
	p := b.pointer(v)
	if b.check != nil && !b.noCheck {
		if err := b.check(p); err != nil {
			return dst, err
		}
	}
	w := b.writers.Get().(*avro.Writer)
	w.Reset(nil)
	w.Error = nil
	b.enc.Encode(p, w)
	out, err := w.Buffer(), w.Error
	if err == nil && !b.noCheck {
		// What is written is read for ever: nothing is, that the same walk would refuse when it is read.
		err = scan(b.schema.root, out)
	}
	if err == nil {
		dst = append(dst, out...)
	}
	if cap(out) <= maxKept {
		b.writers.Put(w)
	}
	return dst, err
}

// decodeStraight reads one value of the reader's schema that was not scanned, or reports false: then decode has to.
func decodeStraight[T any](b *binding, payload []byte, read reading[T]) (v T, ok bool) {
	if b.straight == nil {
		return v, false
	}
	r := b.straights.Get().(*straightReader)
	v, ok = read.straight(r, payload)
	b.straights.Put(r)
	return v, ok
}

// decode reads one value of the reader's schema that was scanned before.
func decode[T any](b *binding, payload []byte, read reading[T]) (T, error) {
	var none T
	r := b.readers.Get().(*avro.Reader)
	r.Reset(payload)
	r.Error = nil
	e, err := read.library(r)
	if err == nil {
		if r.Peek(); r.Error == nil && !b.noTrailing {
			err = fmt.Errorf("bytes follow after the end of the value")
		}
	}
	r.Reset(nil)
	b.readers.Put(r)
	if err != nil && !b.noStrict {
		return none, err
	}
	return e, nil
}
