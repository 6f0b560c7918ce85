// Package fault is the one error vocabulary of Millrace: every error that a user may see carries a kind, a stable code,
// what happened, why, and how to fix it. Package rest alone maps kinds to HTTP status numbers; this package knows none.
package fault

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// A Kind says what sort of failure an error is, and so what the caller can do about it.
type Kind uint8

// The kinds, each with the caller's next step.
const (
	Internal             Kind = iota // a bug or broken machinery; the text never leaves the process
	Invalid                          // malformed input: correct it
	Unauthenticated                  // say who you are
	Forbidden                        // not allowed to you
	NotFound                         // no such thing
	Conflict                         // it exists already, or it is gone
	PreconditionFailed               // the expected version is not the current one: read again
	PreconditionRequired             // this operation demands an expected version
	Rejected                         // the domain refuses: do something else
	TooLarge                         // send less
	Unsupported                      // another media type or encoding is needed
	Busy                             // slow down, then repeat
	Unavailable                      // not now: repeat later
	Unknown                          // the outcome is open: repeat with the same command id to learn it
)

var kindNames = [...]string{"internal", "invalid", "unauthenticated", "forbidden", "not_found", "conflict", "precondition_failed",
	"precondition_required", "rejected", "too_large", "unsupported", "busy", "unavailable", "unknown"}

// String returns the kind's name in snake case.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Retryable reports whether the same request, repeated unchanged, can succeed later.
func (k Kind) Retryable() bool { return k == Busy || k == Unavailable || k == Unknown }

// A Field points at one faulty place of an input: Pointer is an RFC 6901 JSON pointer into the body ("" is the whole of it).
type Field struct {
	Pointer string `json:"pointer"`
	Detail  string `json:"detail"`
}

// An Error is a failure with a kind, a stable code in snake case, and words for its reader.
// Package-level Errors made by New serve as sentinels: errors.Is compares codes. The methods return changed copies.
type Error struct {
	Kind       Kind
	Code       string
	Title      string        // what this code means, always the same for one code
	Detail     string        // what happened this time
	Fix        string        // what to do about it
	Fields     []Field       // the faulty places of the input, all of them
	Current    *int64        // the current version, where a version was expected
	RetryAfter time.Duration // when to try again; 0 = no hint
	cause      error
}

// New returns an Error to be used as a sentinel, e.g. var ErrGone = fault.New(fault.Conflict, "order_gone", "the order is gone").
func New(kind Kind, code, title string) *Error { return &Error{Kind: kind, Code: code, Title: title} }

// Error returns title, detail and cause in one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Title)
	if e.Detail != "" {
		b.WriteString(": ")
		b.WriteString(e.Detail)
	}
	for i, f := range e.Fields {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		fmt.Fprintf(&b, "%s%s %s", sep, f.Pointer, f.Detail)
	}
	if e.cause != nil {
		b.WriteString(": ")
		b.WriteString(e.cause.Error())
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is an Error of the same code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Because returns a copy of e whose detail is the formatted text.
func (e *Error) Because(format string, args ...any) *Error {
	c := *e
	c.Detail = fmt.Sprintf(format, args...)
	return &c
}

// WithFix returns a copy of e that says how to fix it.
func (e *Error) WithFix(format string, args ...any) *Error {
	c := *e
	c.Fix = fmt.Sprintf(format, args...)
	return &c
}

// Wrap returns a copy of e with a cause.
func (e *Error) Wrap(cause error) *Error {
	c := *e
	c.cause = cause
	return &c
}

// At returns a copy of e with one more faulty place of the input.
func (e *Error) At(pointer, format string, args ...any) *Error {
	c := *e
	c.Fields = append(c.Fields[:len(c.Fields):len(c.Fields)], Field{Pointer: pointer, Detail: fmt.Sprintf(format, args...)})
	return &c
}

// WithCurrent returns a copy of e that carries the current version of the stream.
func (e *Error) WithCurrent(version int64) *Error {
	c := *e
	c.Current = &version
	return &c
}

// After returns a copy of e that asks the caller to wait d before it tries again.
func (e *Error) After(d time.Duration) *Error {
	c := *e
	c.RetryAfter = d
	return &c
}

// From returns the Error in err's chain, or nil if there is none.
func From(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}

// KindOf returns the kind of the Error in err's chain, Internal if there is none.
func KindOf(err error) Kind {
	if e := From(err); e != nil {
		return e.Kind
	}
	return Internal
}

// Lines formats err for a terminal in the four parts error, why, fix and code; parts that are unknown are left out.
func Lines(err error) string {
	e := From(err)
	if e == nil {
		return "error: " + err.Error()
	}
	var b strings.Builder
	b.WriteString("error: " + e.Title)
	why := e.Detail
	for _, f := range e.Fields {
		if why != "" {
			why += "; "
		}
		why += strings.TrimSpace(f.Pointer + " " + f.Detail)
	}
	if e.cause != nil {
		if why != "" {
			why += ": "
		}
		why += e.cause.Error()
	}
	if why != "" {
		b.WriteString("\nwhy: " + why)
	}
	if e.Fix != "" {
		b.WriteString("\nfix: " + e.Fix)
	}
	b.WriteString("\ncode: " + e.Code)
	return b.String()
}

// Line formats err for a log or the last words of a process: title, why, fix and code in one line.
func Line(err error) string {
	text := strings.TrimPrefix(Lines(err), "error: ")
	text = strings.ReplaceAll(text, "\nwhy: ", ": ")
	text = strings.ReplaceAll(text, "\nfix: ", "; ")
	if i := strings.LastIndex(text, "\ncode: "); i >= 0 {
		text = text[:i] + " [" + text[i+len("\ncode: "):] + "]"
	}
	return strings.ReplaceAll(text, "\n", " ")
}
