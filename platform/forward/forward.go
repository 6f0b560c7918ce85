package forward

import (
	"context"
	"errors"

	"github.com/millrace/millrace/platform/fault"
)

// Path is where a Server is mounted on the public HTTP server of a process.
const Path = "/v1/peer"

const protocol = "millrace-forward/1"

// Errors of Pool.Do. errors.Is(err, ErrUnsent) holds for every error of a request that was not run and never will be, whatever else the error is.
var (
	// ErrUnsent says that the request was not run and never will be: it may be repeated, here or elsewhere, without a thought.
	ErrUnsent = fault.New(fault.Unavailable, "forward_unsent", "the instance that has to answer could not be asked")
	// ErrBroken says that the connection broke after the request was sent: it may have been run or not, or may be running.
	ErrBroken = fault.New(fault.Unknown, "forward_broken", "the connection to the instance that has to answer broke")
	// ErrUnanswered says that the caller's context ended before the answer came; the context's error is its cause.
	ErrUnanswered = fault.New(fault.Unknown, "forward_unanswered", "the instance that has to answer did not do so in time")
	// ErrRefused says that the peer does not speak this protocol, or not with us; ErrUnsent is its cause.
	ErrRefused = fault.New(fault.Unavailable, "forward_refused", "the instance that has to answer takes no forwarded requests from here")
	// ErrBusy says that too many requests of this process are running at the peer; ErrUnsent is its cause.
	ErrBusy = fault.New(fault.Unavailable, "forward_busy", "the instance that has to answer has too many requests to work on")
	// ErrTooLarge says that the request is longer than the peer takes; ErrUnsent is its cause.
	ErrTooLarge = fault.New(fault.TooLarge, "forward_too_large", "the request is too long to be forwarded")
	// ErrInvalid says that the request is no valid HTTP request; ErrUnsent is its cause.
	ErrInvalid = fault.New(fault.Invalid, "forward_invalid", "the request cannot be forwarded")
)

// ErrInstance is what the handshake is answered with if it does not name its instance and session.
var ErrInstance = fault.New(fault.Invalid, "forward_instance", "the instance that opens the connection is not named")

// ErrUnsettled is what the handshake is answered with while requests of an earlier connection still run, and while the server shuts down.
var ErrUnsettled = fault.New(fault.Unavailable, "forward_unsettled", "forwarded requests cannot be taken yet")

// ErrShutdown is returned by Server.Shutdown if forwarded requests were still running when its context ended; they are cut off.
var ErrShutdown = fault.New(fault.Unavailable, "forward_cut_off", "forwarded requests were cut off at shutdown")

// Unsent reports whether err says that the request was not run and never will be; otherwise its outcome is unknown.
func Unsent(err error) bool { return errors.Is(err, ErrUnsent) }

// A Field is one header field; Name is in canonical form, e.g. "Content-Type".
type Field struct{ Name, Value string }

// A Request is an HTTP request to be run by another process. Do does not keep it. Fields about the connection, such as Connection,
// Transfer-Encoding and Content-Length, are left out.
type Request struct {
	Method string
	Target string  // path and query as on the request line, e.g. "/v1/orders/o-1/place?dry=1"; up to 65,535 bytes
	Header []Field // up to 255; names up to 255 bytes, values up to 65,535, all of it up to 64 KiB
	Body   []byte
}

// A Response is the answer of the other process, in memory of its own.
type Response struct {
	Status int
	Header []Field // a name comes once per value; fields about the connection are left out
	Body   []byte
}

// Get returns the first value of the field of that name, "" if there is none; name is in canonical form.
func (r *Response) Get(name string) string {
	for _, f := range r.Header {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

type instanceKey struct{}

// From returns the name of the instance that forwarded the request whose context this is, and false for a request that came over HTTP. No header can pretend it.
func From(ctx context.Context) (instance string, ok bool) {
	instance, ok = ctx.Value(instanceKey{}).(string)
	return instance, ok
}
