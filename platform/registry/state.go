package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/millrace/millrace/platform/contract"
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

// A content is one schema with all that belongs to it; every subject that has it shares its id.
type content struct {
	id         int32
	hash       hash
	schemaType string
	text       string
	references []reference
	metadata   json.RawMessage
	ruleSet    json.RawMessage
	versions   []*version // where it is used, deleted versions included
	parse      func() (*contract.Schema, error)
}

func newContent(schemaType, text string, references []reference, metadata, ruleSet json.RawMessage) *content {
	if schemaType == "" {
		schemaType = typeAvro
	}
	if len(references) == 0 {
		references = nil // an empty list means the same, and is not stored
	}
	c := &content{schemaType: schemaType, text: text, references: references, metadata: metadata, ruleSet: ruleSet}
	c.hash = hashOf(schemaType, text, references, metadata, ruleSet)
	c.parse = sync.OnceValues(func() (*contract.Schema, error) { return contract.Parse(text) })
	return c
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
	subjects map[string][]*version // by number, deleted ones included
	byID     map[int32]*content
	byHash   map[hash]*content
	maxID    int32
	configs  map[string]config // by subject; globalSubject is the global one
	modes    map[string]string
}

func newState() *state {
	return &state{subjects: map[string][]*version{}, byID: map[int32]*content{}, byHash: map[hash]*content{}, configs: map[string]config{}, modes: map[string]string{}}
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
		subject = *k.Subject
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
		s.configs[subject] = v.config
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
		if value == nil {
			return nil
		}
		var v maxIDValue
		if err := json.Unmarshal(value, &v); err != nil {
			return fmt.Errorf("the highest id is not understood: %w", err)
		}
		s.maxID = max(s.maxID, v.ID)
	}
	return nil
}

func (s *state) applySchema(subject string, number int32, value []byte) error {
	if number < 1 || subject == globalSubject {
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
	c := newContent(v.SchemaType, v.Schema, v.References, v.Metadata, v.RuleSet)
	if known := s.byID[v.ID]; known != nil {
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
	s.subjects[v.subject] = slices.Insert(versions, i, v)
	c := v.content
	c.versions = append(c.versions, v)
	s.byID[c.id] = c
	if first := s.byHash[c.hash]; first == nil || c.id < first.id { // a foreign log may have two ids for one content
		s.byHash[c.hash] = c
	}
	s.maxID = max(s.maxID, c.id)
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
	if len(c.versions) == 0 {
		delete(s.byID, c.id)
		if s.byHash[c.hash] == c {
			delete(s.byHash, c.hash)
			for _, other := range s.byID {
				if other.hash == c.hash {
					s.byHash[c.hash] = other
				}
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

// names returns the subjects in order that have versions for filter.
func (s *state) names(prefix string, f filter) []string {
	out := []string{}
	for _, name := range slices.Sorted(maps.Keys(s.subjects)) {
		if strings.HasPrefix(name, prefix) && slices.ContainsFunc(s.subjects[name], f.takes) && (!f.only || len(s.live(name, false)) == 0) {
			out = append(out, name)
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

// versionOf returns one version; number 0 is the newest that is not deleted.
func (s *state) versionOf(subject string, number int32, deleted bool) (*version, *apiError) {
	versions := s.live(subject, deleted)
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

// find returns the version of a subject that has a content, the newest if there are several.
func (s *state) find(subject string, h hash, deleted bool) *version {
	versions := s.live(subject, deleted)
	for _, v := range slices.Backward(versions) {
		if v.content.hash == h {
			return v
		}
	}
	return nil
}

// configOf returns the configuration that counts for a subject: its own level, else the global one, else the default.
func (s *state) configOf(subject string) config {
	c := config{CompatibilityLevel: defaultLevel}
	for _, scope := range []string{globalSubject, subject} {
		own := s.configs[scope]
		if own.CompatibilityLevel != "" {
			c.CompatibilityLevel = own.CompatibilityLevel
		}
		if own.Normalize != nil {
			c.Normalize = own.Normalize
		}
		if own.CompatibilityGroup != "" {
			c.CompatibilityGroup = own.CompatibilityGroup
		}
	}
	return c
}

// modeOf returns the mode that counts for a subject.
func (s *state) modeOf(subject string) string {
	if global := s.modes[globalSubject]; global == modeOverride {
		return global
	}
	if m := s.modes[subject]; m != "" {
		return m
	}
	if m := s.modes[globalSubject]; m != "" {
		return m
	}
	return modeReadWrite
}

// referencedBy returns the ids of the schemas that refer to a version.
func (s *state) referencedBy(subject string, number int32) []int32 {
	ids := []int32{}
	for id, c := range s.byID {
		if slices.ContainsFunc(c.references, func(r reference) bool { return r.Subject == subject && r.Version == number }) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// nextID returns the id for a new content.
func (s *state) nextID() (int32, *apiError) {
	if s.maxID == math.MaxInt32 {
		return 0, refuse(codeStore, "All ids are used up.")
	}
	return s.maxID + 1, nil
}
