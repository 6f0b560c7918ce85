package rest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/fault"
)

// TestAccess: who sends a request is asked once, and what an author's functions return becomes 401 or 403 without its text, unless it is
// a fault of its own.
func TestAccess(t *testing.T) {
	plain := errors.New("the secret reason")
	for _, tc := range []struct {
		name         string
		authenticate Authenticator
		authorize    Authorizer
		status       int
		code         string
	}{
		{"nobody asks", nil, nil, 200, ""},
		{"known and allowed", func(context.Context, *http.Request) (Principal, error) { return Principal{Name: "ada"}, nil }, func(_ context.Context, a Access) error {
			if a.Principal.Name != "ada" {
				return plain
			}
			return nil
		}, 200, ""},
		{"unknown", func(context.Context, *http.Request) (Principal, error) { return Principal{}, plain }, nil, 401, "unauthenticated"},
		{"unknown, said by a fault", func(context.Context, *http.Request) (Principal, error) {
			return Principal{}, fault.New(fault.Unauthenticated, "token_expired", "the token is too old")
		}, nil, 401, "token_expired"},
		{"it cannot be told", func(context.Context, *http.Request) (Principal, error) {
			return Principal{}, fault.New(fault.Unavailable, "issuer_down", "the issuer does not answer")
		}, nil, 503, "issuer_down"},
		{"a name that no log should hold", func(context.Context, *http.Request) (Principal, error) { return Principal{Name: "a\nb"}, nil }, nil, 500, "internal"},
		{"denied", nil, func(context.Context, Access) error { return plain }, 403, "forbidden"},
		{"denied by a fault", nil, func(context.Context, Access) error { return ErrForbidden.Because("not on Sundays") }, 403, "forbidden"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			asked := 0
			o := Options{}
			if tc.authenticate != nil {
				o.Authenticate = func(ctx context.Context, r *http.Request) (Principal, error) { asked++; return tc.authenticate(ctx, r) }
			}
			s := NewServer(o)
			s.Handle(http.MethodGet, "/thing", func(ctx context.Context, r *Request) (*Response, error) {
				p, err := r.Principal(ctx)
				if err != nil {
					return nil, err
				}
				if again, err := r.Principal(ctx); err != nil || again.Name != p.Name {
					t.Errorf("asked again: %v, %v", again, err)
				}
				return JSON(http.StatusOK, 1), Allow(ctx, tc.authorize, Access{Principal: p, Header: r.HTTP().Header})
			})
			w := httptest.NewRecorder()
			s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/thing", nil))
			if w.Code != tc.status || asked > 1 || strings.Contains(w.Body.String(), "secret") {
				t.Errorf("status %d, want %d, asked %d times: %s", w.Code, tc.status, asked, w.Body)
			}
			if (w.Header().Get("Www-Authenticate") != "") != (tc.status == 401) {
				t.Errorf("WWW-Authenticate %q with status %d", w.Header().Get("Www-Authenticate"), w.Code)
			}
			var p Problem
			if tc.code != "" && (json.Unmarshal(w.Body.Bytes(), &p) != nil || p.Code != tc.code) {
				t.Errorf("code %q, want %q", p.Code, tc.code)
			}
		})
	}
}

// TestRoutes: a server tells all its routes.
func TestRoutes(t *testing.T) {
	s := NewServer(Options{})
	s.Handle(http.MethodPost, "/v1/a/:id/b", nil)
	want := []Route{{"GET", "/livez"}, {"HEAD", "/livez"}, {"GET", "/readyz"}, {"HEAD", "/readyz"}, {"POST", "/v1/a/:id/b"}}
	if diff := cmp.Diff(want, s.Routes()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
