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

// indexed returns the entries of an index in its order: the values of the parts, and the row's key.
func indexed[R any](t *testing.T, name string, x es.Index[R], rows map[string]R) []string {
	t.Helper()
	entries := map[string]string{}
	seen := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		var at []byte
		var values []string
		empty := false
		for k, part := range x.Parts {
			n := len(at)
			var none bool
			at, none = part.Append(at, rows[key])
			empty = empty || none && k == 0
			value, _, err := part.Kind().Format(at[n:])
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, value)
		}
		if empty {
			continue
		}
		if other, ok := seen[string(at)]; ok && x.Unique {
			t.Errorf("the rows %q and %q have the same value of the unique index %s", other, key, name)
		}
		seen[string(at)] = key
		entries[string(at)+key] = fmt.Sprintf("%s=%s %s", name, strings.Join(values, ","), key)
	}
	lines := make([]string, 0, len(entries))
	for _, at := range slices.Sorted(maps.Keys(entries)) {
		lines = append(lines, entries[at])
	}
	return lines
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
		keys := v.KeysOf(env)
		if len(keys) == 0 {
			out.WriteString("  -\n")
		}
		for _, key := range keys {
			var row R
			if old, ok := kept[key]; ok {
				if err := json.Unmarshal(old, &row); err != nil {
					t.Fatalf("the row of %q cannot be read back: %v\n%s", key, err, old)
				}
			}
			now, gone := v.Next(key, rows[key], env)
			if gone {
				delete(rows, key)
				delete(kept, key)
				fmt.Fprintf(&out, "  %s deleted\n", key)
				continue
			}
			again, _ := v.Next(key, row, env)
			rows[key], kept[key] = now, []byte(text(t, again))
			if diff := cmp.Diff(text(t, now), string(kept[key])); diff != "" {
				t.Errorf("event %d: the row of %q is another one after it went through JSON (-in memory +stored):\n%s", i, key, diff)
			}
			fmt.Fprintf(&out, "  %s %s\n", key, kept[key])
		}
	}
	if diff := whole.changed(); diff != "" {
		t.Errorf("Apply changed an event, or a row that shares memory with it (-before +after):\n%s", diff)
	}
	if len(v.Indexes) > 0 {
		out.WriteString("indexes\n")
	}
	for _, name := range slices.Sorted(maps.Keys(v.Indexes)) {
		for _, line := range indexed(t, name, v.Indexes[name], rows) {
			fmt.Fprintf(&out, "  %s\n", line)
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
