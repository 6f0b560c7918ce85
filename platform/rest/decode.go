package rest

import (
	"bytes"
	"encoding/json"
	"io"
	"strconv"

	"github.com/millrace/millrace/platform/fault"
)

// ErrBody is returned for a body that is not exactly one JSON value of the expected shape; its fields point at what is wrong.
var ErrBody = fault.New(fault.Invalid, "invalid_body", "the request body is not what is expected here")

// maxFindings bounds how many faults of one input are reported.
const maxFindings = 32

// DecodeJSON decodes data strictly into v, a non-nil pointer.
func DecodeJSON(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return ErrBody.Wrap(err)
	}
	if _, err := d.Token(); err != io.EOF {
		return ErrBody.At("", "goes on after the JSON value")
	}
	return nil
}

// quote returns s in double quotes, shortened to what is worth repeating.
func quote(s string) string {
	if len(s) > 60 {
		s = s[:60] + "…"
	}
	return strconv.Quote(s)
}
