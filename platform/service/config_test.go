package service

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
)

func load(t *testing.T, file string, env []string, args ...string) (Config, error) {
	t.Helper()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	addFlags(flags)
	if file != "" {
		path := filepath.Join(t.TempDir(), "millrace.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return LoadConfig(flags, env)
}

// TestPrecedence: flag before environment before file before default.
func TestPrecedence(t *testing.T) {
	file := "http:\n  addr: 127.0.0.1:1\nkafka:\n  brokers: [a:1, b:2]\ncommand.timeout: 7s\nproduction: true\n"
	env := []string{"MILLRACE_HTTP_ADDR=127.0.0.1:2", "MILLRACE_COMMAND_TIMEOUT=8s", "MILLRACE_TEST_KAFKA=ignored", "HOME=/"}
	c, err := load(t, file, env, "--http-addr", "127.0.0.1:3", "--ephemeral")
	if err != nil {
		t.Fatal(err)
	}
	if c.HTTPAddr != "127.0.0.1:3" || c.CommandTimeout != 8*time.Second || strings.Join(c.KafkaBrokers, " ") != "a:1 b:2" || !c.Production || !c.Ephemeral || c.LogLevel != "warn" {
		t.Errorf("%+v", c)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err = load(t, "", []string{"MILLRACE_REGISTRY_PASSWORD_FILE=" + secret}); err != nil || c.RegistryPassword != "s3cret" {
		t.Errorf("%q, %v", c.RegistryPassword, err)
	}
	if _, err := load(t, "", []string{"MILLRACE_REGISTRY_PASSWORD_FILE=" + secret, "MILLRACE_REGISTRY_PASSWORD=other"}); !errors.Is(err, ErrConfig) {
		t.Errorf("a value and a file for it: %v", err)
	}
}

// TestPendingIsNotForgotten: however many operations come and go, one that is under way stays known.
func TestPendingIsNotForgotten(t *testing.T) {
	a := &commandAPI[int, int, int]{}
	a.remember("slow", errPending)
	for i := range 3 * maxOperations {
		op := fmt.Sprint(i)
		a.remember(op, errPending)
		if i%2 == 0 {
			a.remember(op, nil)
		} else {
			a.remember(op, ErrUsage)
		}
	}
	if a.outcomes["slow"] == nil || len(a.outcomes) > maxOperations+1 {
		t.Errorf("slow: %v, %d outcomes", a.outcomes["slow"], len(a.outcomes))
	}
}

func TestRefusedSettings(t *testing.T) {
	for _, tc := range []struct {
		file string
		env  string
		says string
	}{
		{env: "MILLRACE_COLOUR=red", says: "MILLRACE_COLOUR"},
		{env: "MILLRACE_KAFKA_BROKERS=", says: "MILLRACE_KAFKA_BROKERS"},
		{env: "MILLRACE_COMMAND_TIMEOUT=-1s", says: "MILLRACE_COMMAND_TIMEOUT"},
		{env: "MILLRACE_PRODUCTION=maybe", says: "maybe"},
		{env: "MILLRACE_LOG_LEVEL=loud", says: "loud"},
		{env: "MILLRACE_HTTP_ADDR=8088", says: "8088"},
		{env: "MILLRACE_REGISTRY_PASSWORD_FILE=/nowhere", says: "/nowhere"},
		{file: "htpp.addr: x", says: "http.addr"},
		{file: "http: [", says: "millrace.yaml"},
		{file: "http.addr:", says: "http.addr"},
		{file: "http.addr: 127.0.0.1:1\nhttp:\n  addr: 127.0.0.1:2\n", says: "http.addr is there twice"},
		{file: "log.level: info\n---\nlog.level: warn\n", says: "second document"},
		{env: "MILLRACE_KAFKA_REPLICATION=65537", says: "65537"},
		{env: "MILLRACE_VIEW_SNAPSHOT_FROM=http://a:1,b:9090", says: "b:9090"},
		{env: "MILLRACE_VIEW_SCRUB_RATE=-1", says: "MILLRACE_VIEW_SCRUB_RATE"},
		{env: "MILLRACE_COMMAND_TIMEOUT=2m", says: "50s"},
		{env: "MILLRACE_COMMAND_TIMEOUT=0s", says: "command.timeout: 0"},
		{env: "MILLRACE_SHUTDOWN_DELAY=-1s", says: "-1s"},
	} {
		_, err := load(t, tc.file, []string{tc.env})
		if !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: got %v, want ErrConfig", tc, err)
			continue
		}
		if line := fault.Line(err); !strings.Contains(line, tc.says) {
			t.Errorf("%+v: it does not say %q: %s", tc, tc.says, line)
		}
	}
}

// TestEverySettingIsDocumented: each field has a key, a usage, and a variable of its own.
func TestEverySettingIsDocumented(t *testing.T) {
	seen := map[string]bool{}
	for s := range new(Config).settings {
		if s.key == "" || s.usage == "" || seen[s.env] {
			t.Errorf("setting %+v", s)
		}
		seen[s.env] = true
	}
}

func TestKebab(t *testing.T) {
	for in, want := range map[string]string{"Place": "place", "AddLine": "add-line", "X": "x"} {
		if got := kebab(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// FuzzOperation: an operation's id leads back to its command, and nothing else is taken for one.
func FuzzOperation(f *testing.F) {
	f.Add("orders", "o-1", "k-1")
	f.Add("orders", "ü%", "a b")
	f.Fuzz(func(t *testing.T, name, stream, id string) {
		if _, err := parseOperation(name); err != nil && !errors.Is(err, ErrOperation) {
			t.Fatal(err)
		}
		if es.CheckID(name) != nil || es.CheckID(stream) != nil || es.CheckID(id) != nil {
			return
		}
		want := operationOf{name, es.StreamID(stream), id, "127.0.0.1:1"}
		got, err := parseOperation(operationID(name, want.stream, id, want.at))
		if err != nil || got != want {
			t.Fatalf("%+v came back as %+v, %v", want, got, err)
		}
	})
}
