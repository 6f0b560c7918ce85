package contract

import (
	"bytes"
	"context"
	"errors"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	oracle "github.com/twmb/avro"
)

// A subject of a fuzz target: one schema, read by us and by the oracle.
type fuzzed struct {
	*binding
	oracle *oracle.Schema
}

func fuzzSchemas(f *testing.F) []fuzzed {
	texts := []string{placedSchema, kitchenSchema, chainSchema, nothingSchema, preciseSchema, plainSchema}
	files, err := filepath.Glob("../../schemas/*/v*/*.avsc")
	if err != nil || len(files) < 4 {
		f.Fatalf("%d schemas in the repository, %v", len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	var out []fuzzed
	for _, text := range texts {
		s := mustParse(f, text)
		typ := map[string]reflect.Type{chainSchema: reflect.TypeFor[chain](), preciseSchema: reflect.TypeFor[precise]()}[text]
		if typ == nil {
			typ = goTypeOf(s.root)
		}
		b, err := newBinding(s, typ, guards{})
		if err != nil {
			f.Fatal(err)
		}
		out = append(out, fuzzed{b, oracle.MustParse(text)})
		m := &maker{Rand: rand.New(rand.NewPCG(1, 1))}
		if !s.recursive {
			for range 5 {
				f.Add(byte(len(out)-1), m.payload(nil, s.root))
			}
		}
	}
	f.Add(byte(2), []byte{2, 2, 2, 0})
	return out
}

// stricter are the faults that the oracle, which reads liberally, lets pass.
var stricter = []string{"UTF-8", "neither 0 nor 1", "nested too deep", "too many", "the number is no", "too many digits", "does not have the size", "too much work",
	"size of the block", "at most"}

// FuzzDecode reads any bytes as each schema. What is read can be written and read again; the oracle reads the same value from both, and
// refuses nothing that we read. What only we refuse is refused for a reason that we know to be ours.
//
// G13: No bytes make the codec panic, hang, or take memory out of proportion: what is not exactly one event is an error.
func FuzzDecode(f *testing.F) {
	schemas := fuzzSchemas(f)
	f.Fuzz(func(t *testing.T, which byte, payload []byte) {
		s := schemas[int(which)%len(schemas)]
		v, err := s.decodeAny(payload)
		var theirs any
		rest, oracleErr := s.oracle.Decode(payload, &theirs)
		if err != nil {
			known := false
			for _, words := range stricter {
				known = known || strings.Contains(err.Error(), words)
			}
			if oracleErr == nil && len(rest) == 0 && !known {
				t.Fatalf("only we refuse it: %v", err)
			}
			return
		}
		if oracleErr != nil || len(rest) > 0 {
			t.Fatalf("the oracle refuses what we read: %v, %d bytes left", oracleErr, len(rest))
		}
		again, err := s.encode(nil, v.Interface())
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		back, err := s.decodeAny(again)
		if err != nil {
			t.Fatal(err)
		}
		if !equal(back.Interface(), v.Interface()) {
			t.Fatalf("got %+v, want %+v", back, v)
		}
		var second any
		if _, err := s.oracle.Decode(again, &second); err != nil || !equal(second, theirs) {
			t.Fatalf("the oracle reads %v from what was written again, %v before; %v", second, theirs, err)
		}
	})
}

// equal compares values with decimals and NaN in them.
func equal(a, b any) bool {
	return cmp.Equal(a, b, cmp.Comparer(func(x, y *big.Rat) bool { return x == nil && y == nil || x != nil && y != nil && x.Cmp(y) == 0 }),
		cmp.Comparer(func(x, y float64) bool { return x == y || x != x && y != y }),
		cmp.Comparer(func(x, y float32) bool { return x == y || x != x && y != y }),
		cmp.Comparer(func(x, y time.Time) bool { return x.Equal(y) }))
}

// FuzzFrame decodes any value of a record: an event, or one of the package's errors.
func FuzzFrame(f *testing.F) {
	ctx := context.Background()
	m := NewMemory()
	c, err := Bind(ctx, testSet, m)
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{placedOldSchema, chainSchema, `"string"`, `{"type":"record","name":"test.v1.Cancelled","fields":[]}`} {
		if _, err := m.SchemaID(ctx, "s", text); err != nil {
			f.Fatal(err)
		}
	}
	frame, err := c.Append(nil, typical())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(frame)
	f.Add(frameOf(3, oldPayload(f)))
	f.Add([]byte("{}"))
	f.Add([]byte{0, 0, 0, 0, 4, 0})
	f.Fuzz(func(t *testing.T, frame []byte) {
		e, err := c.Decode(ctx, frame)
		if n := min(len(frame), frameBytes); n > 0 { // the same in a header, or, behind 0x01, something else
			all, headErr := c.DecodeHeader(ctx, nil, frame[:n], frame[n:])
			if (err == nil) != (headErr == nil) || err == nil && (len(all) != 1 || !equal(all[0], e)) {
				t.Fatalf("by header %+v, %v; by frame %+v, %v", all, headErr, e, err)
			}
		}
		switch {
		case err == nil && e == nil:
			t.Fatal("neither an event nor an error")
		case err == nil:
			if _, err := c.Append(nil, e); err != nil {
				t.Fatalf("what was read cannot be written: %v", err)
			}
		case !errors.Is(err, ErrUndecodable) && !errors.Is(err, ErrUnknownType) && !errors.Is(err, ErrUnknownSchema):
			t.Fatalf("an error of another kind: %v", err)
		}
	})
}

// FuzzParse reads any text as a schema, and any bytes by it.
func FuzzParse(f *testing.F) {
	for _, text := range []string{placedSchema, kitchenSchema, chainSchema, nothingSchema, preciseSchema, lineSchema, `"string"`, `["null","int"]`, `{"type":"map","values":"bytes"}`,
		withDefault(`["null",{"type":"array","items":"long"}]`, "[1]"), withDefault(`{"type":"fixed","name":"F","size":2,"logicalType":"decimal","precision":3}`, `"ab"`)} {
		f.Add(text, []byte{2, 2, 'a', 0})
	}
	f.Fuzz(func(t *testing.T, text string, payload []byte) {
		s, err := Parse(text)
		if err != nil {
			if !errors.Is(err, ErrSchema) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		if _, err := s.wire(); err != nil {
			t.Fatalf("the library does not take the structure: %v", err)
		}
		found := Compatible(s, s)
		for _, i := range found {
			if i.Rule != RuleAlias {
				t.Fatalf("it cannot read itself: %v", found)
			}
		}
		again, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		conv := resolve(again.root, s.root)
		if found == nil && conv.op != opCopy {
			t.Fatalf("it does not read itself as it is: %s", conv.reason)
		}
		err = scan(s.root, payload)
		out, _, convErr := conv.transcode(nil, payload, nil)
		if found == nil && ((err == nil) != (convErr == nil) || err == nil && !bytes.Equal(out, payload)) {
			t.Fatalf("walked: %v, copied: %v", err, convErr)
		}
	})
}

// FuzzResolve reads any bytes by a random writer as a random reader: what comes out is a payload of the reader.
func FuzzResolve(f *testing.F) {
	m := &maker{Rand: rand.New(rand.NewPCG(randomSeed, 3))}
	var readers, writers []*Schema
	for i := range 200 {
		m.names = 0
		writer := m.record(3)
		reader := m.mutate(m.mutate(clone(writer), 3), 3)
		writers = append(writers, mustParse(f, jsonOf(f, writer)))
		readers = append(readers, mustParse(f, jsonOf(f, reader)))
		f.Add(byte(i), m.payload(nil, writers[i].root))
	}
	f.Fuzz(func(t *testing.T, which byte, payload []byte) {
		r, w := readers[int(which)%len(readers)], writers[int(which)%len(writers)]
		out, _, err := resolve(r.root, w.root).transcode(nil, payload, nil)
		valid := scan(w.root, payload) == nil
		switch {
		case err != nil:
			if valid && Compatible(r, w) == nil {
				t.Fatalf("a compatible reader cannot read it: %v\n%s\n%s", err, r.Text(), w.Text())
			}
		case !valid:
			t.Fatalf("a payload that is not the writer's is read\n%s\n%s", r.Text(), w.Text())
		default:
			if err := scan(r.root, out); err != nil {
				t.Fatalf("the result is not the reader's: %v\n%s\n%s", err, r.Text(), w.Text())
			}
		}
	})
}

// FuzzRoundTrip writes any event that can be written and reads it again.
func FuzzRoundTrip(f *testing.F) {
	f.Add("o-1", "c-1", "USD", int64(1), "note", "sku", int64(2), int64(3), true)
	f.Add("", "\xff", "€", int64(-62135596800000000), "", "\x00", int64(-1<<63), int64(1<<63-1), false)
	ctx := context.Background()
	c, _ := bindTest(f, guards{})
	f.Fuzz(func(t *testing.T, order, customer, currency string, micros int64, note, sku string, quantity, amount int64, gift bool) {
		want := placed{OrderID: order, CustomerID: customer, Currency: currency, OrderedAt: time.UnixMicro(micros).UTC(), Channel: sku, Note: &note,
			Lines: []line{{sku, note, quantity, amount}}, Gift: gift, Units: quantity, Total: amount}
		if !gift {
			want.Note, want.Lines = nil, []line{}
		}
		frame, err := c.Append(nil, want)
		if err != nil {
			if !errors.Is(err, ErrUnencodable) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		got, err := c.Decode(ctx, frame)
		if err != nil || !reflect.DeepEqual(got, event(want)) {
			t.Fatalf("got %+v, %v, want %+v", got, err, want)
		}
	})
}
