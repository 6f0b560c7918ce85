package catalogue

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/millrace/millrace/platform/contract/gate"
)

// shop returns the catalogue of the shop's schemas.
func shop(t *testing.T) map[string][]byte {
	t.Helper()
	folders, err := gate.Read(os.DirFS("../../../schemas"), "schemas")
	if err != nil {
		t.Fatal(err)
	}
	files, err := Write("Shop", folders, []Party{{"orders", "orders.events", true}, {"order-views", "orders.events", false}, {"others", "other.events", true}})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestPages(t *testing.T) {
	files := shop(t)
	if again := shop(t); !reflect.DeepEqual(files, again) {
		t.Error("the second catalogue is another one")
	}
	for name, want := range map[string][]string{
		"index.md": {"# Shop: events", "## Topic orders.events", "Written by orders, read by order-views.", "[OrderPlaced](shop.orders.v1.OrderPlaced.md)", "| customer_id, reason |"},
		"shop.orders.v1.OrderPlaced.md": {"# OrderPlaced", "| written by | orders |", "| read by | order-views |", "| `lines` | [OrderLine] |", "| `lines.sku` | string |",
			"| `ordered_at` | timestamp-micros |", "- v1: 7 fields", "```json", "| personal data | customer_id |"},
	} {
		for _, part := range want {
			if !bytes.Contains(files[name], []byte(part)) {
				t.Errorf("%s lacks %q:\n%s", name, part, files[name])
			}
		}
	}
	for name, text := range files {
		if bytes.Contains(text, []byte("others")) {
			t.Errorf("%s names a role of another topic", name)
		}
	}
}

// TestReferences: every $ref of the document leads to something, and the payloads are the schemas as they are.
func TestReferences(t *testing.T) {
	var doc map[string]any
	if err := json.Unmarshal(shop(t)["asyncapi.json"], &doc); err != nil {
		t.Fatal(err)
	}
	seen := 0
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, item := range v {
				walk(item)
			}
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				seen++
				var at any = doc
				for part := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
					o, _ := at.(map[string]any)
					at = o[strings.NewReplacer("~1", "/", "~0", "~").Replace(part)]
				}
				if at == nil {
					t.Errorf("%s leads nowhere", ref)
				}
			}
			for _, item := range v {
				walk(item)
			}
		}
	}
	walk(doc)
	if seen < 10 {
		t.Errorf("only %d references", seen)
	}
	messages := doc["components"].(map[string]any)["messages"].(map[string]any)
	paths, err := filepath.Glob("../../../schemas/orders/v1/*.avsc")
	if err != nil || len(messages) != len(paths) {
		t.Fatalf("%d messages, %d schemas, %v", len(messages), len(paths), err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var want any
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatal(err)
		}
		m, _ := messages[strings.TrimSuffix(filepath.Base(path), ".avsc")].(map[string]any)
		payload, _ := m["payload"].(map[string]any)
		if !reflect.DeepEqual(payload["schema"], want) {
			t.Errorf("%s is not inlined as it is", path)
		}
	}
}

// twoVersions returns the catalogue of a contract and its next version on one topic, with a type of another subject and keys in Avro.
func twoVersions(t *testing.T) map[string][]byte {
	t.Helper()
	const done = `{"type": "record", "name": "ThingDone", "namespace": "org.things.v%s", "doc": "Done.", "fields": [{"name": "n", "type": "long", "default": 9007199254740993, "doc": "A number.", "pii": false}]}`
	const paid = `{"type": "record", "name": "ThingPaid", "namespace": "org.things.v2", "doc": "Paid.", "fields": [{"name": "sum", "type": "org.money.v1.Money", "doc": "How much.", "pii": false}]}`
	files := fstest.MapFS{}
	for name, text := range map[string]string{
		"v1/contracts.yaml": "topic: things.events\nkey: '{\"type\": \"string\"}'\n", "v1/org.things.v1.ThingDone.avsc": strings.Replace(done, "%s", "1", 1),
		"v2/contracts.yaml":               "topic: things.events\nkey: '{\"type\": \"string\"}'\nreferences: [{name: org.money.v1.Money, subject: money-org.money.v1.Money, version: 1}]\n",
		"v2/org.things.v2.ThingDone.avsc": strings.Replace(done, "%s", "2", 1), "v2/org.things.v2.ThingPaid.avsc": paid,
		"v2/references/org.money.v1.Money.avsc": `{"type": "record", "name": "Money", "namespace": "org.money.v1", "fields": [{"name": "minor", "type": "long"}]}`,
	} {
		files[name] = &fstest.MapFile{Data: []byte(text)}
	}
	folders, err := gate.Read(files, "schemas")
	if err != nil {
		t.Fatal(err)
	}
	out, err := Write("Things", folders, []Party{{"things", "things.events", true}})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestTwoVersionsOfOneTopic(t *testing.T) {
	files := twoVersions(t)
	var doc struct {
		Channels   map[string]struct{ Messages map[string]any }
		Operations map[string]struct{ Messages []any }
	}
	if err := json.Unmarshal(files["asyncapi.json"], &doc); err != nil {
		t.Fatal(err)
	}
	if c, o := doc.Channels["things.events"], doc.Operations["things.send.things.events"]; len(c.Messages) != 3 || len(o.Messages) != 3 {
		t.Errorf("the channel has %v, the operation %v; want three messages each", c.Messages, o.Messages)
	}
	for _, want := range []string{`"default": 9007199254740993`, `"name": "Money"`, `"type": "string"`} {
		if !bytes.Contains(files["asyncapi.json"], []byte(want)) {
			t.Errorf("the document lacks %s", want)
		}
	}
	for _, want := range []string{"| `sum` | Money |", "| `sum.minor` | long |", "key: Avro, subject things.events-key"} {
		if !bytes.Contains(files["org.things.v2.ThingPaid.md"], []byte(want)) {
			t.Errorf("the page lacks %s:\n%s", want, files["org.things.v2.ThingPaid.md"])
		}
	}
}

// TestAsyncAPIParser lets the published parser read the document. MILLRACE_TEST_NODE names a folder with a node_modules that has
// @asyncapi/parser and @asyncapi/avro-schema-parser.
func TestAsyncAPIParser(t *testing.T) {
	folder := os.Getenv("MILLRACE_TEST_NODE")
	if folder == "" {
		t.Skip("MILLRACE_TEST_NODE is not set")
	}
	check := func(doc []byte) (string, error) {
		cmd := exec.CommandContext(t.Context(), "node", "testdata/check.cjs")
		cmd.Env = append(os.Environ(), "NODE_PATH="+filepath.Join(folder, "node_modules"))
		cmd.Stdin = bytes.NewReader(doc)
		out, err := cmd.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	doc := shop(t)["asyncapi.json"]
	out, err := check(doc)
	if want := `{"channels":1,"messages":4,"operations":2,"payloads":4}`; err != nil || out != want {
		t.Errorf("got %s, %v; want %s", out, err, want)
	}
	if out, err := check(twoVersions(t)["asyncapi.json"]); err != nil || out != `{"channels":1,"messages":3,"operations":1,"payloads":3}` {
		t.Errorf("two versions of one topic: %s, %v", out, err)
	}
	for _, harm := range [][2]string{{`"action": "send"`, `"action": "shout"`}, {`"type": "record"`, `"type": "recording"`}, {"#/channels/orders.events/messages/OrderPlaced", "#/channels/orders.events/messages/Other"}} {
		if broken := bytes.Replace(doc, []byte(harm[0]), []byte(harm[1]), 1); bytes.Equal(broken, doc) {
			t.Errorf("there is no %s in the document", harm[0])
		} else if out, err := check(broken); err == nil {
			t.Errorf("%s was taken: %s", harm[1], out)
		}
	}
}
