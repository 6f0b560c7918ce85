package rest

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// A Response is what a Handler answers. The zero Response is 200 without a body.
type Response struct {
	Status      int         // 0 = 200
	Header      http.Header // canonical names; Set fills it
	Body        []byte      // the whole body; not kept after it is sent
	ContentType string      // "" = application/json
	// Stream, if set, is called after the header is sent and writes the body piece by piece; Body is ignored. Its context ends when
	// the client is gone or the server drains, or has ended for HEAD. An error cuts the connection, so that the client notices; nil means that
	// all was said.
	Stream func(ctx context.Context, w *Stream) error

	err error
}

// JSON returns a Response with v as its JSON body.
func JSON(status int, v any) *Response {
	body, err := json.Marshal(v)
	return &Response{Status: status, Body: body, err: err}
}

// Set sets a header field and returns resp; name must be in canonical form, e.g. "Retry-After".
func (resp *Response) Set(name, value string) *Response {
	if resp.Header == nil {
		resp.Header = make(http.Header, 4)
	}
	resp.Header[name] = []string{value}
	return resp
}

// A Stream is the body of a streaming Response.
type Stream struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

// Write sends p, possibly only with the next Flush.
func (s *Stream) Write(p []byte) (int, error) { return s.w.Write(p) }

// Flush sends what was written so far to the client.
func (s *Stream) Flush() error { return s.rc.Flush() }

// SetWriteDeadline lets writes fail that are not done at t, so that a client that stopped reading does not hold its handler.
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.rc.SetWriteDeadline(t) }

// SetTrailer sets a field that follows the body; the Response's header names it in Trailer. A body that is cut off has none.
func (s *Stream) SetTrailer(name, value string) { s.w.Header().Set(name, value) }
