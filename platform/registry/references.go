package registry

import (
	"fmt"
	"slices"
	"sync"

	"github.com/millrace/millrace/platform/contract"
)

const (
	maxReferenceDepth = 8   // references that lead to references
	maxReferences     = 256 // of one schema, with all that they lead to
)

// A place is one version of one subject.
type place struct {
	subject string
	number  int32
}

// A parser keeps what became of a content's text, and its answer to who asks for its id; the states that hold the content share it.
type parser struct {
	once   sync.Once
	answer prepared
	mu     sync.Mutex
	schema *contract.Schema
	err    error
}

// texts returns what the references of a content in a context stand for, each before those that use it. self is the version that the
// content is going to be, for it may not come back to itself.
func (s *state) texts(c *content, context string, self place) ([]string, error) {
	var out []string
	done := map[place]bool{}
	open := map[place]bool{self: self.number > 0}
	var visit func(references []reference, context string, depth int) error
	visit = func(references []reference, context string, depth int) error {
		if len(references) > 0 && depth > maxReferenceDepth {
			return fmt.Errorf("references lead more than %d levels deep", maxReferenceDepth)
		}
		for _, r := range references {
			at := place{qualify(context, r.Subject), r.Version}
			switch {
			case open[at]:
				return fmt.Errorf("the references are a cycle: version %d of subject %q leads back to itself", at.number, clip(at.subject))
			case done[at]:
				continue
			case len(done) >= maxReferences:
				return fmt.Errorf("there are more than %d references", maxReferences)
			}
			v := s.at(at)
			if v == nil {
				return fmt.Errorf("the reference %q leads to version %d of subject %q, which does not exist", clip(r.Name), at.number, clip(at.subject))
			}
			if v.content.schemaType != typeAvro {
				return fmt.Errorf("the reference %q leads to a schema of type %s", clip(r.Name), clip(v.content.schemaType))
			}
			open[at] = true
			inner, _ := split(at.subject)
			if err := visit(v.content.references, inner, depth+1); err != nil {
				return err
			}
			delete(open, at)
			done[at] = true
			out = append(out, v.content.text)
		}
		return nil
	}
	if err := visit(c.references, context, 1); err != nil {
		return nil, err
	}
	return out, nil
}

// at returns the version at a place, also a deleted one.
func (s *state) at(p place) *version {
	versions := s.subjects[p.subject]
	if i, ok := slices.BinarySearchFunc(versions, p.number, byNumber); ok {
		return versions[i]
	}
	return nil
}

// schema returns a stored content as a schema. What is stored is read leniently: it may be older than a rule, or of another registry.
func (s *state) schema(c *content) (*contract.Schema, error) {
	c.parser.mu.Lock()
	defer c.parser.mu.Unlock()
	if c.parser.schema != nil || c.parser.err != nil {
		return c.parser.schema, c.parser.err
	}
	references, err := s.texts(c, c.context, place{})
	if err != nil {
		return nil, err // not kept: a reference may come later in the log
	}
	c.parser.schema, c.parser.err = contract.ParseLenient(c.text, references...)
	return c.parser.schema, c.parser.err
}

// resolved returns the text of a content with all that it refers to written into it.
func (s *state) resolved(c *content) (string, *apiError) {
	references, err := s.texts(c, c.context, place{})
	if err != nil {
		return "", refuse(codeInvalidSchema, "The references cannot be resolved: %s", err)
	}
	text, err := contract.Inline(c.text, references...)
	if err != nil {
		return "", refuse(codeInvalidSchema, "The references cannot be resolved: %s", explain(err))
	}
	return text, nil
}

// referencedBy returns the ids of the schemas that refer to a version: of those in use, or also of those that are deleted only softly.
func (s *state) referencedBy(subject string, number int32, deleted bool) []int32 {
	ids := []int32{}
	for name, p := range s.spaces {
		for id, c := range p.byID {
			if !slices.ContainsFunc(c.references, func(r reference) bool { return r.Version == number && qualify(name, r.Subject) == subject }) {
				continue
			}
			if deleted || slices.ContainsFunc(c.versions, func(v *version) bool { return !v.deleted }) {
				ids = append(ids, id)
			}
		}
	}
	slices.Sort(ids)
	return ids
}
