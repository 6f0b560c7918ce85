package openapi

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
)

// A Transport is an http.RoundTripper that checks each exchange with a server against the document that the server serves at
// /openapi.json, and fails one that does not fit. Servers without a document are not checked. The zero Transport is ready for use.
type Transport struct {
	Base http.RoundTripper // what sends the requests; nil = http.DefaultTransport

	mu        sync.Mutex
	documents map[string]*Document // by host; nil = it has none
}

// maxBody is how much of an answer is read to be checked.
const maxBody = 16 << 20

// RoundTrip sends a request and checks the answer.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil && r.Body != http.NoBody {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		r.Body.Close()
		r = r.Clone(r.Context())
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	resp, err := t.base().RoundTrip(r)
	if err != nil {
		return resp, err
	}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		return resp, nil
	}
	d, err := t.document(r, false)
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	if d == nil {
		return resp, nil
	}
	x := Exchange{Method: r.Method, URL: r.URL, Header: r.Header, Body: body, Status: resp.StatusCode, Answer: resp.Header}
	x.AnswerBody, err = io.ReadAll(io.LimitReader(resp.Body, maxBody))
	x.AnswerParts = err != nil || len(x.AnswerBody) == maxBody
	rest := io.Reader(resp.Body)
	if err != nil {
		rest = failing{err}
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(x.AnswerBody), rest), resp.Body}
	if err = d.Check(r.Context(), x); err != nil {
		// Another process may listen there by now.
		d, e := t.document(r, true)
		switch {
		case e != nil:
			err = e
		case d == nil:
			err = nil
		default:
			err = d.Check(r.Context(), x)
		}
	}
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func (t *Transport) base() http.RoundTripper {
	if t.Base != nil {
		return t.Base
	}
	return http.DefaultTransport
}

// document returns the document of the server that a request went to, nil if it has none, or is gone by now, which its caller will see.
func (t *Transport) document(r *http.Request, again bool) (*Document, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d, ok := t.documents[r.URL.Host]
	if ok && !again {
		return d, nil
	}
	ctx := context.WithoutCancel(r.Context())
	ask, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL.Scheme+"://"+r.URL.Host+"/openapi.json", nil)
	if err != nil {
		return nil, err
	}
	resp, err := t.base().RoundTrip(ask)
	if err != nil {
		return nil, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, nil
	}
	if t.documents == nil {
		t.documents = map[string]*Document{}
	}
	if resp.StatusCode != http.StatusOK {
		t.documents[r.URL.Host] = nil
		return nil, nil
	}
	if d, err = Parse(ctx, text); err != nil {
		return nil, fmt.Errorf("openapi: the document of %s: %w", r.URL.Host, err)
	}
	t.documents[r.URL.Host] = d
	return d, nil
}
