package sim

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/estest/mutant"
)

var (
	mutants     = flag.String("sim.mutants", "", "which mutants must be found: all, few, or the name of one; none by default, for each is a build of its own")
	mutantSeeds = flag.Int("sim.mutant-seeds", 400, "how many schedules a mutant may survive")
)

// A broken is the platform with one of its promises broken on purpose, and the checker that must find it.
type broken struct {
	name    string
	checker string
	few     bool // among the few that are tried with every change
	edits   []mutant.Edit
}

const (
	claimGo     = "eventlog/claim.go"
	ownerGo     = "eventlog/owner.go"
	ruleGo      = "eventlog/rule.go"
	partitionGo = "command/partition.go"
	engineGo    = "command/engine.go"
	readGo      = "command/read.go"
	storerGo    = "command/storer.go"
)

var allMutants = []broken{
	{"events are written without the fence", "Epochs", true, []mutant.Edit{{ownerGo,
		"\ta.pid, a.epoch, a.sequence = o.pid, o.epoch, o.sequence\n",
		"\ta.pid, a.epoch, a.sequence = o.pid, o.epoch, o.sequence\n\tif a.mark == 0 {\n\t\ta.pid, a.epoch, a.sequence = -1, -1, -1\n\t}\n"}}},
	{"no claim is written", "Epochs", false, []mutant.Edit{{claimGo,
		"\tif o.claim, err = o.write(ctx, MarkClaim); err != nil {\n",
		"\tif _, o.claim, err = o.bounds(ctx); err == nil {\n\t\to.claim--\n\t}\n\tif err != nil {\n"}}},
	{"a fenced owner takes a new epoch and goes on", "Epochs", true, []mutant.Edit{{ownerGo,
		"\tcase depose:\n\t\tend = o.end(",
		"\tcase depose:\n\t\tif a.mark == 0 {\n\t\t\to.mu.Unlock()\n\t\t\tpid, epoch, again := o.client.initProducerID(o.ctx, o.txn, -1, -1)\n\t\t\to.mu.Lock()\n" +
			"\t\t\tif again == nil {\n\t\t\t\to.pid, o.epoch, o.sequence, a.pid, a.epoch, a.sequence = pid, epoch, 0, pid, epoch, 0\n" +
			"\t\t\t\ta.bytes = a.batch.seal(pid, epoch, 0, now)\n\t\t\t\to.mu.Unlock()\n\t\t\t\treturn true\n\t\t\t}\n\t\t}\n\t\tend = o.end("}}},
	{"an older producer id is not shut out", "Epochs", false, []mutant.Edit{{claimGo,
		"\tfor _, pid := range pids {\n\t\ta, err := o.markAttempt(MarkClose)\n", "\tfor _, pid := range pids[:0] {\n\t\ta, err := o.markAttempt(MarkClose)\n"}}},
	{"an owner serves before it has read up to its claim", "Versions", false, []mutant.Edit{{partitionGo,
		"\tif err := p.catchUp(ctx); err != nil {\n\t\treturn err\n\t}\n", "\tp.stored.set(owner.Claimed().Offset + 1)\n"}}},
	{"readers take what no owner wrote", "Versions", false, []mutant.Edit{{ruleGo,
		"\t\treturn pid >= 0 && pid == c.ProducerID && epoch == c.Epoch\n", "\t\treturn true\n"}}},
	{"a command is acknowledged when it is decided", "Acked", true, []mutant.Edit{{partitionGo,
		"\tb.taken = append(b.taken, t)\n",
		"\tearly := r.answer\n\tt.request = &request[C]{ctx: r.ctx, command: r.command, answer: make(chan result, 1)}\n\tb.taken = append(b.taken, t)\n" +
			"\tearly <- result{receipt: p.receipt(b, &t, p.owner.Next())}\n"}}},
	{"a write whose fate is open counts as acknowledged", "Acked", false, []mutant.Edit{{partitionGo,
		"\tcase a.err == nil:\n\t\tp.proven.Store(since)\n",
		"\tcase a.err == nil || errors.Is(a.err, eventlog.ErrOutcome):\n\t\tif a.err != nil {\n\t\t\ta.base = p.owner.Next()\n\t\t}\n\t\tp.proven.Store(since)\n"}}},
	{"a command that has nothing to do is forgotten", "Acked", false, []mutant.Edit{{partitionGo,
		"\tcase len(events) == 0:\n\t\tp.note(s, r)\n",
		"\tcase len(events) == 0:\n\t\tp.rest(s, wait[C]{request: r, repeat: -1, result: result{receipt: Receipt{ID: s.id, Version: s.version}}})\n"}}},
	{"repetitions are decided again", "Once", true, []mutant.Edit{{partitionGo,
		"\tknown, err := p.known(s, c.ID)\n\tswitch {\n", "\tknown, err := (*past)(nil), error(nil)\n\tswitch {\n"}}},
	{"another payload passes for a repetition", "Receipts", false, []mutant.Edit{{partitionGo,
		"\tcase known != nil && !r.lookup && known.hash != c.Meta.CommandHash:\n", "\tcase known != nil && r.lookup && known.hash == \"\":\n"}}},
	{"expected versions are ignored", "Linearizable", false, []mutant.Edit{{partitionGo,
		"\tcase c.Expect != nil && *c.Expect != s.version:\n", "\tcase c.Expect != nil && *c.Expect < 0:\n"}}},
	{"answers do not wait for the write that they rest on", "Linearizable", false, []mutant.Edit{{partitionGo,
		"\tcase s.batch != 0:\n\t\tp.attach(s.batch, w)\n", "\tcase s.batch != 0:\n\t\tw.request.answer <- w.result\n"}}},
	{"an owner answers however long ago it was one", "Stale", false, []mutant.Edit{{partitionGo,
		"time.Since(time.Unix(0, p.proven.Load())) < p.engine.cfg.Lease\n", "true\n"}}},
	{"a read does not wait for the store", "Stale", false, []mutant.Edit{{readGo,
		"\tif err := p.waitStored(ctx); err != nil {\n\t\treturn err\n\t}\n", ""}}},
	{"what is on its way counts as refused", "Absent", false, []mutant.Edit{{engineGo,
		"return Receipt{}, ErrOutcome.Because(\"the deadline passed while", "return Receipt{}, ErrUnavailable.Because(\"the deadline passed while"}}},
	{"the store's cursor goes ahead of its events", "Stores", false, []mutant.Edit{{storerGo,
		"\t\t\tnext, err := jobs[i].write(&s.rows, b, from)\n", "\t\t\tnext, err := -1, error(nil)\n\t\t\tif jobs[i].cursor.Next%2 == 0 {\n\t\t\t\tnext, err = jobs[i].write(&s.rows, b, from)\n\t\t\t}\n"}}},
}

// TestMutants builds the simulation with one line of the platform wrong, and wants the checker named to say so. A checker that never
// went red proves nothing.
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

// foundCode is the exit status of TestSchedules when it found what it was to look for.
const foundCode = 3

// hunt runs schedules of the mutated platform until the checker finds something.
func (m broken) hunt(t *testing.T, root string) {
	dir := t.TempDir()
	binary, err := mutant.Build(t.Context(), root, dir, "./estest/sim", m.edits)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	// A mutant may also panic or hang, so that a process runs only a few.
	const chunk = 5
	for n := 0; n < *mutantSeeds; n += chunk {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		run := exec.CommandContext(ctx, binary, "-test.run", "^TestSchedules$", "-sim.until", m.checker, "-sim.seed", fmt.Sprint(*simSeed+uint64(n)), "-sim.n", fmt.Sprint(chunk)) //nolint:gosec // ours
		run.Dir = dir
		out, err := run.CombinedOutput()
		cancel()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == foundCode {
			line, _, _ := strings.Cut(string(out[bytes.Index(out, []byte("found: ")):]), "\n")
			t.Logf("after %v %.300s", time.Since(began).Round(time.Millisecond), line)
			return
		}
	}
	t.Errorf("%s did not find it in %d schedules", m.checker, *mutantSeeds)
}
