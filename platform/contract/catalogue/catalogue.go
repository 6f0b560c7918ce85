// Package catalogue describes event contracts for those who read them: an AsyncAPI 3.0 document for tools, and a page per event for people.
// It is pure: it gets folders of schemas and returns files.
package catalogue

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/contract/gate"
)

// A Party is a role that writes or reads the events of a topic.
type Party struct {
	Role   string
	Topic  string
	Writes bool
}

// Write returns the catalogue of the folders, file name → content: asyncapi.json, index.md and a page named as each event. title heads it;
// parties are who writes and reads what, as far as it is known. The same input gives the same bytes.
func Write(title string, folders []gate.Folder, parties []Party) (map[string][]byte, error) {
	files := map[string][]byte{}
	var index bytes.Buffer
	fmt.Fprintf(&index, "# %s: events\n\nMade by `millrace contract catalogue`; [asyncapi.json](asyncapi.json) is the same for tools.\n", title)
	for _, d := range folders {
		fmt.Fprintf(&index, "\n## Topic %s\n\nWritten by %s, read by %s.\n\n| event | what happened | personal data |\n|---|---|---|\n", d.Settings.Topic,
			roles(parties, d.Settings.Topic, true), roles(parties, d.Settings.Topic, false))
		for _, f := range d.Files {
			n := f.Schema.Shape()
			fmt.Fprintf(&index, "| [%s](%s.md) | %s | %s |\n", short(n.Name), n.Name, cell(n.Doc), cell(strings.Join(personal(n), ", ")))
			page, err := page(d, f, parties)
			if err != nil {
				return nil, err
			}
			files[n.Name+".md"] = page
		}
		for _, f := range d.Retired {
			fmt.Fprintf(&index, "| %s | retired: %s | |\n", short(f.Schema.Name()), cell(f.Schema.Shape().Doc))
		}
	}
	files["index.md"] = index.Bytes()
	var err error
	files["asyncapi.json"], err = asyncAPI(title, folders, parties)
	return files, err
}

func short(full string) string { return full[strings.LastIndexByte(full, '.')+1:] }

// cell makes a text fit into a cell of a table.
func cell(text string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(text), " "), "|", `\|`)
}

func roles(parties []Party, topic string, writes bool) string {
	var names []string
	for _, p := range parties {
		if p.Topic == topic && p.Writes == writes && !slices.Contains(names, p.Role) {
			names = append(names, p.Role)
		}
	}
	if names == nil {
		return "nobody who is known"
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// personal returns the fields that hold personal data.
func personal(n *contract.Shape) []string {
	var names []string
	for _, f := range n.Fields {
		if f.Props["pii"] == true {
			names = append(names, f.Name)
		}
	}
	return names
}

// page returns the page of one event.
func page(d gate.Folder, f gate.File, parties []Party) ([]byte, error) {
	n := f.Schema.Shape()
	var b bytes.Buffer
	fmt.Fprintf(&b, "# %s\n\n%s\n\n| | |\n|---|---|\n", short(n.Name), n.Doc)
	row := func(what, value string) {
		if value != "" {
			fmt.Fprintf(&b, "| %s | %s |\n", what, cell(value))
		}
	}
	row("record", "`"+n.Name+"`")
	row("topic", "`"+d.Settings.Topic+"`, key: "+keyText(d.Settings))
	row("subject", "`"+f.Subject+"`")
	row("written by", roles(parties, d.Settings.Topic, true))
	row("read by", roles(parties, d.Settings.Topic, false))
	for _, key := range []string{"owner", "retention"} {
		value, _ := n.Props[key].(string)
		row(key, value)
	}
	row("personal data", strings.Join(personal(n), ", "))
	row("schema", "`"+f.Path+"`")
	b.WriteString("\n## Fields\n\n| field | type | default | meaning |\n|---|---|---|---|\n")
	fields(&b, n, "", nil)
	fmt.Fprintf(&b, "\n## Versions\n\n")
	released := 0
	for _, r := range d.History {
		if r.Name != n.Name {
			continue
		}
		s, err := contract.Parse(r.Text)
		if err != nil {
			return nil, fmt.Errorf("catalogue: %s: %w", r.Path, err)
		}
		released = r.Number
		fmt.Fprintf(&b, "- v%d: %d fields\n", r.Number, len(s.Shape().Fields))
		if r.Text == f.Schema.Text() {
			released = -r.Number
		}
	}
	if released >= 0 {
		b.WriteString("- not released yet: as above\n")
	}
	example, err := example(f)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(&b, "\n## Example\n\nRandom values of the right types, as the JSON of the stream API:\n\n```json\n%s\n```\n", example)
	return b.Bytes(), nil
}

func fields(b *bytes.Buffer, n *contract.Shape, prefix string, inside []*contract.Shape) {
	if slices.Contains(inside, n) {
		return
	}
	inside = append(slices.Clone(inside), n)
	for _, f := range n.Fields {
		doc := f.Doc
		t := f.Type
		for next := t; next != nil; {
			t, next = next, next.Items
			for _, branch := range t.Branches {
				if branch.Kind != "null" {
					next = branch
				}
			}
		}
		if t.Kind == "enum" {
			doc += " One of " + strings.Join(t.Symbols, ", ") + "."
		}
		def := ""
		if f.HasDefault {
			def = "`" + f.Default + "`"
		}
		fmt.Fprintf(b, "| `%s%s` | %s | %s | %s |\n", prefix, f.Name, cell(gate.TypeName(f.Type)), cell(def), cell(doc))
		if t.Kind == "record" {
			fields(b, t, prefix+f.Name+".", inside)
		}
	}
}

// keyText says what the key of a topic's records is.
func keyText(s contract.Settings) string {
	if s.Key == "" {
		return "the stream's id"
	}
	return "Avro, subject " + contract.KeySubject(s.Topic)
}

// key is what AsyncAPI says of it: a schema of its own kind, or of Avro.
func key(s contract.Settings) any {
	if s.Key == "" {
		return object{"type": "string", "description": "The stream's id."}
	}
	return json.RawMessage(s.Key)
}

// example returns a sample of the event as indented JSON, always the same one for a subject.
func example(f gate.File) ([]byte, error) {
	seed := sha256.Sum256([]byte(f.Subject))
	payload, err := f.Schema.Sample(rand.New(rand.NewPCG(binary.BigEndian.Uint64(seed[:]), 0))) //nolint:gosec // a sample has no secret
	if err != nil {
		return nil, err
	}
	text, err := f.Schema.JSON(payload)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = json.Indent(&b, text, "", "  ")
	return b.Bytes(), err
}

type object map[string]any

func ref(parts ...string) object {
	for i, p := range parts {
		parts[i] = strings.NewReplacer("~", "~0", "/", "~1").Replace(p)
	}
	return object{"$ref": "#/" + strings.Join(parts, "/")}
}

// The version of AsyncAPI's Kafka bindings.
const bindings = "0.5.0"

func asyncAPI(title string, folders []gate.Folder, parties []Party) ([]byte, error) {
	channels, operations, messages := object{}, object{}, object{}
	for _, d := range folders {
		topic := d.Settings.Topic
		channel, shared := channels[topic].(object) // of another version of the contract, on the same topic
		inChannel := object{}
		if shared {
			inChannel = channel["messages"].(object)
		}
		for _, f := range d.Files {
			n := f.Schema.Shape()
			messages[n.Name] = object{
				"name": n.Name, "title": short(n.Name), "summary": n.Doc, "contentType": "application/avro",
				"headers":   ref("components", "schemas", "cloudEventHeaders"),
				"payload":   object{"schemaFormat": "application/vnd.apache.avro+json;version=1.9.0", "schema": json.RawMessage(f.Schema.Text())}, // its text: a default keeps all its digits
				"bindings":  object{"kafka": object{"key": key(d.Settings), "schemaIdLocation": "payload", "schemaIdPayloadEncoding": "confluent", "schemaLookupStrategy": "TopicRecordNameStrategy", "bindingVersion": bindings}},
				"x-subject": f.Subject, "x-owner": n.Props["owner"], "x-retention": n.Props["retention"], "x-personal-data": append([]string{}, personal(n)...),
			}
			name := short(n.Name)
			if _, taken := inChannel[name]; taken {
				name = n.Name
			}
			inChannel[name] = ref("components", "messages", n.Name)
		}
		channels[topic] = object{
			"address": topic, "title": topic, "messages": inChannel,
			"description": "Events of one stream are in one partition, in their order. Records are written once, by the partition's owner.",
			"bindings":    object{"kafka": object{"topic": topic, "topicConfiguration": object{"cleanup.policy": []string{"delete"}, "retention.ms": -1}, "bindingVersion": bindings}},
		}
		for _, p := range parties {
			if p.Topic != topic {
				continue
			}
			action := "receive"
			if p.Writes {
				action = "send"
			}
			all := []object{}
			for _, name := range slices.Sorted(maps.Keys(inChannel)) {
				all = append(all, ref("channels", topic, "messages", name))
			}
			operations[p.Role+"."+action+"."+topic] = object{"action": action, "title": p.Role, "channel": ref("channels", topic), "messages": all}
		}
	}
	text := object{"type": "string"}
	headers := object{}
	for _, name := range []string{"ce_id", "ce_source", "ce_type", "ce_subject", "ce_time", "ce_streamversion", "ce_commandid", "ce_commandhash", "ce_commandindex", "ce_commandcount",
		"ce_correlationid", "ce_causationid", "ce_actor", "traceparent"} {
		headers[name] = text
	}
	headers["ce_specversion"] = object{"type": "string", "const": "1.0"}
	headers["content-type"] = object{"type": "string", "const": "application/avro"}
	doc := object{
		"asyncapi":           "3.0.0",
		"info":               object{"title": title, "version": "1.0.0", "description": "Events in Avro behind the Confluent frame: 0x00, the schema's id as four bytes, big-endian, Avro. Headers are those of CloudEvents in Kafka's binary mode."},
		"defaultContentType": "application/avro",
		"channels":           channels,
		"operations":         operations,
		"components": object{"messages": messages, "schemas": object{"cloudEventHeaders": object{"type": "object", "properties": headers,
			"required": []string{"ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time", "ce_streamversion", "ce_commandid", "ce_commandindex", "ce_commandcount"}}}},
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(doc)
	return b.Bytes(), err
}
