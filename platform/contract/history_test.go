package contract_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/platform/contract"
	everythingv2 "github.com/millrace/millrace/platform/contract/testdata/everything/v2"
	"github.com/millrace/millrace/platform/estest"
)

// TestHistory reads the released versions of every kind of Go type, and of a type that was retired.
func TestHistory(t *testing.T) {
	estest.History(t, everythingv2.Contract, "testdata/everything/v2")
}

// writeFiles writes files below a new folder.
func writeFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func release(t *testing.T, dir string) []string {
	t.Helper()
	plan, err := contract.PlanRelease(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range plan {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return slices.Sorted(maps.Keys(plan))
}

func TestRelease(t *testing.T) {
	const a = `{"type":"record","name":"A","namespace":"x.y.v1","fields":[{"name":"n","type":"long"}]}`
	dir := writeFiles(t, map[string]string{"contracts.yaml": "topic: y.events\n", "x.y.v1.A.avsc": a})
	got := release(t, dir)
	if want := []string{"history/released.sum", "history/x.y.v1.A/1.avsc", "history/x.y.v1.A/1.json", "history/x.y.v1.A/1.payload"}; !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	if got := release(t, dir); len(got) != 0 {
		t.Errorf("the second time: %q", got)
	}
	second := strings.Replace(a, `"long"`, `["null","long"]`, 1)
	if err := os.WriteFile(filepath.Join(dir, "x.y.v1.A.avsc"), []byte(second), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := release(t, dir); len(got) != 4 {
		t.Errorf("a change: %q", got)
	}
	all, err := contract.ReadHistory(os.DirFS(dir))
	if err != nil || len(all) != 2 || all[0].Text != a || all[1].Text != second || all[1].Number != 2 {
		t.Fatalf("history %+v, %v", all, err)
	}
	for name, harm := range map[string]func(path string) error{
		"changed": func(p string) error { return os.WriteFile(p, []byte(a+" "), 0o600) },
		"gone":    os.Remove,
		"by hand": func(p string) error { return os.WriteFile(filepath.Join(filepath.Dir(p), "3.avsc"), []byte(a), 0o600) },
		"no JSON": func(p string) error { return os.Remove(strings.TrimSuffix(p, ".avsc") + ".json") },
		"payload": func(p string) error {
			return os.WriteFile(strings.TrimSuffix(p, ".avsc")+".payload", []byte("00"), 0o600)
		},
		"bad sums": func(p string) error {
			return os.WriteFile(filepath.Join(filepath.Dir(p), "../released.sum"), []byte("x"), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			broken := t.TempDir()
			if err := os.CopyFS(broken, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			if err := harm(filepath.Join(broken, "history/x.y.v1.A/1.avsc")); err != nil {
				t.Fatal(err)
			}
			if _, err := contract.ReadHistory(os.DirFS(broken)); !errors.Is(err, contract.ErrHistory) {
				t.Errorf("got %v, want ErrHistory", err)
			}
		})
	}
}

func TestGenerateRetired(t *testing.T) {
	const a = `{"type":"record","name":"A","namespace":"x.y.v1","fields":[]}`
	for _, tc := range []struct{ name, file, text, want string }{
		{"no upcasters", "retired/x.y.v1.B.avsc", strings.Replace(a, `"A"`, `"B"`, 1), "has no upcasters.go"},
		{"still written", "retired/x.y.v1.A.avsc", a, "still written"},
		{"another namespace", "retired/x.z.v1.B.avsc", `{"type":"record","name":"x.z.v1.B","fields":[]}`, "namespace"},
		{"another name", "retired/x.y.v1.C.avsc", a, "does not hold"},
	} {
		dir := writeFiles(t, map[string]string{"contracts.yaml": "topic: y.events\n", "x.y.v1.A.avsc": a, tc.file: tc.text})
		if _, err := contract.Generate(dir); !errors.Is(err, contract.ErrGenerate) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want ErrGenerate with %q", tc.name, err, tc.want)
		}
	}
}
