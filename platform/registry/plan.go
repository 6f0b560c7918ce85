package registry

import (
	"cmp"
	"encoding/json"
	"fmt"
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
}

// content returns what the request is about. strict also demands a schema that may be registered.
func (r *schemaRequest) content(strict bool) (*content, *apiError) {
	if len(r.Schema) > contract.MaxSchemaBytes {
		return nil, refuse(codeSchemaTooLarge, "The schema has %d bytes, at most %d are allowed.", len(r.Schema), contract.MaxSchemaBytes)
	}
	if r.Schema == "" {
		return nil, refuse(codeInvalidSchema, "Empty schema")
	}
	if strict {
		switch {
		case r.SchemaType != "" && r.SchemaType != typeAvro:
			return nil, refuse(codeInvalidSchema, "Schema type %s is not supported, only AVRO is.", clip(r.SchemaType))
		case len(r.References) > 0:
			return nil, refuse(codeInvalidSchema, "Schema references are not supported: define every type in the schema itself.")
		}
	}
	c := newContent(r.SchemaType, compact(r.Schema), r.References, noNull(r.Metadata), noNull(r.RuleSet))
	if strict {
		if _, err := c.parse(); err != nil {
			return nil, refuse(codeInvalidSchema, "Invalid schema, details: %s", explain(err))
		}
	}
	return c, nil
}

// noNull drops what clients send for "none" and keeps one form of the rest.
func noNull(m json.RawMessage) json.RawMessage {
	if t := compact(string(m)); t != "" && t != "null" && t != "{}" {
		return json.RawMessage(t)
	}
	return nil
}

func explain(err error) string {
	if e := fault.From(err); e != nil {
		return e.Error()
	}
	return err.Error()
}

// planRegister returns the version that the request stands for and the records that create it, none if it exists already.
func (s *state) planRegister(subject string, r *schemaRequest) ([]record, *version, *apiError) {
	if err := checkSubject(subject); err != nil {
		return nil, nil, err
	}
	// What is stored already is found as it is, also if it could not be registered any more.
	c, err := r.content(false)
	if err != nil {
		return nil, nil, err
	}
	mode := s.modeOf(subject)
	if v := s.find(subject, c.hash, false); v != nil && (r.ID <= 0 || r.ID == v.content.id) && (r.Version <= 0 || r.Version == v.number) {
		return nil, v, nil
	}
	switch mode {
	case modeReadOnly, modeOverride:
		return nil, nil, refuse(codeNotPermitted, "Subject %s is in read-only mode", subject)
	case modeForward:
		return nil, nil, refuse(codeNotPermitted, "Subject %s is in forward mode, which is not supported", subject)
	case modeImport:
		if r.ID <= 0 {
			return nil, nil, refuse(codeNotPermitted, "Subject %s is in import mode, a schema needs its id", subject)
		}
	default:
		if r.ID > 0 {
			return nil, nil, refuse(codeNotPermitted, "Subject %s is not in import mode, a schema gets its id here", subject)
		}
	}
	if c, err = r.content(true); err != nil {
		return nil, nil, err
	}
	all := s.live(subject, true)
	number := int32(1)
	if len(all) > 0 {
		number = all[len(all)-1].number + 1
	}
	if mode == modeImport {
		if r.Version > 0 {
			number = r.Version
		}
		if known := s.byID[r.ID]; known != nil {
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
		messages := s.check(subject, c, s.live(subject, false))
		if len(messages) > 0 {
			return nil, nil, refuse(codeIncompatible, "Schema being registered is incompatible with an earlier schema for subject \"%s\", details: [%s]", subject, strings.Join(messages, "; "))
		}
		if known := s.byHash[c.hash]; known != nil {
			c = known
		} else if c.id, err = s.nextID(); err != nil {
			return nil, nil, err
		}
	}
	v := &version{subject: subject, number: number, content: c}
	return []record{schemaRecord(v)}, v, nil
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
	if number == latest {
		v, err = s.versionOf(subject, latest, permanent)
	}
	if err != nil {
		return nil, 0, err
	}
	if ids := s.referencedBy(subject, v.number); len(ids) > 0 {
		return nil, 0, refuse(codeReferenced, "One or more references exist to the schema {subject=%s,version=%d}: ids %v.", subject, v.number, ids)
	}
	switch {
	case !permanent && v.deleted:
		return nil, 0, refuse(codeVersionDeleted, "Subject '%s' Version %d was soft deleted.Set permanent=true to delete permanently", subject, v.number)
	case permanent && !v.deleted:
		return nil, 0, refuse(codeVersionNotDeleted, "Subject '%s' Version %d was not deleted first before being permanently deleted", subject, v.number)
	case permanent:
		return append(tombstones(v), s.maxIDRecord()), v.number, nil
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
	which := live
	if permanent {
		which = all
	}
	numbers := make([]int32, 0, len(which))
	for _, v := range which {
		if ids := s.referencedBy(subject, v.number); len(ids) > 0 {
			return nil, nil, refuse(codeReferenced, "One or more references exist to the schema {subject=%s,version=%d}: ids %v.", subject, v.number, ids)
		}
		numbers = append(numbers, v.number)
	}
	var records []record
	if permanent {
		records = append(tombstones(all...), s.maxIDRecord())
	} else {
		records = append(records, record{encode(subjectKey{keyDeleteSubject, &subject, 0}), encode(deleteSubjectValue{subject, all[len(all)-1].number})})
	}
	if _, ok := s.configs[subject]; ok {
		records = append(records, record{key: encode(subjectKey{keyConfig, &subject, 0})})
	}
	if _, ok := s.modes[subject]; ok {
		records = append(records, record{key: encode(subjectKey{keyMode, &subject, 0})})
	}
	return records, numbers, nil
}

func tombstones(versions ...*version) []record {
	var out []record
	for _, v := range versions {
		out = append(out, record{key: encode(schemaKey{keySchema, v.subject, v.number, 1})})
	}
	return out
}

func (s *state) maxIDRecord() record {
	return record{encode(plainKey{keyMaxID, 0}), encode(maxIDValue{s.maxID})}
}

// writable refuses what changes a subject that its mode protects.
func (s *state) writable(subject string) *apiError {
	switch mode := s.modeOf(subject); mode {
	case modeReadOnly, modeOverride, modeForward:
		return refuse(codeNotPermitted, "Subject %s is in %s mode", subject, mode)
	}
	return nil
}

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

// A configRequest is the body of PUT /config. What is not supported is decoded to be refused.
type configRequest struct {
	Compatibility      string          `json:"compatibility"`
	CompatibilityLevel string          `json:"compatibilityLevel"` // what some clients send
	Normalize          *bool           `json:"normalize"`
	CompatibilityGroup *string         `json:"compatibilityGroup"`
	Alias              string          `json:"alias"`
	DefaultMetadata    json.RawMessage `json:"defaultMetadata"`
	OverrideMetadata   json.RawMessage `json:"overrideMetadata"`
	DefaultRuleSet     json.RawMessage `json:"defaultRuleSet"`
	OverrideRuleSet    json.RawMessage `json:"overrideRuleSet"`
}

// planConfig returns the records that change the configuration of a subject or the global one; what the request leaves out stays.
func (s *state) planConfig(subject string, r *configRequest) ([]record, config, *apiError) {
	if subject != globalSubject {
		if err := checkSubject(subject); err != nil {
			return nil, config{}, err
		}
	}
	if r.Alias != "" || noNull(r.DefaultMetadata) != nil || noNull(r.OverrideMetadata) != nil || noNull(r.DefaultRuleSet) != nil || noNull(r.OverrideRuleSet) != nil {
		return nil, config{}, refuse(codeNotPermitted, "alias, default and override metadata and rule sets are not supported")
	}
	if err := s.writable(subject); err != nil {
		return nil, config{}, err
	}
	c := s.configs[subject]
	if level := strings.ToUpper(cmp.Or(r.Compatibility, r.CompatibilityLevel)); level != "" {
		if _, ok := levels[level]; !ok {
			return nil, config{}, refuse(codeInvalidLevel, "Invalid compatibility level. Valid values are none, backward, forward, full, backward_transitive, forward_transitive, and full_transitive")
		}
		c.CompatibilityLevel = level
	}
	if r.Normalize != nil {
		c.Normalize = r.Normalize
	}
	if r.CompatibilityGroup != nil {
		c.CompatibilityGroup = *r.CompatibilityGroup
	}
	if c == (config{}) {
		return nil, config{}, refuse(codeInvalidLevel, "Invalid compatibility level. The request names none")
	}
	return []record{{encode(subjectKey{keyConfig, pointer(subject), 0}), encode(configValue{subject, c})}}, c, nil
}

// planDeleteConfig returns the configuration as it was and the records that let the next wider one count again.
func (s *state) planDeleteConfig(subject string) ([]record, config, *apiError) {
	if err := s.writable(subject); err != nil {
		return nil, config{}, err
	}
	old, ok := s.configs[subject]
	switch {
	case ok:
		return []record{{key: encode(subjectKey{keyConfig, pointer(subject), 0})}}, old, nil
	case subject == globalSubject:
		return nil, config{CompatibilityLevel: defaultLevel}, nil
	}
	return nil, config{}, refuse(codeNoSubjectLevel, "Subject '%s' does not have subject-level compatibility configured", subject)
}

// planMode returns the records that change the mode of a subject or the global one.
func (s *state) planMode(subject, mode string, force bool) ([]record, *apiError) {
	if subject != globalSubject {
		if err := checkSubject(subject); err != nil {
			return nil, err
		}
	}
	mode = strings.ToUpper(mode)
	switch mode {
	case modeReadWrite, modeReadOnly, modeOverride:
	case modeImport:
		if !force && (subject == globalSubject && len(s.names("", filter{})) > 0 || len(s.live(subject, false)) > 0) {
			return nil, refuse(codeNotPermitted, "Cannot import since found existing subjects")
		}
	default:
		return nil, refuse(codeInvalidMode, "Invalid mode. Valid values are READWRITE, READONLY, READONLY_OVERRIDE, and IMPORT")
	}
	return []record{{encode(subjectKey{keyMode, pointer(subject), 0}), encode(modeValue{subject, mode})}}, nil
}

// planDeleteMode returns the mode as it was and the records that let the next wider one count again.
func (s *state) planDeleteMode(subject string) ([]record, string, *apiError) {
	old, ok := s.modes[subject]
	switch {
	case ok:
		return []record{{key: encode(subjectKey{keyMode, pointer(subject), 0})}}, old, nil
	case subject == globalSubject:
		return nil, modeReadWrite, nil
	}
	return nil, "", refuse(codeNoSubjectMode, "Subject '%s' does not have subject-level mode configured", subject)
}

func pointer(subject string) *string {
	if subject == globalSubject {
		return nil
	}
	return &subject
}

// check returns why c may not follow the versions of a subject under its compatibility level, nothing if it may.
func (s *state) check(subject string, c *content, versions []*version) []string {
	cfg := s.configOf(subject)
	level := levels[cfg.CompatibilityLevel]
	if !level.backward && !level.forward {
		return nil
	}
	if cfg.CompatibilityGroup != "" {
		group := property(c.metadata, cfg.CompatibilityGroup)
		versions = slices.DeleteFunc(slices.Clone(versions), func(v *version) bool { return property(v.content.metadata, cfg.CompatibilityGroup) != group })
	}
	var messages []string
	for i, old := range slices.Backward(versions) {
		if !level.all && i < len(versions)-1 {
			break
		}
		messages = append(messages, incompatibilities(c, old, level.backward, level.forward)...)
	}
	if len(messages) > 0 {
		messages = append(messages, "compatibility level: "+cfg.CompatibilityLevel)
	}
	return messages
}

// incompatibilities returns why one version and c do not fit, one line each.
func incompatibilities(c *content, old *version, backward, forward bool) []string {
	if c.schemaType != old.content.schemaType {
		return []string{fmt.Sprintf("version %d is of type %s", old.number, old.content.schemaType)}
	}
	oldSchema, err := old.content.parse()
	if err != nil {
		return []string{fmt.Sprintf("version %d cannot be checked: %s", old.number, explain(err))}
	}
	newSchema, err := c.parse()
	if err != nil {
		return []string{fmt.Sprintf("the schema cannot be checked: %s", explain(err))}
	}
	var messages []string
	if backward {
		for _, x := range contract.Compatible(newSchema, oldSchema) {
			messages = append(messages, fmt.Sprintf("the new schema cannot read data of version %d: %s at %s: %s", old.number, x.Rule, place(x.Pointer), x.Message))
		}
	}
	if forward {
		for _, x := range contract.Compatible(oldSchema, newSchema) {
			messages = append(messages, fmt.Sprintf("version %d cannot read data of the new schema: %s at %s: %s", old.number, x.Rule, place(x.Pointer), x.Message))
		}
	}
	return messages
}

func place(pointer string) string {
	if pointer == "" {
		return "/"
	}
	return pointer
}

// property returns one property of a schema's metadata.
func property(metadata json.RawMessage, name string) string {
	var m struct {
		Properties map[string]string `json:"properties"`
	}
	if metadata == nil || json.Unmarshal(metadata, &m) != nil {
		return ""
	}
	return m.Properties[name]
}

// checkSubject refuses names that other registries could not hold, and contexts.
func checkSubject(subject string) *apiError {
	switch {
	case subject == "" || len(subject) > maxSubjectBytes || strings.ContainsFunc(subject, func(r rune) bool { return r < 0x20 || r == 0x7f || r == 0xfffd }) ||
		subject == "__GLOBAL" || subject == "__EMPTY":
		return refuse(codeInvalidSubject, "The specified subject '%s' is not a valid subject.", clip(subject))
	case strings.HasPrefix(subject, ":."):
		return refuse(codeInvalidSubject, "The specified subject '%s' is in a context, which are not supported.", clip(subject))
	}
	return nil
}
