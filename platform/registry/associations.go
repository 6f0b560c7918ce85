package registry

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

const (
	lifecycleWeak   = "WEAK"
	lifecycleStrong = "STRONG" // the resource owns the subject
	resourceTopic   = "topic"
	anyResource     = "-" // in paths: whatever the name or the namespace
)

// An assocKey is the key of an ASSOC record: this resource uses that subject for its keys or its values.
type assocKey struct {
	Keytype   string `json:"keytype"`
	Tenant    string `json:"tenant"`
	Name      string `json:"resourceName"`
	Namespace string `json:"resourceNamespace"`
	Resource  string `json:"resourceType"`
	Type      string `json:"associationType"` // key or value
	Subject   string `json:"subject"`
	Magic     int    `json:"magic"`
}

// An assocValue is the value of an ASSOC record.
type assocValue struct {
	Subject   string `json:"subject"`
	GUID      string `json:"guid"`
	Tenant    string `json:"tenant"`
	Name      string `json:"resourceName"`
	Namespace string `json:"resourceNamespace"`
	ID        string `json:"resourceId"`
	Resource  string `json:"resourceType"`
	Type      string `json:"associationType"`
	Lifecycle string `json:"lifecycle"`
	Frozen    bool   `json:"frozen"`
	Created   *int64 `json:"createTs,omitempty"`
}

func (a assocValue) key() assocKey {
	return assocKey{keyAssociation, a.Tenant, a.Name, a.Namespace, a.Resource, a.Type, a.Subject, 0}
}

func (s *state) applyAssociation(key, value []byte) error {
	var k assocKey
	if err := json.Unmarshal(key, &k); err != nil || k.Name == "" || k.Namespace == "" || k.Resource == "" || k.Type == "" || k.Subject == "" {
		return errors.Join(errors.New("the key names no association"), err)
	}
	k.Subject, k.Magic = qualify(defaultContext, k.Subject), 0
	if value == nil {
		delete(s.assocs, k)
		return nil
	}
	var v assocValue
	if err := json.Unmarshal(value, &v); err != nil || v.Lifecycle != lifecycleWeak && v.Lifecycle != lifecycleStrong {
		return errors.Join(errors.New("the association is not understood"), err)
	}
	v.Tenant, v.Name, v.Namespace, v.Resource, v.Type, v.Subject = k.Tenant, k.Name, k.Namespace, k.Resource, k.Type, k.Subject
	s.assocs[k] = v
	return nil
}

// associations returns those that which picks, in the order of their resources.
func (s *state) associations(which func(a *assocValue) bool) []assocValue {
	out := []assocValue{}
	for _, a := range s.assocs {
		if which(&a) {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b assocValue) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Resource, b.Resource), strings.Compare(a.Type, b.Type), strings.Compare(a.Subject, b.Subject))
	})
	return out
}

func (s *state) associationsFor(subject string) []assocValue {
	if len(s.assocs) == 0 {
		return nil
	}
	return s.associations(func(a *assocValue) bool { return a.Subject == subject })
}

func (s *state) stronglyAssociated(subject string) bool {
	return slices.ContainsFunc(s.associationsFor(subject), func(a assocValue) bool { return a.Lifecycle == lifecycleStrong })
}

func noActiveVersion(subject string) *apiError {
	return refuse(codeNoActiveVersion, "No active (non-deleted) version exists for subject '%s'", subject)
}

// An assocRequest is the body of requests that make associations.
type assocRequest struct {
	Name         string      `json:"resourceName"`
	Namespace    string      `json:"resourceNamespace"`
	ID           string      `json:"resourceId"`
	Resource     string      `json:"resourceType"`
	Associations []assocInfo `json:"associations"`
}

// An assocInfo is one association in a request, and in its answer.
type assocInfo struct {
	Subject   string          `json:"subject,omitempty"`
	Type      string          `json:"associationType,omitempty"`
	Lifecycle string          `json:"lifecycle,omitempty"`
	Frozen    bool            `json:"frozen"`
	Schema    json.RawMessage `json:"schema,omitempty"`
	guid      string
}

// check completes a request and refuses what no registry takes, and associations that own their subject: only a broker makes those,
// together with the topic.
func (r *assocRequest) check(dryRun bool) *apiError {
	wrong := func(what, how string) *apiError {
		return refuse(codeInvalidAssociation, "The association's %s %s", what, how)
	}
	for _, field := range []struct{ what, value string }{{"resourceName", r.Name}, {"resourceNamespace", r.Namespace}, {"resourceId", r.ID}} {
		if field.value == "" && !(dryRun && field.what == "resourceId") {
			return wrong(field.what, "cannot be empty")
		}
		if len(field.value) > maxSubjectBytes || field.value == anyResource || strings.ContainsFunc(field.value, func(c rune) bool { return c < 0x20 || c == 0x7f || c == 0xfffd }) {
			return wrong(field.what, "is not a valid name")
		}
	}
	if r.Resource = cmp.Or(r.Resource, resourceTopic); r.Resource != resourceTopic {
		return wrong("resourceType", "must be 'topic'")
	}
	if len(r.Associations) == 0 {
		return wrong("associations", "cannot be empty")
	}
	seen := map[string]bool{}
	for i := range r.Associations {
		a := &r.Associations[i]
		a.Type, a.Lifecycle = cmp.Or(a.Type, "value"), strings.ToUpper(a.Lifecycle)
		switch {
		case a.Type != "key" && a.Type != "value":
			return wrong("associationType", "must be either 'key' or 'value'")
		case seen[a.Type]:
			return wrong("associationType", "may only appear once per request")
		case a.Lifecycle == lifecycleStrong, a.Lifecycle == "" && !absent(a.Schema):
			return wrong("lifecycle", "cannot be STRONG here: such an association is made with its topic, by the broker")
		case a.Lifecycle != lifecycleWeak && a.Lifecycle != "":
			return wrong("lifecycle", "must be WEAK or STRONG")
		case !absent(a.Schema):
			return wrong("lifecycle", "cannot be WEAK when schema is provided")
		case a.Frozen:
			return wrong("frozen", "cannot be true when lifecycle is WEAK")
		}
		seen[a.Type], a.Lifecycle = true, lifecycleWeak
	}
	return nil
}

// planAssociations returns the records that make what the request asks for, none for what there is already. Without create, an
// association of that type to another subject is not replaced either: the subject of an association never changes.
func (s *state) planAssociations(context string, r *assocRequest, create bool) ([]record, *apiError) {
	var records []record
	for i := range r.Associations {
		info := &r.Associations[i]
		existing := s.associations(func(a *assocValue) bool { return a.ID == r.ID && a.Resource == r.Resource })
		if slices.ContainsFunc(existing, func(a assocValue) bool { return a.Lifecycle == lifecycleStrong }) {
			return nil, refuse(codeInvalidAssociation, "The association's lifecycle must be the same as that of the others of its resource, STRONG")
		}
		j := slices.IndexFunc(existing, func(a assocValue) bool { return a.Type == info.Type })
		if info.Subject == "" && j >= 0 && !create {
			info.Subject = existing[j].Subject
		}
		if info.Subject == "" {
			return nil, refuse(codeInvalidAssociation, "The association's subject must be provided for WEAK associations")
		}
		subject := s.aliased(qualify(context, info.Subject))
		if err := checkSubject(subject); err != nil {
			return nil, err
		}
		info.Subject = subject
		if own := ":." + r.Namespace + ":" + r.Name + "-" + info.Type; subject == own {
			return nil, refuse(codeInvalidAssociation, "The association's subject cannot be '%s' when lifecycle is WEAK", clip(own))
		}
		if err := s.writable(subject); err != nil {
			return nil, err
		}
		switch {
		case j >= 0 && existing[j].Subject == subject:
			continue
		case j >= 0 && create:
			return nil, refuse(codeResourceAssociated, "An association of type '%s' already exists for resource '%s'", info.Type, clip(r.Name))
		case j >= 0:
			return nil, refuse(codeInvalidAssociation, "The association's subject cannot be changed from '%s' to '%s'", existing[j].Subject, clip(subject))
		case len(s.live(subject, false)) == 0:
			return nil, noActiveVersion(subject)
		case s.stronglyAssociated(subject):
			return nil, refuse(codeSubjectStrong, "A strong association already exists for subject '%s'", subject)
		}
		v := assocValue{Subject: subject, GUID: info.guid, Tenant: tenant, Name: r.Name, Namespace: r.Namespace, ID: r.ID, Resource: r.Resource, Type: info.Type, Lifecycle: lifecycleWeak}
		records = append(records, record{encode(v.key()), encode(v)})
	}
	return records, nil
}

// planDeleteAssociations returns the records that delete the associations of a resource; with cascade also the subjects that it owns.
func (s *state) planDeleteAssociations(which func(*assocValue) bool, id string, cascade bool) ([]record, *apiError) {
	list := s.associations(which)
	if len(list) == 0 {
		return nil, refuse(codeNoAssociation, "Association for '%s' not found.", clip(id))
	}
	var records []record
	for _, a := range list {
		if err := s.writable(a.Subject); err != nil {
			return nil, err
		}
		if a.Frozen && !cascade {
			return nil, refuse(codeFrozen, "The association of type '%s' is frozen for subject '%s'", a.Type, a.Subject)
		}
		records = append(records, record{key: encode(a.key())})
		if a.Lifecycle != lifecycleStrong || !cascade || takesIDs(s.modeOf(a.Subject)) {
			continue
		}
		versions := s.live(a.Subject, true)
		for _, v := range versions {
			if ids := s.referencedBy(a.Subject, v.number, true); len(ids) > 0 {
				return nil, refuse(codeReferenced, "One or more references exist to the schema {subject=%s,version=%d}: ids %v.", a.Subject, v.number, ids)
			}
		}
		if len(versions) > 0 {
			records = append(append(records, tombstones(versions...)...), s.maxIDRecord(a.Subject))
			records = append(records, s.forget(func(scope string) bool { return scope == a.Subject })...)
		}
	}
	return records, nil
}

// An assocAnswer describes one association.
type assocAnswer struct {
	Subject   string `json:"subject"`
	GUID      string `json:"guid,omitempty"`
	Name      string `json:"resourceName"`
	Namespace string `json:"resourceNamespace"`
	ID        string `json:"resourceId,omitempty"`
	Resource  string `json:"resourceType"`
	Type      string `json:"associationType"`
	Lifecycle string `json:"lifecycle"`
	Frozen    bool   `json:"frozen"`
}

// picked reports whether an association is of the kinds that the request's parameters name.
func (c *call) picked(a *assocValue) bool {
	types := slices.DeleteFunc(slices.Clone(c.query["associationType"]), func(t string) bool { return t == "" })
	lifecycle := c.query.Get("lifecycle")
	return a.Resource == cmp.Or(c.query.Get("resourceType"), resourceTopic) &&
		(len(types) == 0 || slices.Contains(types, a.Type)) &&
		(lifecycle == "" || strings.EqualFold(lifecycle, a.Lifecycle))
}

func (c *call) associationsWhere(which func(*assocValue) bool) (any, *apiError) {
	return c.s.read(func(s *state) (any, *apiError) {
		list := []assocAnswer{}
		for _, a := range s.associations(func(a *assocValue) bool { return which(a) && c.picked(a) }) {
			list = append(list, assocAnswer{a.Subject, a.GUID, a.Name, a.Namespace, a.ID, a.Resource, a.Type, a.Lifecycle, a.Frozen})
		}
		return page(c, list)
	})
}

func (c *call) associationsOfSubject() (any, *apiError) {
	return c.associationsWhere(func(a *assocValue) bool { return a.Subject == c.subject() })
}

func (c *call) associationsOfID() (any, *apiError) {
	id := c.r.PathValue("resource")
	return c.associationsWhere(func(a *assocValue) bool { return a.ID == id })
}

// associationsOfName answers what clients ask before they serialize: which subject a topic's keys or values have. They know no
// namespace and ask for any.
func (c *call) associationsOfName() (any, *apiError) {
	namespace, name := c.r.PathValue("namespace"), c.r.PathValue("name")
	return c.associationsWhere(func(a *assocValue) bool {
		return (name == anyResource || a.Name == name) && (namespace == anyResource || a.Namespace == namespace)
	})
}

func (c *call) createAssociations() (any, *apiError) { return c.putAssociations(true) }

func (c *call) updateAssociations() (any, *apiError) { return c.putAssociations(false) }

func (c *call) putAssociations(create bool) (any, *apiError) {
	var r assocRequest
	if err := c.body(&r); err != nil {
		return nil, err
	}
	dryRun := c.flag("dryRun")
	if !create {
		id := c.r.PathValue("resource")
		if r.ID = cmp.Or(r.ID, id); r.ID != id {
			return nil, refuse(codeInvalidAssociation, "The association's resourceId is not that of the path")
		}
	}
	if err := r.check(dryRun); err != nil {
		return nil, err
	}
	for i := range r.Associations {
		r.Associations[i].guid = newGUID()
	}
	context := c.context
	if name := c.query.Get("context"); name != "" {
		context = normalContext(name)
		if checkScope(qualify(context, "")) != nil {
			return nil, refuse(http.StatusNotFound, "HTTP 404 Not Found")
		}
	}
	return c.submit(func(s *state) ([]record, any, *apiError) {
		answer := r // the plan may be made more than once
		answer.Associations = slices.Clone(r.Associations)
		records, err := s.planAssociations(context, &answer, create)
		if dryRun {
			records, answer.Associations = nil, []assocInfo{}
		}
		return records, answer, err
	})
}

func (c *call) deleteAssociations() (any, *apiError) {
	id := c.r.PathValue("resource")
	return c.submit(func(s *state) ([]record, any, *apiError) {
		records, err := s.planDeleteAssociations(func(a *assocValue) bool { return a.ID == id && c.picked(a) }, id, c.flag("cascadeLifecycle"))
		if c.flag("dryRun") {
			records = nil
		}
		return records, nothing{}, err
	})
}

// newGUID returns a random UUID.
func newGUID() string {
	var g guid
	_, _ = rand.Read(g[:]) // never fails
	g[6], g[8] = g[6]&0x0f|0x40, g[8]&0x3f|0x80
	return fmt.Sprint(g)
}
