package platform_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestGuarantees fails for a promise in docs/guarantees.md that no test quotes word for word.
func TestGuarantees(t *testing.T) {
	doc, err := os.ReadFile("../docs/guarantees.md")
	if err != nil {
		t.Fatal(err)
	}
	promises := regexp.MustCompile(`(?m)^- \*\*(G\d+)\*\* (.+)$`).FindAllStringSubmatch(string(doc), -1)
	if len(promises) < 10 {
		t.Fatalf("found %d promises: the form of the page has changed", len(promises))
	}
	// Comments may break a sentence anywhere: compare words.
	var tests strings.Builder
	err = filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") || filepath.Base(path) == "guarantees_test.go" {
			return err
		}
		text, err := os.ReadFile(path)
		tests.WriteString(words(strings.ReplaceAll(string(text), "//", " ")))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range promises {
		if !strings.Contains(tests.String(), words(p[1]+": "+p[2])) {
			t.Errorf("no test quotes %s: %s", p[1], p[2])
		}
	}
}

func words(s string) string { return " " + strings.Join(strings.Fields(s), " ") + " " }
