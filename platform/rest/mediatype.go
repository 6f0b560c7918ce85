package rest

import (
	"mime"
	"strings"
)

// checkMediaType returns nil for an uncompressed body of application/json in UTF-8.
func (r *Request) checkMediaType() error {
	if err := r.checkEncoding(); err != nil {
		return err
	}
	const fix = "send Content-Type: application/json"
	values := r.r.Header["Content-Type"]
	switch {
	case len(values) == 1 && values[0] == "application/json":
		return nil
	case len(values) == 0:
		return ErrMediaType.Because("the request has no Content-Type").WithFix(fix)
	case len(values) > 1:
		return ErrMediaType.Because("Content-Type is given %d times", len(values)).WithFix(fix)
	}
	media, params, err := mime.ParseMediaType(values[0])
	if err != nil || media != "application/json" {
		return ErrMediaType.Because("it is %s", quote(values[0])).WithFix(fix)
	}
	for k, v := range params {
		if k != "charset" || !strings.EqualFold(v, "utf-8") {
			return ErrMediaType.Because("parameter %s=%s is not supported", quote(k), quote(v)).WithFix(fix)
		}
	}
	return nil
}

func (r *Request) checkEncoding() error {
	for _, v := range r.r.Header["Content-Encoding"] {
		if v != "" && !strings.EqualFold(v, "identity") {
			return ErrEncoding.Because("Content-Encoding is %s", quote(v)).WithFix("send the body uncompressed")
		}
	}
	return nil
}
