package gate

import (
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/platform/contract"
)

const (
	money   = `{"type": "record", "name": "Money", "namespace": "org.money.v1", "fields": [{"name": "minor", "type": "long"}, {"name": "currency", "type": "string"}]}`
	payment = `{
  "type": "record", "name": "ThingPaid", "namespace": "org.things.v1", "doc": "A thing was paid.", "owner": "things", "retention": "forever",
  "fields": [
    {"name": "thing_id", "type": "string", "doc": "The thing.", "pii": false},
    {"name": "sum", "type": ["null", "org.money.v1.Money"], "default": null, "doc": "What was paid.", "pii": false},
    {"name": "fee", "type": ["null", "org.money.v1.Money"], "default": null, "doc": "The fee.", "pii": false}
  ]
}
`
	pinned = "references:\n  - {name: org.money.v1.Money, subject: money-org.money.v1.Money, version: 2}\n"
)

// paid returns a folder of an event that refers to a type of another subject.
func paid(t *testing.T, settings, money string) Folder {
	t.Helper()
	texts := map[string]string{"contracts.yaml": "topic: things.events\n" + settings, "org.things.v1.ThingPaid.avsc": payment}
	if money != "" {
		texts["references/org.money.v1.Money.avsc"] = money
	}
	return files(t, texts)[0]
}

func TestReferencesLint(t *testing.T) {
	for _, tc := range []struct {
		name, settings, money, want string
	}{
		{"pinned", pinned, money, ""},
		{"no pin", "", money, "REFERENCE_UNPINNED@ SCHEMA_INVALID@/fields/1/type/1"},
		{"no version", "references: [{name: org.money.v1.Money, subject: x}]\n", money, "REFERENCE_UNPINNED@ SCHEMA_INVALID@/fields/1/type/1"},
		{"no subject", "references: [{name: org.money.v1.Money, version: 1}]\n", money, "REFERENCE_UNPINNED@ SCHEMA_INVALID@/fields/1/type/1"},
		{"no copy", pinned, "", "REFERENCE_UNRESOLVED@ SCHEMA_INVALID@/fields/1/type/1"},
		{"another type", pinned, strings.Replace(money, "Money", "Coins", 1), "REFERENCE_UNRESOLVED@ SCHEMA_INVALID@/fields/1/type/1"},
		{"no schema", pinned, "{", "REFERENCE_UNRESOLVED@ SCHEMA_INVALID@/fields/1/type/1"},
		{"twice", pinned + "  - {name: org.money.v1.Money, subject: x, version: 2}\n", money, "REFERENCE_UNPINNED@"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := Lint([]Folder{paid(t, tc.settings, tc.money)})
			if have := rulesOf(got); have != tc.want && rulesOf(reversed(got)) != tc.want {
				t.Errorf("got %q, want %q", have, tc.want)
			}
			for _, f := range got {
				if Explain(f.Rule) == "" {
					t.Errorf("%s has no explanation", f.Rule)
				}
			}
		})
	}
}

func reversed(all []Finding) []Finding {
	all = slices.Clone(all)
	slices.Reverse(all)
	return all
}

func TestReferencesBreaking(t *testing.T) {
	wider := strings.Replace(money, `"long"`, `"double"`, 1)
	for _, tc := range []struct {
		name, settings, money string
		want                  string
	}{
		{"nothing", pinned, money, ""},
		{"only its layout", pinned, strings.ReplaceAll(money, ": ", ":\n "), ""},
		{"another version of the same text", strings.Replace(pinned, "version: 2", "version: 3", 1), money, "REFERENCE_VERSION_CHANGED@/fields/1/type/1"},
		{"another subject", strings.Replace(pinned, "subject: money", "subject: coins", 1), money, "REFERENCE_VERSION_CHANGED@/fields/1/type/1"},
		{"allowed", strings.Replace(pinned, "version: 2", "version: 3", 1) + "allow: [{rule: REFERENCE_VERSION_CHANGED, reason: looked at}]\n", money, ""},
		{"the copy changed", pinned, wider, "REFERENCE_VERSION_CHANGED@/fields/1/type/1 FIELD_TYPE_PROMOTED_FORWARD_BREAK@/fields/1/type/1/fields/0/type/FORWARD"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			old, err := OldOf(paid(t, pinned, money), "main")
			if err != nil {
				t.Fatal(err)
			}
			got, err := Breaking(paid(t, tc.settings, tc.money), old, "", 1)
			if have := rulesOf(got); err != nil || have != tc.want && rulesOf(reversed(got)) != tc.want {
				t.Errorf("got %q, want %q, %v", have, tc.want, err)
			}
		})
	}
	// The registry says which text a version really has, and whether it is there.
	for text, want := range map[string]string{money: "", wider: "REFERENCE_VERSION_CHANGED", "": "REFERENCE_VERSION_CHANGED"} {
		d := paid(t, pinned, money)
		old := Old{Topic: "things.events", Where: "registry", Pins: []Pin{{d.Pinned.Pins[0], text}}}
		got, err := Breaking(d, old, "", 1)
		if err != nil || len(got) != min(len(want), 1) || want != "" && got[0].Rule != want {
			t.Errorf("%q: got %v, %v, want %q", text, got, err, want)
		}
	}
	d := paid(t, strings.Replace(pinned, "version: 2", "version: 3", 1), money)
	old, err := OldOf(paid(t, pinned, money), "main")
	if err != nil {
		t.Fatal(err)
	}
	got, err := Breaking(d, old, "", 1)
	want := `schemas/org.things.v1.ThingPaid.avsc:5:38: error REFERENCE_VERSION_CHANGED /fields/1/type/1 "org.money.v1.Money": the type is pinned to version 3 of subject money-org.money.v1.Money, ` +
		`and was to version 2 of subject money-org.money.v1.Money: the event changes with it. fix: keep the pin, or allow the finding once breaking has nothing else to say about the event`
	if err != nil || len(got) != 1 || got[0].String() != want {
		t.Errorf("%v\ngot  %v\nwant %s", err, got, want)
	}
	if s := d.Files[0].Schema; !strings.Contains(s.Text(), `"minor"`) || s.Shape().Fields[2].Type.Branches[1].Fields[0].Name != "minor" {
		t.Errorf("the schema is not whole: %s", s.Text())
	}
}

// TestUnusedReference: a pin that no event uses is found in contracts.yaml.
func TestUnusedReference(t *testing.T) {
	read := func(version string) Folder {
		return files(t, map[string]string{"contracts.yaml": "topic: things.events\n" + strings.Replace(pinned, "version: 2", "version: "+version, 1),
			"references/org.money.v1.Money.avsc": money, "org.things.v1.ThingDone.avsc": good})[0]
	}
	old, err := OldOf(read("2"), "main")
	if err != nil {
		t.Fatal(err)
	}
	got, err := Breaking(read("3"), old, "", 1)
	if err != nil || len(got) != 1 || !strings.HasPrefix(got[0].String(), `schemas/contracts.yaml:3:12: error REFERENCE_VERSION_CHANGED "org.money.v1.Money"`) {
		t.Errorf("got %v, %v", got, err)
	}
	if text := read("2").Files[0]; text.Schema.Text() != text.Text {
		t.Error("a text that refers to nothing was written anew")
	}
}

func TestKeyChanged(t *testing.T) {
	record := `{"type": "record", "name": "K", "fields": [{"name": "id", "type": "string"}]}`
	key := func(text string) string {
		if text == "" {
			return ""
		}
		return "key: '" + text + "'\n"
	}
	for _, tc := range []struct{ was, is, want string }{
		{"", "", ""},
		{record, record, ""},
		{record, strings.ReplaceAll(record, ": ", ":"), ""},
		{"", `"string"`, "keys were plain strings without a schema and are strings in Avro"},
		{`"string"`, "", "keys were strings in Avro and are plain strings without a schema"},
		{`"string"`, `"long"`, "keys were strings in Avro and are longs in Avro"},
		{record, strings.Replace(record, `"string"`, `"string", "default": ""`, 1), "keys were records K and are records K with another text"},
	} {
		old, err := OldOf(folder(t, key(tc.was)), "main")
		if err != nil {
			t.Fatal(err)
		}
		got, err := Breaking(folder(t, key(tc.is)), old, "", 1)
		switch {
		case err != nil:
			t.Error(err)
		case tc.want == "" && len(got) == 0:
		case len(got) != 1 || got[0].Rule != "KEY_SCHEMA_CHANGED" || got[0].Subject != "things.events-key" || got[0].Pointer != "/key" || !strings.HasPrefix(got[0].Message, tc.want+": ") || tc.want == "":
			t.Errorf("%s → %s: got %v, want %q", tc.was, tc.is, got, tc.want)
		}
	}
	if got, err := Breaking(folder(t, key(`"string"`)), Old{Topic: "things.events"}, "", 1); err != nil || len(got) != 0 {
		t.Errorf("nobody knows what keys were: %v, %v", got, err)
	}
	if Explain("KEY_SCHEMA_CHANGED") == "" || Explain("REFERENCE_VERSION_CHANGED") == "" {
		t.Error("there is no explanation")
	}
	if _, err := contract.ParseSettings("contracts.yaml", []byte("topic: t\nkey: '{'")); err == nil {
		t.Error("a key without a schema is accepted")
	}
}
