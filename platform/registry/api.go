package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"math"
	"mime"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/eventlog"
)

const (
	contentType = "application/vnd.schemaregistry.v1+json"
	maxBody     = 1 << 20  // bytes of a request: a schema is a quoted string in it, which can double its length
	maxIgnored  = 64 << 20 // bytes of a longer one that are read and thrown away, so that the client gets to read the answer
	forwarded   = "X-Forward"
	applied     = "X-Millrace-Applied" // the offset up to which the state had been applied when a forwarded request was answered
)

// An api serves the routes of the registry.
type api struct {
	s       *Server
	mux     *http.ServeMux
	forward http.RoundTripper
}

// A call is one request on its way through a route.
type call struct {
	s       *Server
	r       *http.Request
	query   url.Values
	context string          // of paths below /contexts/{context}, "" = none
	name    string          // of the subject, in full
	limit   context.Context //nolint:containedctx // a write's own: how long it may take
	sent    []byte          // the request's body, once it was read
}

// nothing is an answer without a body.
type nothing struct{}

// raw is an answer that is sent as it is, not as JSON.
type raw string

// prepared is an answer that is JSON already.
type prepared []byte

func newAPI(s *Server) http.Handler {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	transport.ResponseHeaderTimeout = forwardTime
	if s.cfg.TLS != nil {
		transport.TLSClientConfig = s.cfg.TLS.Clone()
	}
	a := &api{s: s, mux: http.NewServeMux(), forward: transport}
	read := func(pattern string, f func(*call) (any, *apiError)) { a.route(pattern, false, f) }
	write := func(pattern string, f func(*call) (any, *apiError)) { a.route(pattern, true, f) }

	read("GET /{$}", func(*call) (any, *apiError) { return struct{}{}, nil })
	read("GET /schemas/types", func(*call) (any, *apiError) { return []string{typeAvro}, nil })
	read("GET /contexts", (*call).contexts)
	write("DELETE /contexts/{context}", (*call).deleteContext)
	read("GET /v1/metadata/id", (*call).clusterID)
	read("GET /v1/metadata/version", (*call).serverVersion)

	read("GET /associations/subjects/{subject}", (*call).associationsOfSubject)
	read("GET /associations/resources/{resource}", (*call).associationsOfID)
	read("GET /associations/resources/{namespace}/{name}", (*call).associationsOfName)
	write("POST /associations", (*call).createAssociations)
	write("PUT /associations/resources/{resource}", (*call).updateAssociations)
	write("DELETE /associations/resources/{resource}", (*call).deleteAssociations)

	read("GET /schemas", (*call).schemas)
	read("GET /schemas/ids/{id}", (*call).schemaByID)
	read("GET /schemas/ids/{id}/schema", (*call).textByID)
	read("GET /schemas/ids/{id}/subjects", (*call).subjectsOfID)
	read("GET /schemas/ids/{id}/versions", (*call).versionsOfID)
	read("GET /schemas/guids/{guid}", (*call).schemaByGUID)
	read("GET /schemas/guids/{guid}/ids", (*call).idsOfGUID)

	read("GET /subjects", (*call).subjects)
	read("POST /subjects/{subject}", (*call).find)
	write("DELETE /subjects/{subject}", (*call).deleteSubject)
	read("GET /subjects/{subject}/metadata", (*call).metadata)
	read("GET /subjects/{subject}/versions", (*call).versions)
	write("POST /subjects/{subject}/versions", (*call).register)
	read("GET /subjects/{subject}/versions/{version}", (*call).version)
	write("DELETE /subjects/{subject}/versions/{version}", (*call).deleteVersion)
	read("GET /subjects/{subject}/versions/{version}/schema", (*call).textOfVersion)
	write("POST /subjects/{subject}/versions/{version}/tags", (*call).tags)
	read("GET /subjects/{subject}/versions/{version}/referencedby", (*call).referencedBy)

	read("POST /compatibility/subjects/{subject}/versions", (*call).compatible)
	read("POST /compatibility/subjects/{subject}/versions/{version}", (*call).compatible)

	for _, path := range []string{"/config", "/config/{subject}"} {
		read("GET "+path, (*call).config)
		write("PUT "+path, (*call).putConfig)
		write("DELETE "+path, (*call).deleteConfig)
	}
	for _, path := range []string{"/mode", "/mode/{subject}"} {
		read("GET "+path, (*call).mode)
		write("PUT "+path, (*call).putMode)
		write("DELETE "+path, (*call).deleteMode)
	}
	return a
}

// ServeHTTP answers one request. Every error is JSON, those of the routing too: clients read the code out of the body.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := tidy(r.URL.EscapedPath())
	context := ""
	if rest, ok := strings.CutPrefix(path, "/contexts/"); ok {
		if name, below, ok := strings.Cut(rest, "/"); ok {
			plain, err := url.PathUnescape(name)
			if context = normalContext(plain); err != nil || checkScope(qualify(context, "")) != nil {
				answer(w, r, nil, refuse(http.StatusNotFound, "HTTP 404 Not Found"))
				return
			}
			path = "/" + below
		}
	}
	if path != r.URL.EscapedPath() {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			answer(w, r, nil, refuse(http.StatusNotFound, "HTTP 404 Not Found"))
			return
		}
		u.RawQuery = r.URL.RawQuery
		clone := *r
		clone.URL = u
		r = &clone
	}
	r.SetPathValue(contextValueName, context)
	for segment := range strings.SplitSeq(r.URL.EscapedPath(), "/") {
		if segment == "." || segment == ".." { // the multiplexer would redirect
			answer(w, r, nil, refuse(http.StatusNotFound, "HTTP 404 Not Found"))
			return
		}
	}
	h, pattern := a.mux.Handler(r)
	if pattern == "" {
		var routing refusal
		h.ServeHTTP(&routing, r)
		if routing.status != http.StatusMethodNotAllowed {
			answer(w, r, nil, refuse(http.StatusNotFound, "HTTP 404 Not Found"))
			return
		}
		w.Header().Set("Allow", routing.header.Get("Allow"))
		answer(w, r, nil, refuse(http.StatusMethodNotAllowed, "HTTP 405 Method Not Allowed"))
		return
	}
	a.mux.ServeHTTP(w, r)
}

// contextValueName is where a request keeps the context that its path began with.
const contextValueName = "below context"

// normalContext returns the name of a context as it is kept: with its dot.
func normalContext(name string) string {
	name = strings.Trim(name, ":")
	if !strings.HasPrefix(name, ".") {
		return "." + name
	}
	return name
}

// A refusal takes what the multiplexer answers by itself, which is not JSON.
type refusal struct {
	header http.Header
	status int
}

func (f *refusal) Header() http.Header {
	if f.header == nil {
		f.header = http.Header{}
	}
	return f.header
}

func (f *refusal) Write(p []byte) (int, error) { return len(p), nil }

func (f *refusal) WriteHeader(status int) { f.status = status }

// tidy removes empty segments and a slash at the end: clients join base addresses and paths carelessly.
func tidy(path string) string {
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	if len(path) > 1 {
		path = strings.TrimSuffix(path, "/")
	}
	if path == "" {
		return "/"
	}
	return path
}

func (a *api) route(pattern string, write bool, f func(*call) (any, *apiError)) {
	a.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		_, caughtUp, _ := a.s.role()
		if !caughtUp && pattern != "GET /{$}" {
			answer(w, r, nil, refuse(http.StatusServiceUnavailable, "The registry is reading its topic; repeat the request."))
			return
		}
		c := &call{s: a.s, r: r, context: r.PathValue(contextValueName)}
		var err error
		if c.query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
			answer(w, r, nil, refuse(http.StatusBadRequest, "The query string is malformed"))
			return
		}
		if pattern != "GET /{$}" {
			if refusal := a.s.cfg.Auth.admit(r, write); refusal != nil {
				if refusal.code == http.StatusUnauthorized {
					w.Header().Set("WWW-Authenticate", `Basic realm="schema registry", charset="UTF-8"`)
				}
				answer(w, r, nil, refusal)
				return
			}
		}
		if write {
			limit, cancel := context.WithTimeout(r.Context(), writeTime)
			defer cancel()
			c.limit = limit
			if here, leader := a.s.writer(limit); !here {
				a.pass(w, c, leader)
				return
			}
		}
		c.name = qualify(c.context, r.PathValue("subject"))
		if !strings.Contains(pattern, "/config") && !strings.Contains(pattern, "/mode") {
			_, _ = a.s.read(func(s *state) (any, *apiError) { c.name = s.aliased(c.name); return nil, nil })
		}
		v, refusal := f(c)
		for refusal != nil && refusal.moved && c.limit.Err() == nil {
			here, leader := a.s.writer(c.limit)
			if !here {
				a.pass(w, c, leader)
				return
			}
			v, refusal = f(c)
		}
		if r.Header.Get(forwarded) != "" {
			a.s.mu.RLock()
			w.Header().Set(applied, strconv.FormatInt(a.s.applied, 10))
			a.s.mu.RUnlock()
		}
		answer(w, r, v, refusal)
	})
}

// forwardTime is how long the writing instance may take to answer; writes wait for their turn there.
const forwardTime = writeTime + 5*time.Second

// pass forwards a write to the instance that may make it, and waits until this one has followed: who wrote through it reads the write
// from it, too.
func (a *api) pass(w http.ResponseWriter, c *call, leader eventlog.Identity) {
	r := c.r
	if leader.Address == "" || r.Header.Get(forwarded) != "" {
		answer(w, r, nil, refuse(codeUnknownLeader, "This instance does not write and knows no other that does; repeat the request."))
		return
	}
	body, refusal := c.payload()
	if refusal != nil {
		answer(w, r, nil, refusal)
		return
	}
	proxy := httputil.ReverseProxy{
		Transport: a.forward,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = "http", leader.Address
			if host, secure := strings.CutPrefix(leader.Address, "https://"); secure {
				p.Out.URL.Scheme, p.Out.URL.Host = "https", host
			}
			if c.context != "" {
				p.Out.URL.Path, p.Out.URL.RawPath = "/contexts/"+c.context+r.URL.Path, "/contexts/"+url.PathEscape(c.context)+r.URL.EscapedPath()
			}
			p.Out.Header.Set(forwarded, "true")
			p.Out.Body = io.NopCloser(bytes.NewReader(body))
			p.Out.ContentLength = int64(len(body))
		},
		ModifyResponse: func(resp *http.Response) error {
			offset, err := strconv.ParseInt(resp.Header.Get(applied), 10, 64)
			resp.Header.Del(applied)
			if err == nil {
				limit, cancel := context.WithTimeout(r.Context(), writeTime)
				defer cancel()
				a.s.awaitApplied(limit, offset) // later is still better than no answer: the write is made
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			var untrusted *tls.CertificateVerificationError
			if errors.As(err, &untrusted) { // it is there: taking over from each other would never end
				a.s.cfg.Logger.Error("a write cannot be forwarded: the certificate of the writing instance is not trusted", "address", leader.Address, "error", err.Error())
				answer(w, r, nil, refuse(codeForwarding, "The certificate of the writing instance is not trusted by this one."))
				return
			}
			if r.Context().Err() == nil {
				a.s.takeOver()
			}
			answer(w, r, nil, refuse(codeForwarding, "The writing instance does not answer; repeat the request."))
		},
	}
	proxy.ServeHTTP(w, r)
}

// answer writes v as JSON, or the refusal as the two fields that every client understands.
func answer(w http.ResponseWriter, r *http.Request, v any, refusal *apiError) {
	status := http.StatusOK
	if refusal != nil {
		status = refusal.status()
		v = struct {
			Code    int    `json:"error_code"`
			Message string `json:"message"`
		}{refusal.code, refusal.text}
	}
	var body []byte
	switch v := v.(type) {
	case raw:
		body = []byte(v)
	case prepared:
		body = v
	default:
		body = encode(v)
	}
	h := w.Header()
	h.Set("Content-Type", accepted(r.Header.Get("Accept")))
	h.Set("X-Content-Type-Options", "nosniff")
	if status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	if _, empty := v.(nothing); empty && refusal == nil {
		h.Del("Content-Type")
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // a failed write is the client's broken connection
	}
}

// accepted returns the content type for an Accept field: the registry's own unless only another one is taken.
func accepted(accept string) string {
	best := ""
	for part := range strings.SplitSeq(accept, ",") {
		media, _, _ := mime.ParseMediaType(part)
		switch media {
		case contentType, "*/*", "application/*":
			return contentType
		case "application/vnd.schemaregistry+json", "application/json":
			if best == "" {
				best = media
			}
		}
	}
	if best == "" {
		return contentType
	}
	return best
}

func readBody(r *http.Request) ([]byte, *apiError) {
	if r.Body == nil {
		return nil, nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "The request body ended early")
	}
	if len(body) > maxBody {
		_, _ = io.CopyN(io.Discard, r.Body, maxIgnored) // see maxIgnored
		if strings.HasPrefix(r.URL.Path, "/subjects/") || strings.HasPrefix(r.URL.Path, "/compatibility/") {
			return nil, refuse(codeSchemaTooLarge, "The request has more than %d bytes, and a schema may have %d.", maxBody, contract.MaxSchemaBytes)
		}
		return nil, refuse(http.StatusRequestEntityTooLarge, "The request body has more than %d bytes", maxBody)
	}
	return body, nil
}

// payload returns the request's body, which is read once: a write may be forwarded after it was looked at here.
func (c *call) payload() (body []byte, refusal *apiError) {
	if c.sent == nil {
		if c.sent, refusal = readBody(c.r); refusal != nil {
			return nil, refusal
		}
		if c.sent == nil {
			c.sent = []byte{}
		}
	}
	return c.sent, nil
}

// body decodes the request's JSON. Unknown fields are ignored: newer clients send more than older registries know.
func (c *call) body(v any) *apiError {
	if ct := c.r.Header.Get("Content-Type"); ct != "" {
		media, _, err := mime.ParseMediaType(ct)
		switch {
		case err != nil:
			return refuse(http.StatusUnsupportedMediaType, "HTTP 415 Unsupported Media Type")
		case media == contentType, media == "application/vnd.schemaregistry+json", media == "application/json", media == "application/octet-stream":
		default:
			return refuse(http.StatusUnsupportedMediaType, "HTTP 415 Unsupported Media Type")
		}
	}
	if e := c.r.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return refuse(http.StatusUnsupportedMediaType, "Compressed requests are not supported")
	}
	data, refusal := c.payload()
	if refusal != nil {
		return refusal
	}
	if !utf8.Valid(data) {
		return refuse(http.StatusBadRequest, "The request body is not UTF-8")
	}
	if err := json.Unmarshal(data, v); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return refuse(codeUnprocessableInput, "The request body is not as expected: %s", clip(err.Error()))
		}
		return refuse(http.StatusBadRequest, "The request body is not JSON: %s", clip(err.Error()))
	}
	return nil
}

// flag returns a boolean parameter; clients write True, true and TRUE.
func (c *call) flag(name string) bool { return strings.EqualFold(c.query.Get(name), "true") }

func (c *call) filter() filter {
	return filter{deleted: c.flag("deleted"), only: c.flag("deletedOnly")}
}

// subject returns the full name of the subject that the request is about, its context if the path has no subject, globalSubject if it
// has neither.
func (c *call) subject() string { return c.name }

// submit has the writer make a write for the request.
func (c *call) submit(plan func(*state) ([]record, any, *apiError)) (any, *apiError) {
	return c.s.submit(c.limit, plan)
}

// number returns the version in the path, latest for "latest" and -1.
func (c *call) number() (int32, *apiError) {
	text := c.r.PathValue("version")
	if text == "latest" || text == "-1" {
		return latest, nil
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 1 {
		return 0, refuse(codeInvalidVersion, "The specified version '%s' is not a valid version id. Allowed values are between [1, 2^31-1] and the string \"latest\"", clip(text))
	}
	return int32(n), nil
}

// page cuts what offset and limit leave out of a list; a limit below 0 is none.
func page[T any](c *call, list []T) (any, *apiError) {
	offset, refusal := c.integer("offset", 0)
	if refusal != nil {
		return nil, refusal
	}
	limit, refusal := c.integer("limit", -1)
	if refusal != nil {
		return nil, refusal
	}
	list = list[min(max(offset, 0), len(list)):]
	if limit >= 0 {
		list = list[:min(limit, len(list))]
	}
	return list, nil
}

func (c *call) integer(name string, otherwise int) (int, *apiError) {
	text := c.query.Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		return 0, refuse(http.StatusBadRequest, "Parameter %s is not a number", name)
	}
	return int(n), nil
}

// prefix returns the subjectPrefix parameter, within the context of the path.
func (c *call) prefix() string {
	p := c.query.Get("subjectPrefix")
	if c.context == "" || strings.HasPrefix(p, ":.") {
		return p
	}
	return ":" + c.context + ":" + strings.TrimPrefix(p, ":*:")
}

// id returns the schema id in the path; what can be no id is not found.
func (c *call) id() int32 {
	n, err := strconv.ParseInt(c.r.PathValue("id"), 10, 64)
	if err != nil || n < 1 || n > math.MaxInt32 {
		return 0
	}
	return int32(n)
}
