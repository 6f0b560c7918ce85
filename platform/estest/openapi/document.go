// Package openapi holds a service to the OpenAPI document that it serves: the document itself must be valid OpenAPI 3.1, and each request
// that the service accepts and each answer that it gives must be described in it. It is for tests only; no service imports it.
package openapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/pb33f/libopenapi/datamodel"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// A Document is an OpenAPI document that exchanges are checked against. It is safe for concurrent use.
type Document struct {
	doc *openapi3.T
}

// Parse reads a document, as JSON. It returns an error if the text is not valid under the published JSON Schema of OpenAPI 3.1, has
// references that lead nowhere, or schemas that are none.
func Parse(ctx context.Context, text []byte) (*Document, error) {
	if err := checkForm(text); err != nil {
		return nil, err
	}
	// An answer may have more members one day, so the document does not forbid them; here each must be in it.
	var tree any
	if err := json.Unmarshal(text, &tree); err != nil {
		return nil, err
	}
	closeObjects(tree)
	closed, err := json.Marshal(tree)
	if err != nil {
		return nil, err
	}
	doc, err := openapi3.NewLoader().LoadFromData(closed)
	if err != nil {
		return nil, err
	}
	return &Document{doc}, doc.Validate(ctx)
}

// checkForm checks a document against the JSON Schema that the OpenAPI Initiative publishes.
func checkForm(text []byte) error {
	const at = "https://spec.openapis.org/oas/3.1/schema"
	form, err := jsonschema.UnmarshalJSON(strings.NewReader(datamodel.OpenAPI31SchemaData))
	if err != nil {
		return err
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(at, form); err != nil {
		return err
	}
	schema, err := c.Compile(at)
	if err != nil {
		return err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	return schema.Validate(doc)
}

// closeObjects forbids members that an object's schema does not name.
func closeObjects(v any) {
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			closeObjects(x)
		}
	case map[string]any:
		_, named := v["properties"].(map[string]any)
		if _, said := v["additionalProperties"]; named && !said && v["type"] == "object" {
			v["additionalProperties"] = false
		}
		for _, x := range v {
			closeObjects(x)
		}
	}
}

// Operations returns the method and path of each operation, e.g. "POST /v1/orders/{id}/place", sorted.
func (d *Document) Operations() []string {
	var all []string
	for path, item := range d.doc.Paths.Map() {
		for method := range item.Operations() {
			all = append(all, method+" "+path)
		}
	}
	slices.Sort(all)
	return all
}

// An Exchange is one request with its answer.
type Exchange struct {
	Method      string
	URL         *url.URL
	Header      http.Header
	Body        []byte
	Status      int
	Answer      http.Header
	AnswerBody  []byte
	AnswerParts bool // only a part of the answer's body is known; it is not checked
}

// Check returns what the document does not describe: an answer with a status, header field or body that is not in it, or an answer that
// accepts a request which the document does not allow. What is answered 404 or 405 because there is no such route must be a problem.
func (d *Document) Check(ctx context.Context, x Exchange) error {
	if err := d.check(ctx, x); err != nil {
		return fmt.Errorf("openapi: %s %s, answered %d: %w", x.Method, x.URL.RequestURI(), x.Status, err)
	}
	return nil
}

func (d *Document) check(ctx context.Context, x Exchange) error {
	method := x.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	path, params := d.find(method, x.URL)
	if path == "" {
		if x.Status < 400 {
			return errors.New("the document has no such operation")
		}
		return d.problem(x)
	}
	item := d.doc.Paths.Value(path)
	route := &routers.Route{Spec: d.doc, Path: path, PathItem: item, Method: method, Operation: item.GetOperation(method)}
	req := &http.Request{Method: method, URL: x.URL, Header: x.Header.Clone(), Body: io.NopCloser(bytes.NewReader(x.Body)), ContentLength: int64(len(x.Body))}
	req = req.WithContext(ctx)
	in := &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route, Options: &openapi3filter.Options{
		MultiError: true, SkipSettingDefaults: true, RejectWhenRequestBodyNotSpecified: true, IncludeResponseStatus: true,
		AuthenticationFunc: openapi3filter.NoopAuthenticationFunc,
	}}
	if x.Status < 400 {
		for name := range x.URL.Query() {
			if route.Operation.Parameters.GetByInAndName("query", name) == nil {
				return fmt.Errorf("the document has no query parameter %s", name)
			}
		}
		if err := openapi3filter.ValidateRequest(ctx, in); err != nil {
			return fmt.Errorf("the request was accepted, but the document does not allow it: %w", err)
		}
	}
	return d.answer(ctx, x, in)
}

// answer checks the status, header and body of the answer.
func (d *Document) answer(ctx context.Context, x Exchange, in *openapi3filter.RequestValidationInput) error {
	ref := in.Route.Operation.Responses.Status(x.Status)
	if ref == nil && x.Status >= 400 {
		ref = in.Route.Operation.Responses.Default()
	}
	if ref == nil {
		return errors.New("the document has no such status")
	}
	if x.Status < 400 {
		for _, name := range slices.Sorted(maps.Keys(x.Answer)) {
			if ref.Value.Headers[name] == nil && !slices.Contains(usual, name) {
				return fmt.Errorf("the document has no header field %s in this answer", name)
			}
		}
	}
	media, _, err := mime.ParseMediaType(x.Answer.Get("Content-Type"))
	empty := len(x.AnswerBody) == 0 && !x.AnswerParts
	switch {
	case x.Method == http.MethodHead, empty && ref.Value.Content == nil:
	case ref.Value.Content == nil:
		return errors.New("the document has no body in this answer")
	case err != nil || ref.Value.Content[media] == nil:
		return fmt.Errorf("the document has no %q in this answer", x.Answer.Get("Content-Type"))
	}
	options := *in.Options
	options.ExcludeResponseBody = x.Method == http.MethodHead || x.AnswerParts || !strings.HasSuffix(media, "json") || strings.HasSuffix(media, "ndjson")
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: x.Status, Header: x.Answer, Options: &options}
	out.SetBodyBytes(x.AnswerBody)
	return openapi3filter.ValidateResponse(ctx, out)
}

// usual are the header fields that need no description.
var usual = []string{"Cache-Control", "Connection", "Content-Length", "Content-Type", "Date", "Trailer", "X-Content-Type-Options"}

// problem checks an answer that no operation gave.
func (d *Document) problem(x Exchange) error {
	if got := x.Answer.Get("Content-Type"); got != "application/problem+json" {
		return fmt.Errorf("an error of type %q", got)
	}
	if x.Method == http.MethodHead {
		return nil
	}
	var v any
	if err := json.Unmarshal(x.AnswerBody, &v); err != nil {
		return err
	}
	schema := d.doc.Components.Schemas["Problem"]
	if schema == nil {
		return errors.New("the document has no schema Problem")
	}
	return schema.Value.VisitJSON(v, openapi3.EnableJSONSchema2020())
}

// find returns the path of the document that a URL is of, one with fewer parameters before others, and the parameters' values.
func (d *Document) find(method string, u *url.URL) (path string, params map[string]string) {
	have := strings.Split(u.EscapedPath(), "/")
	for _, p := range slices.Sorted(maps.Keys(d.doc.Paths.Map())) {
		want := strings.Split(p, "/")
		if len(want) != len(have) || d.doc.Paths.Value(p).GetOperation(method) == nil {
			continue
		}
		values := map[string]string{}
		fits := true
		for i, part := range want {
			if strings.HasPrefix(part, "{") {
				value, err := url.PathUnescape(have[i])
				fits = fits && err == nil
				values[strings.Trim(part, "{}")] = value
				continue
			}
			fits = fits && part == have[i]
		}
		if fits && (path == "" || len(values) < len(params)) {
			path, params = p, values
		}
	}
	return path, params
}
