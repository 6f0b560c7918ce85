package estest

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/es"
)

// An On is one event of a stream.
type On[E any] struct {
	Stream es.StreamID
	Event  E
}

// View folds events into rows and compares each row after each event, and the index values at the end, with a golden file: events in,
// rows out. Set MILLRACE_TEST_UPDATE=1 to write the file; read what changed before you commit it. Beside that it checks what each view
// must keep: the fold gives the same rows when each row goes through JSON between two events, as it does in a projector, and no event is
// changed, neither at once nor later through a row that shares its memory.
func View[R, E any](t *testing.T, v es.View[R, E], golden string, events []On[E]) {
	t.Helper()
	rows, kept := map[string]R{}, map[string][]byte{}
	versions := map[es.StreamID]es.Version{}
	var out strings.Builder
	whole := snap(&events)
	for i, on := range events {
		versions[on.Stream]++
		env := es.Envelope[E]{
			ID: es.EventID(on.Stream, fmt.Sprint("command-", i), 0), Type: reflect.TypeOf(on.Event).Name(), Stream: on.Stream, Version: versions[on.Stream], Count: 1,
			Position: es.Position{TopicPartition: es.TopicPartition{Topic: "golden"}, Offset: int64(i)}, Time: time.Unix(0, 0).UTC(), Event: on.Event,
		}
		fmt.Fprintf(&out, "%s@%d %s %s\n", on.Stream, env.Version, env.Type, text(t, on.Event))
		key, ok := v.Key(env)
		if !ok {
			out.WriteString("  -\n")
			continue
		}
		rows[key] = v.Apply(rows[key], env)
		var row R
		if old, ok := kept[key]; ok {
			if err := json.Unmarshal(old, &row); err != nil {
				t.Fatalf("the row of %q cannot be read back: %v\n%s", key, err, old)
			}
		}
		kept[key] = []byte(text(t, v.Apply(row, env)))
		if diff := cmp.Diff(text(t, rows[key]), string(kept[key])); diff != "" {
			t.Errorf("event %d: the row of %q is another one after it went through JSON (-in memory +stored):\n%s", i, key, diff)
		}
		fmt.Fprintf(&out, "  %s %s\n", key, kept[key])
	}
	if diff := whole.changed(); diff != "" {
		t.Errorf("Apply changed an event, or a row that shares memory with it (-before +after):\n%s", diff)
	}
	if len(v.Indexes) > 0 {
		out.WriteString("indexes\n")
	}
	for _, name := range slices.Sorted(maps.Keys(v.Indexes)) {
		for _, key := range slices.Sorted(maps.Keys(rows)) {
			if value := v.Indexes[name](rows[key]); value != "" {
				fmt.Fprintf(&out, "  %s=%s %s\n", name, value, key)
			}
		}
	}
	if os.Getenv("MILLRACE_TEST_UPDATE") != "" {
		if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatalf("%v (MILLRACE_TEST_UPDATE=1 writes it)", err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("%s (-golden +now):\n%s", golden, diff)
	}
}

func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
