package contract

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/hamba/avro/v2"
)

// One test for each known trap of the library, by its letter. Each shows first that the trap is there, with the guard turned off or in
// the bare library, and then that it does nothing here. Where the trap kills the process it is shown in a size that does not.

type kitchen struct {
	ID    int32            `avro:"id"`
	Kind  string           `avro:"kind"`
	Tags  []string         `avro:"tags"`
	Attrs map[string]int64 `avro:"attrs"`
	Raw   []byte           `avro:"raw"`
	Sum   [4]byte          `avro:"sum"`
	Score float64          `avro:"score"`
	Ratio float32          `avro:"ratio"`
	Flag  bool             `avro:"flag"`
	Note  *string          `avro:"note"`
}

type chain struct {
	Next *chain `avro:"next"`
}

type nothing struct {
	Items []struct{} `avro:"items"`
}

func (kitchen) isEvent() {}
func (chain) isEvent()   {}
func (nothing) isEvent() {}

const (
	kitchenSchema = `{"type":"record","name":"t.Kitchen","fields":[{"name":"id","type":"int"},{"name":"kind","type":{"type":"enum","name":"Kind","symbols":["A","B"]}},
		{"name":"tags","type":{"type":"array","items":"string"}},{"name":"attrs","type":{"type":"map","values":"long"}},{"name":"raw","type":"bytes"},
		{"name":"sum","type":{"type":"fixed","name":"Sum","size":4}},{"name":"score","type":"double"},{"name":"ratio","type":"float"},
		{"name":"flag","type":"boolean"},{"name":"note","type":["null","string"]}]}`
	chainSchema   = `{"type":"record","name":"t.Chain","fields":[{"name":"next","type":["null","Chain"]}]}`
	nothingSchema = `{"type":"record","name":"t.Nothing","fields":[{"name":"items","type":{"type":"array","items":{"type":"record","name":"Item","fields":[]}}}]}`
)

var trapSet = Set[event]{Topic: "t", Types: []Type[event]{For[kitchen, event](kitchenSchema), For[chain, event](chainSchema), For[nothing, event](nothingSchema)}}

// The parts of a kitchen's payload, to put a bad one in place of a good one.
var kitchenParts = map[string][]byte{"id": {2}, "kind": {2}, "tags": {4, 2, 'a', 2, 'b', 0}, "attrs": {2, 2, 'k', 14, 0}, "raw": {4, 1, 2},
	"sum": {1, 2, 3, 4}, "score": {0, 0, 0, 0, 0, 0, 0, 64}, "ratio": {0, 0, 128, 63}, "flag": {1}, "note": {2, 2, 'n'}}

func kitchenPayload(part string, bad ...byte) []byte {
	var b []byte
	for _, name := range []string{"id", "kind", "tags", "attrs", "raw", "sum", "score", "ratio", "flag", "note"} {
		if name == part {
			b = append(b, bad...)
		} else {
			b = append(b, kitchenParts[name]...)
		}
	}
	return b
}

func frameOf(id int32, payload []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(id)), payload...)
}

// A trap is the codec of trapSet with some guards off.
func trap(t testing.TB, g guards) *Codec[event] {
	t.Helper()
	c, err := bindSet(context.Background(), trapSet, NewMemory(), g)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *Codec[E]) try(id int32, payload []byte) error {
	_, err := c.Decode(context.Background(), frameOf(id, payload))
	return err
}

const (
	kitchenID = 1
	chainID   = 2
	nothingID = 3
)

func long(i int64) []byte { return appendLong(nil, i) }

func mustRefuse(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, ErrUndecodable) {
		t.Errorf("%s: got %v, want ErrUndecodable", what, err)
	}
}

func TestTrapATruncated(t *testing.T) {
	accepted := func(g guards) int {
		c, _ := bindTest(t, g)
		frame, err := c.Append(nil, typical())
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for i := 5; i < len(frame); i++ {
			if _, err := c.Decode(context.Background(), frame[:i]); err == nil {
				n++
			}
		}
		return n
	}
	if n := accepted(guards{noScan: true, noStrict: true}); n == 0 {
		t.Error("without the guards every prefix is refused: the trap is gone")
	}
	for _, g := range []guards{{}, {noScan: true}, {noStrict: true}} {
		if n := accepted(g); n != 0 {
			t.Errorf("%+v: %d prefixes are accepted", g, n)
		}
	}
}

func TestTrapBTrailing(t *testing.T) {
	payload := append(kitchenPayload(""), 0)
	if err := trap(t, guards{noScan: true, noTrailing: true}).try(kitchenID, payload); err != nil {
		t.Errorf("without the guards it is refused: %v", err)
	}
	for _, g := range []guards{{}, {noScan: true}, {noTrailing: true}} {
		mustRefuse(t, "trailing byte", trap(t, g).try(kitchenID, payload))
	}
}

// allocated returns the bytes that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestTrapCArrayCount(t *testing.T) {
	payload := kitchenPayload("tags", long(1_000_000)...)
	var err error
	open := trap(t, guards{noScan: true, noLimits: true})
	if n := allocated(func() { err = open.try(kitchenID, payload) }); n < 10_000_000 {
		t.Errorf("without the guards %d bytes are allocated: the trap is gone", n)
	}
	mustRefuse(t, "no guard", err)
	for _, g := range []guards{{}, {noScan: true}, {noLimits: true}} {
		c := trap(t, g)
		if n := allocated(func() { err = c.try(kitchenID, payload) }); n > 1_000_000 {
			t.Errorf("%+v: %d bytes are allocated", g, n)
		}
		mustRefuse(t, "a million items", err)
	}
}

func TestTrapDSkippedBlocks(t *testing.T) {
	writer := strings.Replace(cancelledSchema, `{"name":"order_id"`, `{"name":"gone","type":{"type":"array","items":{"type":"record","name":"Empty","fields":[]}}},{"name":"order_id"`, 1)
	payload := func(count int64) []byte { return append(append(long(count), 0), 2, 'o') } // an order of items without bytes, and its id

	resolved, err := avro.NewSchemaCompatibility().Resolve(avro.MustParse(cancelledSchema), avro.MustParse(writer))
	if err != nil {
		t.Fatal(err)
	}
	var out cancelled
	if err := avro.Unmarshal(resolved, payload(5_000_000), &out); err != nil {
		t.Errorf("the bare library does not loop over skipped items: %v", err)
	}

	c, m := bindTest(t, guards{})
	id, err := m.SchemaID(context.Background(), "", writer)
	if err != nil {
		t.Fatal(err)
	}
	for _, count := range []int64{100_001, 5_000_000, 1 << 40, 1<<63 - 1} {
		mustRefuse(t, "skipped items", c.try(id, payload(count)))
	}
	if err := c.try(id, payload(1000)); err != nil {
		t.Error(err)
	}
}

func TestTrapEOutOfRange(t *testing.T) {
	minCount := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}
	for _, c := range []struct {
		name    string
		payload []byte
		taken   bool // by the library alone
	}{
		{"int of 33 bits", kitchenPayload("id", 0x80, 0x80, 0x80, 0x80, 0x20), true},
		{"int of six bytes", kitchenPayload("id", 0x80, 0x80, 0x80, 0x80, 0x80, 0x00), false},
		{"long of 65 bits", kitchenPayload("attrs", 2, 2, 'k', 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0), true},
		{"enum index beyond the symbols", kitchenPayload("kind", 4), false},
		{"enum index of 2^33", kitchenPayload("kind", 0x80, 0x80, 0x80, 0x80, 0x40), true},
		{"negative enum index", kitchenPayload("kind", 1), false},
		{"union index beyond the branches", kitchenPayload("note", 4), false},
		{"union index of 2^33", kitchenPayload("note", 0x80, 0x80, 0x80, 0x80, 0x40), true},
		{"boolean of 2", kitchenPayload("flag", 2), false},
		{"block with a wrong size", kitchenPayload("tags", append(append(long(-1), long(1)...), 2, 'a', 0)...), true},
		{"block with a size beyond the end", kitchenPayload("tags", append(append(long(-1), long(1<<40)...), 2, 'a', 0)...), true},
		{"negative length", kitchenPayload("raw", 1), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := trap(t, guards{noScan: true, noTrailing: true}).try(kitchenID, c.payload); (err == nil) != c.taken {
				t.Errorf("without the guard: %v, want taken = %v", err, c.taken)
			}
			mustRefuse(t, "with it", trap(t, guards{}).try(kitchenID, c.payload))
		})
	}
	// Not to be tried without the guard: the library writes the next item outside of its slice.
	mustRefuse(t, "block count of MinInt64", trap(t, guards{}).try(kitchenID, kitchenPayload("tags", append(minCount, 0, 0)...)))
}

func TestTrapFDepth(t *testing.T) {
	deep := func(levels int) []byte { return append(bytes.Repeat([]byte{2}, levels), 0) }
	if err := trap(t, guards{noScan: true}).try(chainID, deep(10_000)); err != nil {
		t.Errorf("without the guard: %v", err)
	}
	c := trap(t, guards{})
	mustRefuse(t, "10,000 levels", c.try(chainID, deep(10_000)))
	mustRefuse(t, "a million levels", c.try(chainID, deep(MaxPayloadBytes-1)))
	if err := c.try(chainID, deep(MaxDepth/2-1)); err != nil { // a record and a union on each level
		t.Error(err)
	}
	mustRefuse(t, "one level too many", c.try(chainID, deep(MaxDepth/2)))
}

// Resolving a recursive schema in the library overflows the stack, which no test survives; so this shows only that it works here.
func TestTrapGRecursion(t *testing.T) {
	reader, writer := mustParse(t, `{"type":"record","name":"t.Chain","fields":[{"name":"next","type":["null","Chain"]},{"name":"v","type":"long","default":5}]}`), mustParse(t, chainSchema)
	for _, pair := range [][2]*Schema{{reader, writer}, {writer, reader}, {reader, reader}} {
		if got := Compatible(pair[0], pair[1]); got != nil {
			t.Error(got)
		}
	}
	out, _, err := resolve(reader.root, writer.root).transcode(nil, []byte{2, 2, 0}, nil)
	if want := []byte{2, 2, 0, 10, 10, 10}; err != nil || !bytes.Equal(out, want) {
		t.Errorf("got %v, %v, want %v", out, err, want)
	}
	out, _, err = resolve(writer.root, reader.root).transcode(nil, []byte{2, 2, 0, 10, 10, 10}, nil)
	if want := []byte{2, 2, 0}; err != nil || !bytes.Equal(out, want) {
		t.Errorf("got %v, %v, want %v", out, err, want)
	}
	if c := resolve(mustParse(t, chainSchema).root, writer.root); c.op != opCopy {
		t.Errorf("the same recursive schema is not read as it is: %+v", c)
	}
}

func TestTrapHPromotableBranches(t *testing.T) {
	w, r := `{"type":"record","name":"R","fields":[{"name":"f","type":["int","long"]}]}`, `{"type":"record","name":"R","fields":[{"name":"f","type":"long"}]}`
	if _, err := avro.NewSchemaCompatibility().Resolve(mustLibrary(t, r), mustLibrary(t, w)); err == nil {
		t.Error("the bare library resolves it: the trap is gone")
	}
	if got := Compatible(mustParse(t, r), mustParse(t, w)); got != nil {
		t.Error(got)
	}
	for branch := range byte(2) {
		out, _, err := resolve(mustParse(t, r).root, mustParse(t, w).root).transcode(nil, []byte{2 * branch, 14}, nil)
		if err != nil || !bytes.Equal(out, []byte{14}) {
			t.Errorf("branch %d: got %v, %v", branch, out, err)
		}
	}
	if c := resolve(mustParse(t, w).root, mustParse(t, w).root); c.op != opCopy {
		t.Error("an identical union is not read as it is")
	}
}

const (
	plainField     = `{"type":"record","name":"R","fields":[{"name":"f","type":"int"}]}`
	withoutDefault = `{"type":"record","name":"R","fields":[{"name":"f","type":"int"},{"name":"g","type":"int"}]}`
	withDefaultG   = `{"type":"record","name":"R","fields":[{"name":"f","type":"int"},{"name":"g","type":"int","default":1}]}`
)

func TestTrapICachedVerdict(t *testing.T) {
	shared := avro.NewSchemaCompatibility()
	first := shared.Compatible(mustLibrary(t, withDefaultG), mustLibrary(t, plainField))
	second := shared.Compatible(mustLibrary(t, withoutDefault), mustLibrary(t, plainField))
	if first != nil || second != nil {
		t.Errorf("a shared checker tells the pairs apart, the trap is gone: %v, %v", first, second)
	}
	for range 3 {
		if got := Compatible(mustParse(t, withDefaultG), mustParse(t, plainField)); got != nil {
			t.Error(got)
		}
		if got := Compatible(mustParse(t, withoutDefault), mustParse(t, plainField)); len(got) != 1 || got[0].Rule != RuleDefault {
			t.Error(got)
		}
	}
}

func TestTrapJConcurrentVerdicts(t *testing.T) {
	reader, writer := mustParse(t, withoutDefault), mustParse(t, plainField)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				if len(Compatible(reader, writer)) != 1 {
					t.Error("an incompatible pair is called compatible")
					return
				}
			}
		})
	}
	wg.Wait()
}

// Versions that differ only in a default share an encoder in one API of the library: a struct without the field is written with the default of the other.
func TestTrapKSharedEncoder(t *testing.T) {
	v1 := withDefaultG
	v2 := strings.Replace(v1, `"default":1`, `"default":2`, 1)
	type plain struct {
		F int32 `avro:"f"`
	}
	api := avro.Config{}.Freeze()
	if _, err := api.Marshal(mustLibrary(t, v1), plain{}); err != nil {
		t.Fatal(err)
	}
	if b, err := api.Marshal(mustLibrary(t, v2), plain{}); err != nil || !bytes.Equal(b, []byte{0, 2}) {
		t.Errorf("the bare library writes %v, %v: the trap is gone", b, err)
	}
	for _, text := range []string{v1, v2} {
		if _, err := newBinding(mustParse(t, text), reflect.TypeFor[plain](), guards{}); !errors.Is(err, ErrContract) {
			t.Errorf("got %v, want ErrContract for a struct without a field of the schema", err)
		}
		wire, err := mustParse(t, text).wire()
		if err != nil || strings.Contains(wire.String(), "default") {
			t.Errorf("the library sees a default: %v, %v", wire, err)
		}
	}
}

func TestTrapLGlobalCache(t *testing.T) {
	if _, err := avro.Parse(`{"type":"fixed","name":"trap.L","size":1}`); err != nil {
		t.Fatal(err)
	}
	text := `{"type":"record","name":"R","fields":[{"name":"f","type":"trap.L"}]}`
	if _, err := avro.Parse(text); err != nil {
		t.Errorf("the bare library refuses it, the trap is gone: %v", err)
	}
	if _, err := Parse(`{"type":"fixed","name":"trap.L","size":1}`); err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(text); !errors.Is(err, ErrSchema) {
		t.Errorf("got %v, want ErrSchema", err)
	}
}

func TestTrapMExactDefaults(t *testing.T) {
	text := `{"type":"record","name":"R","fields":[{"name":"f","type":"long","default":9007199254740993}]}`
	if def := mustLibrary(t, text).(*avro.RecordSchema).Fields()[0].Default(); def == int64(9007199254740993) {
		t.Error("the bare library keeps the default, the trap is gone")
	}
	out, _, err := resolve(mustParse(t, text).root, mustParse(t, `{"type":"record","name":"R","fields":[]}`).root).transcode(nil, nil, nil)
	if err != nil || !bytes.Equal(out, long(9007199254740993)) {
		t.Errorf("got %v, %v", out, err)
	}
	for _, bad := range []string{`{"name":"f","type":"int","default":3000000000}`, `{"name":"f","type":"int","default":1.5}`} {
		text := rec(bad)
		if _, err := avro.ParseWithCache(text, "", &avro.SchemaCache{}); err != nil {
			t.Errorf("the bare library refuses %s, the trap is gone: %v", bad, err)
		}
		if _, err := Parse(text); !errors.Is(err, ErrSchema) {
			t.Errorf("%s: got %v, want ErrSchema", bad, err)
		}
	}
}

func TestTrapNUnionDefault(t *testing.T) {
	text := `{"type":"record","name":"R","fields":[{"name":"f","type":["null","long"],"default":7}]}`
	if _, err := avro.ParseWithCache(text, "", &avro.SchemaCache{}); err == nil {
		t.Error("the bare library takes it: the trap is gone")
	}
	empty := mustParse(t, `{"type":"record","name":"R","fields":[]}`)
	if got := Compatible(mustParse(t, text), empty); got != nil {
		t.Error(got)
	}
	out, _, err := resolve(mustParse(t, text).root, empty.root).transcode(nil, nil, nil)
	if err != nil || !bytes.Equal(out, []byte{2, 14}) {
		t.Errorf("got %v, %v", out, err)
	}
}

func TestTrapOUTF8(t *testing.T) {
	for part, bad := range map[string][]byte{"tags": {2, 2, 0xff, 0}, "attrs": {2, 2, 0xc0, 14, 0}, "note": {2, 4, 0xed, 0xa0}} {
		payload := kitchenPayload(part, bad...)
		if err := trap(t, guards{noScan: true}).try(kitchenID, payload); err != nil {
			t.Errorf("%s, without the guard: %v", part, err)
		}
		mustRefuse(t, part, trap(t, guards{}).try(kitchenID, payload))
	}
	bad := cancelled{OrderID: "\xff"}
	open, _ := bindTest(t, guards{noCheck: true})
	if _, err := open.Append(nil, bad); err != nil {
		t.Errorf("without the guard: %v", err)
	}
	c, _ := bindTest(t, guards{})
	if _, err := c.Append(nil, bad); !errors.Is(err, ErrUnencodable) {
		t.Errorf("got %v, want ErrUnencodable", err)
	}
}

func TestTrapPIdentity(t *testing.T) {
	text := `{"type":"record","name":"R","aliases":["Q"],"doc":"d","fields":[{"name":"f","type":"int","default":1,"pii":true}]}`
	if s := mustLibrary(t, text).String(); strings.Contains(s, "default") || strings.Contains(s, "aliases") {
		t.Errorf("the library's text is complete, the trap is gone: %s", s)
	}
	m := NewMemory()
	for _, s := range testSet.Subjects() {
		id, err := m.SchemaID(context.Background(), s.Name, s.Schema)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := m.SchemaByID(context.Background(), id); err != nil || got != s.Schema {
			t.Errorf("%s is not registered as it was written: %q, %v", s.Name, got, err)
		}
	}
	if s := mustParse(t, text); s.Text() != text {
		t.Errorf("got %s", s.Text())
	}
}

// TestBombs feeds hostile payloads: each is refused, without taking memory. That none hangs is the outcome of the test itself.
//
// G13: No bytes make the codec panic, hang, or take memory out of proportion: what is not exactly one event is an error.
func TestBombs(t *testing.T) {
	c := trap(t, guards{})
	emptyBlocks := bytes.Repeat(long(50_000), 20) // a million records without bytes in 60 bytes
	for _, b := range []struct {
		name    string
		id      int32
		payload []byte
	}{
		{"array of 2^40 items", kitchenID, kitchenPayload("tags", long(1<<40)...)},
		{"array of 2^62 items", kitchenID, kitchenPayload("tags", long(1<<62)...)},
		{"array of -2^40 items", kitchenID, kitchenPayload("tags", append(long(-1<<40), long(1<<40)...)...)},
		{"map of 2^40 entries", kitchenID, kitchenPayload("attrs", long(1<<40)...)},
		{"map of 2^62 entries", kitchenID, kitchenPayload("attrs", long(1<<62)...)},
		{"2^40 records without bytes", nothingID, append(long(1<<40), 0)},
		{"2^63-1 records without bytes", nothingID, append(long(1<<63-1), 0)},
		{"a million records without bytes in blocks", nothingID, append(emptyBlocks, 0)},
		{"string of 2^40 bytes", kitchenID, kitchenPayload("note", append([]byte{2}, long(1<<40)...)...)},
		{"bytes of 2^62 bytes", kitchenID, kitchenPayload("raw", long(1<<62)...)},
		{"half a million levels", chainID, append(bytes.Repeat([]byte{2}, 500_000), 0)},
		{"two megabytes", chainID, bytes.Repeat([]byte{2}, 2<<20)},
		{"a varint of a megabyte", kitchenID, bytes.Repeat([]byte{0x80}, 1<<20)},
	} {
		t.Run(b.name, func(t *testing.T) {
			var err error
			if n := allocated(func() { err = c.try(b.id, b.payload) }) - uint64(len(b.payload)+5); n > 1_000_000 {
				t.Errorf("%d bytes are allocated", n)
			}
			mustRefuse(t, b.name, err)
		})
	}
}

// TestStraightBombs has bombs for an event that is read in one pass: what it takes before it finds out is bounded.
func TestStraightBombs(t *testing.T) {
	const maybeSchema = `{"type":"record","name":"Maybe","fields":[{"name":"all","type":{"type":"array","items":["null",` + lineSchema + `]}}]}`
	c, err := Bind(t.Context(), Set[event]{Topic: "t", Types: []Type[event]{For[placed, event](placedSchema), For[maybe, event](maybeSchema)}}, NewMemory())
	if err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 6) // all before the lines of an order: empty
	for _, b := range []struct {
		name    string
		id      int32
		payload []byte
		good    bool
	}{
		{"2^40 lines", 1, append(bytes.Clone(head), long(1<<40)...), false},
		{"as many lines as there are bytes for, and no end", 1, append(append(bytes.Clone(head), long(90_000)...), make([]byte, 4*90_000)...), false},
		{"the same with an end", 1, append(append(append(bytes.Clone(head), long(90_000)...), make([]byte, 4*90_000)...), 0, 0, 0, 0), true},
		{"as many pointers, and no end", 2, append(long(90_000), bytes.Repeat([]byte{2, 0, 0, 0, 0}, 90_000)...), false},
		{"the same with an end", 2, append(append(long(90_000), bytes.Repeat([]byte{2, 0, 0, 0, 0}, 90_000)...), 0), true},
		{"a few of them", 2, append(append(long(3), bytes.Repeat([]byte{2, 0, 0, 0, 0}, 3)...), 0), true},
	} {
		t.Run(b.name, func(t *testing.T) {
			if c.byName["Maybe"].straight == nil || c.byName["test.v1.Placed"].straight == nil {
				t.Fatal("it is not read in one pass")
			}
			var err error
			n := allocated(func() { err = c.try(b.id, b.payload) })
			switch {
			case b.good && err != nil:
				t.Error(err)
			case !b.good && n > uint64(len(b.payload))+1_000_000:
				t.Errorf("%d bytes are allocated", n)
			case !b.good:
				mustRefuse(t, b.name, err)
			}
		})
	}
}

type maybe struct {
	All []*line `avro:"all"`
}

func (maybe) isEvent() {}

// TestSchemaBombs reads with writers' schemas that are legal and hostile.
func TestSchemaBombs(t *testing.T) {
	big := strings.Repeat("x", 100<<10)
	for _, b := range []struct {
		name, reader, writer string
		payload              []byte
	}{
		{"a default of 100 KB for each of 100,000 items",
			`{"type":"array","items":{"type":"record","name":"R","fields":[{"name":"f","type":"string","default":"` + big + `"}]}}`,
			`{"type":"array","items":{"type":"record","name":"R","fields":[{"name":"gone","type":"boolean"}]}}`, append(append(long(100_000), make([]byte, 100_000)...), 0)},
		{"4096 types without bytes in each of 4000 items", `{"type":"array","items":{"type":"record","name":"R","aliases":["Rl"],"fields":[]}}`,
			`{"type":"array","items":` + doubling(12) + `}`, append(long(4000), 0)},
	} {
		t.Run(b.name, func(t *testing.T) {
			r, w := mustParse(t, b.reader), mustParse(t, b.writer)
			conv := resolve(r.root, w.root)
			var err1, err2 error
			if n := allocated(func() {
				_, _, err1 = conv.transcode(nil, b.payload, nil)
				err2 = scan(w.root, b.payload)
			}); n > 8*MaxPayloadBytes {
				t.Errorf("%d bytes are allocated", n)
			}
			if err1 == nil {
				t.Error("it is resolved")
			}
			if err2 == nil && b.name[0] == '4' {
				t.Error("it is walked through")
			}
		})
	}
}

// doubling is a record without bytes that is 2^n records.
func doubling(n int) string {
	s := `{"type":"record","name":"R0","fields":[]}`
	for i := 1; i < n; i++ {
		s = `{"type":"record","name":"R` + string(rune('a'+i)) + `","fields":[{"name":"x","type":` + s + `},{"name":"y","type":"` + nameIn(s) + `"}]}`
	}
	return s
}

func nameIn(s string) string {
	_, s, _ = strings.Cut(s, `"name":"`)
	s, _, _ = strings.Cut(s, `"`)
	return s
}

func mustParse(t testing.TB, text string) *Schema {
	t.Helper()
	s, err := Parse(text)
	if err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return s
}

func mustLibrary(t testing.TB, text string) avro.Schema {
	t.Helper()
	s, err := avro.ParseWithCache(text, "", &avro.SchemaCache{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
