package service

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"gopkg.in/yaml.v3"

	"github.com/millrace/millrace/platform/command"
	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/contract/avrofile"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/rest"
)

// An operation is what the OpenAPI document says of a route beside its method and path.
type operation struct {
	id, summary, description, tag string
	params                        []parameter
	body                          func(*rest.Schemas) *rest.Schema // nil = it takes none
	needsBody                     bool
	answers                       []response
	problems                      []int // the statuses of problems that are worth naming
}

// A parameter is a query parameter, or a reference to one of the header fields of requestHeaders.
type parameter struct {
	Ref         string       `json:"$ref,omitempty"`
	Name        string       `json:"name,omitempty"`
	In          string       `json:"in,omitempty"`
	Description string       `json:"description,omitempty"`
	Required    bool         `json:"required,omitempty"`
	Schema      *rest.Schema `json:"schema,omitempty"`
}

// A response is one answer that is no problem.
type response struct {
	status  int
	says    string
	headers []string // of responseHeaders
	content map[string]func(*rest.Schemas) *rest.Schema
}

func query(name, says string, s *rest.Schema) parameter {
	return parameter{Name: name, In: "query", Description: says, Schema: s}
}

func header(name string) parameter { return parameter{Ref: "#/components/parameters/" + name} }

func text(says string) *rest.Schema {
	return &rest.Schema{Type: rest.Types{"string"}, Description: says}
}

func whole(least, most int64) *rest.Schema {
	s := &rest.Schema{Type: rest.Types{"integer"}, Format: "int64", Minimum: json.Number(strconv.FormatInt(least, 10))}
	if most > 0 {
		s.Maximum = json.Number(strconv.FormatInt(most, 10))
	}
	return s
}

func when() *rest.Schema { return &rest.Schema{Type: rest.Types{"string"}, Format: "date-time"} }

func answered[T any]() func(*rest.Schemas) *rest.Schema {
	return func(s *rest.Schemas) *rest.Schema { return s.Answer(reflect.TypeFor[T]()) }
}

func asJSON(f func(*rest.Schemas) *rest.Schema) map[string]func(*rest.Schemas) *rest.Schema {
	return map[string]func(*rest.Schemas) *rest.Schema{"application/json": f}
}

// requestHeaders and responseHeaders are the header fields that mean something here.
var (
	requestHeaders = map[string]parameter{
		"Idempotency-Key": {Description: "the command id, a quoted string or bare; made and returned when absent. The command takes effect at most once under it, for ever", Schema: text("")},
		"If-Match":        {Description: "the version that the stream must have, in double quotes; else 412", Schema: &rest.Schema{Type: rest.Types{"string"}, Pattern: `^"(0|[1-9][0-9]*)"$`}},
		"If-None-Match":   {Description: "* = the stream must be new; else 412", Schema: &rest.Schema{Type: rest.Types{"string"}, Const: "*"}},
		"Prefer":          {Description: "respond-async: 202 at once, and an operation that tells what became of the command", Schema: text("")},
		"Traceparent":     {Description: "W3C trace context, which goes into the events", Schema: text("")},
		"Last-Event-Id":   {Description: "of server-sent events: the id of the last one that was seen; goes on after it if that is known still, else begins anew", Schema: text("")},
		"Millrace-At-Least": {Description: "positions, comma separated, that the answer must include: waits until they are applied, then 503 not_caught_up",
			Schema: text("topic/partition@offset,…")},
	}
	responseHeaders = map[string]parameter{
		"Etag":                 {Description: "the version of the stream, the row, or everything that a list is of", Schema: &rest.Schema{Type: rest.Types{"string"}, Pattern: `^(W/)?".*"$`}},
		"Idempotency-Key":      {Description: "the command id", Schema: text("")},
		"Idempotent-Replayed":  {Description: "the command had taken effect before; this is its first receipt", Schema: &rest.Schema{Type: rest.Types{"string"}, Const: "true"}},
		"Location":             {Description: "of the operation", Schema: text("")},
		"Millrace-Lag-Seconds": {Description: "the age of the oldest event that is not applied; 0 = caught up", Schema: &rest.Schema{Type: rest.Types{"number"}}},
		"Millrace-Position":    {Description: "positions, comma separated: of what was appended or read last, or what the answer is based on", Schema: text("")},
		"Preference-Applied":   {Description: "the preference that was heeded", Schema: text("")},
		"Retry-After":          {Description: "seconds to wait", Schema: whole(0, 0)},
		"Vary":                 {Description: "the request header fields that the answer depends on", Schema: text("")},
		"Www-Authenticate":     {Description: "how to say who you are", Schema: text("")},
	}
)

// problemStatuses says what each status of a problem means.
var problemStatuses = map[int]string{
	400: "the request cannot be read; errors points at each faulty place",
	401: "it is not known who you are",
	403: "you are not allowed to do this",
	404: "there is no such stream, row, build, operation or command",
	409: "it exists already, or the log cannot be read from there; the build ends before what is asked for, or a row cannot be written as Avro",
	412: "the stream has another version, which current_version tells",
	413: "too long: the body, or what the command causes",
	415: "the body is not uncompressed application/json",
	422: "the domain refuses, or the command id was used for another command",
	429: "slow down",
	500: "a fault of the service",
	503: "not now; repeat later, with the same Idempotency-Key",
	504: "it is not known whether the command took effect: repeat it with the same Idempotency-Key",
}

const describeStreams = "A stream's id has 1 to 256 bytes of UTF-8 without slashes, control and invisible characters."

func commandDoc(aggregate, name string, t reflect.Type) *operation {
	return &operation{
		id: aggregate + "." + name, tag: aggregate, summary: name + ": decide a command",
		params: []parameter{header("Idempotency-Key"), header("If-Match"), header("If-None-Match"), header("Prefer"), header("Traceparent")},
		body:   func(s *rest.Schemas) *rest.Schema { return s.Body(t) },
		answers: []response{
			{status: 200, says: "the receipt: the events are in the log; without events there was nothing left to do", headers: []string{"Etag", "Millrace-Position", "Idempotency-Key", "Idempotent-Replayed"}, content: asJSON(answered[command.Receipt]())},
			{status: 202, says: "accepted, to be decided later", headers: []string{"Location", "Retry-After", "Preference-Applied", "Vary", "Idempotency-Key"}},
		},
		problems: []int{400, 404, 409, 412, 413, 415, 422, 429, 500, 503, 504},
	}
}

func stateDoc(aggregate string, state reflect.Type, event func(*rest.Schemas) *rest.Schema) *operation {
	return &operation{
		id: aggregate + ".state", tag: aggregate, summary: "the state of a stream, now or then",
		params: []parameter{
			query("version", "the state after this version", whole(1, 0)),
			query("at", "the state after what was accepted up to this time", when()),
			query("diff", "tells also what the next version changed", &rest.Schema{Type: rest.Types{"string"}, Enum: []any{"next"}}),
		},
		answers: []response{
			{status: 200, says: "the state; with diff=next an object of version, last_version, state and, unless it is the last, next", headers: []string{"Etag", "Millrace-Position"}, content: asJSON(func(s *rest.Schemas) *rest.Schema {
				moment := s.Add(camel(aggregate)+"Moment", &rest.Schema{
					Type: rest.Types{"object"}, Description: "a state, and what came next",
					Properties: rest.Properties{
						{Name: "version", Schema: whole(1, 0)}, {Name: "last_version", Schema: whole(1, 0)}, {Name: "state", Schema: s.Answer(state)},
						{Name: "next", Schema: &rest.Schema{
							Type: rest.Types{"object"},
							Properties: rest.Properties{
								{Name: "version", Schema: whole(1, 0)}, {Name: "events", Schema: &rest.Schema{Type: rest.Types{"array"}, Items: event(s)}},
								{Name: "changes", Schema: &rest.Schema{Type: rest.Types{"array"}, Items: s.Answer(reflect.TypeFor[command.Change]())}},
							}, Required: []string{"version", "events", "changes"},
						}},
					}, Required: []string{"version", "last_version", "state"},
				})
				return &rest.Schema{AnyOf: []*rest.Schema{s.Answer(state), moment}}
			})},
			{status: 304, says: "the state is still the one of If-None-Match", headers: []string{"Etag", "Millrace-Position"}},
		},
		problems: []int{400, 404, 500, 503},
	}
}

func eventsDoc(aggregate string, event func(*rest.Schemas) *rest.Schema) *operation {
	return &operation{
		id: aggregate + ".events", tag: aggregate, summary: "the events of a stream",
		description: "With Accept: application/x-ndjson each event is a line, and without limit all of them come.",
		params: []parameter{
			query("from", "the version to begin with; backward it is the higher one", whole(1, 0)),
			query("to", "the version to end with", whole(1, 0)),
			query("until", "only what was accepted up to this time", when()),
			query("direction", "", &rest.Schema{Type: rest.Types{"string"}, Enum: []any{"forward", "backward"}, Default: "forward"}),
			query("limit", "versions in a page; 100 by default. A page may end earlier, for it is bounded in bytes, too", whole(1, pageMost)),
		},
		answers: []response{{status: 200, says: "a page; next is the from of the next page and absent at the end", content: map[string]func(*rest.Schemas) *rest.Schema{
			"application/json": func(s *rest.Schemas) *rest.Schema {
				return s.Add(camel(aggregate)+"Page", &rest.Schema{Type: rest.Types{"object"}, Properties: rest.Properties{
					{Name: "events", Schema: &rest.Schema{Type: rest.Types{"array"}, Items: event(s)}}, {Name: "next", Schema: whole(1, 0)}, {Name: "last_version", Schema: whole(1, 0)},
				}, Required: []string{"events", "last_version"}})
			},
			typeLines: func(*rest.Schemas) *rest.Schema { return text("one event in each line") },
		}}},
		problems: []int{400, 404, 500, 503},
	}
}

func metadataDoc(aggregate string) *operation {
	return &operation{
		id: aggregate + ".metadata", tag: aggregate, summary: "what is known of a stream beside its events",
		answers:  []response{{status: 200, says: "versions, times, size and the position of the last event", headers: []string{"Etag", "Millrace-Position"}, content: asJSON(answered[command.Metadata]())}},
		problems: []int{400, 404, 500, 503},
	}
}

func categoryDoc(aggregate string, event func(*rest.Schemas) *rest.Schema) *operation {
	return &operation{
		id: aggregate + ".all-events", tag: aggregate, summary: "the events of all streams",
		description: "Those of one stream are in order; different streams have none. With Accept: application/x-ndjson each event is a line, and without limit all come that are there.",
		params: []parameter{
			query("after", "positions, comma separated: what follows them. A partition that is not named is read from its start", text("")),
			query("cursor", "next of an earlier page", text("")),
			query("types", "only events of these types, comma separated", text("")),
			query("limit", "events in a page; 100 by default. A page may end earlier, for it is bounded in bytes, too", whole(1, pageMost)),
			query("wait", "seconds to wait for events if there are none", whole(0, categoryMax)),
		},
		answers: []response{{status: 200, says: "a page; next is the cursor of the next page, also when end says that nothing more was there", headers: []string{"Millrace-Position"}, content: map[string]func(*rest.Schemas) *rest.Schema{
			"application/json": func(s *rest.Schemas) *rest.Schema {
				return s.Add(camel(aggregate)+"Events", &rest.Schema{Type: rest.Types{"object"}, Properties: rest.Properties{
					{Name: "events", Schema: &rest.Schema{Type: rest.Types{"array"}, Items: event(s)}}, {Name: "next", Schema: text("")}, {Name: "end", Schema: &rest.Schema{Type: rest.Types{"boolean"}}},
				}, Required: []string{"events", "next", "end"}})
			},
			typeLines: func(*rest.Schemas) *rest.Schema { return text("one event in each line") },
		}}},
		problems: []int{400, 409, 500, 503},
	}
}

func operationDoc() *operation {
	return &operation{
		id: "operation", tag: "operations", summary: "what became of a command sent with Prefer: respond-async",
		answers: []response{
			{status: 200, says: "the receipt", headers: []string{"Etag", "Millrace-Position", "Idempotent-Replayed"}, content: asJSON(answered[command.Receipt]())},
			{status: 202, says: "under way", headers: []string{"Retry-After"}},
		},
		problems: []int{400, 404, 409, 412, 413, 422, 429, 500, 503, 504}, // those of the command itself
	}
}

// batchDoc describes the batch for all aggregates that take part, which are known when the document is asked for.
func (h *host) batchDoc() *operation {
	return &operation{
		id: "batch", tag: "batch", summary: "decide up to " + strconv.Itoa(MaxBatch) + " commands",
		description: "Each command is atomic by itself. Those of one stream are decided in their order, those of different streams at the same time. " +
			"The Idempotency-Key counts for the whole: the id of the command at index i is <key>:<i>, unless it has its own command_id. Prefer: respond-async is not heeded.",
		params: []parameter{header("Idempotency-Key"), header("Traceparent")}, needsBody: true,
		body: func(s *rest.Schemas) *rest.Schema {
			var all []*rest.Schema
			for _, rt := range h.described {
				// The commands' own routes tell what they are.
				aggregate, name, ok := commandOf(rt)
				if !ok {
					continue
				}
				all = append(all, s.Add(camel(aggregate)+camel(name)+"Command", &rest.Schema{
					Type: rest.Types{"object"}, AdditionalProperties: &rest.Additional{},
					Properties: rest.Properties{
						{Name: "aggregate", Schema: &rest.Schema{Type: rest.Types{"string"}, Const: aggregate}},
						{Name: "id", Schema: &rest.Schema{Type: rest.Types{"string"}, MinLength: 1, MaxLength: es.MaxIDBytes, Description: "of the stream"}},
						{Name: "command", Schema: &rest.Schema{Type: rest.Types{"string"}, Const: name}},
						{Name: "command_id", Schema: &rest.Schema{Type: rest.Types{"string"}, MaxLength: es.MaxIDBytes}},
						{Name: "expected_version", Schema: &rest.Schema{Type: rest.Types{"integer", "null"}, Format: "int64", Minimum: "0"}},
						{Name: "data", Schema: rt.doc.body(s)},
					}, Required: []string{"aggregate", "id", "command"},
				}))
			}
			most := MaxBatch
			return &rest.Schema{
				Type: rest.Types{"object"}, AdditionalProperties: &rest.Additional{}, Required: []string{"commands"},
				Properties: rest.Properties{{Name: "commands", Schema: &rest.Schema{Type: rest.Types{"array"}, Items: &rest.Schema{AnyOf: all}, MinItems: 1, MaxItems: &most}}},
			}
		},
		answers: []response{{status: 200, says: "the result of each command, in the order of the commands", headers: []string{"Millrace-Position", "Idempotency-Key"}, content: asJSON(func(s *rest.Schemas) *rest.Schema {
			one := s.Add("BatchResult", &rest.Schema{
				Type: rest.Types{"object"},
				Properties: rest.Properties{
					{Name: "status", Schema: whole(200, 599)}, {Name: "command_id", Schema: text("")},
					{Name: "receipt", Schema: s.Answer(reflect.TypeFor[command.Receipt]())}, {Name: "replayed", Schema: &rest.Schema{Type: rest.Types{"boolean"}}},
					{Name: "problem", Schema: s.Answer(reflect.TypeFor[rest.Problem]())},
				}, Required: []string{"status", "command_id"},
			})
			return &rest.Schema{Type: rest.Types{"object"}, Required: []string{"results"}, Properties: rest.Properties{{Name: "results", Schema: &rest.Schema{Type: rest.Types{"array"}, Items: one}}}}
		})}},
		problems: []int{400, 413, 415, 429, 500, 503},
	}
}

// commandOf returns whose command a route decides; false if it decides none.
func commandOf(rt route) (aggregate, name string, ok bool) {
	parts := strings.Split(rt.pattern, "/") // "", v1, aggregate, :id, command
	if rt.method != http.MethodPost || len(parts) != 5 || parts[3] != ":id" {
		return "", "", false
	}
	return parts[2], parts[4], true
}

var freshHeaders = []string{"Millrace-Position", "Millrace-Lag-Seconds"}

// anything is the schema of what has too many forms to tell.
func anything(says string) *rest.Schema { return &rest.Schema{Description: says} }

// formParams are what both routes of a view take: which build answers, and how rows are written.
func formParams() []parameter {
	return []parameter{
		query("build", "the build that answers, which need not be the one that answers queries, nor be caught up; its cursors and tags are its own", &rest.Schema{Type: rest.Types{"string"}, Pattern: `^(v[0-9]+-[0-9]+)?$`}),
		query("fields", "only these fields of each row, comma separated", text("")),
		query("explain", "1 = each row with its key and the event that changed it last", text("")),
	}
}

// rowSchema is a row as it is, some of its fields, or explained.
func rowSchema(v View) func(*rest.Schemas) *rest.Schema {
	return func(s *rest.Schemas) *rest.Schema {
		return &rest.Schema{AnyOf: []*rest.Schema{s.Answer(v.row), anything("some fields of a row, or a row explained")}}
	}
}

func rowDoc(v View) *operation {
	return &operation{
		id: "views." + v.name + ".row", tag: "views", summary: "one row of " + v.name, params: append([]parameter{header("Millrace-At-Least"), header("Last-Event-Id")}, formParams()...),
		answers: []response{
			{status: 200, says: "the row; as server-sent events, the row and what becomes of it", headers: append([]string{"Etag"}, freshHeaders...), content: map[string]func(*rest.Schemas) *rest.Schema{
				"application/json": rowSchema(v), typeEvents: func(*rest.Schemas) *rest.Schema { return text("events state and change") },
			}},
			{status: 304, says: "the row is still the one of If-None-Match", headers: append([]string{"Etag"}, freshHeaders...)},
		},
		problems: []int{400, 404, 409, 500, 503},
	}
}

func listDoc(v View, indexes []index) *operation {
	params := []parameter{header("Millrace-At-Least"), header("Last-Event-Id")}
	for _, x := range indexes {
		kinds := make([]string, len(x.kinds))
		for i, k := range x.kinds {
			kinds[i] = k.String()
		}
		values, says := text(""), "only rows with this value in the index ("+kinds[0]+"), in its order; one index at a time"
		if len(kinds) > 1 {
			values = &rest.Schema{Type: rest.Types{"array"}, Items: text("")}
			says = "only rows with these values of the first parts of the index (" + strings.Join(kinds, ", ") + "), in its order; one index at a time"
		}
		params = append(params, query(x.name, says, values),
			query(x.name+".from", "the first value of the next part of the index "+x.name, text("")),
			query(x.name+".to", "the last value of it", text("")), query(x.name+".prefix", "how it begins, if it is text", text("")))
	}
	params = append(params,
		query("from", "the first key", text("")), query("to", "the last key", text("")), query("prefix", "how keys begin", text("")),
		query("order", "desc = from the last to the first", &rest.Schema{Type: rest.Types{"string"}, Enum: []any{"asc", "desc"}}),
		query("where", "only rows for which this CEL expression is true; a page looks at "+strconv.Itoa(projection.MaxScan)+" rows at most, and may have fewer than limit", text("")),
		query("limit", "rows in a page; "+strconv.Itoa(projection.DefaultLimit)+" by default", whole(1, projection.MaxLimit)),
		query("cursor", "next of the page before", text("")),
		query("count", "1 = how many rows there are, in place of them", text("")),
		query("changed_by", "the rows that the event at this position changed; nothing but fields, explain and build beside it", text("topic/partition@offset")),
	)
	return &operation{
		id: "views." + v.name + ".list", tag: "views", summary: "rows of " + v.name + " in the order of an index, or of their keys",
		params: append(params, formParams()...),
		answers: []response{
			{status: 200, says: "a page; next is the cursor of the next page and absent at the end. As NDJSON, all rows, one a line; as Avro, all rows, in an object container file; as server-sent events, the first page and what changes",
				headers: append([]string{"Etag"}, freshHeaders...), content: map[string]func(*rest.Schemas) *rest.Schema{
					"application/json": func(s *rest.Schemas) *rest.Schema {
						page := &rest.Schema{Type: rest.Types{"object"}, Required: []string{"rows"}, Properties: rest.Properties{
							{Name: "rows", Schema: &rest.Schema{Type: rest.Types{"array"}, Items: rowSchema(v)(s)}}, {Name: "next", Schema: text("")},
							{Name: "gone", Schema: &rest.Schema{Type: rest.Types{"array"}, Items: text("")}},
						}}
						return &rest.Schema{AnyOf: []*rest.Schema{page, s.Answer(reflect.TypeFor[countJSON]())}}
					},
					typeNDJSON: func(*rest.Schemas) *rest.Schema { return text("a row a line; the trailer Millrace-Rows is how many") },
					avrofile.Media: func(*rest.Schemas) *rest.Schema {
						return &rest.Schema{Description: "the file; the trailer Millrace-Rows is how many rows it has"}
					},
					typeEvents: func(*rest.Schemas) *rest.Schema { return text("events state and change") },
				}},
			{status: 304, says: "nothing was applied since the page with the tag of If-None-Match", headers: append([]string{"Etag"}, freshHeaders...)},
		},
		problems: []int{400, 404, 409, 500, 503},
	}
}

// eventSchema returns the schema of an event as clients see it, one of the contract's types.
func eventSchema[E any](aggregate string, set contract.Set[E]) func(*rest.Schemas) *rest.Schema {
	return func(s *rest.Schemas) *rest.Schema {
		var all []*rest.Schema
		for _, t := range set.Types {
			parsed, err := contract.Parse(t.Schema())
			if err != nil {
				continue // the service does not start with it
			}
			one := *s.Components()[refName(s.Answer(reflect.TypeFor[eventJSON]()))]
			one.Description = ""
			one.Properties = slices.Clone(one.Properties)
			for i, p := range one.Properties {
				switch p.Name {
				case "type":
					one.Properties[i].Schema = &rest.Schema{Type: rest.Types{"string"}, Const: parsed.Name()}
				case "data":
					one.Properties[i].Schema = s.Answer(t.GoType())
				}
			}
			all = append(all, s.Add(camel(aggregate)+camel(t.GoType().Name()), &one))
		}
		return s.Add(camel(aggregate)+"Event", &rest.Schema{AnyOf: all})
	}
}

func refName(s *rest.Schema) string { return strings.TrimPrefix(s.Ref, "#/components/schemas/") }

// camel turns a name in kebab case into one of a component: order-lines → OrderLines.
func camel(name string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(name, "-") {
		if part != "" {
			b.WriteString(strings.ToUpper(part[:1]) + part[1:])
		}
	}
	return b.String()
}

var pathParameter = regexp.MustCompile(`:([a-z]+)`)

// template returns a pattern as OpenAPI writes it: :id → {id}.
func template(pattern string) string { return pathParameter.ReplaceAllString(pattern, "{$1}") }

// document adds the routes of the OpenAPI document, which is made when it is first asked for: then all roles have added theirs.
func (h *host) document() {
	type texts struct{ json, yaml []byte }
	made := sync.OnceValues(func() (texts, error) {
		asJSON, err := h.openAPI()
		if err != nil {
			return texts{}, err
		}
		asYAML, err := toYAML(asJSON)
		return texts{asJSON, asYAML}, err
	})
	serve := func(pattern, contentType string, text func(texts) []byte) {
		h.http.Handle(http.MethodGet, pattern, func(_ context.Context, r *rest.Request) (*rest.Response, error) {
			if _, err := r.Only(); err != nil {
				return nil, err
			}
			t, err := made()
			if err != nil {
				return nil, err
			}
			return &rest.Response{Status: http.StatusOK, Body: text(t), ContentType: contentType}, nil
		})
	}
	serve("/openapi.json", "application/json", func(t texts) []byte { return t.json })
	serve("/openapi.yaml", "application/yaml", func(t texts) []byte { return t.yaml })
}

// openRoutes are answered to everybody: they tell nothing that is worth guarding.
func openRoutes() []route {
	plain := func(*rest.Schemas) *rest.Schema { return text("") }
	anything := func(*rest.Schemas) *rest.Schema { return &rest.Schema{Type: rest.Types{"object"}} }
	verbose := []parameter{query("verbose", "a report as JSON; needs no value", text(""))}
	health := map[string]func(*rest.Schemas) *rest.Schema{"text/plain": plain, "application/json": answered[rest.Health]()}
	return []route{
		{method: http.MethodGet, pattern: "/livez", doc: &operation{id: "livez", tag: "health", summary: "whether the process can answer at all", params: verbose,
			answers: []response{{status: 200, says: "it can", content: health}}, problems: []int{400}}},
		{method: http.MethodGet, pattern: "/readyz", doc: &operation{id: "readyz", tag: "health", summary: "whether the process is ready for traffic", params: verbose,
			answers: []response{{status: 200, says: "it is", content: health}, {status: 503, says: "it is not", headers: []string{"Retry-After"},
				content: map[string]func(*rest.Schemas) *rest.Schema{"application/json": answered[rest.Health](), "application/problem+json": answered[rest.Problem]()}}}, problems: []int{400}}},
		{method: http.MethodGet, pattern: "/openapi.json", doc: &operation{id: "openapi", tag: "documents", summary: "this document",
			answers: []response{{status: 200, says: "OpenAPI 3.1", content: asJSON(anything)}}, problems: []int{400}}},
		{method: http.MethodGet, pattern: "/openapi.yaml", doc: &operation{id: "openapi-yaml", tag: "documents", summary: "this document as YAML",
			answers: []response{{status: 200, says: "OpenAPI 3.1", content: map[string]func(*rest.Schemas) *rest.Schema{"application/yaml": plain}}}, problems: []int{400}}},
	}
}

// The OpenAPI document as it is written.
type (
	openAPI struct {
		OpenAPI    string                              `json:"openapi"`
		Info       openAPIInfo                         `json:"info"`
		Servers    []openAPIServer                     `json:"servers"`
		Tags       []openAPITag                        `json:"tags"`
		Paths      map[string]map[string]openOperation `json:"paths"`
		Components openComponents                      `json:"components"`
	}
	openAPIInfo struct {
		Title       string `json:"title"`
		Description string `json:"description,omitempty"`
		Version     string `json:"version"`
	}
	openAPIServer struct {
		URL string `json:"url"`
	}
	openAPITag struct {
		Name        string `json:"name"`
		Description string `json:"description,omitempty"`
	}
	openOperation struct {
		ID          string                  `json:"operationId"`
		Summary     string                  `json:"summary"`
		Description string                  `json:"description,omitempty"`
		Tags        []string                `json:"tags"`
		Parameters  []parameter             `json:"parameters,omitempty"`
		Body        *openBody               `json:"requestBody,omitempty"`
		Responses   map[string]openResponse `json:"responses"`
	}
	openBody struct {
		Required bool                 `json:"required,omitempty"`
		Content  map[string]openMedia `json:"content"`
	}
	openMedia struct {
		Schema *rest.Schema `json:"schema"`
	}
	openResponse struct {
		Ref         string               `json:"$ref,omitempty"`
		Description string               `json:"description,omitempty"`
		Headers     map[string]parameter `json:"headers,omitempty"`
		Content     map[string]openMedia `json:"content,omitempty"`
	}
	openComponents struct {
		Schemas    map[string]*rest.Schema `json:"schemas"`
		Parameters map[string]parameter    `json:"parameters"`
		Headers    map[string]parameter    `json:"headers"`
		Responses  map[string]openResponse `json:"responses"`
	}
)

// openAPI writes the document of this process: the same routes give the same bytes.
func (h *host) openAPI() ([]byte, error) {
	schemas := new(rest.Schemas)
	for name, t := range map[string]reflect.Type{
		"Problem": reflect.TypeFor[rest.Problem](), "Fault": reflect.TypeFor[fault.Field](), "Receipt": reflect.TypeFor[command.Receipt](), "EventRef": reflect.TypeFor[command.EventRef](),
		"Metadata": reflect.TypeFor[command.Metadata](), "Change": reflect.TypeFor[command.Change](), "Health": reflect.TypeFor[rest.Health](), "Check": reflect.TypeFor[rest.CheckResult](),
		"Event": reflect.TypeFor[eventJSON](),
	} {
		schemas.Name(t, name)
	}
	doc := openAPI{
		OpenAPI: "3.1.0", Info: openAPIInfo{Title: h.app, Description: h.short, Version: Version}, Servers: []openAPIServer{{URL: "/"}},
		Paths:      map[string]map[string]openOperation{},
		Components: openComponents{Parameters: map[string]parameter{}, Headers: map[string]parameter{}, Responses: map[string]openResponse{}},
	}
	for name, p := range requestHeaders {
		p.Name, p.In = name, "header"
		doc.Components.Parameters[name] = p
	}
	doc.Components.Headers = responseHeaders
	for status, says := range problemStatuses {
		r := openResponse{Description: says, Headers: map[string]parameter{}, Content: map[string]openMedia{"application/problem+json": {answered[rest.Problem]()(schemas)}}}
		switch status {
		case 401:
			r.Headers = headerRefs("Www-Authenticate")
		case 429, 503, 504:
			r.Headers = headerRefs("Retry-After")
		}
		doc.Components.Responses["Problem"+strconv.Itoa(status)] = r
	}
	doc.Components.Responses["Problem"] = openResponse{Description: "any other problem", Content: map[string]openMedia{"application/problem+json": {answered[rest.Problem]()(schemas)}}}
	tags := map[string]bool{}
	for _, rt := range append(slices.Clone(h.described), openRoutes()...) {
		path := template(rt.pattern)
		if doc.Paths[path] == nil {
			doc.Paths[path] = map[string]openOperation{}
		}
		doc.Paths[path][strings.ToLower(rt.method)] = h.describe(rt, schemas)
		if tag := rt.doc.tag; !tags[tag] {
			tags[tag] = true
			doc.Tags = append(doc.Tags, openAPITag{Name: tag})
		}
	}
	for i, t := range doc.Tags {
		if _, ok := h.batches[t.Name]; ok {
			doc.Tags[i].Description = describeStreams
		}
	}
	doc.Components.Schemas = schemas.Components()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(doc)
	return b.Bytes(), err
}

func headerRefs(names ...string) map[string]parameter {
	refs := map[string]parameter{}
	for _, name := range names {
		refs[name] = parameter{Ref: "#/components/headers/" + name}
	}
	return refs
}

// describe returns what the document says of a route.
func (h *host) describe(rt route, schemas *rest.Schemas) openOperation {
	d := rt.doc
	o := openOperation{ID: d.id, Summary: d.summary, Description: d.description, Tags: []string{d.tag}, Responses: map[string]openResponse{"default": {Ref: "#/components/responses/Problem"}}}
	for _, name := range pathParameter.FindAllStringSubmatch(rt.pattern, -1) {
		o.Parameters = append(o.Parameters, parameter{Name: name[1], In: "path", Required: true, Schema: text("")})
	}
	o.Parameters = append(o.Parameters, d.params...)
	if d.body != nil {
		o.Body = &openBody{Required: d.needsBody, Content: map[string]openMedia{"application/json": {d.body(schemas)}}}
	}
	problems := slices.Clone(d.problems)
	if h.secured && rt.wants != nil {
		problems = append(problems, http.StatusUnauthorized, http.StatusForbidden)
	}
	for _, status := range problems {
		o.Responses[strconv.Itoa(status)] = openResponse{Ref: "#/components/responses/Problem" + strconv.Itoa(status)}
	}
	for _, a := range d.answers {
		r := openResponse{Description: a.says, Headers: headerRefs(a.headers...)}
		for _, media := range slices.Sorted(maps.Keys(a.content)) {
			if r.Content == nil {
				r.Content = map[string]openMedia{}
			}
			r.Content[media] = openMedia{a.content[media](schemas)}
		}
		o.Responses[strconv.Itoa(a.status)] = r
	}
	return o
}

// toYAML writes JSON, which is YAML, in the form that people expect of YAML.
func toYAML(text []byte) ([]byte, error) {
	var n yaml.Node
	if err := yaml.Unmarshal(text, &n); err != nil {
		return nil, err
	}
	plainYAML(&n)
	return yaml.Marshal(&n)
}

func plainYAML(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		plainYAML(c)
	}
}
