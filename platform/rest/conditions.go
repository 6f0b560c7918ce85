package rest

import (
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
)

// Errors of request conditions.
var (
	ErrIdempotencyKey = fault.New(fault.Invalid, "invalid_idempotency_key", "the Idempotency-Key is not allowed")
	ErrCondition      = fault.New(fault.Invalid, "invalid_condition", "the request's condition is not understood")
)

// CommandID returns the Idempotency-Key, written as a structured field string ("…", RFC 8941) or bare; "" if the field is absent.
// Anything that is not one key that es.CheckID allows is ErrIdempotencyKey.
func (r *Request) CommandID() (string, error) {
	values := r.r.Header["Idempotency-Key"]
	if len(values) == 0 {
		return "", nil
	}
	if len(values) > 1 {
		return "", ErrIdempotencyKey.Because("the field is given %d times", len(values))
	}
	key, err := parseKey(strings.Trim(values[0], " \t"))
	if err != nil {
		return "", err
	}
	if err := es.CheckID(key); err != nil {
		return "", ErrIdempotencyKey.Because("%s", fault.From(err).Detail)
	}
	return key, nil
}

func parseKey(s string) (string, error) {
	if s == "" {
		return "", ErrIdempotencyKey.Because("it is empty")
	}
	if s[0] != '"' {
		for i := range len(s) {
			if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == ',' || c == ';' || c == '\\' {
				return "", ErrIdempotencyKey.Because("%s holds %q", quote(s), rune(c)).WithFix(`write it as "key", printable ASCII in double quotes`)
			}
		}
		return s, nil
	}
	if len(s) >= 2 && s[len(s)-1] == '"' && !strings.ContainsAny(s[1:len(s)-1], "\"\\") && printable(s) {
		return s[1 : len(s)-1], nil
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			if i != len(s)-1 {
				return "", ErrIdempotencyKey.Because("%s goes on after the closing quote", quote(s)).WithFix("send one key without parameters")
			}
			return b.String(), nil
		case c == '\\':
			i++
			if i == len(s) || (s[i] != '"' && s[i] != '\\') {
				return "", ErrIdempotencyKey.Because("%s escapes something other than a quote or a backslash", quote(s))
			}
			b.WriteByte(s[i])
		case c < 0x20 || c >= 0x7f:
			return "", ErrIdempotencyKey.Because("%s holds %q", quote(s), rune(c)).WithFix("use printable ASCII")
		default:
			b.WriteByte(c)
		}
	}
	return "", ErrIdempotencyKey.Because("%s has no closing quote", quote(s))
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// IfMatch returns the expected version of If-Match: "3", nil if the field is absent. Weak tags, lists and * are ErrCondition: a command
// expects one version.
func (r *Request) IfMatch() (*es.Version, error) {
	values := r.r.Header["If-Match"]
	if len(values) == 0 {
		return nil, nil
	}
	fix := `send one version in double quotes, e.g. If-Match: "3"`
	s := strings.Trim(values[0], " \t")
	switch {
	case len(values) > 1 || strings.IndexByte(s, ',') >= 0:
		return nil, ErrCondition.Because("If-Match lists several versions").WithFix("%s", fix)
	case s == "*":
		return nil, ErrCondition.Because("If-Match: * names no version").WithFix("%s", fix)
	case strings.HasPrefix(s, "W/"):
		return nil, ErrCondition.Because("If-Match: %s is a weak tag, versions are strong ones", quote(s)).WithFix("%s", fix)
	case len(s) < 3 || s[0] != '"' || s[len(s)-1] != '"':
		return nil, ErrCondition.Because("If-Match: %s is not a version in double quotes", quote(s)).WithFix("%s", fix)
	}
	digits := s[1 : len(s)-1]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || digits[0] < '0' || digits[0] > '9' || (len(digits) > 1 && digits[0] == '0') {
		return nil, ErrCondition.Because("If-Match: %s is not a version", quote(s)).WithFix("%s", fix)
	}
	v := es.Version(n)
	return &v, nil
}

// IfNoneMatchAny reports whether the request says If-None-Match: *, create only. Any other value, or If-Match beside it, is ErrCondition.
func (r *Request) IfNoneMatchAny() (bool, error) {
	values := r.r.Header["If-None-Match"]
	switch {
	case len(values) == 0:
		return false, nil
	case len(values) > 1 || strings.Trim(values[0], " \t") != "*":
		return false, ErrCondition.Because("If-None-Match has a value other than *").WithFix("send If-None-Match: * to create only, If-Match to expect a version")
	case len(r.r.Header["If-Match"]) > 0:
		return false, ErrCondition.Because("If-Match and If-None-Match: * contradict each other").WithFix("send one of them")
	}
	return true, nil
}

// NoneMatch reports whether If-None-Match holds etag (with its quotes) or *, so that a read can answer 304.
func (r *Request) NoneMatch(etag string) bool {
	for _, line := range r.r.Header["If-None-Match"] {
		for tag := range strings.SplitSeq(line, ",") {
			tag = strings.Trim(tag, " \t")
			if tag == "*" || strings.TrimPrefix(tag, "W/") == strings.TrimPrefix(etag, "W/") {
				return true
			}
		}
	}
	return false
}

// Async reports whether the client prefers not to wait: Prefer: respond-async (RFC 7240).
func (r *Request) Async() bool {
	_, ok := r.preference("respond-async")
	return ok
}

// Wait returns how long the client is ready to wait: Prefer: wait=seconds; false if it does not say. What cannot be understood is
// ignored, as RFC 7240 demands.
func (r *Request) Wait() (time.Duration, bool) {
	v, ok := r.preference("wait")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(v, 10, 31)
	if err != nil {
		return 0, false
	}
	return time.Duration(n) * time.Second, true
}

func (r *Request) preference(name string) (string, bool) {
	for _, line := range r.r.Header["Prefer"] {
		for p := range strings.SplitSeq(line, ",") {
			p, _, _ = strings.Cut(p, ";")
			k, v, _ := strings.Cut(p, "=")
			if strings.EqualFold(strings.Trim(k, " \t"), name) {
				return strings.Trim(v, " \t\""), true // of several the first counts
			}
		}
	}
	return "", false
}

// AtLeast returns the positions of Millrace-At-Least that an answer must include, nil if the field is absent; es.ErrPosition if malformed.
func (r *Request) AtLeast() (es.Positions, error) {
	switch values := r.r.Header["Millrace-At-Least"]; len(values) {
	case 0:
		return nil, nil
	case 1:
		return es.ParsePositions(values[0])
	default:
		return es.ParsePositions(strings.Join(values, ","))
	}
}
