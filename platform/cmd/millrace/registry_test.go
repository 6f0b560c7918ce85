package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/registry"
)

// TestRegistryCredentials uses a registry that admits only whom it knows, with each way to say who one is.
func TestRegistryCredentials(t *testing.T) {
	write, writeEntry := registry.NewKey(registry.ScopeWrite, time.Time{})
	read, readEntry := registry.NewKey(registry.ScopeRead, time.Time{})
	file := filepath.Join(t.TempDir(), "auth.yaml")
	text := "users:\n- {name: pipeline, password: " + registry.HashPassword("secret") + ", scope: write}\nkeys:\n" + writeEntry + readEntry
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	auth, err := registry.LoadAuth(file, true)
	if err != nil {
		t.Fatal(err)
	}
	url := startRegistryFor(t, auth)
	secret := func(text string) string {
		path := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	settings := filepath.Join(t.TempDir(), "millrace.yaml")
	if err := os.WriteFile(settings, []byte("registry:\n  url: "+url+"\n  token: "+write+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := things(t)
	register := []string{"register", dir, "--registry-url", url}
	breaking := []string{"breaking", dir, "--against", "registry+" + url}
	diff := []string{"diff", dir, "--against", "registry+" + url}
	for _, tc := range []struct {
		name   string
		args   []string
		env    map[string]string
		status int
		want   string
	}{
		{"nobody registers", register, nil, 1, "registry_credentials"},
		{"nobody compares", breaking, nil, 1, "registry_credentials"},
		{"nobody sees differences", diff, nil, 1, "registry_credentials"},
		{"wrong password", register, map[string]string{"MILLRACE_REGISTRY_USERNAME": "pipeline", "MILLRACE_REGISTRY_PASSWORD": "guess"}, 1, "registry_credentials"},
		{"key for reading", register, map[string]string{"MILLRACE_REGISTRY_TOKEN": read}, 1, "Forbidden"},
		{"password", register, map[string]string{"MILLRACE_REGISTRY_USERNAME": "pipeline", "MILLRACE_REGISTRY_PASSWORD": "secret"}, 0, "things.events-org.things.v1.ThingDone\t1"},
		{"user by flag, password in a file", append(register, "--registry-username", "pipeline"), map[string]string{"MILLRACE_REGISTRY_PASSWORD_FILE": secret("secret")}, 0, "\t1"},
		{"key", register, map[string]string{"MILLRACE_REGISTRY_TOKEN": write}, 0, "\t1"},
		{"key in a file", register, map[string]string{"MILLRACE_REGISTRY_TOKEN_FILE": secret(write)}, 0, "\t1"},
		{"all in the file of settings", []string{"register", dir, "--config", settings}, nil, 0, "\t1"},
		{"URL by variable", []string{"register", dir}, map[string]string{"MILLRACE_REGISTRY_TOKEN": write, "MILLRACE_REGISTRY_URL": url}, 0, "\t1"},
		{"in the URL", []string{"register", dir, "--registry-url", strings.Replace(url, "://", "://pipeline:secret@", 1)}, nil, 0, "\t1"},
		{"compare with a key for reading", breaking, map[string]string{"MILLRACE_REGISTRY_TOKEN": read}, 0, ""},
		{"compare with a password", breaking, map[string]string{"MILLRACE_REGISTRY_USERNAME": "pipeline", "MILLRACE_REGISTRY_PASSWORD": "secret"}, 0, ""},
		{"differences", diff, map[string]string{"MILLRACE_REGISTRY_TOKEN": read}, 0, ""},
		{"no such setting", register, map[string]string{"MILLRACE_REGISTRY_TOKN": read}, 2, "MILLRACE_REGISTRY_TOKEN"},
		{"no such certificates", append(register, "--registry-ca", "none.pem"), nil, 2, "registry.ca"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for name, value := range tc.env {
				t.Setenv(name, value)
			}
			out, problem, status := call(tc.args...)
			if status != tc.status || !strings.Contains(out+problem, tc.want) || tc.want == "" && out+problem != "" {
				t.Errorf("status %d, want %d with %q; printed:\n%s%s", status, tc.status, tc.want, out, problem)
			}
			if strings.Contains(out+problem, "secret") || strings.Contains(out+problem, write) {
				t.Errorf("a secret is printed:\n%s%s", out, problem)
			}
		})
	}
}

// post registers a schema as another client does.
func post(t *testing.T, url, subject, schema string, references ...map[string]any) {
	t.Helper()
	body, err := json.Marshal(map[string]any{"schema": schema, "references": references})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(url+"/subjects/"+subject+"/versions", "application/json", strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", subject, resp.Status)
	}
}

const (
	money     = `{"type": "record", "name": "Money", "namespace": "org.money.v1", "fields": [{"name": "minor", "type": "long"}]}`
	moneyName = "org.money.v1.Money"
	paid      = `{"type": "record", "name": "ThingPaid", "namespace": "org.things.v1", "doc": "Paid.", "owner": "things", "retention": "forever", "fields": [
  {"name": "sum", "type": "org.money.v1.Money", "doc": "How much.", "pii": false}
]}
`
)

// paidThings writes a folder with a schema that refers to a type of another subject.
func paidThings(t *testing.T, settings, copied string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "things")
	if err := os.MkdirAll(filepath.Join(dir, "references"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"contracts.yaml": "topic: things.events\n" + settings, "org.things.v1.ThingPaid.avsc": paid, "references/" + moneyName + ".avsc": copied} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func pin(version string) string {
	return "references:\n- {name: " + moneyName + ", subject: money-" + moneyName + ", version: " + version + "}\n"
}

// TestReferences goes through all commands with a schema that refers to another.
func TestReferences(t *testing.T) {
	url := startRegistry(t)
	second := strings.Replace(money, `"minor", "type": "long"`, `"minor", "type": "long"}, {"name": "unit", "type": "string", "default": "EUR"`, 1)
	post(t, url, "money-"+moneyName, money)
	good, newer := paidThings(t, pin("1"), money), paidThings(t, pin("2"), second)
	flag, against := "--registry-url="+url, "registry+"+url
	step := func(status int, want string, args ...string) {
		t.Helper()
		out, problem, got := call(args...)
		if got != status || !strings.Contains(out+problem, want) || want == "" && out+problem != "" {
			t.Errorf("%q: status %d, want %d with %q; printed:\n%s%s", args, got, status, want, out, problem)
		}
	}
	step(0, "", "lint", good)
	step(3, "REFERENCE_UNPINNED", "lint", paidThings(t, "", money))
	step(0, "sum.minor long", "show", good)
	step(0, "sum.minor long", "show", filepath.Join(good, "org.things.v1.ThingPaid.avsc"))
	step(1, "is not what the registry has as version 2 of subject", "register", newer, flag)
	step(0, "things.events-org.things.v1.ThingPaid\t2", "register", good, flag)
	step(0, "things.events-org.things.v1.ThingPaid\t2", "register", good, flag)
	step(0, "", "breaking", good, "--against", against)
	step(0, "", "breaking", good, "--against", good)
	step(0, "", "diff", good, "--against", against)
	step(3, `error REFERENCE_VERSION_CHANGED /fields/0/type "org.money.v1.Money": version 2 of subject money-org.money.v1.Money is not there`, "breaking", newer, "--against", against)
	step(3, "the type is pinned to version 2 of subject money-org.money.v1.Money, and was to version 1", "breaking", newer, "--against", good)
	post(t, url, "money-"+moneyName, second)
	step(0, "", "breaking", newer, "--against", against)
	step(0, `+ org.things.v1.ThingPaid sum.unit string = "EUR"`, "diff", newer, "--against", against)
	step(3, "the copy in references differs from version 2 of subject", "breaking", paidThings(t, pin("2"), money), "--against", against)
	step(1, "is not what the registry has", "register", paidThings(t, pin("2"), money), flag)
	step(0, "", "breaking", paidThings(t, pin("2")+"allow:\n- {rule: REFERENCE_VERSION_CHANGED, reason: looked at}\n", second), "--against", good)

	// What other clients registered has references in the registry.
	url = startRegistry(t)
	against = "registry+" + url
	post(t, url, "money-"+moneyName, money)
	post(t, url, "things.events-org.things.v1.ThingPaid", paid, map[string]any{"name": moneyName, "subject": "money-" + moneyName, "version": 1})
	step(0, "", "breaking", good, "--against", against)
	step(0, "", "diff", good, "--against", against)
	narrow := paidThings(t, pin("1"), strings.Replace(money, `"long"`, `"int"`, 1))
	step(3, "FIELD_TYPE_NARROWED /fields/0/type/fields/0/type", "breaking", narrow, "--against", against)
	post(t, url, "things.events-value", thing)
	step(3, "SUBJECT_STRATEGY_CHANGED", "breaking", good, "--against", against)
}

// TestKeys registers the schema of keys and finds that it changed.
func TestKeys(t *testing.T) {
	url := startRegistry(t)
	keyed := func(settings string) string {
		dir := things(t)
		if err := os.WriteFile(filepath.Join(dir, "contracts.yaml"), []byte("topic: things.events\n"+settings), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	texts := keyed("key: '\"string\"'\n")
	if out, problem, status := call("register", texts, "--registry-url", url); status != 0 || !strings.HasPrefix(out, "things.events-key\t1\n") {
		t.Fatalf("status %d: %s%s", status, out, problem)
	}
	for settings, want := range map[string]string{"key: '\"string\"'\n": "", "key: '\"long\"'\n": "keys were strings in Avro and are longs in Avro", "": "keys were strings in Avro and are plain strings"} {
		out, problem, status := call("breaking", keyed(settings), "--against", "registry+"+url)
		if want == "" && (status != 0 || out+problem != "") || want != "" && (status != 3 || !strings.Contains(out, "error KEY_SCHEMA_CHANGED /key: "+want)) {
			t.Errorf("%q: status %d\n%s%s", settings, status, out, problem)
		}
	}
	other := startRegistry(t)
	if _, problem, status := call("register", things(t), "--registry-url", other); status != 0 {
		t.Fatal(problem)
	}
	if out, _, status := call("breaking", texts, "--against", "registry+"+other); status != 3 || !strings.Contains(out, "keys were plain strings without a schema and are strings in Avro") {
		t.Errorf("status %d: %s", status, out)
	}
}

// TestTwoVersionsOfOneTopic: the types of v1 are not gone from v2, nor the reverse, and one that is really gone is found.
func TestTwoVersionsOfOneTopic(t *testing.T) {
	url := startRegistry(t)
	dir := t.TempDir()
	for _, version := range []string{"v1", "v2"} {
		if err := os.MkdirAll(filepath.Join(dir, version), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"contracts.yaml": "topic: things.events\n", "org.things." + version + ".ThingDone.avsc": strings.Replace(thing, "org.things.v1", "org.things."+version, 1),
			"org.things." + version + ".ThingLost.avsc": strings.NewReplacer("org.things.v1", "org.things."+version, "ThingDone", "ThingLost").Replace(thing)} {
			if err := os.WriteFile(filepath.Join(dir, version, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	v1, v2 := filepath.Join(dir, "v1"), filepath.Join(dir, "v2")
	if _, problem, status := call("register", v1, v2, "--registry-url", url); status != 0 {
		t.Fatal(problem)
	}
	for _, at := range []string{dir, v1, v2} {
		if out, problem, status := call("breaking", at, "--against", "registry+"+url); status != 0 || out+problem != "" {
			t.Errorf("%s: status %d\n%s%s", at, status, out, problem)
		}
	}
	if err := os.Remove(filepath.Join(v2, "org.things.v2.ThingLost.avsc")); err != nil {
		t.Fatal(err)
	}
	if out, _, status := call("breaking", dir, "--against", "registry+"+url); status != 3 || strings.Count(out, "DELETED_EVENT_TYPE") != 1 || !strings.Contains(out, "org.things.v2.ThingLost") {
		t.Errorf("status %d\n%s", status, out)
	}
}
