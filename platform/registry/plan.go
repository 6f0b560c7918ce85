package registry

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/fault"
)

// A schemaRequest is the body of register, look up and compatibility requests.
type schemaRequest struct {
	Schema     string          `json:"schema"`
	SchemaType string          `json:"schemaType"`
	References []reference     `json:"references"`
	Metadata   json.RawMessage `json:"metadata"`
	RuleSet    json.RawMessage `json:"ruleSet"`
	ID         int32           `json:"id"`
	Version    int32           `json:"version"`

	normalize bool     // was asked for with the request
	checked   *checked // what was found out before the writer's turn came
	made      *content // of the request's text in the form that was asked for last, to be copied
}

// A checked is the verdict on a text with its references, which takes longer than the writer should be held up.
type checked struct {
	text       string
	references []string
	lenient    bool
	schema     *contract.Schema
	err        error
}

// content returns what the request is about, as it stands: it need not be a schema that may be registered.
func (r *schemaRequest) content(s *state, subject string) (*content, *apiError) {
	if len(r.Schema) > contract.MaxSchemaBytes {
		return nil, refuse(codeSchemaTooLarge, "The schema has %d bytes, at most %d are allowed.", len(r.Schema), contract.MaxSchemaBytes)
	}
	if strings.TrimSpace(r.Schema) == "" {
		return nil, refuse(codeInvalidSchema, "Empty schema")
	}
	if err := checkMetadata(r.Metadata, r.RuleSet); err != nil {
		return nil, err
	}
	text := compact(r.Schema)
	if cfg := s.configOf(subject); r.normalize || cfg.Normalize != nil && *cfg.Normalize {
		if normal, err := contract.Normalize(text); err == nil {
			text = normal
		}
	}
	context, _ := split(subject)
	if r.made == nil || r.made.text != text || r.made.context != context {
		r.made = newContent(context, r.SchemaType, text, r.References, noNull(r.Metadata), noNull(r.RuleSet))
	}
	return r.made.copied(), nil
}

// verify returns the content's schema if it may be registered as that version.
func (r *schemaRequest) verify(s *state, c *content, self place) (*contract.Schema, *apiError) {
	if c.schemaType != typeAvro {
		return nil, refuse(codeInvalidSchema, "Schema type %s is not supported, only AVRO is.", clip(c.schemaType))
	}
	for _, x := range c.references {
		if x.Version < 1 {
			return nil, refuse(codeInvalidSchema, "The reference %q to subject %q needs a version.", clip(x.Name), clip(x.Subject))
		}
		if target := qualify(c.context, x.Subject); s.stronglyAssociated(target) {
			return nil, refuse(codeNotPermitted, "Subject '%s' has a strong association and cannot be referenced", clip(target))
		}
	}
	texts, err := s.texts(c, c.context, self)
	if err != nil {
		return nil, refuse(codeInvalidSchema, "Invalid schema, details: %s", err)
	}
	off := s.configOf(self.subject).DisabledRules
	importing := takesIDs(s.modeOf(self.subject))
	lenient := importing || slices.Contains(off, ruleDefault)
	if r.checked == nil || r.checked.text != c.text || r.checked.lenient != lenient || !slices.Equal(r.checked.references, texts) {
		r.checked = &checked{text: c.text, references: texts, lenient: lenient}
		r.checked.parse()
	}
	if r.checked.err != nil {
		return nil, refuse(codeInvalidSchema, "Invalid schema, details: %s", explain(r.checked.err))
	}
	if r.checked.schema.Recursive() && !importing && !slices.Contains(off, ruleRecursion) {
		return nil, refuse(codeInvalidSchema, "Invalid schema, details: %s: a type contains itself, which not every reader survives. The rule is off for subjects that have it in disabledRules of their configuration.", ruleRecursion)
	}
	return r.checked.schema, nil
}

func (c *checked) parse() {
	if c.lenient {
		c.schema, c.err = contract.ParseLenient(c.text, c.references...)
	} else {
		c.schema, c.err = contract.ParseWith(c.text, c.references...)
	}
}

// prepare gathers what parse needs, nil if it is not needed or the request will be refused anyway.
func (r *schemaRequest) prepare(s *state, subject string) *checked {
	c, refusal := r.content(s, subject)
	if refusal != nil || c.schemaType != typeAvro || s.find(subject, c, false) != nil {
		return nil
	}
	texts, err := s.texts(c, c.context, place{subject: subject})
	if err != nil {
		return nil
	}
	return &checked{text: c.text, references: texts, lenient: takesIDs(s.modeOf(subject)) || slices.Contains(s.configOf(subject).DisabledRules, ruleDefault)}
}

// Our own rules beside those of contract.Compatible.
const (
	ruleRecursion = "RECURSIVE_TYPE"       // a type contains itself
	ruleDefault   = "DEFAULT_OUT_OF_RANGE" // a default is not exactly a value of its field
)

// switchable are the rules that a scope may turn off: those that other registries do not have.
var switchable = []string{contract.RuleLogical, contract.RuleDecimal, contract.RuleAlias, ruleRecursion, ruleDefault}

func explain(err error) string {
	if e := fault.From(err); e != nil {
		return e.Error()
	}
	return err.Error()
}

// known returns the version that the request stands for if there is one already, nil otherwise.
func (s *state) known(subject string, r *schemaRequest) (*version, *content, *apiError) {
	if err := checkSubject(subject); err != nil {
		return nil, nil, err
	}
	// What is stored already is found as it is, also if it could not be registered any more.
	c, err := r.content(s, subject)
	if err != nil {
		return nil, nil, err
	}
	v := s.find(subject, c, false)
	switch {
	case v == nil:
		return nil, c, nil
	case r.ID > 0 && r.ID != v.content.id:
		return nil, nil, refuse(codeIDMismatch, "Schema already registered with id %d instead of input id %d", v.content.id, r.ID)
	case r.Version > 0 && r.Version != v.number:
		return nil, c, nil
	}
	return v, c, nil
}

// planRegister returns the version that the request stands for and the records that create it, none if it exists already.
func (s *state) planRegister(subject string, r *schemaRequest) ([]record, *version, *apiError) {
	v, c, err := s.known(subject, r)
	if v != nil || err != nil {
		return nil, v, err
	}
	mode := s.modeOf(subject)
	importing := takesIDs(mode)
	switch mode {
	case modeReadOnly, modeOverride:
		return nil, nil, refuse(codeNotPermitted, "Subject %s is in read-only mode", subject)
	case modeForward, modeImport:
		if r.ID <= 0 {
			return nil, nil, refuse(codeNotPermitted, "Subject %s is in %s mode, a schema needs the id that another registry gave it", subject, strings.ToLower(mode))
		}
	default:
		if r.ID > 0 {
			return nil, nil, refuse(codeNotPermitted, "Subject %s is not in import mode, a schema gets its id here", subject)
		}
	}
	live, all := s.live(subject, false), s.live(subject, true)
	if !importing {
		c, err = s.inherit(subject, r, c, live)
		if err != nil {
			return nil, nil, err
		}
		if v := s.find(subject, c, false); v != nil && (r.Version <= 0 || r.Version == v.number) {
			return nil, v, nil
		}
	}
	number := int32(1)
	if len(all) > 0 {
		number = all[len(all)-1].number + 1
	}
	if importing && r.Version > 0 {
		number = r.Version
	}
	schema, err := r.verify(s, c, place{subject, number})
	if err != nil {
		return nil, nil, err
	}
	p := s.in(c.context)
	if importing {
		if there := s.at(place{subject, number}); there != nil && (there.content.hash != c.hash || there.content.id != r.ID) {
			return nil, nil, refuse(codeNotPermitted, "Version %d of subject %s is another schema, with id %d", number, subject, there.content.id)
		}
		if known := p.byID[r.ID]; known != nil {
			if known.hash != c.hash {
				return nil, nil, refuse(codeNotPermitted, "Overwrite new schema with id %d is not permitted.", r.ID)
			}
			c = known
		} else {
			c.id = r.ID
		}
	} else {
		if r.Version > 0 && r.Version != number {
			return nil, nil, refuse(codeInvalidSchema, "Version is not one more than previous version: it would be %d.", number)
		}
		messages := s.check(subject, schema, c, live)
		if len(messages) > 0 {
			return nil, nil, refuse(codeIncompatible, "Schema being registered is incompatible with an earlier schema for subject \"%s\", details: [%s]", subject, strings.Join(messages, "; "))
		}
		if known := p.byHash[c.hash]; known != nil {
			c = known
		} else if c.id, err = p.nextID(); err != nil {
			return nil, nil, err
		}
	}
	v = &version{subject: subject, number: number, content: c}
	var records []record
	if c.context != defaultContext && !s.contexts[c.context] {
		records = append(records, record{encode(contextKey{keyContext, tenant, c.context, 0}), encode(contextValue{tenant, c.context})})
	}
	return append(records, schemaRecord(v)), v, nil
}

// planDeleteVersion returns the number of the version to delete and the records that do it.
func (s *state) planDeleteVersion(subject string, number int32, permanent bool) ([]record, int32, *apiError) {
	if err := s.writable(subject); err != nil {
		return nil, 0, err
	}
	if len(s.live(subject, true)) == 0 {
		return nil, 0, noSubject(subject)
	}
	v, err := s.versionOf(subject, number, true)
	if err != nil {
		return nil, 0, err
	}
	if live := s.live(subject, false); !permanent && len(live) == 1 && live[0] == v && len(s.associationsFor(subject)) > 0 {
		return nil, 0, noActiveVersion(subject)
	}
	if ids := s.referencedBy(subject, v.number, permanent); len(ids) > 0 {
		return nil, 0, refuse(codeReferenced, "One or more references exist to the schema {subject=%s,version=%d}: ids %v.", subject, v.number, ids)
	}
	switch {
	case !permanent && v.deleted:
		return nil, 0, refuse(codeVersionDeleted, "Subject '%s' Version %d was soft deleted.Set permanent=true to delete permanently", subject, v.number)
	case permanent && !v.deleted:
		return nil, 0, refuse(codeVersionNotDeleted, "Subject '%s' Version %d was not deleted first before being permanently deleted", subject, v.number)
	case permanent:
		return append(tombstones(v), s.maxIDRecord(subject)), v.number, nil
	}
	return []record{schemaRecord(&version{subject: subject, number: v.number, deleted: true, content: v.content})}, v.number, nil
}

// planDeleteSubject returns the numbers of the versions to delete and the records that do it.
func (s *state) planDeleteSubject(subject string, permanent bool) ([]record, []int32, *apiError) {
	if err := s.writable(subject); err != nil {
		return nil, nil, err
	}
	all, live := s.live(subject, true), s.live(subject, false)
	switch {
	case len(all) == 0:
		return nil, nil, noSubject(subject)
	case !permanent && len(live) == 0:
		return nil, nil, refuse(codeSubjectDeleted, "Subject '%s' was soft deleted.Set permanent=true to delete permanently", subject)
	case permanent && len(live) > 0:
		return nil, nil, refuse(codeSubjectNotDeleted, "Subject '%s' was not deleted first before being permanently deleted", subject)
	}
	if len(s.associationsFor(subject)) > 0 {
		return nil, nil, refuse(codeSubjectAssociated, "An association already exists for subject '%s'", subject)
	}
	which := live
	if permanent {
		which = all
	}
	numbers := make([]int32, 0, len(which))
	for _, v := range which {
		if ids := s.referencedBy(subject, v.number, permanent); len(ids) > 0 {
			return nil, nil, refuse(codeReferenced, "One or more references exist to the schema {subject=%s,version=%d}: ids %v.", subject, v.number, ids)
		}
		numbers = append(numbers, v.number)
	}
	var records []record
	if permanent {
		records = append(tombstones(all...), s.maxIDRecord(subject))
	} else {
		records = append(records, record{encode(subjectKey{keyDeleteSubject, &subject, 0}), encode(deleteSubjectValue{subject, all[len(all)-1].number})})
	}
	return append(records, s.forget(func(scope string) bool { return scope == subject })...), numbers, nil
}

func tombstones(versions ...*version) []record {
	var out []record
	for _, v := range versions {
		out = append(out, record{key: encode(schemaKey{keySchema, v.subject, v.number, 1})})
	}
	return out
}

func (s *state) maxIDRecord(subject string) record {
	context, _ := split(subject)
	key := maxIDKey{Keytype: keyMaxID}
	if context != defaultContext {
		key.Context = context
	}
	return record{encode(key), encode(maxIDValue{s.in(context).maxID})}
}

// writable refuses what changes a subject that its mode protects.
func (s *state) writable(subject string) *apiError {
	switch mode := s.modeOf(subject); mode {
	case modeReadOnly, modeOverride:
		return refuse(codeNotPermitted, "Subject %s is in %s mode", subject, mode)
	}
	return nil
}

// takesIDs reports whether a mode is one in which schemas come with the ids that another registry gave them, and in no other way. IMPORT
// is for moving in; FORWARD is for a registry that follows another one for good.
func takesIDs(mode string) bool { return mode == modeImport || mode == modeForward }

// levels are the compatibility levels: does the new schema read the old ones, do the old ones read the new one, and which old ones.
var levels = map[string]struct{ backward, forward, all bool }{
	"NONE":                {},
	"BACKWARD":            {backward: true},
	"BACKWARD_TRANSITIVE": {backward: true, all: true},
	"FORWARD":             {forward: true},
	"FORWARD_TRANSITIVE":  {forward: true, all: true},
	"FULL":                {backward: true, forward: true},
	"FULL_TRANSITIVE":     {backward: true, forward: true, all: true},
}

// A configRequest is the body of PUT /config.
type configRequest struct {
	Compatibility      string          `json:"compatibility"`
	CompatibilityLevel string          `json:"compatibilityLevel"` // what some clients send
	Normalize          *bool           `json:"normalize"`
	ValidateFields     *bool           `json:"validateFields"`
	CompatibilityGroup *string         `json:"compatibilityGroup"`
	Alias              *string         `json:"alias"`
	DefaultMetadata    json.RawMessage `json:"defaultMetadata"`
	OverrideMetadata   json.RawMessage `json:"overrideMetadata"`
	DefaultRuleSet     json.RawMessage `json:"defaultRuleSet"`
	OverrideRuleSet    json.RawMessage `json:"overrideRuleSet"`
	DisabledRules      *[]string       `json:"disabledRules"` // our own; an empty list turns all of them on
}

// planConfig returns the records that change the configuration of a scope; what the request leaves out stays.
func (s *state) planConfig(subject string, r *configRequest) ([]record, config, *apiError) {
	if err := checkScope(subject); err != nil {
		return nil, config{}, err
	}
	if err := s.writable(subject); err != nil {
		return nil, config{}, err
	}
	if err := cmp.Or(checkMetadata(r.DefaultMetadata, r.DefaultRuleSet), checkMetadata(r.OverrideMetadata, r.OverrideRuleSet)); err != nil {
		return nil, config{}, err
	}
	c := s.configs[subject]
	if level := strings.ToUpper(cmp.Or(r.Compatibility, r.CompatibilityLevel)); level != "" {
		if _, ok := levels[level]; !ok {
			return nil, config{}, refuse(codeInvalidLevel, "Invalid compatibility level. Valid values are none, backward, forward, full, backward_transitive, forward_transitive, and full_transitive")
		}
		c.CompatibilityLevel = level
	}
	c.Normalize, c.ValidateFields = cmp.Or(r.Normalize, c.Normalize), cmp.Or(r.ValidateFields, c.ValidateFields)
	if r.CompatibilityGroup != nil {
		c.CompatibilityGroup = *r.CompatibilityGroup
	}
	if r.Alias != nil {
		_, name := split(subject)
		if name == "" {
			return nil, config{}, refuse(codeNotPermitted, "Only a subject can have an alias")
		}
		if *r.Alias != "" {
			if err := checkSubject(*r.Alias); err != nil {
				return nil, config{}, err
			}
		}
		c.Alias = *r.Alias
	}
	for _, raw := range []struct {
		to   *json.RawMessage
		from json.RawMessage
	}{{&c.DefaultMetadata, r.DefaultMetadata}, {&c.OverrideMetadata, r.OverrideMetadata}, {&c.DefaultRuleSet, r.DefaultRuleSet}, {&c.OverrideRuleSet, r.OverrideRuleSet}} {
		if raw.from != nil && string(raw.from) != "null" {
			*raw.to = noNull(raw.from)
		}
	}
	var records []record
	if r.DisabledRules != nil {
		for _, rule := range *r.DisabledRules {
			if !slices.Contains(switchable, rule) {
				return nil, config{}, refuse(codeUnprocessableInput, "disabledRules: %s is none of %s", clip(rule), strings.Join(switchable, ", "))
			}
		}
		records = append(records, record{encode(subjectKey{keyRules, pointer(subject), 0}), encode(rulesValue{subject, *r.DisabledRules})})
	}
	if !reflect.DeepEqual(c, config{}) {
		records = append(records, record{encode(subjectKey{keyConfig, pointer(subject), 0}), encode(configValue{subject, c})})
	} else if _, ok := s.configs[subject]; ok {
		records = append(records, record{key: encode(subjectKey{keyConfig, pointer(subject), 0})})
	}
	if len(records) == 0 {
		return nil, config{}, refuse(codeInvalidLevel, "Invalid compatibility level. The request names none")
	}
	if c.DisabledRules = s.rules[subject]; r.DisabledRules != nil {
		c.DisabledRules = *r.DisabledRules
	}
	return records, c, nil
}

// planDeleteConfig returns the configuration as it was and the records that let the next wider one count again.
func (s *state) planDeleteConfig(subject string) ([]record, config, *apiError) {
	if err := s.writable(subject); err != nil {
		return nil, config{}, err
	}
	old, ok := s.configs[subject]
	off, rules := s.rules[subject]
	old.DisabledRules = off
	var records []record
	if ok {
		records = append(records, record{key: encode(subjectKey{keyConfig, pointer(subject), 0})})
	}
	if rules {
		records = append(records, record{key: encode(subjectKey{keyRules, pointer(subject), 0})})
	}
	switch {
	case len(records) > 0:
		return records, old, nil
	case subject == globalSubject:
		return nil, config{CompatibilityLevel: defaultLevel}, nil
	}
	return nil, config{}, refuse(codeNoSubjectLevel, "Subject '%s' does not have subject-level compatibility configured", subject)
}

// planMode returns the records that change the mode of a scope, and with recursive take away those of all that is part of it.
func (s *state) planMode(subject, mode string, force, recursive bool) ([]record, *apiError) {
	if err := checkScope(subject); err != nil {
		return nil, err
	}
	mode = strings.ToUpper(mode)
	switch mode {
	case modeReadWrite, modeReadOnly:
	case modeForward:
		if subject != globalSubject {
			return nil, refuse(codeInvalidMode, "FORWARD is a mode of all, not of a subject or a context")
		}
	case modeOverride:
		if _, name := split(subject); name != "" {
			return nil, refuse(codeInvalidMode, "READONLY_OVERRIDE is a mode of a context or of all")
		}
	case modeImport:
		if !force {
			for other := range s.subjects {
				if within(other, subject) && len(s.live(other, false)) > 0 {
					return nil, refuse(codeNotPermitted, "Cannot import since found existing subjects")
				}
			}
		}
	default:
		return nil, refuse(codeInvalidMode, "Invalid mode. Valid values are READWRITE, READONLY, READONLY_OVERRIDE, IMPORT and FORWARD")
	}
	records := []record{{encode(subjectKey{keyMode, pointer(subject), 0}), encode(modeValue{subject, mode})}}
	return append(records, s.narrower(subject, recursive)...), nil
}

// narrower returns the records that delete the modes of all that is part of a scope, none unless that was asked for.
func (s *state) narrower(subject string, recursive bool) []record {
	var records []record
	for _, scope := range sortedKeys(s.modes) {
		if recursive && scope != subject && within(scope, subject) {
			records = append(records, record{key: encode(subjectKey{keyMode, pointer(scope), 0})})
		}
	}
	return records
}

// planDeleteMode returns the mode as it was and the records that let the next wider one count again.
func (s *state) planDeleteMode(subject string, recursive bool) ([]record, string, *apiError) {
	old, ok := s.modes[subject]
	records := s.narrower(subject, recursive)
	switch {
	case ok:
		return append(records, record{key: encode(subjectKey{keyMode, pointer(subject), 0})}), old, nil
	case subject == globalSubject, len(records) > 0:
		return records, s.modeOf(subject), nil
	}
	return nil, "", refuse(codeNoSubjectMode, "Subject '%s' does not have subject-level mode configured", subject)
}

func pointer(subject string) *string {
	if subject == globalSubject {
		return nil
	}
	return &subject
}

// check returns why a content may not follow the versions of a subject under its compatibility level, nothing if it may.
func (s *state) check(subject string, schema *contract.Schema, c *content, versions []*version) []string {
	cfg := s.configOf(subject)
	level := levels[cfg.CompatibilityLevel]
	if !level.backward && !level.forward {
		return nil
	}
	if cfg.CompatibilityGroup != "" {
		group, _ := property(c.metadata, cfg.CompatibilityGroup)
		versions = slices.DeleteFunc(slices.Clone(versions), func(v *version) bool {
			other, _ := property(v.content.metadata, cfg.CompatibilityGroup)
			return other != group
		})
	}
	var messages []string
	for i, old := range slices.Backward(versions) {
		if !level.all && i < len(versions)-1 {
			break
		}
		messages = append(messages, s.incompatibilities(schema, c, old, level.backward, level.forward, cfg.DisabledRules)...)
	}
	if len(messages) > 0 {
		messages = append(messages, "compatibility level: "+cfg.CompatibilityLevel)
	}
	return messages
}

// incompatibilities returns why one version and a new schema do not fit, one line each.
func (s *state) incompatibilities(schema *contract.Schema, c *content, old *version, backward, forward bool, off []string) []string {
	if c.schemaType != old.content.schemaType {
		return []string{fmt.Sprintf("version %d is of type %s", old.number, old.content.schemaType)}
	}
	oldSchema, err := s.schema(old.content)
	if err != nil {
		return []string{fmt.Sprintf("version %d cannot be checked: %s", old.number, explain(err))}
	}
	var messages []string
	for _, way := range []struct {
		wanted         bool
		reader, writer *contract.Schema
		text           string
	}{
		{backward, schema, oldSchema, "the new schema cannot read data of version %d"},
		{forward, oldSchema, schema, "version %d cannot read data of the new schema"},
	} {
		if !way.wanted {
			continue
		}
		for _, x := range contract.Compatible(way.reader, way.writer) {
			if !slices.Contains(off, x.Rule) {
				messages = append(messages, fmt.Sprintf(way.text+": %s at %s: %s", old.number, x.Rule, cmp.Or(x.Pointer, "/"), x.Message))
			}
		}
	}
	return messages
}
