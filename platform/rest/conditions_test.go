package rest

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
)

// with returns a Request with the given values of one header field.
func with(name string, values ...string) *Request {
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	for _, v := range values {
		r.Header.Add(name, v)
	}
	return &Request{r: r}
}

func TestCommandID(t *testing.T) {
	for _, tt := range []struct {
		values []string
		want   string
		ok     bool
	}{
		{nil, "", true},
		{[]string{`"8e03978e-40d5-43e8-bc93-6894a57f9324"`}, "8e03978e-40d5-43e8-bc93-6894a57f9324", true},
		{[]string{`8e03978e-40d5-43e8-bc93-6894a57f9324`}, "8e03978e-40d5-43e8-bc93-6894a57f9324", true},
		{[]string{` "a b" `}, "a b", true},
		{[]string{`"a\"b\\c"`}, `a"b\c`, true},
		{[]string{""}, "", false},
		{[]string{`""`}, "", false},
		{[]string{`"`}, "", false},
		{[]string{`"a`}, "", false},
		{[]string{`"a\`}, "", false},
		{[]string{`"a\x"`}, "", false},
		{[]string{`"a"b`}, "", false},
		{[]string{`"a";p=1`}, "", false},
		{[]string{`"a", "b"`}, "", false},
		{[]string{`a,b`}, "", false},
		{[]string{`a;b`}, "", false},
		{[]string{`a b`}, "", false},
		{[]string{`a"b`}, "", false},
		{[]string{"a\tb"}, "", false},
		{[]string{"\"a\tb\""}, "", false},
		{[]string{`"é"`}, "", false},
		{[]string{`é`}, "", false},
		{[]string{`a/b`}, "", false},
		{[]string{`..`}, "", false},
		{[]string{strings.Repeat("x", 256)}, strings.Repeat("x", 256), true},
		{[]string{strings.Repeat("x", 257)}, "", false},
		{[]string{"a", "a"}, "", false},
	} {
		got, err := with("Idempotency-Key", tt.values...).CommandID()
		if got != tt.want || (err == nil) != tt.ok || (err != nil && !errors.Is(err, ErrIdempotencyKey)) {
			t.Errorf("%q: got %q, %v, want %q, %v", tt.values, got, err, tt.want, tt.ok)
		}
	}
}

func FuzzCommandID(f *testing.F) {
	for _, s := range []string{`"a"`, `a`, `"\\"`, `"\"`, "\x00", `"a"b`, "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r := with("Idempotency-Key")
		r.r.Header["Idempotency-Key"] = []string{s}
		id, err := r.CommandID()
		if err == nil && (es.CheckID(id) != nil || !printable(id)) {
			t.Fatalf("%q: accepted as %q", s, id)
		}
		if err != nil && !errors.Is(err, ErrIdempotencyKey) {
			t.Fatal(err)
		}
	})
}

func TestIfMatch(t *testing.T) {
	for _, tt := range []struct {
		values []string
		want   es.Version // -1 = absent
		why    string     // part of the error
	}{
		{nil, -1, ""},
		{[]string{`"3"`}, 3, ""},
		{[]string{`"0"`}, 0, ""},
		{[]string{` "9223372036854775807" `}, 1<<63 - 1, ""},
		{[]string{`W/"3"`}, 0, "weak"},
		{[]string{`*`}, 0, "names no version"},
		{[]string{`"3", "4"`}, 0, "several"},
		{[]string{`"3"`, `"4"`}, 0, "several"},
		{[]string{`3`}, 0, "double quotes"},
		{[]string{``}, 0, "double quotes"},
		{[]string{`""`}, 0, "double quotes"},
		{[]string{`"abc"`}, 0, "not a version"},
		{[]string{`"-1"`}, 0, "not a version"},
		{[]string{`"+1"`}, 0, "not a version"},
		{[]string{`"03"`}, 0, "not a version"},
		{[]string{`"9223372036854775808"`}, 0, "not a version"},
		{[]string{`"3`}, 0, "double quotes"},
	} {
		got, err := with("If-Match", tt.values...).IfMatch()
		switch {
		case tt.why != "":
			if !errors.Is(err, ErrCondition) || !strings.Contains(err.Error(), tt.why) {
				t.Errorf("%q: got error %v, want one about %q", tt.values, err, tt.why)
			}
		case err != nil || (got == nil) != (tt.want < 0) || (got != nil && *got != tt.want):
			t.Errorf("%q: got %v, %v, want %d", tt.values, got, err, tt.want)
		}
	}
}

func TestIfNoneMatch(t *testing.T) {
	for _, tt := range []struct {
		values []string
		want   bool
		ok     bool
	}{{nil, false, true}, {[]string{"*"}, true, true}, {[]string{`"3"`}, false, false}, {[]string{"*", "*"}, false, false}, {[]string{""}, false, false}} {
		got, err := with("If-None-Match", tt.values...).IfNoneMatchAny()
		if got != tt.want || (err == nil) != tt.ok || (err != nil && !errors.Is(err, ErrCondition)) {
			t.Errorf("%q: got %v, %v", tt.values, got, err)
		}
	}
	r := with("If-None-Match", "*")
	r.r.Header.Set("If-Match", `"1"`)
	if _, err := r.IfNoneMatchAny(); !errors.Is(err, ErrCondition) {
		t.Errorf("both conditions: got %v", err)
	}
	for _, tt := range []struct {
		value string
		want  bool
	}{{`"a"`, true}, {`W/"a"`, true}, {`"b", "a"`, true}, {`*`, true}, {`"b"`, false}, {`a`, false}} {
		if got := with("If-None-Match", tt.value).NoneMatch(`"a"`); got != tt.want {
			t.Errorf("%s: got %v", tt.value, got)
		}
	}
}

func TestPrefer(t *testing.T) {
	for _, tt := range []struct {
		values []string
		async  bool
		wait   time.Duration // -1 = not said
	}{
		{nil, false, -1},
		{[]string{"respond-async"}, true, -1},
		{[]string{"Respond-Async, wait=10"}, true, 10 * time.Second},
		{[]string{`foo; x="respond-async"`, ` wait = "5" ; y`}, false, 5 * time.Second},
		{[]string{"wait=-1"}, false, -1},
		{[]string{"wait=99999999999999"}, false, -1},
		{[]string{"wait"}, false, -1},
		{[]string{"respond-asynchronously"}, false, -1},
	} {
		r := with("Prefer", tt.values...)
		wait, ok := r.Wait()
		if !ok {
			wait = -1
		}
		if r.Async() != tt.async || wait != tt.wait {
			t.Errorf("%q: got %v, %v", tt.values, r.Async(), wait)
		}
	}
}

func TestAtLeast(t *testing.T) {
	for _, tt := range []struct {
		values []string
		want   string
		ok     bool
	}{
		{nil, "", true},
		{[]string{"orders.events/3@5"}, "orders.events/3@5", true},
		{[]string{"b/1@5, a/0@7", "b/1@6"}, "a/0@7,b/1@6", true},
		{[]string{""}, "", false},
		{[]string{"orders.events/3"}, "", false},
	} {
		got, err := with("Millrace-At-Least", tt.values...).AtLeast()
		if got.String() != tt.want || (err == nil) != tt.ok || (err != nil && !errors.Is(err, es.ErrPosition)) {
			t.Errorf("%q: got %v, %v", tt.values, got, err)
		}
	}
}
