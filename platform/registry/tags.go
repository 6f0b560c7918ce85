package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

const (
	tagsProperty    = "confluent:tags"    // where a schema has the tags of a record or a field, in other registries too
	versionProperty = "confluent:version" // of metadata: the version that a request for tags was meant to make
	entityRecord    = "sr_record"
	entityField     = "sr_field"
	maxTagDepth     = 256 // objects and arrays of a schema inside each other
)

// An entity is a record or a field of a schema; the path is the record's full name, for a field with its name after it.
type entity struct {
	Path string `json:"entityPath"`
	Type string `json:"entityType"`
}

// A schemaTags is the tags of one entity.
type schemaTags struct {
	Entity entity   `json:"schemaEntity"`
	Tags   []string `json:"tags"`
}

// A tagRequest is the body of POST …/tags: what is to change between one version and a new one.
type tagRequest struct {
	NewVersion    int32           `json:"newVersion"`
	Add           []schemaTags    `json:"tagsToAdd"`
	Remove        []schemaTags    `json:"tagsToRemove"`
	Metadata      json.RawMessage `json:"metadata"`
	RuleSet       json.RawMessage `json:"ruleSet"`
	RulesToMerge  json.RawMessage `json:"rulesToMerge"`
	RulesToRemove []string        `json:"rulesToRemove"`
}

// planTags returns the version that has the changes of the request and the records that create it.
func (s *state) planTags(subject string, number int32, r *tagRequest) ([]record, *version, *apiError) {
	v, err := s.versionOf(subject, number, false)
	if err != nil {
		return nil, nil, err
	}
	text, failure := retag(v.content.text, r.Add, r.Remove)
	if failure != nil {
		return nil, nil, refuse(codeInvalidSchema, "The tags cannot be set: %s", failure)
	}
	register := &schemaRequest{Schema: text, SchemaType: v.content.schemaType, References: v.content.references, Metadata: r.Metadata, RuleSet: r.RuleSet, Version: r.NewVersion}
	if absent(r.Metadata) {
		if register.Metadata = v.content.metadata; register.Metadata == nil {
			register.Metadata = json.RawMessage("{}") // not that of the newest version
		}
	}
	if err := checkMetadata(register.Metadata, nil); err != nil {
		return nil, nil, err
	}
	if r.NewVersion > 0 {
		mark := encode(metadata{Properties: map[string]string{versionProperty: strconv.Itoa(int(r.NewVersion))}})
		register.Metadata = mergeMetadata(noNull(register.Metadata), mark)
	}
	if !absent(r.RulesToMerge) || len(r.RulesToRemove) > 0 {
		if !absent(r.RuleSet) {
			return nil, nil, refuse(codeInvalidRuleSet, "ruleSet cannot be given together with rulesToMerge and rulesToRemove")
		}
		if err := checkMetadata(nil, r.RulesToMerge); err != nil {
			return nil, nil, err
		}
		before, err := s.versionOf(subject, max(r.NewVersion-1, latest), false)
		if err != nil {
			return nil, nil, err
		}
		register.RuleSet = withoutRules(mergeRules(before.content.ruleSet, noNull(r.RulesToMerge)), r.RulesToRemove)
	}
	return s.planRegister(subject, register)
}

// withoutRules returns a rule set without the rules of these names.
func withoutRules(rules json.RawMessage, names []string) json.RawMessage {
	var r ruleSet
	if rules == nil || json.Unmarshal(rules, &r) != nil {
		return json.RawMessage("{}")
	}
	for _, list := range r.lists() {
		*list = slices.DeleteFunc(*list, func(rule json.RawMessage) bool { return slices.Contains(names, ruleName(rule)) })
	}
	return encode(r)
}

// tagsIn returns the entities of a schema that have one of the tags, "*" stands for any.
func tagsIn(text string, wanted []string) ([]schemaTags, error) {
	all, err := entities(compact(text))
	if err != nil {
		return nil, err
	}
	var found []schemaTags
	for _, e := range all {
		if len(e.tags) > 0 && (slices.Contains(wanted, "*") || slices.ContainsFunc(e.tags, func(t string) bool { return slices.Contains(wanted, t) })) {
			found = append(found, schemaTags{e.entity, e.tags})
		}
	}
	return found, nil
}

// retag returns the schema with tags added and removed; everything else in it stays as it was written.
func retag(text string, add, remove []schemaTags) (string, error) {
	text = compact(text)
	all, err := entities(text)
	if err != nil {
		return "", err
	}
	changed := map[*tagged]bool{}
	change := func(list []schemaTags, f func(e *tagged, tag string)) error {
		for _, x := range list {
			i := slices.IndexFunc(all, func(e *tagged) bool { return e.is(x.Entity) })
			if i < 0 {
				return fmt.Errorf("there is no %q of type %q in the schema", clip(x.Entity.Path), clip(x.Entity.Type))
			}
			for _, tag := range x.Tags {
				f(all[i], tag)
			}
			changed[all[i]] = true
		}
		return nil
	}
	err = change(add, func(e *tagged, tag string) { e.tags = union(e.tags, []string{tag}) })
	if err == nil {
		err = change(remove, func(e *tagged, tag string) {
			e.tags = slices.DeleteFunc(e.tags, func(t string) bool { return t == tag })
		})
	}
	if err != nil {
		return "", err
	}
	// From the end to the beginning, so that the places before stay right.
	slices.SortFunc(all, func(a, b *tagged) int { return b.from - a.from })
	for _, e := range all {
		if changed[e] {
			text = e.written(text)
		}
	}
	return text, nil
}

// A tagged is a record or a field in a text, with its tags and where they stand.
type tagged struct {
	entity
	short    string // the path without namespace
	tags     []string
	from, to int  // of the member with the tags; both where one can be put if there is none
	first    bool // whether no member comes before
}

func (e *tagged) is(x entity) bool {
	path := strings.TrimPrefix(x.Path, ".")
	return x.Type == e.Type && (path == e.Path || path == e.short)
}

// written returns text with the entity's tags in it.
func (e *tagged) written(text string) string {
	before, after := text[:e.from], text[e.to:]
	switch {
	case len(e.tags) > 0 && e.first:
		return before + `"` + tagsProperty + `":` + string(encode(e.tags)) + after
	case len(e.tags) > 0:
		return before + `,"` + tagsProperty + `":` + string(encode(e.tags)) + after
	case e.first:
		return before + strings.TrimPrefix(after, ",")
	}
	return before + after
}

// entities returns the records and fields of a schema without white space, each record before its fields.
func entities(text string) ([]*tagged, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	root, err := readNode(d, text, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something comes after the schema")
	}
	var out []*tagged
	root.entities("", &out)
	return out, nil
}

// A node is a JSON value and where it stands in its text.
type node struct {
	start, end int // of objects and arrays
	text       string
	items      []*node
	members    []member
}

type member struct {
	name  string
	from  int // the comma before it included
	value *node
}

func readNode(d *json.Decoder, text string, depth int) (*node, error) {
	if depth > maxTagDepth {
		return nil, fmt.Errorf("it is nested more than %d levels deep", maxTagDepth)
	}
	token, err := d.Token()
	if err != nil {
		return nil, errors.New("the schema is not JSON")
	}
	n := &node{start: int(d.InputOffset()) - 1}
	switch token {
	case json.Delim('['):
		for d.More() {
			item, err := readNode(d, text, depth+1)
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, item)
		}
	case json.Delim('{'):
		for d.More() {
			from := int(d.InputOffset())
			name, err := d.Token()
			if err != nil {
				return nil, errors.New("the schema is not JSON")
			}
			value, err := readNode(d, text, depth+1)
			if err != nil {
				return nil, err
			}
			n.members = append(n.members, member{name.(string), from, value}) // the decoder lets nothing else be a name
		}
	default:
		n.text, _ = token.(string)
		n.end = int(d.InputOffset())
		return n, nil
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("the schema is not JSON")
	}
	n.end = int(d.InputOffset())
	return n, nil
}

// member returns a member of an object, a value of nothing if there is none.
func (n *node) member(name string) *node {
	for _, m := range n.members {
		if m.name == name {
			return m.value
		}
	}
	return &node{}
}

// entities adds the records and fields in a type, which stands in a namespace.
func (n *node) entities(namespace string, out *[]*tagged) {
	for _, item := range n.items {
		item.entities(namespace, out)
	}
	typ := n.member("type")
	switch typ.text {
	case "array":
		n.member("items").entities(namespace, out)
	case "map":
		n.member("values").entities(namespace, out)
	case "record", "error":
		name := n.member("name").text
		if slices.ContainsFunc(n.members, func(m member) bool { return m.name == "namespace" }) {
			namespace = n.member("namespace").text
		}
		if i := strings.LastIndexByte(name, '.'); i >= 0 {
			namespace, name = name[:i], name[i+1:]
		}
		full := name
		if namespace != "" {
			full = namespace + "." + name
		}
		*out = append(*out, n.tagged(entity{full, entityRecord}, name))
		for _, field := range n.member("fields").items {
			f := field.member("name").text
			*out = append(*out, field.tagged(entity{full + "." + f, entityField}, name+"."+f))
			field.member("type").entities(namespace, out)
		}
	default: // a type may be written in a type
		if len(typ.items)+len(typ.members) > 0 {
			typ.entities(namespace, out)
		}
	}
}

func (n *node) tagged(e entity, short string) *tagged {
	t := &tagged{entity: e, short: short, from: n.end - 1, to: n.end - 1, first: len(n.members) == 0}
	for i, m := range n.members {
		if m.name == tagsProperty {
			t.from, t.to, t.first = m.from, m.value.end, i == 0
			for _, tag := range m.value.items {
				t.tags = union(t.tags, []string{tag.text})
			}
		}
	}
	return t
}

// tags answers POST /subjects/{subject}/versions/{version}/tags.
func (c *call) tags() (any, *apiError) {
	number, err := c.number()
	if err != nil {
		return nil, err
	}
	var r tagRequest
	if err := c.body(&r); err != nil {
		return nil, err
	}
	return c.submit(func(s *state) ([]record, any, *apiError) {
		records, v, err := s.planTags(c.subject(), number, &r)
		if err != nil {
			return nil, nil, err
		}
		return records, registeredAnswer(v), nil
	})
}

// qualified returns references that name their contexts, so that they mean the same everywhere.
func qualified(context string, references []reference) []reference {
	out := slices.Clone(references)
	for i, r := range out {
		out[i].Subject = qualify(context, r.Subject)
	}
	return out
}
