package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestAudience: a line counts once for each watcher who is there, from its acknowledgement on, and as nothing if it was seen before that.
func TestAudience(t *testing.T) {
	a := &audience{orders: make([]watchedOrder, 2), watching: true}
	now := time.Now()
	at := func(ms int) time.Time { return now.Add(time.Duration(ms) * time.Millisecond) }
	a.see(0, 0, 1, at(0)) // there is one watcher, and no line yet
	a.acknowledge(0, at(10))
	a.acknowledge(1, at(10)) // nobody watches
	a.see(0, 0, 2, at(13))
	a.see(0, 0, 2, at(14)) // nothing new
	a.see(0, 0, 4, at(20)) // two lines, neither of which was answered
	a.acknowledge(0, at(21))
	if n := a.behind(); n != 0 {
		t.Errorf("%d lines were not seen", n)
	}
	a.acknowledge(0, at(22))
	a.acknowledge(0, at(30))
	if n := a.behind(); n != 1 {
		t.Errorf("%d lines were not seen, want 1", n)
	}
	a.see(0, 0, 5, at(37))
	want := []time.Duration{3 * time.Millisecond, 0, 0, 7 * time.Millisecond}
	if !slices.Equal(a.took, want) {
		t.Errorf("seen after %v, want %v", a.took, want)
	}
}

// TestWatcher reads events as they come, and not what is between them.
func TestWatcher(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/good" || r.Header.Get("Accept") != "text/event-stream" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Connection", "close")
		for _, frame := range []string{"retry: 2000\n\n", "event: state\nid: t/0@1\ndata: {\"rows\":[]}\n\n", ":\n\n"} {
			_, _ = w.Write([]byte(frame))
			w.(http.Flusher).Flush()
		}
		for n := range 3 {
			_, _ = fmt.Fprintf(w, "event: change\nid: t/0@%d\ndata: {\"rows\":[{\"key\":\"w-1\",\"row\":{\"units\":%d}}]}\n\n", n+2, n+1)
			w.(http.Flusher).Flush()
		}
	}))
	defer s.Close()
	addr := strings.TrimPrefix(s.URL, "http://")
	for _, deaf := range []bool{false, true} {
		w, err := watch(t.Context(), addr, "/good", deaf)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 3 {
			if units, err := w.units(); err != nil || units != n+1 {
				t.Errorf("%d units, %v, want %d", units, err, n+1)
			}
		}
		if _, err := w.units(); err == nil {
			t.Error("it goes on after the end")
		}
		w.net.Close()
	}
	if _, err := watch(t.Context(), addr, "/bad", false); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("what is not there: %v", err)
	}
}
