package contract

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/platform/fault"
)

func TestRoundTrip(t *testing.T) {
	ctx := context.Background()
	c, _ := bindTest(t, guards{})
	for _, want := range []event{typical(), placed{OrderedAt: time.Time{}, Lines: []line{}}, cancelled{OrderID: "o"}} {
		dst := []byte("before")
		frame, err := c.Append(dst, want)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(frame, dst) {
			t.Errorf("the bytes before are gone: %q", frame)
		}
		frame = frame[len(dst):]
		got, err := c.Decode(ctx, frame)
		if err != nil {
			t.Fatal(err)
		}
		for i := range frame {
			frame[i] = 0xff // nothing of the result may be in it
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if got := c.TypeName(cancelled{}); got != "test.v1.Cancelled" {
		t.Errorf("got %q", got)
	}
}

// TestFrame fixes the bytes: 0x00, the id big-endian, Avro as every other implementation writes it.
func TestFrame(t *testing.T) {
	c, _ := bindTest(t, guards{})
	frame, err := c.Append(nil, cancelled{OrderID: "o-1"})
	if want := "0000000002066f2d31"; err != nil || hex.EncodeToString(frame) != want {
		t.Errorf("got %x, %v, want %s", frame, err, want)
	}
}

func TestDecodeOldVersion(t *testing.T) {
	ctx := context.Background()
	c, m := bindTest(t, guards{})
	id, err := m.SchemaID(ctx, "s", placedOldSchema)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time from the cache
		got, err := c.Decode(ctx, frameOf(id, oldPayload(t)))
		if err != nil {
			t.Fatal(err)
		}
		want := typical()
		want.Channel, want.Gift = "web", false
		if !reflect.DeepEqual(got, event(want)) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	for i := range oldPayload(t) {
		if _, err := c.Decode(ctx, frameOf(id, oldPayload(t)[:i])); !errors.Is(err, ErrUndecodable) {
			t.Errorf("%d bytes of it: %v", i, err)
		}
	}
	if _, err := c.Decode(ctx, frameOf(id, append(oldPayload(t), 0))); !errors.Is(err, ErrUndecodable) {
		t.Errorf("a byte too many: %v", err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	ctx := context.Background()
	c, m := bindTest(t, guards{})
	register := func(text string) int32 {
		id, err := m.SchemaID(ctx, "s", text)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	foreign := register(`{"type":"record","name":"test.v1.Shipped","fields":[]}`)
	newer := register(`{"type":"record","name":"test.v1.Cancelled","fields":[{"name":"id","type":"string"}]}`)
	scaled := register(strings.Replace(placedSchema, "timestamp-micros", "timestamp-millis", 1))
	for _, d := range []struct {
		name  string
		frame []byte
		err   error
		words string
	}{
		{"nothing", nil, ErrUndecodable, "empty"},
		{"JSON", []byte(`{"order_id":"o"}`), ErrUndecodable, "0x7b"},
		{"three bytes", []byte{0, 0, 0}, ErrUndecodable, "3 bytes"},
		{"id 0", frameOf(0, []byte{0}), ErrUndecodable, "id 0"},
		{"negative id", frameOf(-1, []byte{0}), ErrUndecodable, "id -1"},
		{"unknown id", frameOf(99, []byte{0}), ErrUnknownSchema, "id 99"},
		{"type of somebody else", frameOf(foreign, nil), ErrUnknownType, "test.v1.Shipped"},
		{"incompatible version", frameOf(newer, []byte{2, 'o'}), ErrUndecodable, `"order_id"`},
		{"other meaning of a time", frameOf(scaled, []byte{0}), ErrUndecodable, "id " + fmt.Sprint(scaled)},
		{"no payload", frameOf(2, nil), ErrUndecodable, "byte 0"},
		{"a string that ends early", frameOf(2, []byte{8, 'o'}), ErrUndecodable, "test.events-test.v1.Cancelled"},
	} {
		t.Run(d.name, func(t *testing.T) {
			got, err := c.Decode(ctx, d.frame)
			if !errors.Is(err, d.err) || !strings.Contains(err.Error(), d.words) || got != nil {
				t.Errorf("got %v, %v, want %v with %q", got, err, d.err, d.words)
			}
		})
	}
}

func TestAppendRefuses(t *testing.T) {
	c, _ := bindTest(t, guards{})
	dst := []byte("before")
	for name, e := range map[string]event{"nil": nil, "pointer": &cancelled{}, "of another set": chain{}} {
		if got, err := c.Append(dst, e); !errors.Is(err, ErrUnknownType) || !bytes.Equal(got, dst) {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
		if name := c.TypeName(e); name != "" {
			t.Errorf("got the name %q", name)
		}
	}
	for name, e := range map[string]event{
		"nanoseconds":    placed{OrderedAt: time.Unix(0, 1)},
		"not UTF-8":      cancelled{OrderID: "\xff"},
		"too large":      cancelled{OrderID: strings.Repeat("x", MaxPayloadBytes)},
		"too many lines": placed{Lines: make([]line, MaxItems+1)},
	} {
		if got, err := c.Append(dst, e); !errors.Is(err, ErrUnencodable) || !bytes.Equal(got, dst) {
			t.Errorf("%s: got %d bytes, %v", name, len(got), err)
		}
	}
	if _, err := c.Append(nil, cancelled{OrderID: "o"}); err != nil {
		t.Errorf("after errors: %v", err)
	}
}

type onlyMap struct {
	M map[string]string `avro:"m"`
}

type onlyPointer struct {
	E struct{} `avro:"e"`
	P *string  `avro:"p"`
}

type lone struct {
	P *string `avro:"p"`
}

type single struct {
	N int64 `avro:"n"`
}

type empty struct{}

func (onlyMap) isEvent()     {}
func (onlyPointer) isEvent() {}
func (lone) isEvent()        {}
func (single) isEvent()      {}
func (empty) isEvent()       {}

// TestShapesInInterfaces has the types that Go keeps in an interface in a special way.
func TestShapesInInterfaces(t *testing.T) {
	set := Set[event]{Topic: "t", Types: []Type[event]{
		For[onlyMap, event](`{"type":"record","name":"OnlyMap","fields":[{"name":"m","type":{"type":"map","values":"string"}}]}`),
		For[onlyPointer, event](`{"type":"record","name":"OnlyPointer","fields":[{"name":"e","type":{"type":"record","name":"E","fields":[]}},{"name":"p","type":["null","string"]}]}`),
		For[lone, event](`{"type":"record","name":"Lone","fields":[{"name":"p","type":["null","string"]}]}`),
		For[single, event](`{"type":"record","name":"Single","fields":[{"name":"n","type":"long"}]}`),
		For[empty, event](`{"type":"record","name":"Empty","fields":[]}`)}}
	c, err := Bind(context.Background(), set, NewMemory())
	if err != nil {
		t.Fatal(err)
	}
	s := "text"
	for _, want := range []event{onlyMap{M: map[string]string{"a": "b"}}, onlyMap{M: map[string]string{}}, onlyPointer{P: &s}, onlyPointer{}, lone{P: &s}, lone{}, single{N: 5}, single{N: 1 << 40}, empty{}} {
		frame, err := c.Append(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		a, err1 := c.Decode(context.Background(), frame)
		b, err2 := c.Decode(context.Background(), frame)
		if err1 != nil || err2 != nil || !reflect.DeepEqual(a, want) || !reflect.DeepEqual(b, want) {
			t.Errorf("got %+v and %+v, %v, %v, want %+v", a, b, err1, err2, want)
		}
	}
	if v := any(single{}); v.(single).N != 0 {
		t.Error("decoding wrote into the runtime's own zero")
	}
}

// A registry answers as its functions do.
type registry struct {
	id   func(ctx context.Context, subject, schema string) (int32, error)
	byID func(ctx context.Context, id int32) (string, error)
}

func (r registry) SchemaID(ctx context.Context, subject, schema string) (int32, error) {
	return r.id(ctx, subject, schema)
}
func (r registry) SchemaByID(ctx context.Context, id int32) (string, error) { return r.byID(ctx, id) }

func TestBindNamesAllThatAreMissing(t *testing.T) {
	_, err := Bind(context.Background(), testSet, registry{id: func(_ context.Context, subject, _ string) (int32, error) {
		return 0, ErrUnregistered.Because("%s", subject)
	}})
	if !errors.Is(err, ErrUnregistered) || !strings.Contains(err.Error(), "test.events-test.v1.Placed") || !strings.Contains(err.Error(), "test.events-test.v1.Cancelled") {
		t.Errorf("got %v", err)
	}
	if f := fault.From(err); f == nil || f.Fix == "" {
		t.Error("it does not say what to do")
	}
	down := errors.New("registry down")
	if _, err := Bind(context.Background(), testSet, registry{id: func(context.Context, string, string) (int32, error) { return 0, down }}); !errors.Is(err, down) {
		t.Errorf("got %v, want the registry's error", err)
	}
}

type notAnEvent struct {
	OrderID string `avro:"order_id"`
}

func TestBindRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		set Set[event]
		err error
	}{
		"no topic":                      {Set[event]{Types: testSet.Types}, ErrContract},
		"no types":                      {Set[event]{Topic: "t"}, ErrContract},
		"a zero type":                   {Set[event]{Topic: "t", Types: []Type[event]{{}}}, ErrContract},
		"a type twice":                  {Set[event]{Topic: "t", Types: []Type[event]{testSet.Types[1], testSet.Types[1]}}, ErrContract},
		"a record twice":                {Set[event]{Topic: "t", Types: []Type[event]{testSet.Types[1], For[single, event](strings.Replace(`{"type":"record","name":"X","fields":[{"name":"n","type":"long"}]}`, "X", "test.v1.Cancelled", 1))}}, ErrContract},
		"an alias that is another type": {Set[event]{Topic: "t", Types: []Type[event]{testSet.Types[1], For[single, event](`{"type":"record","name":"X","aliases":["test.v1.Cancelled"],"fields":[{"name":"n","type":"long"}]}`)}}, ErrContract},
		"not in the interface":          {Set[event]{Topic: "t", Types: []Type[event]{For[notAnEvent, event](cancelledSchema)}}, ErrContract},
		"a broken schema":               {Set[event]{Topic: "t", Types: []Type[event]{For[cancelled, event](`{`)}}, ErrSchema},
		"another struct":                {Set[event]{Topic: "t", Types: []Type[event]{For[single, event](cancelledSchema)}}, ErrContract},
	} {
		if _, err := Bind(context.Background(), c.set, NewMemory()); !errors.Is(err, c.err) {
			t.Errorf("%s: got %v, want %v", name, err, c.err)
		}
	}
}

// TestRenamedRecord reads what was written under the record's old name.
func TestRenamedRecord(t *testing.T) {
	ctx := context.Background()
	m := NewMemory()
	id, err := m.SchemaID(ctx, "s", strings.Replace(cancelledSchema, "Cancelled", "Dropped", 1))
	if err != nil {
		t.Fatal(err)
	}
	set := Set[event]{Topic: "t", Types: []Type[event]{For[cancelled, event](strings.Replace(cancelledSchema, `"Cancelled"`, `"Cancelled","aliases":["Dropped"]`, 1))}}
	c, err := Bind(ctx, set, m)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Decode(ctx, frameOf(id, []byte{2, 'o'})); err != nil || got != event(cancelled{OrderID: "o"}) {
		t.Errorf("got %v, %v", got, err)
	}
}

// TestOneLookUp decodes one unknown id many times at once: the registry is asked once.
func TestOneLookUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory()
		var asked atomic.Int32
		release := make(chan struct{})
		r := registry{id: m.SchemaID, byID: func(ctx context.Context, id int32) (string, error) {
			asked.Add(1)
			<-release
			return m.SchemaByID(ctx, id)
		}}
		c, err := Bind(context.Background(), testSet, r)
		if err != nil {
			t.Fatal(err)
		}
		id, err := m.SchemaID(context.Background(), "s", placedOldSchema)
		if err != nil {
			t.Fatal(err)
		}
		frame := frameOf(id, oldPayload(t))
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				if _, err := c.Decode(context.Background(), frame); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		hasty, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := c.Decode(hasty, frame); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v from one that waits and has no more time", err)
		}
		close(release)
		wg.Wait()
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

// TestImpatientLeader cancels the one caller whose look-up the others wait for: they look again instead of failing with it.
func TestImpatientLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory()
		r := registry{id: m.SchemaID, byID: func(ctx context.Context, id int32) (string, error) {
			select {
			case <-ctx.Done():
				return "", ctx.Err()
			case <-time.After(time.Second):
				return m.SchemaByID(ctx, id)
			}
		}}
		c, err := Bind(context.Background(), testSet, r)
		if err != nil {
			t.Fatal(err)
		}
		id, err := m.SchemaID(context.Background(), "s", placedOldSchema)
		if err != nil {
			t.Fatal(err)
		}
		frame := frameOf(id, oldPayload(t))
		hasty, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Decode(hasty, frame); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the hasty one got %v", err)
			}
		})
		synctest.Wait()
		for range 4 {
			wg.Go(func() {
				if _, err := c.Decode(context.Background(), frame); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}

// TestResolverErrorsAreNotKept fails once and then answers.
func TestResolverErrorsAreNotKept(t *testing.T) {
	m := NewMemory()
	down := errors.New("registry down")
	failing := true
	r := registry{id: m.SchemaID, byID: func(ctx context.Context, id int32) (string, error) {
		if failing {
			return "", down
		}
		return m.SchemaByID(ctx, id)
	}}
	c, err := Bind(context.Background(), testSet, r)
	if err != nil {
		t.Fatal(err)
	}
	id, err := m.SchemaID(context.Background(), "s", placedOldSchema)
	if err != nil {
		t.Fatal(err)
	}
	frame := frameOf(id, oldPayload(t))
	if _, err := c.Decode(context.Background(), frame); !errors.Is(err, down) {
		t.Errorf("got %v", err)
	}
	failing = false
	if _, err := c.Decode(context.Background(), frame); err != nil {
		t.Error(err)
	}
}

func TestConcurrentUse(t *testing.T) {
	c, m := bindTest(t, guards{})
	id, err := m.SchemaID(context.Background(), "s", placedOldSchema)
	if err != nil {
		t.Fatal(err)
	}
	old, want := oldPayload(t), typical()
	resolved := want
	resolved.Channel = "web"
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				frame, err := c.Append(nil, want)
				if err != nil {
					t.Error(err)
					return
				}
				a, err1 := c.Decode(context.Background(), frame)
				b, err2 := c.Decode(context.Background(), frameOf(id, old))
				if err1 != nil || err2 != nil || !reflect.DeepEqual(a, event(want)) || !reflect.DeepEqual(b, event(resolved)) {
					t.Errorf("%v, %v, %+v, %+v", err1, err2, a, b)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestAllocations fixes what an event costs: the library's encoder allocates one closure per array, decoding the event, its slices and texts.
func TestAllocations(t *testing.T) {
	if raceDetector {
		return // it makes pools forget at random
	}
	c, _ := bindTest(t, guards{})
	var small event = cancelled{OrderID: "o-1"}
	buf := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(1000, func() { buf, _ = c.Append(buf[:0], small) }); n != 0 {
		t.Errorf("an event without an array is encoded with %v allocations", n)
	}
	frame, err := c.Append(nil, small)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() { _, _ = c.Decode(context.Background(), frame) }); n > 1 {
		t.Errorf("it is decoded with %v allocations", n)
	}
	root := c.byName["test.v1.Placed"].schema.root
	big, err := c.Append(nil, typical())
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() { _ = scan(root, big[5:]) }); n != 0 {
		t.Errorf("a payload is walked with %v allocations", n)
	}
}

// TestReadersMeaning reads a number of a writer that knows no logical type: it has to be what the reader's can mean.
func TestReadersMeaning(t *testing.T) {
	for _, c := range []struct {
		name, reader, writer string
		good, bad            []byte
	}{
		{"timestamp", `{"type":"long","logicalType":"timestamp-micros"}`, `"long"`, long(1), long(1 << 62)},
		{"timestamp in a union", `["null",{"type":"long","logicalType":"timestamp-millis"}]`, `["null","long"]`, append([]byte{2}, long(1)...), append([]byte{2}, long(1<<62)...)},
		{"time of day", `{"type":"int","logicalType":"time-millis"}`, `"int"`, long(86_399_999), long(86_400_000)},
		{"decimal", `{"type":"bytes","logicalType":"decimal","precision":2}`, `"bytes"`, []byte{2, 99}, []byte{2, 100}},
		{"fixed decimal", `{"type":"fixed","name":"F","size":1,"logicalType":"decimal","precision":2}`, `{"type":"fixed","name":"F","size":1}`, []byte{0x9d}, []byte{0x9c}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, w := mustParse(t, rec(fld("f", c.reader))), mustParse(t, rec(fld("f", c.writer)))
			conv := resolve(r.root, w.root)
			if out, _, err := conv.transcode(nil, c.good, nil); err != nil || !bytes.Equal(out, c.good) {
				t.Errorf("got %x, %v", out, err)
			}
			if _, _, err := conv.transcode(nil, c.bad, nil); err == nil {
				t.Error("a value without a meaning is read")
			}
			if scan(r.root, c.good) != nil || scan(r.root, c.bad) == nil || scan(w.root, c.bad) != nil {
				t.Error("the walk does not agree")
			}
		})
	}
}
