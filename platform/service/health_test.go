package service

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHealth(t *testing.T) {
	answers := func(status int, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/readyz" {
				status = http.StatusTeapot
			}
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(silent.Close)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for _, tc := range []struct {
		name   string
		args   []string
		status int
		says   string
	}{
		{"ready", []string{answers(200, "ready\n")}, 0, ""},
		{"ready, with a slash", []string{answers(200, "ready\n") + "/"}, 0, ""},
		{"not ready", []string{answers(503, `{"code":"not_ready","detail":"registry: it is reading its log"}`)}, 1, "registry: it is reading its log"},
		{"not a problem document", []string{answers(502, "<html>")}, 1, "502 Bad Gateway"},
		{"another program", []string{answers(404, `{}`)}, 1, "404 Not Found"},
		{"gone", []string{gone.URL}, 1, gone.URL},
		{"silent", []string{silent.URL, "--timeout", "20ms"}, 1, silent.URL},
		{"no URL", []string{"localhost:8088"}, 2, "localhost:8088"},
		{"no host", []string{"http://"}, 2, "http://"},
		{"two", []string{"http://a", "http://b"}, 2, "arg"},
		{"no time", []string{silent.URL, "--timeout", "0s"}, 2, "--timeout"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out, stderr strings.Builder
			root := App{Name: "shop"}.command()
			root.SetOut(&out)
			status := Execute(root, append([]string{"health"}, tc.args...), &stderr)
			if status != tc.status {
				t.Errorf("exit status %d, want %d: %s", status, tc.status, stderr.String())
			}
			if status == 0 && out.String() != "ready\n" || status != 0 && (strings.Count(stderr.String(), "\n") != 1 || !strings.Contains(stderr.String(), tc.says)) {
				t.Errorf("it says %q and %q, want %q", out.String(), stderr.String(), tc.says)
			}
		})
	}
}
