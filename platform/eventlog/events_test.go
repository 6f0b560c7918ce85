package eventlog

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
)

type testEvent interface{ isTestEvent() }

type thingDone struct {
	Name  string `avro:"name"`
	Count int64  `avro:"count"`
}

func (thingDone) isTestEvent() {}

const thingDoneSchema = `{"type":"record","name":"ThingDone","namespace":"test.v1","fields":[{"name":"name","type":"string"},{"name":"count","type":"long"}]}`

func testEvents(t testing.TB) *Events[testEvent] {
	t.Helper()
	set := contract.Set[testEvent]{Topic: "things.events", Types: []contract.Type[testEvent]{contract.For[thingDone, testEvent](thingDoneSchema)}}
	codec, err := contract.Bind(t.Context(), set, contract.NewMemory())
	if err != nil {
		t.Fatal(err)
	}
	return NewEvents(codec, "/things")
}

func fullEnvelope() es.Envelope[testEvent] {
	at := time.Date(2026, 3, 4, 5, 6, 7, 891_000, time.UTC)
	return es.Envelope[testEvent]{
		ID: es.EventID("t-1", "c-1", 1), Type: "test.v1.ThingDone", Stream: "t-1", Version: 7, Index: 1, Count: 3, Time: at,
		Meta:  es.Meta{CommandID: "c-1", CommandHash: "h", CorrelationID: "k", CausationID: "m", Actor: "ann", TraceParent: "00-1-2-01", Time: at},
		Event: thingDone{"x", 42},
	}
}

// recordFrom returns the record as a reader gets it.
func recordFrom(t testing.TB, b *Batch, i int) Record {
	t.Helper()
	_, rs := decode(t, b.seal(1, 1, 1, time.Now()))
	return recordOf(rs[i])
}

func TestEventsRoundTrip(t *testing.T) {
	x := testEvents(t)
	b := NewBatch(0)
	full := fullEnvelope()
	bare := es.Envelope[testEvent]{Stream: "t-2", Version: 1, Count: 1, Meta: es.Meta{CommandID: "c-2", Time: full.Meta.Time}, Event: thingDone{"", -1}}
	for _, env := range []es.Envelope[testEvent]{full, bare} {
		if err := x.Add(b, env); err != nil {
			t.Fatal(err)
		}
	}
	bare.ID, bare.Type, bare.Time = es.EventID("t-2", "c-2", 0), "test.v1.ThingDone", bare.Meta.Time
	for i, want := range []es.Envelope[testEvent]{full, bare} {
		r := recordFrom(t, b, i)
		want.Position = r.Position
		got, err := x.Envelope(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("envelope %d: -want +got\n%s", i, diff)
		}
	}
	var names []string
	r := recordFrom(t, b, 0)
	for _, h := range r.Headers {
		names = append(names, h.Key+"="+string(h.Value))
	}
	want := []string{"ce_specversion=1.0", "ce_source=/things", "content-type=application/avro", "ce_id=" + full.ID, "ce_type=test.v1.ThingDone",
		"ce_subject=t-1", "ce_time=2026-03-04T05:06:07.000891Z", "ce_streamversion=7", "ce_commandid=c-1", "ce_commandhash=h", "ce_commandindex=1",
		"ce_commandcount=3", "ce_correlationid=k", "ce_causationid=m", "ce_actor=ann", "traceparent=00-1-2-01"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("headers: -want +got\n%s", diff)
	}
	if string(r.Key) != "t-1" || r.Value[0] != 0 {
		t.Errorf("key %q, value %x", r.Key, r.Value)
	}
}

func TestEventsRefusals(t *testing.T) {
	x := testEvents(t)
	b := NewBatch(0)
	if err := x.Add(b, fullEnvelope()); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*Record)
		want   error
	}{
		"no headers":       {func(r *Record) { r.Headers = nil }, ErrRecord},
		"a mark":           {func(r *Record) { r.Mark = MarkBarrier }, ErrRecord},
		"another key":      {func(r *Record) { r.Key = []byte("t-2") }, ErrRecord},
		"null key":         {func(r *Record) { r.Key = nil }, ErrRecord},
		"null value":       {func(r *Record) { r.Value = nil }, contract.ErrUndecodable},
		"damaged value":    {func(r *Record) { r.Value = r.Value[:len(r.Value)-1] }, contract.ErrUndecodable},
		"version 0":        {func(r *Record) { setHeader(r, headerVersion, "0") }, ErrRecord},
		"version text":     {func(r *Record) { setHeader(r, headerVersion, "x") }, ErrRecord},
		"index over count": {func(r *Record) { setHeader(r, headerIndex, "3") }, ErrRecord},
		"negative index":   {func(r *Record) { setHeader(r, headerIndex, "-1") }, ErrRecord},
		"no command":       {func(r *Record) { setHeader(r, headerCommand, "") }, ErrRecord},
		"no time":          {func(r *Record) { setHeader(r, headerTime, "yesterday") }, ErrRecord},
		"another version":  {func(r *Record) { setHeader(r, headerSpecVersion, "0.3") }, ErrRecord},
		"a header twice":   {func(r *Record) { r.Headers = append(r.Headers, Header{Key: headerID, Value: []byte("2")}) }, ErrRecord},
		"10,000 headers":   {func(r *Record) { r.Headers = append(make([]Header, 10000), r.Headers[:3]...) }, ErrRecord},
	} {
		r := recordFrom(t, b, 0)
		c.change(&r)
		if _, err := x.Envelope(t.Context(), r); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	small := NewBatch(300)
	if err := x.Add(small, fullEnvelope()); !errors.Is(err, ErrTooLarge) || small.Len() != 0 {
		t.Errorf("a batch of 300 bytes: %v", err)
	}
}

func TestEventsUnwritable(t *testing.T) {
	x := testEvents(t)
	for name, change := range map[string]func(*es.Envelope[testEvent]){
		"no stream":        func(e *es.Envelope[testEvent]) { e.Stream = "" },
		"no command":       func(e *es.Envelope[testEvent]) { e.Meta.CommandID = "" },
		"version 0":        func(e *es.Envelope[testEvent]) { e.Version = 0 },
		"index over count": func(e *es.Envelope[testEvent]) { e.Index = e.Count },
		"before version 1": func(e *es.Envelope[testEvent]) { e.Version, e.Index = 2, 2 },
	} {
		env, b := fullEnvelope(), NewBatch(0)
		change(&env)
		if err := x.Add(b, env); !errors.Is(err, ErrRecord) || b.Len() != 0 {
			t.Errorf("%s: %v, want ErrRecord", name, err)
		}
	}
}

func setHeader(r *Record, key, value string) {
	for i := range r.Headers {
		if r.Headers[i].Key == key {
			r.Headers[i].Value = []byte(value)
		}
	}
}

func FuzzHeaders(f *testing.F) {
	f.Add("t-1", "ce_id=1\nce_specversion=1.0\nce_type=x\nce_subject=t-1\nce_time=2026-03-04T05:06:07Z\nce_streamversion=1\nce_commandid=c\nce_commandindex=0\nce_commandcount=1")
	f.Add("", "\n=\n")
	f.Add("k", "ce_streamversion=-9223372036854775808\nce_specversion=1.0")
	x := testEvents(f)
	value := bytes.Repeat([]byte{0}, 8)
	f.Fuzz(func(t *testing.T, key, headers string) {
		r := Record{Key: []byte(key), Value: value}
		for line := range strings.SplitSeq(headers, "\n") {
			k, v, _ := strings.Cut(line, "=")
			r.Headers = append(r.Headers, Header{Key: k, Value: []byte(v)})
		}
		var (
			id, typ      string
			stream       es.StreamID
			version      es.Version
			index, count int
			meta         es.Meta
		)
		if err := parseHeaders(&r, &id, &typ, &stream, &version, &index, &count, &meta); err != nil {
			if !errors.Is(err, ErrRecord) {
				t.Fatal(err)
			}
			return
		}
		// What is read must be writable, and be read again as the same.
		env := es.Envelope[testEvent]{ID: id, Type: typ, Stream: stream, Version: version, Index: index, Count: count, Meta: meta, Time: meta.Time, Event: thingDone{}}
		b := NewBatch(10 << 20)
		if err := x.Add(b, env); err != nil {
			t.Fatal(err)
		}
		back, err := x.Envelope(context.Background(), recordFrom(t, b, 0))
		if err != nil {
			t.Fatalf("%+v: %v", env, err)
		}
		// The type that is read is that of the event, whatever the header says.
		env.Position, env.Type = back.Position, back.Type
		if diff := cmp.Diff(env, back); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestMarks(t *testing.T) {
	marks, err := AvroMarks(t.Context(), "things.events", contract.NewMemory())
	if err != nil {
		t.Fatal(err)
	}
	who := Identity{"instance-1", "127.0.0.1:8088"}
	for name, m := range map[string]Marks{"avro": marks, "noop": NoopMarks} {
		for kind := MarkClaim; kind <= MarkNote; kind++ {
			key, value, headers, err := m.Mark(kind, who, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			b := NewBatch(0)
			if err := b.Add(key, value, markHeaders(headers, kind, who)); err != nil {
				t.Fatal(err)
			}
			if r := recordFrom(t, b, 0); r.Mark != kind || r.Owner != who {
				t.Errorf("%s %s came back as %s by %+v", name, kind, r.Mark, r.Owner)
			}
			if (value == nil) != (name == "noop") {
				t.Errorf("%s %s has value %x", name, kind, value)
			}
		}
	}
	for kind, want := range map[MarkKind]string{MarkClaim: "millrace.v1.PartitionClaimed", MarkBarrier: "millrace.v1.PartitionBarrier", MarkClose: "millrace.v1.PartitionClosed", MarkNote: "millrace.v1.CommandNoted"} {
		_, value, _, err := marks.Mark(kind, who, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		codec := marks.(avroMarks).codec
		e, err := codec.Decode(t.Context(), value)
		if err != nil || codec.TypeName(e) != want {
			t.Errorf("%s decodes as %T, %v, want %s", kind, e, err, want)
		}
	}
	if _, _, _, err := marks.Mark(0, who, time.Now()); err == nil {
		t.Error("an event is a mark")
	}
	var subjects []string
	for _, s := range MarkSubjects("things.events") {
		subjects = append(subjects, s.Name)
	}
	if diff := cmp.Diff([]string{"things.events-millrace.v1.PartitionClaimed", "things.events-millrace.v1.PartitionBarrier", "things.events-millrace.v1.PartitionClosed", "things.events-millrace.v1.CommandNoted"}, subjects); diff != "" {
		t.Error(diff)
	}
}

func FuzzMarkHeaders(f *testing.F) {
	f.Add("millrace-mark", "claim", "millrace-instance", "i", "millrace-address", "a")
	f.Add("millrace-mark", "", "millrace-instance", "", "millrace-address", "")
	f.Add("", "claim", "", "", "", "")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2, k3, v3 string) {
		kind, who := markOf([]Header{{Key: k1, Value: []byte(v1)}, {Key: k2, Value: []byte(v2)}, {Key: k3, Value: []byte(v3)}})
		if kind == 0 {
			if who != (Identity{}) {
				t.Fatal("no mark, but an owner")
			}
			return
		}
		want := markHeaders(nil, kind, who)
		if string(want[0].Value) != v1 || string(want[1].Value) != v2 || string(want[2].Value) != v3 {
			t.Fatalf("%q %q %q is %s by %+v", v1, v2, v3, kind, who)
		}
	})
}

func BenchmarkEventsAdd(b *testing.B) {
	x, batch, env := testEvents(b), NewBatch(0), fullEnvelope()
	b.ReportAllocs()
	for b.Loop() {
		if err := x.Add(batch, env); err != nil {
			batch.Reset()
		}
	}
}

func BenchmarkEventsEnvelope(b *testing.B) {
	x, batch := testEvents(b), NewBatch(0)
	if err := x.Add(batch, fullEnvelope()); err != nil {
		b.Fatal(err)
	}
	r := recordFrom(b, batch, 0)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := x.Envelope(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}

type thingsDone struct {
	Names []string `avro:"names"`
}

func (thingsDone) isTestEvent() {}

// TestEnvelopes reads a record of a retired type as the events that it is today.
func TestEnvelopes(t *testing.T) {
	const schema = `{"type":"record","name":"ThingsDone","namespace":"test.v1","fields":[{"name":"names","type":{"type":"array","items":"string"}}]}`
	memory := contract.NewMemory()
	once, err := contract.Bind(t.Context(), contract.Set[testEvent]{Topic: "things.events", Types: []contract.Type[testEvent]{contract.For[thingsDone, testEvent](schema)}}, memory)
	if err != nil {
		t.Fatal(err)
	}
	today, err := contract.Bind(t.Context(), contract.Set[testEvent]{Topic: "things.events", Types: []contract.Type[testEvent]{contract.For[thingDone, testEvent](thingDoneSchema)},
		Upcasters: []contract.Upcaster[testEvent]{contract.Split(schema, func(e thingsDone) (all []testEvent) {
			for i, name := range e.Names {
				all = append(all, thingDone{name, int64(i)})
			}
			return all
		})}}, memory)
	if err != nil {
		t.Fatal(err)
	}
	b := NewBatch(0)
	for _, names := range [][]string{{"x", "y"}, {"z"}, nil} {
		env := fullEnvelope()
		env.Event, env.Type = thingsDone{names}, ""
		if err := NewEvents(once, "/things").Add(b, env); err != nil {
			t.Fatal(err)
		}
	}
	x := NewEvents(today, "/things")
	facts, err := x.Facts(recordFrom(t, b, 0))
	if err != nil || facts.Type != "test.v1.ThingsDone" {
		t.Errorf("facts: type %q, %v; want the type that was written", facts.Type, err)
	}
	want := fullEnvelope()
	want.Event, want.Parts = thingDone{"x", 0}, 2
	second := want
	second.Event, second.Part, second.ID = thingDone{"y", 1}, 1, es.PartID(want.ID, 1)
	for i, want := range [][]es.Envelope[testEvent]{{want, second}, {{Event: thingDone{"z", 0}}}} {
		got, err := x.Envelopes(t.Context(), nil, recordFrom(t, b, i))
		if err != nil || len(got) != len(want) {
			t.Fatalf("record %d: %+v, %v", i, got, err)
		}
		for k := range got {
			if i == 1 {
				want[k] = fullEnvelope()
				want[k].Event = thingDone{"z", 0}
			}
			want[k].Position = got[k].Position
			if diff := cmp.Diff(want[k], got[k]); diff != "" {
				t.Errorf("record %d, part %d (-want +got):\n%s", i, k, diff)
			}
		}
	}
	if _, err := x.Envelope(t.Context(), recordFrom(t, b, 0)); !errors.Is(err, contract.ErrSplit) {
		t.Errorf("Envelope of a record that is two events: %v", err)
	}
	if got, err := x.Envelopes(t.Context(), nil, recordFrom(t, b, 2)); !errors.Is(err, contract.ErrUpcast) || len(got) != 1 || got[0].ID == "" {
		t.Errorf("an upcaster that fails: %+v, %v", got, err)
	}
}
