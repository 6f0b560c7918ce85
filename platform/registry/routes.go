package registry

import (
	"encoding/json"
	"slices"
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
	MaxID      int32           `json:"maxId,omitempty"`
	Deleted    bool            `json:"deleted,omitempty"`
}

func describe(c *content) schemaAnswer {
	return schemaAnswer{SchemaType: storedType(c.schemaType), References: c.references, Metadata: c.metadata, RuleSet: c.ruleSet, Schema: c.text}
}

func describeVersion(v *version) schemaAnswer {
	a := describe(v.content)
	a.Subject, a.ID, a.Version, a.GUID, a.Deleted = v.subject, v.content.id, v.number, v.content.hash.guid(), v.deleted
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

// content returns the content that the id in the path stands for.
func (c *call) content(s *state) (*content, *apiError) {
	x := s.byID[c.id()]
	if x == nil {
		return nil, refuse(codeNoSchema, "Schema %s not found", clip(c.r.PathValue("id")))
	}
	return x, nil
}

func (c *call) schemaByID() (any, *apiError) {
	return c.s.read(func(s *state) (any, *apiError) {
		x, err := c.content(s)
		if err != nil {
			return nil, err
		}
		a := describe(x)
		if c.flag("fetchMaxId") {
			a.MaxID = s.maxID
		}
		return a, nil
	})
}

func (c *call) textByID() (any, *apiError) {
	return c.s.read(func(s *state) (any, *apiError) {
		x, err := c.content(s)
		if err != nil {
			return nil, err
		}
		return raw(x.text), nil
	})
}

// places returns where the content of the id in the path is used, in order.
func (c *call) places(s *state) ([]subjectVersion, *apiError) {
	x, err := c.content(s)
	if err != nil {
		return nil, err
	}
	subject := c.query.Get("subject")
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

func (c *call) byGUID(s *state) (*content, *apiError) {
	guid := c.r.PathValue("guid")
	for h, x := range s.byHash {
		if h.guid() == guid {
			return x, nil
		}
	}
	return nil, refuse(codeNoSchema, "Schema %s not found", clip(guid))
}

func (c *call) schemaByGUID() (any, *apiError) {
	return c.s.read(func(s *state) (any, *apiError) {
		x, err := c.byGUID(s)
		if err != nil {
			return nil, err
		}
		return describe(x), nil
	})
}

func (c *call) idsOfGUID() (any, *apiError) {
	return c.s.read(func(s *state) (any, *apiError) {
		x, err := c.byGUID(s)
		if err != nil {
			return nil, err
		}
		return []map[string]any{{"context": ".", "id": x.id}}, nil
	})
}

func (c *call) subjects() (any, *apiError) {
	return c.s.read(func(s *state) (any, *apiError) { return page(c, s.names(c.prefix(), c.filter())) })
}

// find answers POST /subjects/{subject}: which version has this text.
func (c *call) find() (any, *apiError) {
	var r schemaRequest
	if err := c.body(&r); err != nil {
		return nil, err
	}
	x, err := r.content(false)
	if err != nil {
		return nil, err
	}
	return c.s.read(func(s *state) (any, *apiError) {
		subject := c.subject()
		if len(s.live(subject, c.flag("deleted"))) == 0 {
			return nil, noSubject(subject)
		}
		v := s.find(subject, x.hash, c.flag("deleted"))
		if v == nil {
			return nil, refuse(codeNoSchema, "Schema not found")
		}
		return describeVersion(v), nil
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
	return c.oneVersion(func(_ *state, v *version) (any, *apiError) { return describeVersion(v), nil })
}

func (c *call) textOfVersion() (any, *apiError) {
	return c.oneVersion(func(_ *state, v *version) (any, *apiError) { return raw(v.content.text), nil })
}

func (c *call) referencedBy() (any, *apiError) {
	return c.oneVersion(func(s *state, v *version) (any, *apiError) { return s.referencedBy(v.subject, v.number), nil })
}

// register answers POST /subjects/{subject}/versions. What exists already is answered without a write.
func (c *call) register() (any, *apiError) {
	var r schemaRequest
	if err := c.body(&r); err != nil {
		return nil, err
	}
	plan := func(s *state) ([]record, any, *apiError) {
		records, v, err := s.planRegister(c.subject(), &r)
		if err != nil {
			return nil, nil, err
		}
		a := describe(v.content)
		a.ID, a.Version, a.GUID = v.content.id, v.number, v.content.hash.guid()
		return records, a, nil
	}
	exists := false
	known, err := c.s.read(func(s *state) (any, *apiError) {
		records, a, err := plan(s)
		exists = err == nil && len(records) == 0
		return a, err
	})
	if exists {
		return known, err
	}
	return c.s.submit(c.r.Context(), plan)
}

func (c *call) deleteSubject() (any, *apiError) {
	return c.s.submit(c.r.Context(), func(s *state) ([]record, any, *apiError) {
		records, numbers, err := s.planDeleteSubject(c.subject(), c.flag("permanent"))
		return records, numbers, err
	})
}

func (c *call) deleteVersion() (any, *apiError) {
	number, err := c.number()
	if err != nil {
		return nil, err
	}
	return c.s.submit(c.r.Context(), func(s *state) ([]record, any, *apiError) {
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
	var r schemaRequest
	if err := c.body(&r); err != nil {
		return nil, err
	}
	if err := checkSubject(c.subject()); err != nil {
		return nil, err
	}
	x, err := r.content(true)
	if err != nil {
		return nil, err
	}
	return c.s.read(func(s *state) (any, *apiError) {
		versions := s.live(c.subject(), false)
		if number >= 0 && (len(versions) > 0 || number != latest) {
			v, err := s.versionOf(c.subject(), number, false)
			if err != nil {
				return nil, refuse(codeNoVersion, "Version %d not found.", number)
			}
			versions = []*version{v}
		}
		messages := s.check(c.subject(), x, versions)
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

func (c *call) config() (any, *apiError) {
	return c.s.read(func(s *state) (any, *apiError) {
		subject := c.subject()
		if _, own := s.configs[subject]; !own && subject != globalSubject && !c.flag("defaultToGlobal") {
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
	return c.s.submit(c.r.Context(), func(s *state) ([]record, any, *apiError) {
		records, cfg, err := s.planConfig(c.subject(), &r)
		return records, struct {
			Compatibility string `json:"compatibility,omitempty"`
			Normalize     *bool  `json:"normalize,omitempty"`
			Group         string `json:"compatibilityGroup,omitempty"`
		}{cfg.CompatibilityLevel, cfg.Normalize, cfg.CompatibilityGroup}, err
	})
}

func (c *call) deleteConfig() (any, *apiError) {
	return c.s.submit(c.r.Context(), func(s *state) ([]record, any, *apiError) {
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
		if _, own := s.modes[subject]; !own && subject != globalSubject && !c.flag("defaultToGlobal") {
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
	return c.s.submit(c.r.Context(), func(s *state) ([]record, any, *apiError) {
		records, err := s.planMode(c.subject(), r.Mode, c.flag("force"))
		return records, r, err
	})
}

func (c *call) deleteMode() (any, *apiError) {
	return c.s.submit(c.r.Context(), func(s *state) ([]record, any, *apiError) {
		records, old, err := s.planDeleteMode(c.subject())
		return records, modeBody{old}, err
	})
}
