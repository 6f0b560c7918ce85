package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// run runs the shop to its end.
func run(t *testing.T, dir string, env []string, args ...string) (stderr string, status int) {
	t.Helper()
	c := shop(args...)
	c.Dir = dir
	c.Env = append(c.Env, env...)
	var out strings.Builder
	c.Stderr = &out
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), c.ProcessState.ExitCode()
}

// TestRefusesToStart: what keeps the shop from starting is said in one line that also says what to do.
func TestRefusesToStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	running := start(t, append([]string{"dev", "--data-dir", filepath.Join(t.TempDir(), "data")}, anyPorts...)...)
	data := running.cmd.Args[3]
	with := func(args ...string) []string { return append(append([]string{"dev"}, anyPorts...), args...) }
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "millrace.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	serve := []string{"serve", "orders", "--http-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"}
	for _, tc := range []struct {
		name   string
		env    []string
		args   []string
		status int
		says   []string
	}{
		{"an unknown key in the environment", []string{"MILLRACE_KAFKA_BROKER=x"}, with(), 2, []string{"MILLRACE_KAFKA_BROKER ", "MILLRACE_KAFKA_BROKERS"}},
		{"an unknown key in the file", nil, with("--config", file("kafka:\n  broker: x\n")), 2, []string{"kafka.broker ", "kafka.brokers"}},
		{"an unknown flag", nil, with("--colour", "red"), 2, []string{"--colour"}},
		{"a bad value", []string{"MILLRACE_COMMAND_TIMEOUT=soon"}, with(), 2, []string{"MILLRACE_COMMAND_TIMEOUT", "soon"}},
		{"an address that is none", nil, with("--http-addr", "8088"), 2, []string{"http.addr", "8088"}},
		{"a file that is not there", nil, with("--config", "nowhere.yaml"), 2, []string{"nowhere.yaml"}},
		{"a used HTTP port", nil, with("--http-addr", taken.Addr().String()), 1, []string{taken.Addr().String(), "--http-addr"}},
		{"a used Kafka port", nil, with("--kafka-addr", taken.Addr().String()), 1, []string{"--kafka-addr"}},
		{"a used registry port", nil, with("--registry-addr", taken.Addr().String()), 1, []string{taken.Addr().String(), "--registry-addr"}},
		{"a used admin port", nil, with("--admin-addr", taken.Addr().String()), 1, []string{taken.Addr().String(), "--admin-addr"}},
		{"a data directory already open", nil, with("--data-dir", data), 1, []string{data, "--data-dir"}},
		{"a data directory that is a file", nil, with("--data-dir", file("")), 2, []string{"--data-dir"}},
		{"no broker", nil, append(serve, "--kafka-brokers", nobody.Addr().String()), 1, []string{nobody.Addr().String(), "kafka"}},
		{"no registry", nil, append(serve, "--kafka-brokers", running.at.Kafka, "--registry-url", "http://"+nobody.Addr().String()), 1, []string{nobody.Addr().String(), "registry"}},
		{"no role", nil, []string{"serve"}, 2, []string{"orders", "order-views", "registry"}},
		{"an unknown role", nil, []string{"serve", "ships"}, 2, []string{"ships", "orders"}},
		{"an unknown command", nil, []string{"fly"}, 2, []string{"fly"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel() // some of them wait for somebody to answer
			got, status := run(t, t.TempDir(), tc.env, tc.args...)
			if status != tc.status {
				t.Errorf("exit status %d, want %d", status, tc.status)
			}
			if strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "shop: ") {
				t.Errorf("not one line:\n%s", got)
			}
			for _, s := range tc.says {
				if !strings.Contains(got, s) {
					t.Errorf("it does not say %q:\n%s", s, got)
				}
			}
		})
	}
}

// TestUnregisteredContract: a service whose event types are not in the registry refuses to start and says how to register them.
//
// G12: A service does not start with an event type that the registry does not have.
func TestUnregisteredContract(t *testing.T) {
	p := start(t, append([]string{"dev", "--ephemeral"}, anyPorts...)...)
	empty := start(t, "serve", "registry", "--kafka-brokers", otherKafka(t), "--http-addr", "127.0.0.1:0", "--registry-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", "--data-dir", t.TempDir())
	serve := []string{"serve", "orders", "--kafka-brokers", p.at.Kafka, "--registry-url", empty.at.Registry, "--http-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", "--data-dir", t.TempDir()}
	got, status := run(t, t.TempDir(), nil, serve...)
	if status != 1 || strings.Count(got, "\n") != 1 {
		t.Errorf("exit status %d:\n%s", status, got)
	}
	for _, s := range []string{"shop.orders.v1.OrderPlaced", "shop.orders.v1.OrderCancelled", "shop contracts register", empty.at.Registry} {
		if !strings.Contains(got, s) {
			t.Errorf("it does not say %q:\n%s", s, got)
		}
	}
}
