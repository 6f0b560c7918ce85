package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/platform/contract"
)

const (
	maxAnswer = 1 << 20         // bytes of an answer
	maxPause  = 2 * time.Second // between two attempts, whatever the registry asks for
)

// An exchange is the transport of one call: it gives srclient what it lacks (a context, several addresses, retries, credentials, a
// limit on answers) and remembers the last answer, of which srclient's errors keep little.
type exchange struct {
	client *Client
	ctx    context.Context //nolint:containedctx // the call's own: srclient has no place for it
	status int             // of the last answer; 0 = there was none
	body   []byte
	long   bool // whether an answer was longer than any may be
}

var errTooLong = fmt.Errorf("the answer has more than %d bytes", maxAnswer)

// codeError is what a registry says about a failure.
type codeError struct {
	status, code int
	message      string
}

func (e *codeError) Error() string {
	return fmt.Sprintf("the registry answered %d, code %d: %s", e.status, e.code, clip(e.message))
}

// RoundTrip sends a request to one address after the other until one answers. All requests that this package makes may be repeated:
// registering a schema twice gives the same id.
func (x *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	var payload []byte
	if req.Body != nil {
		var err error
		if payload, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		if err := req.Body.Close(); err != nil {
			return nil, err
		}
	}
	c := x.client
	first := int(c.preferred.Load())
	var failure error
	for attempt := range c.cfg.Attempts {
		n := (first + attempt) % len(c.urls)
		resp, err := x.attempt(req, n, payload)
		if err == nil && !temporary(resp.StatusCode) {
			c.preferred.Store(int32(n)) //nolint:gosec // an index of a short list
			return resp, nil
		}
		var after time.Duration
		if errors.Is(err, errTooLong) {
			x.long = true
			return nil, err
		}
		if err != nil {
			failure = errors.Join(failure, fmt.Errorf("%s: %w", c.urls[n], err))
		} else {
			failure = errors.Join(failure, fmt.Errorf("%s: %w", c.urls[n], x.said()))
			seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
			after = time.Duration(seconds) * time.Second
		}
		if attempt == c.cfg.Attempts-1 || !x.pause(attempt, after, len(c.urls)) {
			break
		}
	}
	x.status = 0
	return nil, failure
}

// pause waits before the next attempt; false if the call's time is over. While there are addresses that were not tried yet it does not wait.
func (x *exchange) pause(attempt int, after time.Duration, urls int) bool {
	if attempt+1 < urls {
		return x.ctx.Err() == nil
	}
	d := x.client.cfg.Backoff << min(attempt, 10)
	d = d/2 + time.Duration(rand.Int64N(int64(d)+1)) //nolint:gosec // spreads load, guards nothing
	t := time.NewTimer(min(max(d, after), maxPause))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-x.ctx.Done():
		return false
	}
}

// attempt sends the request once and reads the whole answer.
func (x *exchange) attempt(req *http.Request, n int, payload []byte) (*http.Response, error) {
	c := x.client
	ctx, cancel := context.WithTimeout(x.ctx, c.cfg.Timeout)
	defer cancel()
	out := req.Clone(ctx)
	base := c.urls[n]
	out.URL.Scheme, out.URL.Host, out.Host = base.Scheme, base.Host, base.Host
	escaped := req.URL.EscapedPath()
	out.URL.Path, out.URL.RawPath = base.Path+req.URL.Path, base.EscapedPath()+escaped
	if payload != nil {
		out.Body = io.NopCloser(bytes.NewReader(payload))
		out.ContentLength = int64(len(payload))
	}
	out.Header.Set("Accept", contentType+", application/json")
	switch {
	case c.cfg.Token != "":
		out.Header.Set("Authorization", "Bearer "+c.cfg.Token)
	case c.cfg.Username != "":
		out.SetBasicAuth(c.cfg.Username, c.cfg.Password)
	}
	resp, err := c.transport.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it was read to its end, or is given up
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxAnswer {
		return nil, errTooLong
	}
	x.status, x.body = resp.StatusCode, body
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// temporary reports whether another attempt, or another instance, may do better.
func temporary(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// explain turns srclient's error into one of ours, by what was answered.
func (x *exchange) explain(err error) error {
	c := x.client
	if x.long {
		return ErrAnswer.Because("it has more than %d bytes", maxAnswer).WithFix("check %s", c.cfg.Setting)
	}
	if x.status == 0 {
		return ErrUnreachable.Because("%s", strings.Join(c.addresses(), ", ")).
			WithFix("start the registry, or correct %s", c.cfg.Setting).Wrap(errors.Join(x.ctx.Err(), err))
	}
	if x.status < 300 {
		return ErrAnswer.Because("%s answered what is not of the registry's API", c.urls[c.preferred.Load()]).WithFix("check %s", c.cfg.Setting).Wrap(err)
	}
	said := x.said()
	switch {
	case x.status == http.StatusUnauthorized || x.status == http.StatusForbidden:
		return ErrCredentials.WithFix("check the user name and password, or the token, of the schema registry").Wrap(said)
	case x.status == http.StatusConflict:
		return ErrIncompatible.Because("%s", said.message)
	case said.code == codeInvalidSchema:
		return contract.ErrSchema.Because("%s", said.message)
	case x.status == http.StatusNotFound && said.code < 1000, x.status < 400:
		return ErrAnswer.Because("there is no schema registry at %s", c.urls[c.preferred.Load()]).WithFix("correct %s", c.cfg.Setting).Wrap(said)
	}
	return ErrRefused.Wrap(said)
}

// said reads the last answer as an error of the API; what is none keeps its status.
func (x *exchange) said() *codeError {
	var body struct {
		Code    int    `json:"error_code"`
		Message string `json:"message"`
	}
	if json.Unmarshal(x.body, &body) != nil || body.Code == 0 {
		return &codeError{x.status, 0, http.StatusText(x.status)}
	}
	return &codeError{x.status, body.Code, body.Message}
}

// notThere reports whether the registry said that there is no such subject, version or schema.
func notThere(err error) bool {
	var said *codeError
	return errors.As(err, &said) && (said.code == codeNoSubject || said.code == codeNoVersion || said.code == codeNoSchema)
}
