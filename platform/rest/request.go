package rest

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/millrace/millrace/platform/fault"
)

// ErrQuery is returned for query parameters that are malformed, unknown or given twice.
var ErrQuery = fault.New(fault.Invalid, "invalid_query", "the query parameters are not allowed")

// A Request is one request as its Handler sees it, valid until the Handler returns.
type Request struct {
	c        echo.Context
	r        *http.Request
	s        *Server
	query    url.Values
	queryErr error
	queried  bool
	body     []byte
	read     bool

	principal Principal
	known     bool
}

// HTTP returns the request as net/http has it, for the rare need.
func (r *Request) HTTP() *http.Request { return r.r }

// Method returns the request's method.
func (r *Request) Method() string { return r.r.Method }

// Route returns the pattern that matched, e.g. "/v1/orders/:id/place".
func (r *Request) Route() string { return r.c.Path() }

// Header returns the first value of a header field, "" if it is absent.
func (r *Request) Header(name string) string { return r.r.Header.Get(name) }

// SetHeader sets a header field of the answer, whatever it will be, an error included. A Response's own fields come on top of it.
func (r *Request) SetHeader(name, value string) { r.c.Response().Header().Set(name, value) }

// Param returns the path parameter of that name with percent escapes resolved once: an escaped slash is a slash in the value, which
// es.CheckID refuses, and never a separator. "" if the pattern has no such parameter.
func (r *Request) Param(name string) string {
	v := r.c.Param(name)
	if r.r.URL.RawPath == "" || strings.IndexByte(v, '%') < 0 {
		return v // net/url has unescaped the path already
	}
	u, err := url.PathUnescape(v)
	if err != nil {
		return v // net/http refuses paths with broken escapes before they come here
	}
	return u
}

// Query returns the query parameters, those that can be read; Only says whether all of them can.
func (r *Request) Query() url.Values {
	if !r.queried {
		r.queried = true
		if r.r.URL.RawQuery != "" {
			r.query, r.queryErr = url.ParseQuery(r.r.URL.RawQuery)
		}
	}
	return r.query
}

// Only returns the query parameters if each is one of names, given once and UTF-8; else ErrQuery that says all that is wrong. A name with
// a star after it may be given several times.
func (r *Request) Only(names ...string) (url.Values, error) {
	q := r.Query()
	if r.queryErr != nil {
		return nil, ErrQuery.Because("the query string is malformed").WithFix("percent-encode the values and separate parameters with &")
	}
	if len(q) == 0 {
		return q, nil
	}
	var wrong []string
	for name, values := range q {
		once := slices.Contains(names, name)
		switch {
		case !once && !slices.Contains(names, name+"*"):
			wrong = append(wrong, "unknown parameter "+quote(name))
		case once && len(values) > 1:
			wrong = append(wrong, "parameter "+quote(name)+" is given more than once")
		case slices.ContainsFunc(values, func(v string) bool { return !utf8.ValidString(v) }):
			wrong = append(wrong, "parameter "+quote(name)+" is not UTF-8")
		}
	}
	if wrong == nil {
		return q, nil
	}
	sort.Strings(wrong)
	if len(wrong) > maxFindings {
		wrong = append(wrong[:maxFindings], "and more")
	}
	err := ErrQuery.Because("%s", strings.Join(wrong, "; "))
	if len(names) == 0 {
		return nil, err.WithFix("this path takes no query parameters")
	}
	return nil, err.WithFix("the parameters are %s", strings.Join(names, ", "))
}

// HasBody reports whether the request announces a body.
func (r *Request) HasBody() bool { return r.r.ContentLength != 0 }

// JSON decodes the body into v, a pointer, as DecodeJSON does. Errors: ErrMediaType, ErrEncoding, ErrBodyTooLarge, ErrBodyUnreadable, ErrBody.
func (r *Request) JSON(v any) error {
	if err := r.checkMediaType(); err != nil {
		return err
	}
	if r.read {
		return DecodeJSON(r.body, v)
	}
	buf := bodies.Get().(*[]byte)
	defer func() { bodies.Put(buf) }()
	data, err := r.readBody((*buf)[:0])
	*buf = data[:0]
	if err != nil {
		return err
	}
	return DecodeJSON(data, v)
}

// Body returns the whole body, whatever its type, in memory of its own. Errors: ErrEncoding, ErrBodyTooLarge, ErrBodyUnreadable.
func (r *Request) Body() ([]byte, error) {
	if r.read {
		return r.body, nil
	}
	if err := r.checkEncoding(); err != nil {
		return nil, err
	}
	data, err := r.readBody(nil)
	if err != nil {
		return nil, err
	}
	r.body, r.read = data, true
	return data, nil
}

// bodies recycles the memory that bodies are read into: DecodeJSON keeps nothing of it.
var bodies = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// readBody appends the body to buf. At most one byte more than the limit is ever read.
func (r *Request) readBody(buf []byte) ([]byte, error) {
	limit := r.s.o.MaxBody
	if r.r.ContentLength > limit {
		return buf, r.tooLarge(limit)
	}
	if n := int(r.r.ContentLength) + 1; n > cap(buf) {
		buf = make([]byte, 0, max(n, 512))
	} else if cap(buf) == 0 {
		buf = make([]byte, 0, 512)
	}
	for {
		n, err := r.r.Body.Read(buf[len(buf):min(int64(cap(buf)), limit+1)])
		buf = buf[:len(buf)+n]
		if int64(len(buf)) > limit {
			return buf, r.tooLarge(limit)
		}
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			r.c.Response().Header().Set("Connection", "close")
			var maxBytes *http.MaxBytesError
			if errors.As(err, &maxBytes) {
				return buf, r.tooLarge(maxBytes.Limit)
			}
			return buf, ErrBodyUnreadable.Because("after %d bytes", len(buf)).Wrap(err)
		}
		if len(buf) == cap(buf) {
			buf = slices.Grow(buf, len(buf))
		}
	}
}

func (r *Request) tooLarge(limit int64) error {
	// The rest of the body stays unread, so nothing more can be understood on this connection.
	r.c.Response().Header().Set("Connection", "close")
	return ErrBodyTooLarge.Because("at most %d bytes are allowed", limit)
}
