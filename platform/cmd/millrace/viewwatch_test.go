package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestWatch follows rows over connections that are refused, cut in the middle of an event, and ended with an error.
func TestWatch(t *testing.T) {
	const row = `{"key":%q,"position":"t/0@1","event_id":"e","row":{"n":%d}}`
	event := func(name, id string, rows ...string) string {
		return "event: " + name + "\nid: " + id + "\ndata: {\"rows\":[" + strings.Join(rows, ",") + "]}\n\n"
	}
	one, two := fmt.Sprintf(row, "a", 1), fmt.Sprintf(row, "a", 2)
	answers := []string{
		"retry: 1\n\n:\n\n" + event("state", "t/0@1", one, fmt.Sprintf(row, "b", 1)) + event("change", "t/0@2", two)[:40],
		"503",
		"retry: 1\n\nevent: error\nretry: 2\ndata: {\"code\":\"not_caught_up\",\"detail\":\"it is behind\"}\n\n",
		"retry: 1\r\n\r\nevent: change\r\nid: t/0@3\r\ndata: {\"rows\":[" + two + "],\r\ndata: \"gone\":[\"b\"]}\r\n\r\n" + event("state", "t/0@9", one),
	}
	var mu sync.Mutex
	var seen []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.URL.RequestURI()+" "+r.Header.Get("Last-Event-Id"))
		answer := answers[0]
		answers = answers[1:]
		if answer == "503" {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, `{"title":"not now","status":503,"code":"stopping","retryable":true}`)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, answer)
	}))
	defer s.Close()
	out, talk, status := millrace("", "view", "watch", "things", "--index", "size=3", "--where", "n > 0", "-n", "3", "--url", s.URL)
	want := "= a {\"n\":1}\n= b {\"n\":1}\n~ a {\"n\":2}\n- b\n# anew\n= a {\"n\":1}\n"
	if diff := cmp.Diff(want, out); diff != "" || status != 0 {
		t.Errorf("status %d, stdout (-want +got):\n%s", status, diff)
	}
	wantTalk := "the connection is gone (it was ended), again in 1ms\nthe connection is gone (not now [stopping]), again in 1ms\nthe connection is gone (the stream was cut off: it is behind [stream_cut]), again in 2ms\n"
	if diff := cmp.Diff(wantTalk, talk); diff != "" {
		t.Errorf("stderr (-want +got):\n%s", diff)
	}
	const at = "/v1/views/things?size=3&where=n+%3E+0 "
	if diff := cmp.Diff([]string{at, at + "t/0@1", at + "t/0@1", at + "t/0@1"}, seen); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestWatchRefused(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/views/plain" {
			fmt.Fprint(w, "{}")
			return
		}
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"title":"the query is not possible","status":400,"code":"invalid_query"}`)
	}))
	defer s.Close()
	for _, tc := range []struct {
		args   string
		status int
		want   string
	}{
		{"things", 1, "[invalid_query]"},
		{"plain", 1, "[no_stream]"},
		{"things key --prefix a", 2, "[usage]"},
		{"things -n -1", 2, "[usage]"},
	} {
		if _, talk, status := millrace("", append(append([]string{"view", "watch"}, strings.Fields(tc.args)...), "--url", s.URL)...); status != tc.status || !strings.Contains(talk, tc.want) {
			t.Errorf("%s: status %d, %s", tc.args, status, talk)
		}
	}
}

// FuzzFrames reads any bytes as a stream of events: what it yields, written again, is read as the same.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("retry: 10\n\nevent: state\nid: t/0@1\ndata: {}\n\n:\n\ndata: a\ndata: b\n\n"))
	f.Add([]byte("data\n\nid\r\ndata:x\r\n\r\nretry: -1\nretry: x\ndata: cut"))
	f.Fuzz(func(t *testing.T, in []byte) {
		read := func(in []byte) (all []frame) {
			err := frames(bytes.NewReader(in), func() {}, func(d time.Duration) {
				if d < 0 {
					t.Errorf("a time of %v", d)
				}
			}, func(f frame) error {
				all = append(all, f)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return all
		}
		all := read(in)
		var again bytes.Buffer
		for _, f := range all {
			fmt.Fprintf(&again, "event: %s\nid: %s\n", f.event, f.id)
			for text := range strings.SplitSeq(f.data, "\n") {
				fmt.Fprintf(&again, "data: %s\n", text)
			}
			again.WriteString("\n")
		}
		if got := read(again.Bytes()); !cmp.Equal(all, got, cmp.AllowUnexported(frame{})) {
			t.Errorf("%q is read as %q, and then as %q", in, all, got)
		}
	})
}
