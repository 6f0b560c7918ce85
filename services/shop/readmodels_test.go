package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A walk is a page whose commands are run as they stand there, in a folder that looks like the top of the project. What is changed below
// services/ there is built in place of what the project has.
type walk struct {
	t         *testing.T
	root, dir string
	env       []string
	shop      *process
}

func newWalk(t *testing.T) *walk {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	w := &walk{t: t, root: root, dir: t.TempDir()}
	if err := os.CopyFS(filepath.Join(w.dir, "services/orderviews"), os.DirFS(filepath.Join(root, "services/orderviews"))); err != nil {
		t.Fatal(err)
	}
	sample, err := os.ReadFile(filepath.Join(root, "services/shop", sample))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(w.dir, "services/shop/testdata"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "services/shop", "testdata/orders-sample.csv"), sample, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "MILLRACE_") && !strings.HasPrefix(e, "MAKE") && !strings.HasPrefix(e, "PATH=") {
			w.env = append(w.env, e)
		}
	}
	w.env = append(w.env, "PATH="+filepath.Join(w.dir, "bin")+":"+os.Getenv("PATH"), "LC_ALL=C.UTF-8")
	w.build("millrace", "./platform/cmd/millrace")
	w.build("shop", "./services/shop")
	return w
}

// build builds a binary of the project, with what the folder has in place of what the project has.
func (w *walk) build(name, pkg string) {
	w.t.Helper()
	replace := map[string]string{}
	top := filepath.Join(w.dir, "services/orderviews")
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		rel, err := filepath.Rel(w.dir, path)
		if err != nil {
			return err
		}
		replace[filepath.Join(w.root, rel)] = path
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		w.t.Fatal(err)
	}
	overlay := filepath.Join(w.t.TempDir(), "overlay.json")
	if err := os.WriteFile(overlay, text, 0o600); err != nil {
		w.t.Fatal(err)
	}
	c := exec.Command("go", "build", "-overlay", overlay, "-o", filepath.Join(w.dir, "bin", name), pkg)
	c.Dir = w.root
	if out, err := c.CombinedOutput(); err != nil {
		w.t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
}

// run runs a command as a shell does after one that ended with the status last.
func (w *walk) run(command string, last int) (out string, status int) {
	switch {
	case command == "go build -o bin/shop ./services/shop":
		w.build("shop", "./services/shop")
		return "", 0
	case strings.HasPrefix(command, "bin/shop dev"):
		if w.shop != nil {
			w.shop.stop()
		}
		ready := filepath.Join(w.t.TempDir(), "ready.json")
		c := exec.Command(filepath.Join(w.dir, "bin/shop"), append(strings.Fields(command)[1:], append(anyPorts, "--ready-file", ready)...)...)
		c.Dir, c.Env = w.dir, w.env
		w.shop = await(w.t, c, ready)
		return "", 0
	}
	hosts := [][2]string{}
	env := w.env
	if w.shop != nil {
		http, admin := strings.TrimPrefix(w.shop.at.HTTP, "http://"), strings.TrimPrefix(w.shop.at.Admin, "http://")
		hosts = append(hosts, [2]string{http, "localhost:8088"}, [2]string{admin, "127.0.0.1:9090"})
		env = append(env, "MILLRACE_URL=http://"+http, "MILLRACE_ADMIN_URL=http://"+admin)
		command = strings.ReplaceAll(command, "localhost:8088", http)
		if strings.HasPrefix(command, "bin/shop import ") {
			command = strings.Replace(command, "import ", "import --url http://"+http+" ", 1)
		}
	}
	c := exec.Command("bash", "-c", "(exit "+strconv.Itoa(last)+"); "+command)
	c.Dir, c.Env = w.dir, env
	var b bytes.Buffer
	c.Stdout, c.Stderr = &b, &b
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	out = b.String()
	for _, h := range hosts {
		out = strings.ReplaceAll(out, h[0], h[1])
	}
	return out, c.ProcessState.ExitCode()
}

// varying is what differs between two runs of the page, and what the test reads in place of it.
var varying = []struct {
	what *regexp.Regexp
	as   string
}{
	{regexp.MustCompile(`@\d+`), "@N"},
	{regexp.MustCompile(`before offset \d+`), "before offset N"},
	{regexp.MustCompile(`orders\.events/\d+`), "orders.events/P"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}`), "UUID"},
	{regexp.MustCompile(`"ce_commandid": +"[^"]*"`), `"ce_commandid": ID`},
	{regexp.MustCompile(`(?m)^  ce_(commandid|correlationid|commandhash) .*`), "  ce_$1 ID"},
	{regexp.MustCompile(`20[2-9]\d-\d\d-\d\dT[0-9:.]+Z`), "TIME"},
	{regexp.MustCompile(`[0-9.]+ (B|KiB|MiB|GiB|TiB)\b`), "SIZE"},
	{regexp.MustCompile(`[\d,]+( rows)?/s`), "N/s"},
	{regexp.MustCompile(`in about [0-9ms.]+; `), ""},
	{regexp.MustCompile(`into a new build, in about \S+;`), "into a new build;"},
	{regexp.MustCompile(`\b[\d.]+m?s\b`), "Ns"},
	{regexp.MustCompile(`[\d,]+ records`), "N records"},
	{regexp.MustCompile(`record [\d,]+ of [\d,]+ \([\d.]+ %\), \d+ of`), "record N of N, N of"},
	{regexp.MustCompile(`[\d,]+( +\d+/\d+)`), "N$1"},                                                     // RATE/S
	{regexp.MustCompile(`(running +)(?:100\.0|99\.\d) % +\d+( +\S+ +N +)\d+(/\d+)`), "${1}P % N${2}N$3"}, // events go on coming
	{regexp.MustCompile(`--cursor \S+`), "--cursor C"},
	{regexp.MustCompile(` +`), " "},
	{regexp.MustCompile(`(?m)^.*, [N\d]+ of \d+ partitions, N/s.*\n`), ""}, // progress, as often as there is time for
}

// settled replaces what varies.
func settled(text string) string {
	for _, v := range varying {
		text = v.what.ReplaceAllString(text, v.as)
	}
	return text
}

// TestReadModels runs the commands of docs/read-models.md, on a shop that is built again with each change that the page makes, and compares
// what they print with the page; numbers that are others each time are not compared. MILLRACE_TEST_UPDATE=1 writes it there.
func TestReadModels(t *testing.T) {
	for _, tool := range []string{"curl", "git", "go"} {
		if _, err := exec.LookPath(tool); errors.Is(err, exec.ErrNotFound) {
			if os.Getenv("MILLRACE_TEST_ALL") != "" {
				t.Fatalf("the page needs %s", tool)
			}
			t.Skipf("the page needs %s; make test must pass on a machine that has only Go and make", tool)
		}
	}
	const page = "../../docs/read-models.md"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	w := newWalk(t)
	var out strings.Builder
	ran, last := 0, 0
	block := "" // the kind of code that a line is in
	var patch strings.Builder
	for line := range strings.Lines(string(text)) {
		command, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case block == "" && strings.HasPrefix(line, "```"):
			block = strings.TrimSpace(strings.TrimPrefix(line, "```")) + " "
			patch.Reset()
		case block != "" && strings.HasPrefix(line, "```"):
			if block == "diff " {
				if err := os.WriteFile(filepath.Join(w.dir, "change.patch"), []byte(patch.String()), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			block = ""
		case block == "diff ":
			patch.WriteString(line)
		case block == "console " && isCommand:
			out.WriteString(line)
			var printed string
			printed, last = w.run(strings.TrimSpace(command), last)
			out.WriteString(printed)
			if printed != "" && !strings.HasSuffix(printed, "\n") {
				out.WriteString("\n")
			}
			ran++
			continue
		case block == "console ":
			continue
		}
		out.WriteString(line)
	}
	if ran < 30 {
		t.Errorf("only %d commands were found", ran)
	}
	if os.Getenv("MILLRACE_TEST_UPDATE") != "" {
		if err := os.WriteFile(page, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(settled(string(text)), settled(out.String())); diff != "" {
		t.Errorf("docs/read-models.md (-page +now):\n%s", diff)
	}
}
