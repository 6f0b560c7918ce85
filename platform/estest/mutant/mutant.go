// Package mutant builds the platform with one of its promises broken on purpose, for tests that hold a checker to find it: a checker that
// never went red proves nothing. The product has no switches for it: files are replaced in the build only.
package mutant

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// An Edit replaces a text that is in a file exactly once: the file, from the module's root on, with slashes; the text; what replaces it.
type Edit [3]string

// Overlay writes the files below root as the edits leave them to dir, and returns the overlay for `go build -overlay`. It fails for a text
// that is not there exactly once, so that a table of mutants cannot outlive the code that it is about.
func Overlay(root, dir string, edits []Edit) (overlay string, err error) {
	replace := map[string]string{}
	texts := map[string]string{}
	for _, e := range edits {
		file, old, now := e[0], e[1], e[2]
		path := filepath.Join(root, filepath.FromSlash(file))
		text, ok := texts[path]
		if !ok {
			b, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			text = string(b)
		}
		if n := strings.Count(text, old); n != 1 {
			return "", fmt.Errorf("%s holds %d times what a mutant replaces, it must be once:\n%s", file, n, old)
		}
		texts[path] = strings.Replace(text, old, now, 1)
	}
	for path, text := range texts {
		to := filepath.Join(dir, strings.ReplaceAll(strings.TrimPrefix(path, root), string(filepath.Separator), "_"))
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[path] = to
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay = filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, b, 0o600)
}

// Build builds the test binary of a package of the module at root with the edits, in dir, and returns its path.
func Build(ctx context.Context, root, dir, pkg string, edits []Edit) (binary string, err error) {
	overlay, err := Overlay(root, dir, edits)
	if err != nil {
		return "", err
	}
	binary = filepath.Join(dir, "mutant.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-overlay", overlay, "-o", binary, pkg) //nolint:gosec // ours
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("the mutant cannot be built: %w\n%s", err, out)
	}
	return binary, nil
}
