package contract

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/hamba/avro/v2"
	oracle "github.com/twmb/avro"
)

func BenchmarkEncode(b *testing.B) {
	e := typical()
	var boxed event = e
	b.Run("contract", func(b *testing.B) {
		c, _ := bindTest(b, guards{})
		var buf []byte
		b.ReportAllocs()
		for b.Loop() {
			var err error
			if buf, err = c.Append(buf[:0], boxed); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(len(buf)), "bytes")
	})
	b.Run("hamba", func(b *testing.B) {
		s := avro.MustParse(placedSchema)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := avro.Marshal(s, e); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("hamba-writer", func(b *testing.B) {
		s := avro.MustParse(placedSchema)
		w := avro.NewWriter(nil, 1024)
		b.ReportAllocs()
		for b.Loop() {
			w.Reset(nil)
			if w.WriteVal(s, e); w.Error != nil {
				b.Fatal(w.Error)
			}
		}
	})
	b.Run("twmb", func(b *testing.B) {
		s := oracle.MustParse(placedSchema)
		var buf []byte
		b.ReportAllocs()
		for b.Loop() {
			var err error
			if buf, err = s.AppendEncode(buf[:0], &e); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := json.Marshal(e); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	e := typical()
	ctx := context.Background()
	c, _ := bindTest(b, guards{})
	frame, err := c.Append(nil, e)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("contract", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Decode(ctx, frame); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("hamba", func(b *testing.B) {
		s := avro.MustParse(placedSchema)
		b.ReportAllocs()
		for b.Loop() {
			var out placed
			if err := avro.Unmarshal(s, frame[5:], &out); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("twmb", func(b *testing.B) {
		s := oracle.MustParse(placedSchema)
		b.ReportAllocs()
		for b.Loop() {
			var out placed
			if _, err := s.Decode(frame[5:], &out); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("json", func(b *testing.B) {
		text, _ := json.Marshal(e)
		b.ReportAllocs()
		for b.Loop() {
			var out placed
			if err := json.Unmarshal(text, &out); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkScan(b *testing.B) {
	c, _ := bindTest(b, guards{})
	frame, err := c.Append(nil, typical())
	if err != nil {
		b.Fatal(err)
	}
	root := c.byName["test.v1.Placed"].schema.root
	b.ReportAllocs()
	for b.Loop() {
		if err := scan(root, frame[5:]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkResolve decodes what an older version wrote: five changes, among them one that bare hamba cannot read into the struct,
// which is why its row has the note nullable.
func BenchmarkResolve(b *testing.B) {
	ctx := context.Background()
	c, m := bindTest(b, guards{})
	old := oldPayload(b)
	id, err := m.SchemaID(ctx, "test.events-test.v1.Placed", placedOldSchema)
	if err != nil {
		b.Fatal(err)
	}
	frame := append([]byte{0, 0, 0, 0, byte(id)}, old...)
	b.Run("contract", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Decode(ctx, frame); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("twmb", func(b *testing.B) {
		s, err := oracle.Resolve(oracle.MustParse(placedOldSchema), oracle.MustParse(placedSchema))
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			var out placed
			if _, err := s.Decode(old, &out); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("json", func(b *testing.B) { // which resolves nothing: what is missing is zero, what is too much is left out
		e := typical()
		text, err := json.Marshal(map[string]any{"order_id": e.OrderID, "customer_id": e.CustomerID, "currency": e.Currency, "ordered_at": e.OrderedAt, "note": e.Note,
			"lines": e.Lines, "legacy": map[string]float64{"x": 1.5}, "units": e.Units, "total": e.Total})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			var out placed
			if err := json.Unmarshal(text, &out); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("hamba", func(b *testing.B) {
		r, w := avro.MustParse(placedNoNoteSchema), avro.MustParse(placedOldSchema)
		s, err := avro.NewSchemaCompatibility().Resolve(r, w)
		if err != nil {
			b.Fatal(err)
		}
		type noNote struct {
			placed
			Note string `avro:"note"`
		}
		b.ReportAllocs()
		for b.Loop() {
			var out noNote
			if err := avro.Unmarshal(s, old, &out); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkMixed decodes what a log holds after years. Of ten events four are of today's version, two of one of five changes ago, one of a version
// that differs in its docs, one is small, one is of a retired type that two upcasters bring here, and one becomes two events.
func BenchmarkMixed(b *testing.B) {
	ctx := context.Background()
	m := NewMemory()
	c, err := Bind(ctx, upcasting, m)
	if err != nil {
		b.Fatal(err)
	}
	stored := func(schema string, payload []byte) []byte {
		id, err := m.SchemaID(ctx, "s", schema)
		if err != nil {
			b.Fatal(err)
		}
		return frameOf(id, payload)
	}
	today, err := c.Append(nil, typical())
	if err != nil {
		b.Fatal(err)
	}
	small, err := c.Append(nil, cancelled{OrderID: "o-1001-7f3a"})
	if err != nil {
		b.Fatal(err)
	}
	retired, err := oracle.MustParse(sentOldSchema).Encode(map[string]any{"order": "o-1001-7f3a"})
	if err != nil {
		b.Fatal(err)
	}
	several, err := oracle.MustParse(mergedSchema).Encode(map[string]any{"ids": []any{"o-1001-7f3a", "o-1002-8a4b"}, "mode": ""})
	if err != nil {
		b.Fatal(err)
	}
	old := stored(placedOldSchema, oldPayload(b))
	other := stored(strings.Replace(placedSchema, `"name":"Placed"`, `"name":"Placed","doc":"An order was placed."`, 1), today[frameBytes:])
	frames := [10][]byte{today, old, small, today, other, stored(sentOldSchema, retired), today, stored(mergedSchema, several), old, today}
	dst := make([]event, 0, 2)
	n, decoded := 0, 0
	b.ReportAllocs()
	for b.Loop() {
		all, err := c.DecodeAll(ctx, dst, frames[n%len(frames)])
		if err != nil {
			b.Fatal(err)
		}
		n++
		decoded += len(all)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
	if want := n + (n+2)/10; decoded != want {
		b.Errorf("%d events became %d, want %d", n, decoded, want)
	}
}
