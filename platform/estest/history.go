package estest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/contract"
)

// History reads the payload of every released version of a contract, which `millrace contract release` added to the folder of its schemas,
// with today's code, and compares what it is read as with the release's JSON. Released texts and payloads never change; what they are
// read as may: set MILLRACE_TEST_UPDATE=1 to write it anew, and read what changed before you commit it.
// A type of the contract without a release fails, too.
func History[E any](t *testing.T, s contract.Set[E], dir string) {
	t.Helper()
	releases, err := contract.ReadHistory(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	released := map[string]bool{}
	for _, r := range releases {
		released[r.Name] = true
		got, err := contract.Replay(t.Context(), s, r)
		if err != nil {
			t.Errorf("%s %d cannot be read any more: %v", r.Name, r.Number, err)
			continue
		}
		var was, is any
		if err := json.Unmarshal(r.Want, &was); err != nil {
			t.Errorf("%s: %v", r.Path, err)
		}
		if err := json.Unmarshal(got, &is); err != nil {
			t.Fatal(err)
		}
		diff := cmp.Diff(was, is)
		switch {
		case diff != "" && os.Getenv("MILLRACE_TEST_UPDATE") != "":
			if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(r.Path)), got, 0o644); err != nil {
				t.Fatal(err)
			}
		case diff != "":
			t.Errorf("%s %d is read as something else than before (-%s +now):\n%s", r.Name, r.Number, r.Path, diff)
		}
	}
	for _, typ := range s.Types {
		schema, err := contract.Parse(typ.Schema())
		if err != nil {
			t.Fatal(err)
		}
		if !released[schema.Name()] {
			t.Errorf("%s has no released version; run: millrace contract release DIR", schema.Name())
		}
	}
}
