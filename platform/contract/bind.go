package contract

import (
	"errors"
	"reflect"
	"sync"
	"unsafe"

	"github.com/hamba/avro/v2"
	"github.com/modern-go/reflect2"
)

// A binding ties one schema to one Go type, with a frozen API of its own: the library caches encoders by a form of the schema that
// leaves out defaults, so two versions in one API would take each other's.
type binding struct {
	schema  *Schema
	typ     reflect.Type
	rtype   uintptr
	enc     avro.ValEncoder
	dec     avro.ValDecoder
	writers *sync.Pool
	readers *sync.Pool
}

// A typeCodec is the part of a binding that knows the Go type.
type typeCodec[E any] func(dec avro.ValDecoder, r *avro.Reader) (E, error)

// A bound is a Type that was found in the registry.
type bound[E any] struct {
	binding
	subject string
	id      int32
	read    typeCodec[E]
}

func openType[T, E any](b binding) (typeCodec[E], error) {
	if _, ok := any(*new(T)).(E); !ok {
		return nil, ErrContract.Because("%s does not implement %s", reflect.TypeFor[T](), reflect.TypeFor[E]())
	}
	// Decoding needs a pointer, E needs a value: the pointed-to memory is used again and again, only the value is allocated.
	scratch := &sync.Pool{New: func() any { return new(T) }}
	return func(dec avro.ValDecoder, r *avro.Reader) (E, error) {
		p := scratch.Get().(*T)
		dec.Decode(unsafe.Pointer(p), r)
		var e E
		if r.Error == nil {
			e = any(*p).(E)
		}
		*p = *new(T)
		scratch.Put(p)
		return e, r.Error
	}, nil
}

func bindType[E any](t Type[E]) (*bound[E], error) {
	if t.open == nil {
		return nil, ErrContract.Because("a zero Type is in the set; make types with For")
	}
	schema, err := Parse(t.schema)
	if err != nil {
		return nil, err
	}
	api := avro.Config{DisableBlockSizeHeader: true, MaxSliceAllocSize: MaxItems, MaxByteSliceSize: MaxPayloadBytes}.Freeze()
	typ := reflect2.Type2(t.typ)
	b := &bound[E]{binding: binding{
		schema:  schema,
		typ:     t.typ,
		rtype:   typ.RType(),
		enc:     api.EncoderOf(schema.avro, typ),
		dec:     api.DecoderOf(schema.avro, reflect2.PtrTo(typ)),
		writers: &sync.Pool{New: func() any { return avro.NewWriter(nil, 1024, avro.WithWriterConfig(api)) }},
		readers: &sync.Pool{New: func() any { return avro.NewReader(nil, 0, avro.WithReaderConfig(api)) }},
	}}
	b.read, err = t.open(b.binding)
	return b, err
}

// encode appends the Avro form of v, whose dynamic type is b's.
func (b *binding) encode(dst []byte, v any) ([]byte, error) {
	w := b.writers.Get().(*avro.Writer)
	defer b.writers.Put(w)
	w.Reset(nil)
	w.Error = nil
	b.enc.Encode(reflect2.PtrOf(v), w)
	if w.Error != nil {
		return dst, w.Error
	}
	return append(dst, w.Buffer()...), nil
}

func (b *bound[E]) decode(payload []byte) (E, error) {
	r := b.readers.Get().(*avro.Reader)
	defer b.readers.Put(r)
	r.Reset(payload)
	r.Error = nil
	e, err := b.read(b.dec, r)
	if err != nil {
		return e, err
	}
	if r.Peek(); r.Error == nil {
		var none E
		return none, errors.New("bytes after the end")
	}
	r.Reset(nil)
	return e, nil
}
