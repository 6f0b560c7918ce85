package contract_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/platform/contract"
)

const (
	moneyText = `{"type":"record","name":"Money","namespace":"org.money.v1","doc":"An amount.","fields":[{"name":"minor","type":"long"},{"name":"unit","type":{"type":"enum","name":"Unit","symbols":["UNKNOWN","EUR"],"default":"UNKNOWN"}}]}`
	paidText  = `{"type":"record","name":"ThingPaid","namespace":"org.things.v1","fields":[{"name":"sum","type":"org.money.v1.Money"},{"name":"fee","type":["null","org.money.v1.Money"],"default":null}]}`
	lostText  = `{"type":"record","name":"ThingLost","namespace":"org.things.v1","fields":[{"name":"value","type":"org.money.v1.Money"}]}`
	doneText  = `{"type":"record","name":"ThingDone","namespace":"org.things.v1","fields":[]}`
)

// pinnedFolder writes a folder of schemas that refer to a type of another subject.
func pinnedFolder(t *testing.T, settings string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"contracts.yaml": "topic: things.events\n" + settings, "references/org.money.v1.Money.avsc": moneyText,
		"org.things.v1.ThingPaid.avsc": paidText, "org.things.v1.ThingLost.avsc": lostText, "org.things.v1.ThingDone.avsc": doneText} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const pinMoney = "references: [{name: org.money.v1.Money, subject: money-org.money.v1.Money, version: 1}]\n"

func TestGenerateWithReferences(t *testing.T) {
	dir := pinnedFolder(t, pinMoney)
	files, err := contract.Generate(dir)
	if err != nil {
		t.Fatal(err)
	}
	code := string(files["contract_gen.go"])
	for _, want := range []string{"Sum Money  `avro:\"sum\"", "Fee *Money `avro:\"fee\"", "Value Money `avro:\"value\"", "const thingPaidSchema = `{\"type\":\"record\",\"name\":\"ThingPaid\"", "\"minor\"",
		"//go:embed org.things.v1.ThingDone.avsc\nvar thingDoneSchema string", "UnitEur "} {
		if !strings.Contains(code, want) {
			t.Errorf("the code has no %q:\n%s", want, code)
		}
	}
	if n := strings.Count(code, "type Money struct"); n != 1 {
		t.Errorf("Money is defined %d times", n)
	}
	if err := os.Remove(filepath.Join(dir, "org.things.v1.ThingDone.avsc")); err != nil {
		t.Fatal(err)
	}
	if files, err = contract.Generate(dir); err != nil || strings.Contains(string(files["contract_gen.go"]), "embed") {
		t.Errorf("an import that is not used: %v", err)
	}
	for _, settings := range []string{"", "references: [{name: org.money.v1.Money, subject: s, version: 0}]\n", pinMoney + "key: nonsense\n"} {
		if _, err := contract.Generate(pinnedFolder(t, settings)); !errors.Is(err, contract.ErrGenerate) {
			t.Errorf("%q: %v", settings, err)
		}
	}
}

// TestReleaseWithReferences: what is released can be read alone, and is released anew only when it changes.
func TestReleaseWithReferences(t *testing.T) {
	dir := pinnedFolder(t, pinMoney)
	release := func() []string {
		plan, err := contract.PlanRelease(dir)
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range plan {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return slices.Sorted(maps.Keys(plan))
	}
	if got := release(); len(got) != 10 {
		t.Errorf("got %q", got)
	}
	if got := release(); len(got) != 0 {
		t.Errorf("nothing changed, and %q is released", got)
	}
	all, err := contract.ReadHistory(os.DirFS(dir))
	if err != nil || len(all) != 3 {
		t.Fatalf("got %v, %v", all, err)
	}
	for _, r := range all {
		if _, err := contract.Parse(r.Text); err != nil {
			t.Errorf("%s cannot be read alone: %v", r.Name, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "references/org.money.v1.Money.avsc"), []byte(strings.Replace(moneyText, `"type":"long"`, `"type":"long","doc":"Cents."`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := release(); len(got) != 7 {
		t.Errorf("two events use what changed: %q", got)
	}
}

type paidEvent interface{ isPaid() }

type thingLost struct {
	Value moneyValue `avro:"value"`
}

type moneyValue struct {
	Minor int64  `avro:"minor"`
	Unit  string `avro:"unit"`
}

func (thingLost) isPaid() {}

// TestBindWithReferences writes and reads an event of a text that refers to another.
func TestBindWithReferences(t *testing.T) {
	settings, err := contract.ParseSettings("contracts.yaml", []byte("topic: things.events\n"+pinMoney))
	if err != nil {
		t.Fatal(err)
	}
	references, err := contract.ReadReferences(os.DirFS(pinnedFolder(t, "")), settings)
	if err != nil || references.Err() != nil {
		t.Fatal(err, references.Err())
	}
	schema, used, err := references.Parse(lostText)
	if err != nil || len(used) != 1 || used[0].String() != "version 1 of subject money-org.money.v1.Money" {
		t.Fatalf("got %v, %v", used, err)
	}
	codec, err := contract.Bind(context.Background(), contract.Set[paidEvent]{Topic: "things.events", Types: []contract.Type[paidEvent]{contract.For[thingLost, paidEvent](schema.Text())}}, contract.NewMemory())
	if err != nil {
		t.Fatal(err)
	}
	want := thingLost{moneyValue{5, "EUR"}}
	frame, err := codec.Append(nil, want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := codec.Decode(context.Background(), frame); err != nil || got != paidEvent(want) {
		t.Errorf("got %v, %v", got, err)
	}
}
