// Package registry keeps the event contracts: a schema registry that speaks Confluent's HTTP API, and the client that services use
// with this or any other such registry. The server's state is the fold of the compacted topic _schemas, in Confluent's record format;
// one instance at a time writes it, through the fenced append, and reads need no writer. It checks compatibility for real, with rules
// for what types do not show, never reuses an id, and refuses what it does not support instead of ignoring it: schema types other than
// Avro above all. It is the only package that imports srclient.
package registry

import (
	"fmt"
	"net/http"
	"strconv"
)

// An apiError is an answer of the registry's API: a code of which the first three digits are the HTTP status.
type apiError struct {
	code  int
	text  string
	moved bool // the write was not made, for another instance has become the writer
}

func (e *apiError) Error() string { return strconv.Itoa(e.code) + ": " + e.text }

// status returns the HTTP status: old clients know incompatibility by code 409, newer codes have two digits more.
func (e *apiError) status() int {
	if e.code < 1000 {
		return e.code
	}
	return e.code / 100
}

func refuse(code int, format string, args ...any) *apiError {
	return &apiError{code: code, text: fmt.Sprintf(format, args...)}
}

// The error codes of the API that this registry uses.
const (
	codeIncompatible       = http.StatusConflict
	codeNoSubject          = 40401
	codeNoVersion          = 40402
	codeNoSchema           = 40403
	codeSubjectDeleted     = 40404
	codeSubjectNotDeleted  = 40405
	codeVersionDeleted     = 40406
	codeVersionNotDeleted  = 40407
	codeNoSubjectLevel     = 40408
	codeNoSubjectMode      = 40409
	codeNoAssociation      = 40410
	codeNoContext          = 404
	codeResourceAssociated = 40903
	codeSubjectAssociated  = 40904
	codeSubjectStrong      = 40905
	codeNoActiveVersion    = 40907
	codeFrozen             = 40908
	codeInvalidSchema      = 42201
	codeInvalidVersion     = 42202
	codeInvalidLevel       = 42203
	codeInvalidMode        = 42204
	codeNotPermitted       = 42205
	codeReferenced         = 42206
	codeIDMismatch         = 42207
	codeInvalidSubject     = 42208
	codeSchemaTooLarge     = 42209
	codeInvalidRuleSet     = 42210
	codeContextNotEmpty    = 42211
	codeInvalidAssociation = 42212
	codeStore              = 50001
	codeTimeout            = 50002
	codeForwarding         = 50003
	codeUnknownLeader      = 50004
	codeUnprocessableInput = http.StatusUnprocessableEntity
)
