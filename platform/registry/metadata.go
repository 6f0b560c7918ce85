package registry

import (
	"bytes"
	"encoding/json"
	"slices"
)

// A metadata is what goes with a schema, for its readers and tools.
type metadata struct {
	Tags       map[string][]string `json:"tags,omitempty"`
	Properties map[string]string   `json:"properties,omitempty"`
	Sensitive  []string            `json:"sensitive,omitempty"`
}

// A ruleSet is what clients do with the data of a schema; the registry keeps it and knows only the rules' names.
type ruleSet struct {
	MigrationRules []json.RawMessage `json:"migrationRules,omitempty"`
	DomainRules    []json.RawMessage `json:"domainRules,omitempty"`
	EncodingRules  []json.RawMessage `json:"encodingRules,omitempty"`
	EnableAt       json.RawMessage   `json:"enableAt,omitempty"`
}

func (r *ruleSet) lists() []*[]json.RawMessage {
	return []*[]json.RawMessage{&r.MigrationRules, &r.DomainRules, &r.EncodingRules}
}

func ruleName(rule json.RawMessage) string {
	var r struct {
		Name string `json:"name"`
	}
	if json.Unmarshal(rule, &r) != nil {
		return ""
	}
	return r.Name
}

// checkMetadata refuses what is not of the form that clients read.
func checkMetadata(meta, rules json.RawMessage) *apiError {
	var m metadata
	if meta != nil && json.Unmarshal(meta, &m) != nil {
		return refuse(codeUnprocessableInput, "metadata has tags (lists of text), properties (texts) and sensitive (a list of text)")
	}
	var r ruleSet
	if rules != nil && json.Unmarshal(rules, &r) != nil {
		return refuse(codeInvalidRuleSet, "ruleSet has migrationRules, domainRules and encodingRules, which are lists of objects")
	}
	for _, list := range r.lists() {
		seen := map[string]bool{}
		for _, rule := range *list {
			name := ruleName(rule)
			if name == "" || !bytes.HasPrefix(bytes.TrimSpace(rule), []byte("{")) {
				return refuse(codeInvalidRuleSet, "ruleSet: every rule is an object with a name")
			}
			if seen[name] {
				return refuse(codeInvalidRuleSet, "ruleSet: the rule %s is there twice", clip(name))
			}
			seen[name] = true
		}
	}
	return nil
}

// noNull drops what clients send for "none", whole or in a member, and keeps one form of the rest. What clients got they send back with
// empty lists for what was not there.
func noNull(m json.RawMessage) json.RawMessage {
	if t := withoutEmpty([]byte(compact(string(m))), nil); len(t) > 0 && !empty(t) {
		return t
	}
	return nil
}

// withoutEmpty returns a compact JSON object without the members that are empty, each value as change returns it. What is no object stays
// as it is.
func withoutEmpty(object []byte, change func(json.RawMessage) json.RawMessage) json.RawMessage {
	d := json.NewDecoder(bytes.NewReader(object))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return object
	}
	out := []byte{'{'}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return object
		}
		var value json.RawMessage
		if d.Decode(&value) != nil {
			return object
		}
		if change != nil {
			value = change(value)
		}
		if empty(value) || name == "disabled" && string(value) == "false" {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, encode(name)...), ':'), value...)
	}
	return append(out, '}')
}

func empty(value []byte) bool {
	switch string(value) {
	case "null", "{}", "[]", `""`:
		return true
	}
	return false
}

// significant returns a rule set as it counts when two are compared: in a rule, what is empty or "disabled": false says nothing.
func significant(rules json.RawMessage) json.RawMessage {
	return withoutEmpty(rules, func(list json.RawMessage) json.RawMessage {
		var all []json.RawMessage
		if json.Unmarshal(list, &all) != nil {
			return list
		}
		for i, rule := range all {
			all[i] = withoutEmpty([]byte(compact(string(rule))), nil)
		}
		return encode(all)
	})
}

// property returns one property of a schema's metadata, and whether there is one.
func property(meta json.RawMessage, name string) (string, bool) {
	var m metadata
	if meta == nil || json.Unmarshal(meta, &m) != nil {
		return "", false
	}
	value, ok := m.Properties[name]
	return value, ok
}

// inherit returns the content with the metadata and rules that it gets by the configuration: a schema that comes without keeps those
// of the newest version, below them are the defaults and above them what overrides. What needs no merging stays verbatim.
func (s *state) inherit(subject string, r *schemaRequest, c *content, live []*version) (*content, *apiError) {
	cfg := s.configOf(subject)
	meta, rules := c.metadata, c.ruleSet
	if len(live) > 0 {
		newest := live[len(live)-1].content
		if absent(r.Metadata) {
			meta = newest.metadata
		}
		if absent(r.RuleSet) {
			rules = newest.ruleSet
		}
	}
	meta = mergeMetadata(mergeMetadata(cfg.DefaultMetadata, meta), cfg.OverrideMetadata)
	rules = mergeRules(mergeRules(cfg.DefaultRuleSet, rules), cfg.OverrideRuleSet)
	if bytes.Equal(meta, c.metadata) && bytes.Equal(rules, c.ruleSet) {
		return c, nil
	}
	return newContent(c.context, c.schemaType, c.text, c.references, meta, rules), checkMetadata(meta, rules)
}

// absent reports whether a request does not have a field; {} means that there is to be nothing.
func absent(m json.RawMessage) bool { return m == nil || string(m) == "null" }

// mergeMetadata returns both, over counting more where they disagree.
func mergeMetadata(under, over json.RawMessage) json.RawMessage {
	if under == nil || over == nil {
		if over == nil {
			return under
		}
		return over
	}
	var a, b metadata
	if json.Unmarshal(under, &a) != nil || json.Unmarshal(over, &b) != nil {
		return over
	}
	for path, tags := range b.Tags {
		if a.Tags == nil {
			a.Tags = map[string][]string{}
		}
		a.Tags[path] = union(a.Tags[path], tags)
	}
	for name, value := range b.Properties {
		if a.Properties == nil {
			a.Properties = map[string]string{}
		}
		a.Properties[name] = value
	}
	a.Sensitive = union(a.Sensitive, b.Sensitive)
	return encode(a)
}

func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// mergeRules returns both; a rule of over replaces the one of the same name.
func mergeRules(under, over json.RawMessage) json.RawMessage {
	if under == nil || over == nil {
		if over == nil {
			return under
		}
		return over
	}
	var a, b ruleSet
	if json.Unmarshal(under, &a) != nil || json.Unmarshal(over, &b) != nil {
		return over
	}
	lists := b.lists()
	for i, list := range a.lists() {
		kept := slices.DeleteFunc(*list, func(rule json.RawMessage) bool {
			return slices.ContainsFunc(*lists[i], func(x json.RawMessage) bool { return ruleName(x) == ruleName(rule) })
		})
		*list = append(kept, *lists[i]...)
	}
	if b.EnableAt != nil {
		a.EnableAt = b.EnableAt
	}
	return encode(a)
}
