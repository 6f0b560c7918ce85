package registry

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

const (
	typeAvro        = "AVRO"
	defaultLevel    = "FULL_TRANSITIVE"
	modeReadWrite   = "READWRITE"
	modeReadOnly    = "READONLY"
	modeOverride    = "READONLY_OVERRIDE"
	modeImport      = "IMPORT"
	modeForward     = "FORWARD"
	globalSubject   = ""
	maxSubjectBytes = 1024
)

// A content is one schema with all that belongs to it; every subject of a context that has it shares its id.
type content struct {
	id         int32
	context    string
	hash       hash
	bare       hash // without metadata and rule set
	guid       guid
	given      bool // whether another registry gave it its GUID
	schemaType string
	text       string
	references []reference
	metadata   json.RawMessage
	ruleSet    json.RawMessage
	versions   []*version // where it is used, deleted versions included
	parser     *parser
}

func newContent(context, schemaType, text string, references []reference, metadata, ruleSet json.RawMessage) *content {
	if schemaType == "" {
		schemaType = typeAvro
	}
	if len(references) == 0 {
		references = nil // an empty list means the same, and is not stored
	}
	c := &content{context: context, schemaType: schemaType, text: text, references: references, metadata: metadata, ruleSet: ruleSet, parser: &parser{}}
	c.hash = hashOf(schemaType, text, references, metadata, ruleSet)
	c.bare = c.hash
	if metadata != nil || ruleSet != nil {
		c.bare = hashOf(schemaType, text, references, nil, nil)
	}
	c.guid = c.hash.guid()
	return c
}

// copied returns a content of its own that is used nowhere yet; comparing texts is what takes time in making one.
func (c *content) copied() *content {
	x := *c
	x.versions, x.parser = nil, &parser{}
	return &x
}

// byIDAnswer returns the JSON that describes a content to who asks for its id: what services ask most.
func (c *content) byIDAnswer() prepared {
	c.parser.once.Do(func() { c.parser.answer = encode(describe(c)) })
	return c.parser.answer
}

// A version is one place of a content in the history of a subject. It is never changed, only replaced.
type version struct {
	subject string
	number  int32
	deleted bool
	content *content
}

// A state is the fold of the topic. It is pure: apply takes records in, the plan methods say which records a request would write.
type state struct {
	subjects map[string][]*version // by number, deleted ones included; by the subject's full name
	spaces   map[string]*space     // by context
	byGUID   map[guid][]*content
	contexts map[string]bool     // those that were declared
	configs  map[string]config   // by scope: a subject, a context, or globalSubject
	rules    map[string][]string // by scope: which of our own rules are off
	modes    map[string]string   // by scope
	assocs   map[assocKey]assocValue
}

func newState() *state {
	return &state{subjects: map[string][]*version{}, spaces: map[string]*space{}, byGUID: map[guid][]*content{}, contexts: map[string]bool{},
		configs: map[string]config{}, rules: map[string][]string{}, modes: map[string]string{}, assocs: map[assocKey]assocValue{}}
}

// clone returns a state that can go another way.
func (s *state) clone() *state {
	n := &state{subjects: make(map[string][]*version, len(s.subjects)), spaces: map[string]*space{}, byGUID: make(map[guid][]*content, len(s.byGUID)),
		contexts: maps.Clone(s.contexts), configs: maps.Clone(s.configs), rules: maps.Clone(s.rules), modes: maps.Clone(s.modes), assocs: maps.Clone(s.assocs)}
	contents := map[*content]*content{}
	for subject, versions := range s.subjects {
		list := make([]*version, len(versions))
		for i, v := range versions {
			c := contents[v.content]
			if c == nil {
				x := *v.content
				x.versions = nil
				c = &x
				contents[v.content] = c
			}
			list[i] = &version{subject: v.subject, number: v.number, deleted: v.deleted, content: c}
			c.versions = append(c.versions, list[i])
		}
		n.subjects[subject] = list
	}
	for context, p := range s.spaces {
		q := n.opened(context)
		q.maxID = p.maxID
		for id, c := range p.byID {
			q.byID[id] = contents[c]
		}
		for h, c := range p.byHash {
			q.byHash[h] = contents[c]
		}
	}
	for g, list := range s.byGUID {
		for _, c := range list {
			n.byGUID[g] = append(n.byGUID[g], contents[c])
		}
	}
	return n
}

// apply adds one record. An error means that the record cannot be understood and was left out; the state is as before it.
func (s *state) apply(key, value []byte) error {
	if len(key) == 0 {
		return errors.New("the record has no key")
	}
	var k anyKey
	if err := json.Unmarshal(key, &k); err != nil {
		return fmt.Errorf("the key is not understood: %w", err)
	}
	subject := globalSubject
	if k.Subject != nil {
		subject = qualify(defaultContext, *k.Subject)
	}
	switch k.Keytype {
	case keySchema:
		return s.applySchema(subject, k.Version, value)
	case keyConfig:
		if value == nil {
			delete(s.configs, subject)
			return nil
		}
		var v configValue
		if err := json.Unmarshal(value, &v); err != nil {
			return fmt.Errorf("the configuration is not understood: %w", err)
		}
		for _, raw := range []*json.RawMessage{&v.DefaultMetadata, &v.OverrideMetadata, &v.DefaultRuleSet, &v.OverrideRuleSet} {
			*raw = noNull(*raw)
		}
		v.DisabledRules = nil
		s.configs[subject] = v.config
	case keyRules:
		if value == nil {
			delete(s.rules, subject)
			return nil
		}
		var v rulesValue
		if err := json.Unmarshal(value, &v); err != nil {
			return fmt.Errorf("the rules are not understood: %w", err)
		}
		s.rules[subject] = v.Disabled
	case keyContext:
		if !strings.HasPrefix(k.Context, ".") {
			return fmt.Errorf("the key names the context %q", k.Context)
		}
		if value == nil {
			delete(s.contexts, k.Context)
		} else if k.Context != defaultContext {
			s.contexts[k.Context] = true
		}
	case keyMode:
		if value == nil {
			delete(s.modes, subject)
			return nil
		}
		var v modeValue
		if err := json.Unmarshal(value, &v); err != nil || v.Mode == "" {
			return errors.Join(errors.New("the mode is not understood"), err)
		}
		s.modes[subject] = v.Mode
	case keyAssociation:
		return s.applyAssociation(key, value)
	case keyDeleteSubject:
		if value == nil {
			return nil
		}
		var v deleteSubjectValue
		if err := json.Unmarshal(value, &v); err != nil {
			return fmt.Errorf("the deletion is not understood: %w", err)
		}
		for _, old := range s.subjects[subject] {
			if old.number <= v.Version && !old.deleted {
				s.put(&version{subject: old.subject, number: old.number, deleted: true, content: old.content})
			}
		}
	case keyMaxID:
		if k.Context != "" && !strings.HasPrefix(k.Context, ".") {
			return fmt.Errorf("the key names the context %q", k.Context)
		}
		if value == nil {
			return nil
		}
		var v maxIDValue
		if err := json.Unmarshal(value, &v); err != nil {
			return fmt.Errorf("the highest id is not understood: %w", err)
		}
		p := s.opened(cmp.Or(k.Context, defaultContext))
		p.maxID = max(p.maxID, v.ID)
	}
	return nil
}

func (s *state) applySchema(subject string, number int32, value []byte) error {
	context, name := split(subject)
	if number < 1 || name == "" {
		return fmt.Errorf("the key names version %d of subject %q", number, subject)
	}
	if value == nil {
		s.remove(subject, number)
		return nil
	}
	var v schemaValue
	if err := json.Unmarshal(value, &v); err != nil {
		return fmt.Errorf("the schema's record is not understood: %w", err)
	}
	if v.ID < 1 {
		return fmt.Errorf("version %d of %q has id %d", number, subject, v.ID)
	}
	c := newContent(context, v.SchemaType, v.Schema, v.References, noNull(v.Metadata), noNull(v.RuleSet))
	if g, ok := parseGUID(v.GUID); ok && g != c.guid {
		c.guid, c.given = g, true
	}
	if known := s.in(context).byID[v.ID]; known != nil {
		same := func(x *version) bool { return x.subject == subject && x.number == number }
		switch {
		case known.hash == c.hash:
			c = known
		case len(known.versions) == 1 && same(known.versions[0]):
			c.id = v.ID // another registry has changed what goes with the schema
		default:
			return fmt.Errorf("id %d stands for two different schemas, the other one in %q", v.ID, known.versions[0].subject)
		}
	} else {
		c.id = v.ID
	}
	s.put(&version{subject: subject, number: number, deleted: v.Deleted, content: c})
	return nil
}

// put adds a version or replaces the one of that number.
func (s *state) put(v *version) {
	s.remove(v.subject, v.number)
	versions := s.subjects[v.subject]
	i, _ := slices.BinarySearchFunc(versions, v.number, byNumber)
	s.subjects[v.subject] = slices.Insert(slices.Clone(versions), i, v)
	c := v.content
	p := s.opened(c.context)
	if len(c.versions) == 0 {
		s.byGUID[c.guid] = append(slices.Clone(s.byGUID[c.guid]), c)
	}
	c.versions = append(slices.Clone(c.versions), v)
	p.byID[c.id] = c
	if first := p.byHash[c.hash]; first == nil || c.id < first.id { // a foreign log may have two ids for one content
		p.byHash[c.hash] = c
	}
	p.maxID = max(p.maxID, c.id)
}

func (s *state) remove(subject string, number int32) {
	versions := s.subjects[subject]
	i, ok := slices.BinarySearchFunc(versions, number, byNumber)
	if !ok {
		return
	}
	v := versions[i]
	if versions = slices.Delete(slices.Clone(versions), i, i+1); len(versions) > 0 {
		s.subjects[subject] = versions
	} else {
		delete(s.subjects, subject)
	}
	c := v.content
	c.versions = slices.DeleteFunc(slices.Clone(c.versions), func(x *version) bool { return x == v })
	if len(c.versions) > 0 {
		return
	}
	p := s.opened(c.context)
	delete(p.byID, c.id)
	if s.byGUID[c.guid] = slices.DeleteFunc(slices.Clone(s.byGUID[c.guid]), func(x *content) bool { return x == c }); len(s.byGUID[c.guid]) == 0 {
		delete(s.byGUID, c.guid)
	}
	if p.byHash[c.hash] == c {
		delete(p.byHash, c.hash)
		for _, other := range p.byID {
			if first := p.byHash[c.hash]; other.hash == c.hash && (first == nil || other.id < first.id) {
				p.byHash[c.hash] = other
			}
		}
	}
}

func byNumber(v *version, number int32) int { return int(v.number) - int(number) }

// live returns the versions of a subject that are not deleted, or all of them, in order.
func (s *state) live(subject string, deleted bool) []*version {
	versions := s.subjects[subject]
	if deleted {
		return versions
	}
	var out []*version
	for _, v := range versions {
		if !v.deleted {
			out = append(out, v)
		}
	}
	return out
}

// names returns the subjects in order that have versions for filter and a name that begins with prefix. ":*:" before it stands for all
// contexts, as does an empty prefix; any other prefix without a context is about the default one.
func (s *state) names(prefix string, f filter) []string {
	out := []string{}
	rest, all := strings.CutPrefix(prefix, ":*:")
	if !strings.HasPrefix(prefix, ":.") {
		all = all || prefix == ""
	}
	prefix = qualify(defaultContext, prefix)
	for _, subject := range slices.Sorted(maps.Keys(s.subjects)) {
		context, name := split(subject)
		switch {
		case all:
			if !strings.HasPrefix(name, rest) {
				continue
			}
		case !strings.HasPrefix(subject, prefix), prefix == "" && context != defaultContext:
			continue
		}
		if slices.ContainsFunc(s.subjects[subject], f.takes) && (!f.only || len(s.live(subject, false)) == 0) {
			out = append(out, subject)
		}
	}
	return out
}

// A filter says which versions a request is about.
type filter struct{ deleted, only bool } // deleted ones too; only deleted ones

func (f filter) takes(v *version) bool {
	if f.only {
		return v.deleted
	}
	return f.deleted || !v.deleted
}

// versionOf returns one version; number 0 is the newest that is not deleted, even where deleted ones count.
func (s *state) versionOf(subject string, number int32, deleted bool) (*version, *apiError) {
	versions := s.live(subject, deleted && number != latest)
	if len(versions) == 0 {
		return nil, noSubject(subject)
	}
	if number == latest {
		return versions[len(versions)-1], nil
	}
	if i, ok := slices.BinarySearchFunc(versions, number, byNumber); ok {
		return versions[i], nil
	}
	return nil, refuse(codeNoVersion, "Version %d not found.", number)
}

// latest is the number that stands for the newest version.
const latest = 0

func noSubject(subject string) *apiError {
	return refuse(codeNoSubject, "Subject '%s' not found.", subject)
}

// find returns the version of a subject that has a content, the newest if there are several. A content without metadata and rules
// also stands for the same text with some.
func (s *state) find(subject string, c *content, deleted bool) *version {
	versions := s.live(subject, deleted)
	for _, v := range slices.Backward(versions) {
		if v.content.hash == c.hash {
			return v
		}
	}
	if c.metadata != nil || c.ruleSet != nil {
		return nil
	}
	for _, v := range slices.Backward(versions) {
		if v.content.bare == c.bare {
			return v
		}
	}
	return nil
}

// configOf returns the configuration that counts for a scope: what it does not say comes from the wider ones.
func (s *state) configOf(scope string) config {
	c := config{CompatibilityLevel: defaultLevel}
	for _, scope := range scopesOf(scope) {
		own := s.configs[scope]
		c.CompatibilityLevel = cmp.Or(own.CompatibilityLevel, c.CompatibilityLevel)
		c.CompatibilityGroup = cmp.Or(own.CompatibilityGroup, c.CompatibilityGroup)
		c.Normalize = cmp.Or(own.Normalize, c.Normalize)
		c.ValidateFields = cmp.Or(own.ValidateFields, c.ValidateFields)
		for _, raw := range []struct {
			to   *json.RawMessage
			from json.RawMessage
		}{{&c.DefaultMetadata, own.DefaultMetadata}, {&c.OverrideMetadata, own.OverrideMetadata}, {&c.DefaultRuleSet, own.DefaultRuleSet}, {&c.OverrideRuleSet, own.OverrideRuleSet}} {
			if raw.from != nil {
				*raw.to = raw.from
			}
		}
		if off, ok := s.rules[scope]; ok {
			c.DisabledRules = off
		}
	}
	c.Alias = s.configs[scope].Alias
	return c
}

// modeOf returns the mode that counts for a scope.
func (s *state) modeOf(scope string) string {
	mode := modeReadWrite
	for _, scope := range scopesOf(scope) {
		switch m := s.modes[scope]; m {
		case "":
		case modeOverride:
			return m
		default:
			mode = m
		}
	}
	return mode
}

// aliased returns the subject that a subject is another name for, or the subject itself.
func (s *state) aliased(subject string) string {
	if alias := s.configs[subject].Alias; alias != "" {
		context, _ := split(subject)
		return qualify(context, alias)
	}
	return subject
}

// withMetadata returns the newest version whose metadata has all the properties.
func (s *state) withMetadata(subject string, keys, values []string, deleted bool) (*version, *apiError) {
	versions := s.live(subject, deleted)
	if len(versions) == 0 {
		return nil, noSubject(subject)
	}
search:
	for _, v := range slices.Backward(versions) {
		for i, key := range keys {
			if value, ok := property(v.content.metadata, key); !ok || value != values[i] {
				continue search
			}
		}
		return v, nil
	}
	return nil, refuse(codeNoSchema, "Schema not found")
}
