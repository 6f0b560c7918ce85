package contract_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/contract"
	everythingv2 "github.com/millrace/millrace/platform/contract/testdata/everything/v2"
)

var update = flag.Bool("update", false, "write the generated code of testdata")

// TestGenerateEverything compares with the committed code, which is compiled into this test.
func TestGenerateEverything(t *testing.T) {
	dir := "testdata/everything/v2"
	files, err := contract.Generate(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := contract.Generate(dir)
	if err != nil || !reflect.DeepEqual(files, again) {
		t.Errorf("the second run gives other code, %v", err)
	}
	for name, code := range files {
		path := filepath.Join(dir, name)
		if *update {
			if err := os.WriteFile(path, code, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(code, want) {
			t.Errorf("%s is not up to date (%v); run the test with -update and look at the difference", path, err)
		}
	}
}

// TestGeneratedTypes writes and reads a value of every generated type.
func TestGeneratedTypes(t *testing.T) {
	ctx := context.Background()
	codec, err := contract.Bind(ctx, everythingv2.Contract, contract.NewMemory())
	if err != nil {
		t.Fatal(err)
	}
	at, state := time.UnixMilli(1).UTC(), everythingv2.StateVeryOld
	want := everythingv2.ThingHappened{ID: "1", ThingUUID: contract.UUID{1, 0x91, 0xd5, 0xa4, 0, 0, 0x70, 0, 0x80}, Flag: true, CountOfUrls: 7, Big: 1 << 60, Ratio: 0.5, Score: 0.1,
		Raw: []byte{1}, At: time.UnixMicro(3).UTC(), AtMillis: &at, Day: time.Unix(86400, 0).UTC(), Clock: time.Hour, Price: big.NewRat(1999, 100), GUID: [16]byte{9},
		State: everythingv2.StateNew, LastState: &state, Notes: map[string][]string{"a": {"b", "c"}}, Parts: []everythingv2.Part{{SKU: "x", Inner: &everythingv2.Part{SKU: "y"}}}}
	for _, e := range []everythingv2.Event{want, everythingv2.ThingEnded{ID: "1"}} {
		frame, err := codec.Append(nil, e)
		if err != nil {
			t.Fatal(err)
		}
		got, err := codec.Decode(ctx, frame)
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Errorf("got %+v, %v, want %+v", got, err, e)
		}
	}
}

func TestGenerateRefuses(t *testing.T) {
	const (
		topic = "topic: a.events"
		good  = `{"type":"record","name":"a.v1.Done","fields":[{"name":"x","type":"int"}]}`
	)
	one := func(typ string) string {
		return `{"type":"record","name":"a.v1.Done","fields":[{"name":"x","type":` + typ + `}]}`
	}
	for _, c := range []struct {
		name, words string
		files       map[string]string
	}{
		{"no settings", "contracts.yaml", map[string]string{"a.v1.Done.avsc": good}},
		{"no topic", "is not the name of a topic", map[string]string{"contracts.yaml": "", "a.v1.Done.avsc": good}},
		{"bad topic", "is not the name of a topic", map[string]string{"contracts.yaml": "topic: a/b", "a.v1.Done.avsc": good}},
		{"unknown setting", "topik", map[string]string{"contracts.yaml": "topik: a.events", "a.v1.Done.avsc": good}},
		{"no schemas", "no .avsc files", map[string]string{"contracts.yaml": topic}},
		{"broken schema", "not JSON", map[string]string{"contracts.yaml": topic, "a.v1.Done.avsc": "{"}},
		{"another file name", "holds a.v1.Done", map[string]string{"contracts.yaml": topic, "Done.avsc": good}},
		{"an enum", "an event is a record", map[string]string{"contracts.yaml": topic, "a.v1.E.avsc": `{"type":"enum","name":"a.v1.E","symbols":["A"]}`}},
		{"no version", "org.context.v1", map[string]string{"contracts.yaml": topic, "a.Done.avsc": strings.Replace(good, "a.v1", "a", 1)}},
		{"two namespaces", "the namespace is b.v1", map[string]string{"contracts.yaml": topic, "a.v1.Done.avsc": good, "b.v1.Done.avsc": strings.Replace(good, "a.v1", "b.v1", 1)}},
		{"reserved name", "is taken", map[string]string{"contracts.yaml": topic, "a.v1.Event.avsc": strings.Replace(good, "Done", "Event", 1)}},
		{"defined in two files", "in another file too", map[string]string{"contracts.yaml": topic, "a.v1.Done.avsc": one(`{"type":"enum","name":"E","symbols":["A"]}`),
			"a.v1.Gone.avsc": strings.Replace(one(`{"type":"enum","name":"E","symbols":["A"]}`), "Done", "Gone", 1)}},
		{"two fields of one Go name", "no Go name of its own", map[string]string{"contracts.yaml": topic, "a.v1.Done.avsc": `{"type":"record","name":"a.v1.Done","fields":[{"name":"a_b","type":"int"},{"name":"aB","type":"int"}]}`}},
		{"union of three", "only a union of null", map[string]string{"contracts.yaml": topic, "a.v1.Done.avsc": one(`["null","int","string"]`)}},
		{"null", "null alone", map[string]string{"contracts.yaml": topic, "a.v1.Done.avsc": one(`"null"`)}},
		{"local time", "where the process runs", map[string]string{"contracts.yaml": topic, "a.v1.Done.avsc": one(`{"type":"long","logicalType":"local-timestamp-micros"}`)}},
		{"duration", "no fixed length", map[string]string{"contracts.yaml": topic, "a.v1.Done.avsc": one(`{"type":"fixed","name":"D","size":12,"logicalType":"duration"}`)}},
		{"nullable decimal", "nullable decimal", map[string]string{"contracts.yaml": topic, "a.v1.Done.avsc": one(`["null",{"type":"bytes","logicalType":"decimal","precision":4}]`)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range c.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := contract.Generate(dir)
			if !errors.Is(err, contract.ErrGenerate) || !strings.Contains(err.Error(), c.words) {
				t.Errorf("got %v, want ErrGenerate with %q", err, c.words)
			}
		})
	}
}
