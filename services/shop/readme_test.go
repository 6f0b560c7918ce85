package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// block returns the commands of the README's code block behind a marker.
func block(t *testing.T, name string) []string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)<!-- " + name + " -->\n```\n(.*?)```").FindSubmatch(text)
	if m == nil {
		t.Fatalf("the README has no block %q", name)
	}
	return strings.Split(strings.TrimSpace(string(m[1])), "\n")
}

// TestReadme does what the README says, word for word but for the ports: make run, then the tour, each command in a shell at the top of
// the project. The position in the second command is replaced by the one that came back, as the README asks.
func TestReadme(t *testing.T) {
	if _, err := exec.LookPath("curl"); errors.Is(err, exec.ErrNotFound) {
		if os.Getenv("MILLRACE_TEST_ALL") != "" {
			t.Fatal("the README's tour needs curl")
		}
		t.Skip("the README's tour needs curl; make test must pass on a machine that has only Go and make")
	}
	quick := block(t, "quickstart")
	if len(quick) != 2 || !strings.HasPrefix(quick[0], "make run ") || !strings.HasPrefix(quick[1], "make test ") {
		t.Fatalf("the README's two commands are %q", quick)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	ready := filepath.Join(t.TempDir(), "ready.json")
	settings := []string{
		"MILLRACE_HTTP_ADDR=127.0.0.1:0", "MILLRACE_KAFKA_ADDR=127.0.0.1:0", "MILLRACE_REGISTRY_ADDR=127.0.0.1:0", "MILLRACE_ADMIN_ADDR=127.0.0.1:0",
		"MILLRACE_DATA_DIR=" + t.TempDir(), "MILLRACE_READY_FILE=" + ready,
	}
	bash := func(line string) *exec.Cmd {
		c := exec.Command("bash", "-c", line)
		c.Dir = root
		for _, e := range os.Environ() {
			if !strings.HasPrefix(e, "MILLRACE_") && !strings.HasPrefix(e, "MAKE") {
				c.Env = append(c.Env, e)
			}
		}
		return c
	}
	make := bash(quick[0])
	make.Env = append(make.Env, settings...)
	make.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := await(t, make, ready)
	t.Cleanup(func() { _ = syscall.Kill(-make.Process.Pid, syscall.SIGKILL) })
	p.until("ready", func() bool { return strings.Contains(p.output.String(), "\nready in ") })
	for _, address := range []string{p.at.HTTP, p.at.Kafka, p.at.Registry, p.at.Admin} {
		if address == "" || !strings.Contains(p.output.String(), address) {
			t.Errorf("make run does not print %q:\n%s", address, p.output)
		}
	}

	tour := block(t, "tour")
	want := []string{ // a pattern of each command's output
		`(?s)^HTTP/1.1 200 OK.*Millrace-Position: (orders\.events/\d+@\d+).*\{"id":"o-1","version":1,"events":\[\{"type":"shop\.orders\.v1\.OrderPlaced","id":"[0-9a-f-]{36}","version":1\}\],"position":"orders\.events/\d+@\d+"\}`,
		`(?s)^HTTP/1.1 200 OK.*Millrace-Position: .*"order_id":"o-1","customer_id":"c-1","status":"placed","currency":"USD".*"units":2,"total":2933\}`,
		`^6919 orders placed, 0 were there already, 0 rows not imported`,
		`^\{"customer_id":"c-00004","orders":4,"cancelled":0,"spent":\{"USD":10050\},"first_order":"1997-01-01T12:00:00Z","last_order":"1997-12-12T12:00:00Z"\}`,
		`^\{"rows":\[\{"day":"1997-01-01","orders":18,"units":29,"revenue":\{"USD":43911\}\},.*"day":"1997-01-31".*\]\}`,
		`^\{"events":\[\{.*"type":"shop\.orders\.v1\.OrderPlaced","version":1,.*"order_id":"o-00004-1"`,
		`^\{"id":"o-1","version":2,"events":\[\{"type":"shop\.orders\.v1\.OrderCancelled"`,
		`(?s)^HTTP/1.1 200 OK.*Idempotent-Replayed: true.*\{"id":"o-1","version":2,"events":\[\{"type":"shop\.orders\.v1\.OrderCancelled"`,
	}
	if len(tour) != len(want) {
		t.Fatalf("the tour has %d commands, this test knows %d", len(tour), len(want))
	}
	var position string
	for i, line := range tour {
		line = strings.ReplaceAll(line, "localhost:8088", strings.TrimPrefix(p.at.HTTP, "http://"))
		if strings.HasPrefix(line, "bin/shop import ") {
			line += " --url " + p.at.HTTP
		}
		if position != "" {
			line = regexp.MustCompile(`orders\.events/\d+@\d+`).ReplaceAllLiteralString(line, position)
		}
		// curl's progress is for people.
		line = strings.Replace(line, "curl ", "curl -sS ", 1)
		var out []byte
		var m []string
		// A view may be some milliseconds behind the import, whose positions nobody waits for; anything else must be right at once.
		reads := strings.Contains(line, "/v1/views/") && !strings.Contains(line, "Millrace-At-Least")
		p.until("as the README says after "+line+", but\n"+string(out), func() bool {
			if out, err = bash(line).Output(); err != nil {
				t.Fatalf("%s: %v\n%s", line, err, out)
			}
			m = regexp.MustCompile(want[i]).FindStringSubmatch(strings.ReplaceAll(string(out), "\r", ""))
			return m != nil || !reads
		})
		if m == nil {
			t.Fatalf("%s\nanswered\n%s\nwhich is not\n%s", line, out, want[i])
		}
		if len(m) > 1 {
			position = m[1]
		}
	}
	if orders, units, cents := sums(t, p.at.HTTP); orders != sampleOrders || units != sampleUnits || cents != sampleCents {
		t.Errorf("after the tour: %d orders, %d units, %d cents; want %d, %d, %d", orders, units, cents, sampleOrders, sampleUnits, sampleCents)
	}
}
