package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/embedded"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/registry"
)

// TestMain lets the test binary be millrace itself, for commands that run it.
func TestMain(m *testing.M) {
	if os.Getenv("MILLRACE_TEST_MAIN") != "" {
		main()
	}
	os.Exit(m.Run())
}

// startRegistry runs a schema registry for everybody and returns its URL.
func startRegistry(t *testing.T) string {
	t.Helper()
	return startRegistryFor(t, nil)
}

// startRegistryFor runs a schema registry for those whom auth admits.
func startRegistryFor(t *testing.T, auth *registry.Auth) string {
	t.Helper()
	broker, err := embedded.Start(embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	log, err := eventlog.Open(t.Context(), eventlog.Config{Brokers: []string{broker.Addr()}, Env: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	var handler http.Handler
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	t.Cleanup(server.Close)
	r, err := registry.NewServer(t.Context(), registry.ServerConfig{Log: log, Instance: "test", Address: strings.TrimPrefix(server.URL, "http://"), Auth: auth})
	if err != nil {
		t.Fatal(err)
	}
	handler = r.Handler()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(30 * time.Second); !r.Ready(); {
		select {
		case <-tick.C:
		case err := <-ended:
			t.Fatal(err)
		case <-deadline:
			t.Fatal("the registry is not ready")
		}
	}
	return server.URL
}

// A place is where commands run: a git repository with a copy of schemas, and millrace in the PATH.
type place struct {
	dir, registry string
	env           []string
}

func newPlace(t *testing.T) *place {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	script := "#!/bin/sh\nMILLRACE_TEST_MAIN=1 exec '" + self + "' \"$@\"\n"
	if err := os.WriteFile(filepath.Join(bin, "millrace"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	p := &place{dir: t.TempDir(), registry: startRegistry(t)}
	p.env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_DIR=", "LC_ALL=C.UTF-8",
		"GIT_AUTHOR_NAME=test", "GIT_AUTHOR_EMAIL=test@example.invalid", "GIT_COMMITTER_NAME=test", "GIT_COMMITTER_EMAIL=test@example.invalid")
	for i, e := range p.env {
		if e == "GIT_DIR=" {
			p.env = append(p.env[:i], p.env[i+1:]...)
			break
		}
	}
	if err := os.CopyFS(filepath.Join(p.dir, "schemas/orders"), os.DirFS("../../../schemas/orders")); err != nil {
		t.Fatal(err)
	}
	if out, status := p.run("git init -q -b main && git add . && git commit -qm schemas", 0); status != 0 {
		t.Fatalf("%s", out)
	}
	return p
}

// run runs a command as a shell does after one that ended with the status last.
func (p *place) run(command string, last int) (out string, status int) {
	command = strings.ReplaceAll(command, "http://127.0.0.1:8081", p.registry)
	c := exec.Command("bash", "-c", "(exit "+strconv.Itoa(last)+"); "+command)
	c.Dir, c.Env = p.dir, p.env
	var b bytes.Buffer
	c.Stdout, c.Stderr = &b, &b
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err.Error(), -1
	}
	return strings.ReplaceAll(b.String(), p.registry, "http://127.0.0.1:8081"), c.ProcessState.ExitCode()
}

// TestWalk runs the commands of docs/contracts.md and compares what they print with the page. MILLRACE_TEST_UPDATE=1 writes it there.
func TestWalk(t *testing.T) {
	const page = "../../../docs/contracts.md"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	p := newPlace(t)
	var out strings.Builder
	inside, ran, last := false, 0, 0
	for line := range strings.Lines(string(text)) {
		switch command, isCommand := strings.CutPrefix(line, "$ "); {
		case strings.HasPrefix(line, "```console"):
			inside = true
			out.WriteString(line)
		case inside && strings.HasPrefix(line, "```"):
			inside = false
			out.WriteString(line)
		case inside && isCommand:
			out.WriteString(line)
			var printed string
			printed, last = p.run(strings.TrimSpace(command), last)
			out.WriteString(printed)
			ran++
		case !inside:
			out.WriteString(line)
		}
	}
	if ran < 20 {
		t.Errorf("only %d commands were found", ran)
	}
	if os.Getenv("MILLRACE_TEST_UPDATE") != "" {
		if err := os.WriteFile(page, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(text), out.String()); diff != "" {
		t.Errorf("docs/contracts.md (-page +now):\n%s", diff)
	}
}
