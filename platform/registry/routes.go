package registry

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

// A schemaAnswer describes a schema; what is empty is left out, for old clients refuse what they do not know.
type schemaAnswer struct {
	Subject    string          `json:"subject,omitempty"`
	ID         int32           `json:"id,omitempty"`
	Version    int32           `json:"version,omitempty"`
	GUID       string          `json:"guid,omitempty"`
	SchemaType string          `json:"schemaType,omitempty"`
	References []reference     `json:"references,omitempty"`
	Metadata   json.RawMessage `json:"metadata,omitempty"`
	RuleSet    json.RawMessage `json:"ruleSet,omitempty"`
	Schema     string          `json:"schema,omitempty"`
	SchemaTags []schemaTags    `json:"schemaTags,omitempty"`
	MaxID      int32           `json:"maxId,omitempty"`
	Deleted    bool            `json:"deleted,omitempty"`
}

func describe(c *content) schemaAnswer {
	return schemaAnswer{SchemaType: storedType(c.schemaType), References: c.references, Metadata: c.metadata, RuleSet: c.ruleSet, Schema: c.text}
}

func describeVersion(v *version) schemaAnswer {
	a := describe(v.content)
	a.Subject, a.ID, a.Version, a.GUID, a.Deleted = v.subject, v.content.id, v.number, v.content.guid.String(), v.deleted
	return a
}

// formatted returns the answer in the form that the request asks for: with format=resolved the text stands alone, with
// referenceFormat=qualified references name their contexts, with findTags=… what is tagged is listed. Other formats are of other schema
// types.
func (c *call) formatted(s *state, x *content, a schemaAnswer) (any, *apiError) {
	// The client for Python writes the parameter in its own way.
	if x.context != defaultContext && (c.query.Get("referenceFormat") == "qualified" || c.query.Get("reference_format") == "qualified") {
		a.References = qualified(x.context, a.References)
	}
	if wanted := c.query["findTags"]; len(wanted) > 0 {
		text, err := s.resolved(x)
		if err != nil {
			return nil, err
		}
		found, failure := tagsIn(text, wanted)
		if failure != nil {
			return nil, refuse(codeInvalidSchema, "The tags cannot be found: %s", failure)
		}
		a.SchemaTags = found
	}
	if strings.EqualFold(c.query.Get("format"), "resolved") && len(x.references) > 0 {
		text, err := s.resolved(x)
		if err != nil {
			return nil, err
		}
		a.Schema, a.References = text, nil
	}
	return a, nil
}

// registeredAnswer describes a version to who registered it.
func registeredAnswer(v *version) any {
	a := describe(v.content)
	a.ID, a.Version, a.GUID = v.content.id, v.number, v.content.guid.String()
	return a
}

type subjectVersion struct {
	Subject string `json:"subject"`
	Version int32  `json:"version"`
}

// schemas answers GET /schemas: every version of every subject.
func (c *call) schemas() (any, *apiError) {
	return c.s.read(func(s *state) (any, *apiError) {
		list := []schemaAnswer{}
		f := c.filter()
		for _, name := range s.names(c.prefix(), filter{deleted: f.deleted || f.only}) {
			versions := slices.DeleteFunc(slices.Clone(s.subjects[name]), func(v *version) bool { return !f.takes(v) })
			if c.flag("latestOnly") && len(versions) > 0 {
				versions = versions[len(versions)-1:]
			}
			for _, v := range versions {
				list = append(list, describeVersion(v))
			}
		}
		return page(c, list)
	})
}

// content returns the content that the id in the path stands for, in the context of the request or of its subject parameter. A subject
// without a context that does not have the id in the default one is looked for in the others.
func (c *call) content(s *state) (*content, *apiError) {
	id := c.id()
	subject := c.query.Get("subject")
	context, _ := split(qualify(c.context, subject))
	if x := s.in(context).byID[id]; x != nil {
		return x, nil
	}
	if subject != "" && context == defaultContext && !strings.HasPrefix(subject, ":.") {
		for _, other := range s.contextNames() {
			x := s.in(other).byID[id]
			if x != nil && slices.ContainsFunc(x.versions, func(v *version) bool { return v.subject == qualify(other, subject) }) {
				return x, nil
			}
		}
	}
	return nil, refuse(codeNoSchema, "Schema %s not found", clip(c.r.PathValue("id")))
}

func (c *call) schemaByID() (any, *apiError) {
	return c.s.read(func(s *state) (any, *apiError) {
		x, err := c.content(s)
		if err != nil {
			return nil, err
		}
		if len(c.query) == 0 || len(c.query) == 1 && c.query.Has("subject") {
			return x.byIDAnswer(), nil
		}
		a := describe(x)
		if c.flag("fetchMaxId") {
			a.MaxID = s.in(x.context).maxID
		}
		return c.formatted(s, x, a)
	})
}

func (c *call) textByID() (any, *apiError) {
	return c.s.read(func(s *state) (any, *apiError) {
		x, err := c.content(s)
		if err != nil {
			return nil, err
		}
		return c.text(s, x)
	})
}

// text returns only the text of a content.
func (c *call) text(s *state, x *content) (any, *apiError) {
	a, err := c.formatted(s, x, describe(x))
	if err != nil {
		return nil, err
	}
	return raw(a.(schemaAnswer).Schema), nil
}

// places returns where the content of the id in the path is used, in order.
func (c *call) places(s *state) ([]subjectVersion, *apiError) {
	x, err := c.content(s)
	if err != nil {
		return nil, err
	}
	subject := c.query.Get("subject")
	if subject != "" {
		subject = qualify(x.context, subject)
	}
	out := []subjectVersion{}
	for _, v := range x.versions {
		if c.filter().takes(v) && (subject == "" || subject == v.subject) {
			out = append(out, subjectVersion{v.subject, v.number})
		}
	}
	slices.SortFunc(out, func(a, b subjectVersion) int {
		if a.Subject != b.Subject {
			if a.Subject < b.Subject {
				return -1
			}
			return 1
		}
		return int(a.Version) - int(b.Version)
	})
	return out, nil
}

func (c *call) subjectsOfID() (any, *apiError) {
	return c.s.read(func(s *state) (any, *apiError) {
		places, err := c.places(s)
		if err != nil {
			return nil, err
		}
		names := []string{}
		for _, p := range places {
			if len(names) == 0 || names[len(names)-1] != p.Subject {
				names = append(names, p.Subject)
			}
		}
		return page(c, names)
	})
}

func (c *call) versionsOfID() (any, *apiError) {
	return c.s.read(func(s *state) (any, *apiError) {
		places, err := c.places(s)
		if err != nil {
			return nil, err
		}
		return page(c, places)
	})
}

func (c *call) byGUID(s *state) ([]*content, *apiError) {
	g, ok := parseGUID(c.r.PathValue("guid"))
	if list := s.byGUID[g]; ok && len(list) > 0 {
		return list, nil
	}
	return nil, refuse(codeNoSchema, "Schema %s not found", clip(c.r.PathValue("guid")))
}

func (c *call) schemaByGUID() (any, *apiError) {
	return c.s.read(func(s *state) (any, *apiError) {
		list, err := c.byGUID(s)
		if err != nil {
			return nil, err
		}
		return c.formatted(s, list[0], describe(list[0]))
	})
}

// A contextID is an id in one context.
type contextID struct {
	Context string `json:"context"`
	ID      int32  `json:"id"`
}

func (c *call) idsOfGUID() (any, *apiError) {
	return c.s.read(func(s *state) (any, *apiError) {
		list, err := c.byGUID(s)
		if err != nil {
			return nil, err
		}
		ids := make([]contextID, len(list))
		for i, x := range list {
			ids[i] = contextID{x.context, x.id}
		}
		slices.SortFunc(ids, func(a, b contextID) int {
			if d := strings.Compare(a.Context, b.Context); d != 0 {
				return d
			}
			return int(a.ID) - int(b.ID)
		})
		return ids, nil
	})
}

func (c *call) contexts() (any, *apiError) {
	prefix := c.query.Get("contextPrefix")
	return c.s.read(func(s *state) (any, *apiError) {
		return page(c, slices.DeleteFunc(s.contextNames(), func(name string) bool { return !strings.HasPrefix(name, prefix) }))
	})
}

func (c *call) deleteContext() (any, *apiError) {
	return c.submit(func(s *state) ([]record, any, *apiError) {
		records, err := s.planDeleteContext(normalContext(c.r.PathValue("context")))
		return records, nothing{}, err
	})
}

// metadata answers GET /subjects/{subject}/metadata: the newest version with all the properties, given as key=…&value=….
func (c *call) metadata() (any, *apiError) {
	keys, values := c.query["key"], c.query["value"]
	if len(keys) != len(values) {
		return nil, refuse(http.StatusBadRequest, "There are %d keys and %d values", len(keys), len(values))
	}
	return c.s.read(func(s *state) (any, *apiError) {
		v, err := s.withMetadata(c.subject(), keys, values, c.flag("deleted"))
		if err != nil {
			return nil, err
		}
		return c.formatted(s, v.content, describeVersion(v))
	})
}

func (c *call) clusterID() (any, *apiError) {
	return map[string]any{"id": "", "scope": map[string]any{"path": []string{}, "clusters": map[string]string{"schema-registry-cluster": "schema-registry"}}}, nil
}

func (c *call) serverVersion() (any, *apiError) {
	return map[string]string{"version": c.s.cfg.Version, "commitId": ""}, nil
}

func (c *call) subjects() (any, *apiError) {
	return c.s.read(func(s *state) (any, *apiError) { return page(c, s.names(c.prefix(), c.filter())) })
}

// find answers POST /subjects/{subject}: which version has this text.
func (c *call) find() (any, *apiError) {
	r := schemaRequest{normalize: c.flag("normalize")}
	if err := c.body(&r); err != nil {
		return nil, err
	}
	return c.s.read(func(s *state) (any, *apiError) {
		subject := c.subject()
		if err := checkSubject(subject); err != nil {
			return nil, err
		}
		x, err := r.content(s, subject)
		if err != nil {
			return nil, err
		}
		if len(s.live(subject, c.flag("deleted"))) == 0 {
			return nil, noSubject(subject)
		}
		v := s.find(subject, x, c.flag("deleted"))
		if v == nil {
			return nil, refuse(codeNoSchema, "Schema not found")
		}
		return c.formatted(s, v.content, describeVersion(v))
	})
}

func (c *call) versions() (any, *apiError) {
	return c.s.read(func(s *state) (any, *apiError) {
		numbers := []int32{}
		for _, v := range s.subjects[c.subject()] {
			if c.filter().takes(v) {
				numbers = append(numbers, v.number)
			}
		}
		if len(numbers) == 0 {
			return nil, noSubject(c.subject())
		}
		return page(c, numbers)
	})
}

// oneVersion calls f with the version that the path names.
func (c *call) oneVersion(f func(*state, *version) (any, *apiError)) (any, *apiError) {
	number, err := c.number()
	if err != nil {
		return nil, err
	}
	return c.s.read(func(s *state) (any, *apiError) {
		v, err := s.versionOf(c.subject(), number, c.flag("deleted"))
		if err != nil {
			return nil, err
		}
		return f(s, v)
	})
}

func (c *call) version() (any, *apiError) {
	return c.oneVersion(func(s *state, v *version) (any, *apiError) { return c.formatted(s, v.content, describeVersion(v)) })
}

func (c *call) textOfVersion() (any, *apiError) {
	return c.oneVersion(func(s *state, v *version) (any, *apiError) { return c.text(s, v.content) })
}

func (c *call) referencedBy() (any, *apiError) {
	return c.oneVersion(func(s *state, v *version) (any, *apiError) {
		return page(c, s.referencedBy(v.subject, v.number, c.flag("deleted")))
	})
}

// register answers POST /subjects/{subject}/versions. What exists already is answered without a write, and a new text is read before
// the writer's turn, for that takes longest.
func (c *call) register() (any, *apiError) {
	r := schemaRequest{normalize: c.flag("normalize")}
	if err := c.body(&r); err != nil {
		return nil, err
	}
	subject := c.subject()
	known, err := c.s.read(func(s *state) (any, *apiError) {
		v, _, err := s.known(subject, &r)
		if v != nil {
			return registeredAnswer(v), nil
		}
		r.checked = r.prepare(s, subject)
		return nil, err
	})
	if known != nil || err != nil {
		return known, err
	}
	if r.checked != nil {
		r.checked.parse()
	}
	return c.submit(func(s *state) ([]record, any, *apiError) {
		records, v, err := s.planRegister(subject, &r)
		if err != nil {
			return nil, nil, err
		}
		return records, registeredAnswer(v), nil
	})
}

func (c *call) deleteSubject() (any, *apiError) {
	return c.submit(func(s *state) ([]record, any, *apiError) {
		records, numbers, err := s.planDeleteSubject(c.subject(), c.flag("permanent"))
		return records, numbers, err
	})
}

func (c *call) deleteVersion() (any, *apiError) {
	number, err := c.number()
	if err != nil {
		return nil, err
	}
	return c.submit(func(s *state) ([]record, any, *apiError) {
		records, deleted, err := s.planDeleteVersion(c.subject(), number, c.flag("permanent"))
		return records, deleted, err
	})
}

// compatible answers both compatibility tests: against one version, or against all that the level demands.
func (c *call) compatible() (any, *apiError) {
	number := int32(-1)
	if c.r.PathValue("version") != "" {
		n, err := c.number()
		if err != nil {
			return nil, err
		}
		number = n
	}
	r := schemaRequest{normalize: c.flag("normalize")}
	if err := c.body(&r); err != nil {
		return nil, err
	}
	subject := c.subject()
	if err := checkSubject(subject); err != nil {
		return nil, err
	}
	// Reading the text takes longest, and nobody has to wait for it.
	if _, err := c.s.read(func(s *state) (any, *apiError) { r.checked = r.prepare(s, subject); return nil, nil }); err != nil {
		return nil, err
	}
	if r.checked != nil {
		r.checked.parse()
	}
	return c.s.read(func(s *state) (any, *apiError) {
		versions := s.live(subject, false)
		if number >= 0 && (len(versions) > 0 || number != latest) {
			v, err := s.versionOf(subject, number, false)
			if err != nil {
				return nil, refuse(codeNoVersion, "Version %d not found.", number)
			}
			versions = []*version{v}
		}
		x, err := r.content(s, subject)
		if err != nil {
			return nil, err
		}
		if x, err = s.inherit(subject, &r, x, s.live(subject, false)); err != nil {
			return nil, err
		}
		schema, err := r.verify(s, x, place{subject: subject})
		if err != nil {
			return nil, err
		}
		messages := s.check(subject, schema, x, versions)
		a := struct {
			Compatible bool     `json:"is_compatible"`
			Messages   []string `json:"messages,omitempty"`
		}{Compatible: len(messages) == 0}
		if c.flag("verbose") {
			a.Messages = messages
		}
		return a, nil
	})
}

// effective reports whether the request also takes what a wider scope says: who asks for no subject's does.
func (c *call) effective() bool {
	return c.r.PathValue("subject") == "" || c.flag("defaultToGlobal")
}

func (c *call) config() (any, *apiError) {
	return c.s.read(func(s *state) (any, *apiError) {
		subject := c.subject()
		_, own := s.configs[subject]
		_, off := s.rules[subject]
		if !own && !off && !c.effective() {
			return nil, refuse(codeNoSubjectLevel, "Subject '%s' does not have subject-level compatibility configured", subject)
		}
		return s.configOf(subject), nil
	})
}

func (c *call) putConfig() (any, *apiError) {
	var r configRequest
	if err := c.body(&r); err != nil {
		return nil, err
	}
	return c.submit(func(s *state) ([]record, any, *apiError) {
		records, cfg, err := s.planConfig(c.subject(), &r)
		// The request's form differs from the answer's in one name.
		return records, struct {
			Compatibility string `json:"compatibility,omitempty"`
			config
			Level string `json:"compatibilityLevel,omitempty"` // hides the embedded one
		}{Compatibility: cfg.CompatibilityLevel, config: cfg}, err
	})
}

func (c *call) deleteConfig() (any, *apiError) {
	return c.submit(func(s *state) ([]record, any, *apiError) {
		records, old, err := s.planDeleteConfig(c.subject())
		return records, old, err
	})
}

type modeBody struct {
	Mode string `json:"mode"`
}

func (c *call) mode() (any, *apiError) {
	return c.s.read(func(s *state) (any, *apiError) {
		subject := c.subject()
		if _, own := s.modes[subject]; !own && !c.effective() {
			return nil, refuse(codeNoSubjectMode, "Subject '%s' does not have subject-level mode configured", subject)
		}
		return modeBody{s.modeOf(subject)}, nil
	})
}

func (c *call) putMode() (any, *apiError) {
	var r modeBody
	if err := c.body(&r); err != nil {
		return nil, err
	}
	return c.submit(func(s *state) ([]record, any, *apiError) {
		records, err := s.planMode(c.subject(), r.Mode, c.flag("force"), c.flag("recursive"))
		return records, modeBody{strings.ToUpper(r.Mode)}, err
	})
}

func (c *call) deleteMode() (any, *apiError) {
	return c.submit(func(s *state) ([]record, any, *apiError) {
		records, old, err := s.planDeleteMode(c.subject(), c.flag("recursive"))
		return records, modeBody{old}, err
	})
}
