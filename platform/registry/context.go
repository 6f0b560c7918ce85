package registry

import (
	"math"
	"slices"
	"strings"
)

// defaultContext is the context of all subjects that name none.
const defaultContext = "."

// split returns the context of a subject and its name there: ":.staging:orders" is ".staging" and "orders".
func split(subject string) (context, name string) {
	if rest, ok := strings.CutPrefix(subject, ":."); ok {
		if c, name, ok := strings.Cut(rest, ":"); ok {
			return "." + c, name
		}
	}
	return defaultContext, subject
}

// qualify returns the one form of a subject's name: context counts unless the name says another one, and the default one is not written.
func qualify(context, subject string) string {
	if strings.HasPrefix(subject, ":.") {
		context, subject = split(subject)
	}
	if context == defaultContext || context == "" {
		return subject
	}
	return ":" + context + ":" + subject
}

// checkSubject refuses names that other registries could not hold.
func checkSubject(subject string) *apiError {
	if _, name := split(subject); name == "" {
		return refuse(codeInvalidSubject, "The specified subject '%s' is not a valid subject.", clip(subject))
	}
	return checkScope(subject)
}

// checkScope refuses what can be neither a subject nor a context written as one, which configurations and modes may stand for.
func checkScope(subject string) *apiError {
	if subject == globalSubject {
		return nil
	}
	context, name := split(subject)
	if len(subject) > maxSubjectBytes || strings.ContainsFunc(subject, func(r rune) bool { return r < 0x20 || r == 0x7f || r == 0xfffd }) ||
		name == "__GLOBAL" || name == "__EMPTY" || strings.HasPrefix(name, ":.") || strings.Contains(context, "*") {
		return refuse(codeInvalidSubject, "The specified subject '%s' is not a valid subject.", clip(subject))
	}
	return nil
}

// scopesOf returns where a subject's settings come from: everywhere, its context, itself. What comes later counts more.
func scopesOf(subject string) []string {
	scopes := []string{globalSubject}
	context, name := split(subject)
	if context != defaultContext {
		scopes = append(scopes, qualify(context, ""))
	}
	if name != "" {
		scopes = append(scopes, subject)
	}
	return scopes
}

// within reports whether a scope stands for what is part of another one, or the same.
func within(scope, outer string) bool {
	context, name := split(outer)
	if outer == globalSubject {
		return true
	}
	if name != "" {
		return scope == outer
	}
	inner, _ := split(scope)
	return scope != globalSubject && inner == context
}

// A space is the ids of one context: each context numbers its schemas for itself.
type space struct {
	byID   map[int32]*content
	byHash map[hash]*content
	maxID  int32
}

// in returns the ids of a context, empty ones if it holds nothing.
func (s *state) in(context string) *space {
	if p := s.spaces[context]; p != nil {
		return p
	}
	return &space{}
}

// opened returns the ids of a context to add to.
func (s *state) opened(context string) *space {
	p := s.spaces[context]
	if p == nil {
		p = &space{byID: map[int32]*content{}, byHash: map[hash]*content{}}
		s.spaces[context] = p
	}
	return p
}

// nextID returns the id for a new content.
func (p *space) nextID() (int32, *apiError) {
	if p.maxID == math.MaxInt32 {
		return 0, refuse(codeStore, "All ids are used up.")
	}
	return p.maxID + 1, nil
}

// contextNames returns the contexts in order, the default one included.
func (s *state) contextNames() []string {
	seen := map[string]bool{defaultContext: true}
	for c := range s.contexts {
		seen[c] = true
	}
	for subject := range s.subjects {
		c, _ := split(subject)
		seen[c] = true
	}
	names := make([]string, 0, len(seen))
	for c := range seen {
		names = append(names, c)
	}
	slices.Sort(names)
	return names
}

// planDeleteContext returns the records that forget a context without subjects. Its highest id stays known: ids never come back.
func (s *state) planDeleteContext(context string) ([]record, *apiError) {
	if context == defaultContext {
		return nil, refuse(codeNotPermitted, "The default context cannot be deleted")
	}
	if !slices.Contains(s.contextNames(), context) {
		return nil, refuse(codeNoContext, "Context '%s' not found.", clip(context))
	}
	for subject := range s.subjects {
		if c, _ := split(subject); c == context {
			return nil, refuse(codeContextNotEmpty, "The specified context '%s' is not empty.", clip(context))
		}
	}
	records := []record{{key: encode(contextKey{keyContext, tenant, context, 0})}}
	scope := qualify(context, "")
	return append(records, s.forget(func(name string) bool { return within(name, scope) })...), nil
}

// forget returns the records that delete the settings of the scopes that which picks.
func (s *state) forget(which func(scope string) bool) []record {
	var records []record
	for _, scope := range sortedKeys(s.configs) {
		if which(scope) {
			records = append(records, record{key: encode(subjectKey{keyConfig, pointer(scope), 0})})
		}
	}
	for _, scope := range sortedKeys(s.rules) {
		if which(scope) {
			records = append(records, record{key: encode(subjectKey{keyRules, pointer(scope), 0})})
		}
	}
	for _, scope := range sortedKeys(s.modes) {
		if which(scope) {
			records = append(records, record{key: encode(subjectKey{keyMode, pointer(scope), 0})})
		}
	}
	return records
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
