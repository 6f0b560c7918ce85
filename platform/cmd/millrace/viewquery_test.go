package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestScanOfTheAdminAddress asks for rows where the view is described under the same path.
func TestScanOfTheAdminAddress(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintln(w, ordersStatus)
	}))
	defer s.Close()
	for _, args := range []string{"", "-o json", "--count", "--count -o json", "--all", "--all --avro", "--all -o json"} {
		out, talk, status := millrace("", append(append([]string{"view", "scan", "orders"}, strings.Fields(args)...), "--url", s.URL)...)
		if status != 1 || out != "" || !strings.Contains(talk, "[no_answer]") || !strings.Contains(talk, "not an admin address") {
			t.Errorf("%q: status %d, stdout %q, stderr %s", args, status, out, talk)
		}
	}
}

// TestScanCutOff has an export end as something in between may end it, without how many rows there are, and by cutting the connection.
func TestScanCutOff(t *testing.T) {
	const rows = "{\"n\":1}\n{\"n\":2}\n"
	end := ""
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.Header.Get("Accept"))
		if end == "whole" {
			w.Header().Set("Trailer", "Millrace-Rows")
		}
		_, _ = io.WriteString(w, rows)
		_ = http.NewResponseController(w).Flush()
		if end == "cut" {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Millrace-Rows", "2")
	}))
	defer s.Close()
	for _, tc := range []struct {
		end, args string
		status    int
		out, talk string
	}{
		{"whole", "", 0, rows, "2 rows\n"},
		{"whole", "--avro", 0, rows, "2 rows\n"},
		{"whole", "-o json", 0, "{\"rows\":[\n{\"n\":1},\n{\"n\":2}\n]}\n", ""},
		{"uncounted", "", 1, rows, "this may not be the whole"},
		{"uncounted", "--avro", 1, rows, "this may not be the whole"},
		{"uncounted", "-o json", 1, "{\"rows\":[\n{\"n\":1},\n{\"n\":2}", "this may not be the whole"},
		{"cut", "", 1, rows, "this is not the whole"},
		{"cut", "-o json", 1, "{\"rows\":[\n{\"n\":1},\n{\"n\":2}", "the rows were cut off after 2"},
	} {
		end = tc.end
		out, talk, status := millrace("", append(append([]string{"view", "scan", "things", "--all"}, strings.Fields(tc.args)...), "--url", s.URL)...)
		if status != tc.status || out != tc.out || !strings.Contains(talk, tc.talk) || status != 0 != strings.Contains(talk, "[no_answer]") {
			t.Errorf("%s %q: status %d, stdout %q, stderr %s", tc.end, tc.args, status, out, talk)
		}
	}
}

// TestScanPages reads pages: one without rows is an answer too.
func TestScanPages(t *testing.T) {
	answer := ""
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		fmt.Fprint(w, answer)
	}))
	defer s.Close()
	for _, tc := range []struct{ answer, args, out string }{
		{`{"rows":[{"n":1},{"n":2}],"next":"c"}`, "", "{\"n\":1}\n{\"n\":2}\n"},
		{`{"rows":[]}`, "", ""},
		{`{"rows":[],"gone":["a"]}`, "--changed-by t/0@1", ""},
		{`{"count":0}`, "--count", "0\n"},
		{`{"count":7,"more":true}`, "--count -o json", "{\"count\":7,\"more\":true}"},
	} {
		answer = tc.answer
		if out, talk, status := millrace("", append(append([]string{"view", "scan", "things"}, strings.Fields(tc.args)...), "--url", s.URL)...); status != 0 || out != tc.out {
			t.Errorf("%s: status %d, stdout %q, stderr %s", tc.answer, status, out, talk)
		}
	}
}
