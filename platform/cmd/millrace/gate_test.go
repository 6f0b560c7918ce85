package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/contract/gate"
	"github.com/millrace/millrace/platform/embedded"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/registry"
	"github.com/millrace/millrace/platform/service"
)

// call runs a command in this process and returns what it printed and its exit status.
func call(args ...string) (out, problem string, status int) {
	var stdout, stderr bytes.Buffer
	c := root()
	c.SetOut(&stdout)
	c.SetErr(&stderr)
	status = service.Execute(c, append([]string{"contract"}, args...), &stderr)
	return stdout.String(), stderr.String(), status
}

const thing = `{"type": "record", "name": "ThingDone", "namespace": "org.things.v1", "doc": "Done.", "owner": "things", "retention": "forever", "fields": [
  {"name": "thing_id", "type": "string", "doc": "The thing.", "pii": false},
  {"name": "count", "type": "long", "doc": "How many.", "pii": false}
]}
`

// things writes a folder of schemas; in place of the parts old there are those new.
func things(t *testing.T, replace ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "things")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"contracts.yaml": "topic: things.events\n", "org.things.v1.ThingDone.avsc": strings.NewReplacer(replace...).Replace(thing)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestExitStatus(t *testing.T) {
	good, narrow, warned := things(t), things(t, `"long"`, `"int"`), things(t, "ThingDone", "DoThing")
	if err := os.Rename(filepath.Join(warned, "org.things.v1.ThingDone.avsc"), filepath.Join(warned, "org.things.v1.DoThing.avsc")); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args   []string
		status int
		want   string // in either output
	}{
		{[]string{"lint", good}, 0, ""},
		{[]string{"lint", warned}, 0, "warning RECORD_TENSE"},
		{[]string{"lint", "--strict", warned}, 3, "0 errors, 1 warnings"},
		{[]string{"lint", things(t, `"count"`, `"Count"`)}, 3, `error FIELD_NAME /fields/1 "Count"`},
		{[]string{"lint"}, 2, "needs a folder"},
		{[]string{"lint", t.TempDir()}, 1, "no contracts.yaml"},
		{[]string{"lint", good, "-o", "xml"}, 2, "neither text nor json"},
		{[]string{"lint", "--explain", "ID_TYPE"}, 0, "Ids are strings"},
		{[]string{"lint", "--explain", "all"}, 0, "DECIMAL_PRECISION_SCALE"},
		{[]string{"lint", "--explain", "NOTHING"}, 2, "there is no rule"},
		{[]string{"breaking", good}, 2, "needs --against"},
		{[]string{"breaking", good, "--against", good}, 0, ""},
		{[]string{"breaking", narrow, "--against", good}, 3, "FIELD_TYPE_NARROWED"},
		{[]string{"breaking", good, "--against", narrow}, 3, "FIELD_TYPE_PROMOTED_FORWARD_BREAK"},
		{[]string{"breaking", good, "--against", narrow, "--level", "BACKWARD_TRANSITIVE"}, 0, ""},
		{[]string{"breaking", good, "--against", narrow, "--level", "HALF"}, 1, "is no level"},
		{[]string{"breaking", good, "--against", "git#twig=main"}, 2, "git#branch=NAME"},
		{[]string{"breaking", good, "--against", "git#branch=--version"}, 2, "git#branch=NAME"},
		{[]string{"breaking", good, "--against", "registry+http://127.0.0.1:1"}, 1, "does not answer"},
		{[]string{"breaking", good, "--against-readers", "nowhere"}, 2, "not a URL"},
		{[]string{"breaking", good, "--against-readers", "http://127.0.0.1:1"}, 1, "does not answer"},
		{[]string{"diff", narrow, "--against", good}, 0, "~ org.things.v1.ThingDone count int (was long)"},
		{[]string{"show", good}, 0, "thing_id string"},
		{[]string{"catalogue", good}, 2, "needs -o"},
		{[]string{"register", filepath.Join(good, "none.avsc")}, 2, "no such file"},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			out, problem, status := call(tc.args...)
			if status != tc.status || !strings.Contains(out+problem, tc.want) || tc.want == "" && out+problem != "" {
				t.Errorf("status %d, want %d with %q; printed:\n%s%s", status, tc.status, tc.want, out, problem)
			}
		})
	}
}

// TestJSON is the output for machines.
func TestJSON(t *testing.T) {
	good, narrow := things(t), things(t, `"long"`, `"int"`)
	out, _, status := call("breaking", narrow, "--against", good, "-o", "json")
	var all []gate.Finding
	if err := json.Unmarshal([]byte(out), &all); err != nil || status != 3 || len(all) != 1 {
		t.Fatalf("status %d, %v: %s", status, err, out)
	}
	f := all[0]
	f.File, f.Against, f.Writer = filepath.Base(f.File), "", ""
	want := gate.Finding{Rule: "FIELD_TYPE_NARROWED", Severity: "error", File: "org.things.v1.ThingDone.avsc", Line: 3, Col: 29, Pointer: "/fields/1/type",
		Subject: "things.events-org.things.v1.ThingDone", Direction: "BACKWARD", Reader: "new", Name: "count", Message: f.Message, Fix: "keep the type, or add another field"}
	if f != want {
		t.Errorf("got  %+v\nwant %+v", f, want)
	}
	if out, _, status := call("lint", good, "-o", "json"); status != 0 || strings.TrimSpace(out) != "[]" {
		t.Errorf("no findings: status %d, %s", status, out)
	}
}

type thingEvent interface{ isThing() }

type thingDone struct {
	ThingID string `avro:"thing_id"`
	Count   int64  `avro:"count"`
}

func (thingDone) isThing() {}

// TestAgainstData reads what a program wrote with the schema that is changed.
func TestAgainstData(t *testing.T) {
	ctx := t.Context()
	url := startRegistry(t)
	client, err := registry.Dial(registry.ClientConfig{URLs: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	broker, err := embedded.Start(embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	log, err := eventlog.Open(ctx, eventlog.Config{Brokers: []string{broker.Addr()}, Env: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	if _, _, status := call("breaking", things(t), "--against-data", "1", "--kafka-brokers", broker.Addr(), "--registry-url", url); status != 1 {
		t.Errorf("no topic: status %d, want 1", status)
	}
	topic, err := log.EnsureTopic(ctx, eventlog.TopicSpec{Name: "things.events", Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	set := contract.Set[thingEvent]{Topic: "things.events", Types: []contract.Type[thingEvent]{contract.For[thingDone, thingEvent](thing)}}
	for _, s := range append(set.Subjects(), eventlog.MarkSubjects("things.events")...) {
		if _, err := client.Register(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	codec, err := contract.Bind(ctx, set, client)
	if err != nil {
		t.Fatal(err)
	}
	marks, err := eventlog.AvroMarks(ctx, "things.events", client)
	if err != nil {
		t.Fatal(err)
	}
	owner, err := log.Claim(ctx, topic, 0, eventlog.Identity{Instance: "test", Address: "127.0.0.1:1"}, marks)
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Release()
	batch := eventlog.NewBatch(0)
	for i := range 50 {
		env := es.Envelope[thingEvent]{Stream: "t-1", Version: es.Version(i + 1), Count: 1, Meta: es.Meta{CommandID: string(rune('a' + i))}, Event: thingDone{"t-1", 1 << 40}}
		if err := eventlog.NewEvents(codec, "/test").Add(batch, env); err != nil {
			t.Fatal(err)
		}
	}
	written := make(chan error, 1)
	owner.Append(batch, func(_ int64, err error) { written <- err })
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		dir    string
		n      string
		status int
		want   string
	}{
		{things(t), "1000", 0, "50 stored records were read"},
		{things(t), "10", 0, "10 stored records were read"},
		{things(t, `"long"`, `"int"`), "1000", 3, "and 49 more like it"},
		{things(t, `"ThingDone"`, `"ThingMade"`), "1000", 3, "no schema of the folder reads it"},
	} {
		out, problem, status := call("breaking", tc.dir, "--against-data", tc.n, "--kafka-brokers", broker.Addr(), "--registry-url", url)
		if status != tc.status || !strings.Contains(out+problem, tc.want) {
			t.Errorf("status %d, want %d with %q; printed:\n%s%s", status, tc.status, tc.want, out, problem)
		}
	}
}

// TestAgainstReaders asks a process that reads with an older schema.
func TestAgainstReaders(t *testing.T) {
	old := strings.Replace(thing, `"long"`, `"int"`, 1)
	process := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/contracts" {
			http.NotFound(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(service.ContractsAnswer{App: "shop", Roles: []service.RoleContracts{{Role: "thing-views", Contracts: []service.RoleContract{
			{Subject: "things.events-org.things.v1.ThingDone", Schema: old}, {Subject: "others.events-org.others.v1.OtherDone", Schema: "not read"},
		}}}})
	}))
	defer process.Close()
	out, problem, status := call("breaking", things(t, `"long"`, `"int"`), "--against-readers", process.URL)
	if status != 0 || !strings.Contains(problem, "1 schemas of running processes") {
		t.Errorf("the same schema: status %d\n%s%s", status, out, problem)
	}
	out, problem, status = call("breaking", things(t), "--against-readers", process.URL)
	if status != 3 || !strings.Contains(out, "READER_BREAKS") || !strings.Contains(out, "thing-views at 127.0.0.1:") {
		t.Errorf("a reader that cannot read long: status %d\n%s%s", status, out, problem)
	}
}
