package contract

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"testing"
)

// TestSample makes payloads of random schemas: the codec takes all of them, and they have JSON.
func TestSample(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	m := &maker{Rand: rand.New(rand.NewPCG(seed, 1)), logical: true}
	for range 2000 {
		text, err := json.Marshal(m.record(4))
		if err != nil {
			t.Fatal(err)
		}
		s, err := Parse(string(text))
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		payload, err := s.Sample(m.Rand)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		out, err := s.JSON(payload)
		if err != nil || !json.Valid(out) {
			t.Fatalf("%s: %q, %v", text, out, err)
		}
		if same, err := s.Read(s, payload); err != nil || string(same) != string(payload) {
			t.Fatalf("%s: read as itself %x, %v; want %x", text, same, err, payload)
		}
	}
}

// TestJSON compares with the JSON of the Go type.
func TestJSON(t *testing.T) {
	c, _ := bindTest(t, guards{})
	want := typical()
	frame, err := c.Append(nil, want)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Parse(placedSchema)
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.JSON(frame[frameBytes:])
	if err != nil {
		t.Fatal(err)
	}
	goJSON, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if !sameJSON(out, goJSON) {
		t.Errorf("got %s, want %s", out, goJSON)
	}
	if _, err := s.JSON(frame[frameBytes : len(frame)-1]); err == nil {
		t.Error("a truncated payload has JSON")
	}
}

// TestSampleEnds: a recursive type ends, unless it cannot.
func TestSampleEnds(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	list, err := Parse(`{"type":"record","name":"L","fields":[{"name":"v","type":"int"},{"name":"next","type":["null","L"]},{"name":"all","type":{"type":"array","items":"L"}}]}`)
	if err != nil {
		t.Fatal(err)
	}
	lengths := map[int]bool{}
	for range 200 {
		b, err := list.Sample(r)
		if err != nil {
			t.Fatal(err)
		}
		lengths[len(b)] = true
	}
	if len(lengths) < 10 {
		t.Errorf("only %d lengths", len(lengths))
	}
	endless, err := Parse(`{"type":"record","name":"L","fields":[{"name":"next","type":"L"}]}`)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := endless.Sample(r); err == nil {
		t.Errorf("a value without end: %x", b)
	}
}

func sameJSON(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// FuzzJSON: what JSON takes is what Read takes, and it is JSON; nothing panics.
func FuzzJSON(f *testing.F) {
	writer, err := Parse(placedOldSchema)
	if err != nil {
		f.Fatal(err)
	}
	reader, err := Parse(placedNoNoteSchema)
	if err != nil {
		f.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 5 {
		payload, err := writer.Sample(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(payload)
		f.Add(payload[:len(payload)/2])
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		out, err1 := writer.JSON(payload)
		if err1 == nil && !json.Valid(out) {
			t.Fatalf("%q is no JSON", out)
		}
		read, err2 := reader.Read(writer, payload)
		if (err1 == nil) != (err2 == nil) {
			t.Fatalf("JSON: %v, Read: %v", err1, err2)
		}
		if err2 == nil {
			if out, err := reader.JSON(read); err != nil || !json.Valid(out) {
				t.Fatalf("what was read has no JSON: %q, %v", out, err)
			}
		}
	})
}
