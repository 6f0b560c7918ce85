package main

import (
	"net/http"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/estest/openapi"
)

// TestOpenAPI compares the document that the shop serves with testdata/openapi.json, which clients can be generated from; set
// MILLRACE_TEST_UPDATE=1 to write it anew, and read what changed before you commit it. It has no address in it, and is the same each time.
func TestOpenAPI(t *testing.T) {
	const golden = "testdata/openapi.json"
	p := start(t, append([]string{"dev", "--ephemeral"}, anyPorts...)...)
	got := request(t, "GET", p.at.HTTP+"/openapi.json", "")
	if got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if _, err := openapi.Parse(t.Context(), []byte(got.body)); err != nil {
		t.Error(err)
	}
	if os.Getenv("MILLRACE_TEST_UPDATE") != "" {
		if err := os.WriteFile(golden, []byte(got.body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.body); diff != "" {
		t.Errorf("(-%s +served):\n%s", golden, diff)
	}
}
