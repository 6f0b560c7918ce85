package folds

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/estest/mutant"
)

var mutants = flag.String("folds.mutants", "", "which mutants must be found: all, few, or the name of one; none by default, for each is a build of its own")

// A broken is the platform with one of its promises broken on purpose, and the test that must find it.
type broken struct {
	name  string
	test  string
	few   bool // among the few that are tried with every change
	edits []mutant.Edit
}

const (
	foldGo       = "projection/fold.go"
	carefulGo    = "projection/careful.go"
	runnerGo     = "projection/runner.go"
	lettersGo    = "projection/letters.go"
	uniqueGo     = "projection/unique.go"
	generationGo = "projection/generation.go"
	buildsGo     = "projection/builds.go"
	ruleGo       = "eventlog/rule.go"
	valueGo      = "store/value.go"
	inspectGo    = "store/inspect.go"
)

// positionsFirst commits how far a build is before what is there.
var positionsFirst = []mutant.Edit{
	{foldGo, "\tif slices.Contains(oks, false) || !f.collectPlace(batches[0]) {\n", "\tbatches = slices.Insert(batches, 0, f.g.db.NewBatch())\n\tif slices.Contains(oks, false) || !f.collectPlace(batches[0]) {\n"},
	{runnerGo, "\t\terr := write(h.batches...)\n", "\t\terr := write(h.batches[0])\n\t\tif err == nil {\n\t\t\terr = write(h.batches[1:]...)\n\t\t}\n"},
}

var allMutants = []broken{
	{"positions are committed before the rows", "TestKills", true, positionsFirst},
	{"positions are committed before the rows, and the power is cut", "TestPowerCuts", false, positionsFirst},
	{"what is served is committed with the next batch", "TestKills", false, []mutant.Edit{
		{generationGo, "\tempty   bool // the store has no rows\n", "\tempty   bool // the store has no rows\n\tlate    []*store.Batch\n"},
		{runnerGo, "\t\terr := write(h.batches...)\n",
			"\t\tvar err error\n\t\tif g.late, h.batches = h.batches, g.late; h.batches != nil {\n\t\t\terr = write(h.batches...)\n\t\t}\n"}}},
	{"the last event is applied again after a restart", "TestKills", false, []mutant.Edit{{generationGo,
		"\t\t\t\terr = cursors[n].UnmarshalBinary(form)\n", "\t\t\t\terr = cursors[n].UnmarshalBinary(form)\n\t\t\t\tcursors[n].Next = max(cursors[n].Next-1, 0)\n"}}},
	{"index entries of deleted rows stay", "TestKills", false, []mutant.Edit{{foldGo, "\t\tif old != \"\" {\n", "\t\tif old != \"\" && !e.gone {\n"}}},
	{"a dead letter is removed 20 ms after its event is applied", "TestKills", false, []mutant.Edit{{lettersGo,
		"\t\t\t// With its removal in the same transaction.\n", "\t\t\tif err := r.flush(); err != nil {\n\t\t\t\treturn err\n\t\t\t}\n\t\t\ttime.Sleep(20 * time.Millisecond)\n"}}},
	{"dead letters are forgotten over a restart", "TestKills", false, []mutant.Edit{{lettersGo,
		"\tl.streams, l.total, l.sum = fresh.streams, fresh.total, fresh.sum\n", "\tl.streams, l.total = map[string]*parked{}, 0\n"}}},
	{"an event that failed leaves traces", "TestKills", false, []mutant.Edit{{carefulGo, "\t\t\terr = errors.Join(err, t.undo())\n", "\t\t\t_ = t\n"}}},
	{"a unique value is only known while it is in memory", "TestKills", false, []mutant.Edit{{uniqueGo,
		"\tif o, ok := s.owners[ownerKey(index, value)]; ok {\n", "\tif o, ok := s.owners[ownerKey(index, value)]; ok || len(s.owners) >= 0 {\n"}}},
	{"what a killed process was removing stays", "TestKills", false, []mutant.Edit{{buildsGo, "\t\tcase !known || m[2] != \"\":\n", "\t\tcase !known && m[2] != \"\":\n"}}},
	{"readers take what no owner wrote", "TestKills", false, []mutant.Edit{{ruleGo, "\t\treturn pid >= 0 && pid == c.ProducerID && epoch == c.Epoch\n", "\t\treturn true\n"}}},
	{"checksums are not looked at", "TestFlippedBits", false, []mutant.Edit{
		{inspectGo, "ChkMode: options.OnTableRead", "ChkMode: options.NoVerification"},
		{valueGo, "\tif binary.BigEndian.Uint32(stored[1:]) != valueSum(key, payload) {\n", "\tif len(payload) > len(stored) {\n"}}},
}

// TestMutants builds these tests with one line of the platform wrong, and wants the test that is named to say so. A checker that never went
// red proves nothing.
func TestMutants(t *testing.T) {
	if *mutants == "" {
		return
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, m := range allMutants {
		if *mutants != "all" && (*mutants != "few" || !m.few) && *mutants != m.name {
			continue
		}
		ran++
		t.Run(strings.ReplaceAll(m.name, " ", "_"), func(t *testing.T) { m.hunt(t, root) })
	}
	if ran == 0 {
		t.Errorf("there is no mutant %q", *mutants)
	}
}

// TestMutantsApply keeps the table up to date: every text that a mutant replaces is in the platform exactly once.
func TestMutantsApply(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range allMutants {
		if _, err := mutant.Overlay(root, t.TempDir(), m.edits); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
	}
}

// hunt runs the test on the mutated platform until it finds something.
func (m broken) hunt(t *testing.T, root string) {
	dir := t.TempDir()
	binary, err := mutant.Build(t.Context(), root, dir, "./estest/folds", m.edits)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	run := exec.CommandContext(ctx, binary, "-test.run", "^"+m.test+"$", "-test.timeout", "0", "-folds.until", "-folds.every", "1", "-folds.kills", "500", "-folds.images", "200", "-folds.bits", "300") //nolint:gosec // ours
	run.Dir = dir
	out, err := run.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == foundCode {
		line := out[bytes.Index(out, []byte("found: ")):]
		t.Logf("after %v %.600s", time.Since(began).Round(time.Second), line)
		return
	}
	t.Errorf("%s did not find it: %v\n%.2000s", m.test, err, out[max(0, len(out)-2000):])
}
