package contract

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// Three types that were written once: sent became dispatched became the placed of today; merged is two events; renamed is another.
type (
	sent struct {
		Order string `avro:"order"`
		Count int32  `avro:"count"`
	}
	dispatched struct {
		Order string `avro:"order"`
		Units int64  `avro:"units"`
	}
	merged struct {
		IDs  []string `avro:"ids"`
		Mode string   `avro:"mode"`
	}
)

const (
	sentSchema       = `{"type":"record","name":"Sent","namespace":"test.v1","fields":[{"name":"order","type":"string"},{"name":"count","type":"int","default":1}]}`
	sentOldSchema    = `{"type":"record","name":"Sent","namespace":"test.v1","fields":[{"name":"order","type":"string"}]}`
	dispatchedSchema = `{"type":"record","name":"Dispatched","namespace":"test.v1","fields":[{"name":"order","type":"string"},{"name":"units","type":"long"}]}`
	mergedSchema     = `{"type":"record","name":"Merged","namespace":"test.v1","fields":[{"name":"ids","type":{"type":"array","items":"string"}},{"name":"mode","type":"string"}]}`
)

var upcasting = Set[event]{
	Topic: testSet.Topic, Types: testSet.Types,
	Upcasters: []Upcaster[event]{
		Upcast[event](sentSchema, func(e sent) dispatched { return dispatched{Order: e.Order, Units: int64(e.Count)} }),
		Upcast[event](dispatchedSchema, func(e dispatched) event {
			if e.Units == 0 {
				return cancelled{OrderID: e.Order}
			}
			return placed{OrderID: e.Order, Units: e.Units}
		}),
		Split(mergedSchema, func(e merged) (all []event) {
			switch e.Mode {
			case "panic":
				panic("no such mode")
			case "nil":
				return []event{nil}
			case "bad":
				return []event{placed{OrderID: "\xff"}, pointerEvent{}}
			}
			for _, id := range e.IDs {
				all = append(all, cancelled{OrderID: id})
			}
			return all
		}),
	},
}

type pointerEvent struct{}

func (pointerEvent) isEvent() {}

// writeOld frames a value of a type that is not in the set any more.
func writeOld(t *testing.T, m *Memory, schema string, v any) []byte {
	t.Helper()
	s, err := Parse(schema)
	if err != nil {
		t.Fatal(err)
	}
	b, err := newBinding(s, reflect.TypeOf(v), guards{})
	if err != nil {
		t.Fatal(err)
	}
	id, err := m.SchemaID(context.Background(), "", schema)
	if err != nil {
		t.Fatal(err)
	}
	frame, err := b.encode([]byte{0, 0, 0, 0, byte(id)}, v)
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

func TestUpcast(t *testing.T) {
	ctx := context.Background()
	m := NewMemory()
	c, err := Bind(ctx, upcasting, m)
	if err != nil {
		t.Fatal(err)
	}
	today, err := c.Append(nil, cancelled{OrderID: "o"})
	if err != nil {
		t.Fatal(err)
	}
	type onlyOrder struct {
		Order string `avro:"order"`
	}
	for _, tc := range []struct {
		name  string
		frame []byte
		want  []event
		err   error // of DecodeAll
		why   string
	}{
		{name: "of today", frame: today, want: []event{cancelled{OrderID: "o"}}},
		{name: "one step, E itself", frame: writeOld(t, m, dispatchedSchema, dispatched{"o", 2}), want: []event{placed{OrderID: "o", Units: 2}}},
		{name: "the event decides which", frame: writeOld(t, m, dispatchedSchema, dispatched{"o", 0}), want: []event{cancelled{OrderID: "o"}}},
		{name: "chained", frame: writeOld(t, m, sentSchema, sent{"o", 3}), want: []event{placed{OrderID: "o", Units: 3}}},
		{name: "chained, resolved first", frame: writeOld(t, m, sentOldSchema, onlyOrder{"o"}), want: []event{placed{OrderID: "o", Units: 1}}},
		{name: "split in one", frame: writeOld(t, m, mergedSchema, merged{IDs: []string{"a"}}), want: []event{cancelled{OrderID: "a"}}},
		{name: "split", frame: writeOld(t, m, mergedSchema, merged{IDs: []string{"a", "b"}}), want: []event{cancelled{OrderID: "a"}, cancelled{OrderID: "b"}}},
		{name: "split in none", frame: writeOld(t, m, mergedSchema, merged{}), err: ErrUpcast, why: "returns no event"},
		{name: "a panic", frame: writeOld(t, m, mergedSchema, merged{Mode: "panic"}), err: ErrUpcast, why: "no such mode"},
		{name: "nil", frame: writeOld(t, m, mergedSchema, merged{Mode: "nil"}), err: ErrUpcast, why: "<nil>"},
		{name: "not of the set", frame: writeOld(t, m, mergedSchema, merged{Mode: "bad"}), err: ErrUpcast, why: "pointerEvent"},
		{name: "truncated", frame: writeOld(t, m, mergedSchema, merged{Mode: "x"})[:6], err: ErrUndecodable, why: "Merged"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := []event{cancelled{OrderID: "before"}}
			got, err := c.DecodeAll(ctx, before, tc.frame)
			if !errors.Is(err, tc.err) || err != nil && !strings.Contains(err.Error(), tc.why) {
				t.Fatalf("got %v, want %v with %q", err, tc.err, tc.why)
			}
			if want := append(before[:1:1], tc.want...); !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
			one, err := c.Decode(ctx, tc.frame)
			switch {
			case len(tc.want) > 1:
				if !errors.Is(err, ErrSplit) {
					t.Errorf("Decode of a split event: got %v", err)
				}
			case !errors.Is(err, tc.err) || tc.err == nil && !reflect.DeepEqual(one, tc.want[0]):
				t.Errorf("Decode: got %+v, %v", one, err)
			}
		})
	}
}

func TestUpcastersThatCannotBe(t *testing.T) {
	with := func(u ...Upcaster[event]) Set[event] {
		return Set[event]{Topic: testSet.Topic, Types: testSet.Types, Upcasters: u}
	}
	toDispatched := Upcast[event](sentSchema, func(sent) dispatched { return dispatched{} })
	for _, tc := range []struct {
		name string
		set  Set[event]
		want string
	}{
		{"zero", with(Upcaster[event]{}), "zero Upcaster"},
		{"dead end", with(toDispatched), "neither a type of the set nor has an upcaster"},
		{"circle", with(toDispatched, Upcast[event](dispatchedSchema, func(dispatched) sent { return sent{} })), "circle"},
		{"twice", with(Split(mergedSchema, func(merged) []event { return nil }), Split(mergedSchema, func(merged) []event { return nil })), "two upcasters"},
		{"still written", with(Split(cancelledSchema, func(cancelled) []event { return nil })), "not written any more"},
		{"name of a type", with(Split(strings.Replace(sentSchema, "Sent", "Placed", 1), func(sent) []event { return nil })), "claim the record"},
		{"other fields", with(Split(sentSchema, func(dispatched) []event { return nil })), "dispatched"},
	} {
		if _, err := Bind(context.Background(), tc.set, NewMemory()); !errors.Is(err, ErrContract) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want ErrContract with %q", tc.name, err, tc.want)
		}
	}
	if got := SchemaOf[sent](upcasting); got != sentSchema {
		t.Errorf("SchemaOf a retired type: %q", got)
	}
	if got := SchemaOf[placed](upcasting); got != placedSchema {
		t.Errorf("SchemaOf a type: %q", got)
	}
}
