package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// rangesOf is what an instance answers that is asked for the ranges of a view with two, of which it has some; ready is where each is.
func rangesOf(here string, has [2]string, ready ...string) string {
	var ranges []string
	for n, state := range has {
		at, _ := json.Marshal(ready)
		ranges = append(ranges, fmt.Sprintf(`{"range":%d,"partitions":"%d-%d","wanted":[],"ready":%s,"here":%q,"version":1}`, n, 3*n, 3*n+2, at, state))
	}
	return fmt.Sprintf(`{"view":"carts","here":%q,"ranges":[%s]}`, here, strings.Join(ranges, ","))
}

// carts is how a range of a view is; builds are as v2-1!, which has not caught up, v2-1# has halted.
func carts(n int, live, previous string, builds ...string) string {
	var all []string
	for _, id := range builds {
		state, caughtUp, more := "running", true, `"progress":1,`
		if strings.HasSuffix(id, "!") {
			state, caughtUp, more = "building", false, `"progress":0.5,"lag_records":6000,"rate":300,"eta_seconds":20,`
		}
		if strings.HasSuffix(id, "#") {
			state, more = "halted", `"why":"boom","progress":0.25,"lag_records":12,`
		}
		id = strings.Trim(id, "!#")
		version, _, _ := numbers(id)
		all = append(all, fmt.Sprintf(`{"id":%q,"version":%d,"state":%q,%s"caught_up":%t,"dead_letters":0,"bytes":1048576,"partitions":[{"topic":"carts.events","partition":%d,"next":100,"end":100,"state":"running"}]}`,
			id, version, state, more, caughtUp, 3*n))
	}
	return fmt.Sprintf(`{"name":"carts.%d","live":%q,"previous":%q,"builds":[%s]}`, n, live, previous, strings.Join(all, ","))
}

// TestDividedVerbs: a command with the name of a divided view acts on all ranges at all instances, says what it did where, and does nothing if it
// cannot do it to all of the view.
func TestDividedVerbs(t *testing.T) {
	both := [2]string{"ready", "ready"}
	everywhere := []string{"10.0.0.1:8088", "10.0.0.2:8088"}
	// ranges are of two instances with a copy of each range; more is what the first one answers, then the second one.
	type answers map[string][]string
	with := func(here string, more answers) answers {
		all := answers{"GET /v1/views/carts/ranges": {rangesOf(here, both, everywhere...)}}
		for n := range 2 {
			at := fmt.Sprintf("/v1/views/carts.%d", n)
			all["GET "+at] = []string{carts(n, "v1-1", "", "v1-1", "v2-1")}
			for _, verb := range []string{"switch", "rollback", "reset"} {
				all["POST "+at+"/"+verb] = []string{`{"build":"v2-1"}`}
			}
			all["POST "+at+"/pause"] = all["GET "+at]
			all["POST "+at+"/rebuild"] = []string{`{"build":"v2-1","version":2,"events":3}`}
			all["GET "+at+"/end"] = []string{`{"positions":""}`}
		}
		for at, answer := range more {
			if all[at] = answer; answer == nil {
				delete(all, at)
			}
		}
		return all
	}
	state := func(n int, live, previous string, builds ...string) answers {
		return answers{fmt.Sprintf("GET /v1/views/carts.%d", n): {carts(n, live, previous, builds...)}}
	}
	letter := `{"stream":"c-9","position":"carts.events/4@7","appended":"2026-01-31T12:00:00Z","event_id":"e","type":"Put","version":1,"code":"view_failed","reason":"boom","attempts":1}`
	retried := func(first, second string) answers {
		return answers{"POST /v1/views/carts.0/letters/retry": {first}, "POST /v1/views/carts.1/letters/retry": {second}}
	}
	const none, one = `{"status":404,"code":"letter_not_found","title":"there is no such dead letter","detail":"the stream \"c-9\""}`, `{"applied":1,"left":0,"failed":[]}`
	retries := func(who string) []string {
		return []string{who + ` POST /v1/views/carts.0/letters/retry {"stream":"c-9"}`, who + ` POST /v1/views/carts.1/letters/retry {"stream":"c-9"}`}
	}
	same := `{"view":"carts","a":"v1-1","b":"v2-1","rows":1,"same":1,"applied":"carts.events/0@1","equal":true,"rows_that_differ":[]}`
	differs := `{"view":"carts","a":"v1-1","b":"v2-1","rows":1,"different":1,"applied":"carts.events/0@1","equal":false,"rows_that_differ":[{"key":"c-1","a":{"n":1},"b":{"n":2}}]}`
	verified := func(first, second string) answers {
		return answers{"POST /v1/views/carts.0/verify": {first}, "POST /v1/views/carts.1/verify": {second}}
	}
	for _, tc := range []struct {
		name, args   string
		first, other answers // nil = the instance is not named
		status       int
		out, talk    string
		did          []string
	}{
		{"describe", "view describe carts", nil, state(1, "v1-1", "", "v1-1", "v2-1!"), 0, `
carts is divided into 2 ranges, at 2 instances: answers are of version 1

RANGE INSTANCE BUILD ROLE STATE PROGRESS LAG-RECORDS RATE/S ETA DLQ SIZE
carts.0 A v1-1 live running ████████████ 100.0 % 0 0 0 1.0 MiB
carts.0 A v2-1 beside running ████████████ 100.0 % 0 0 0 1.0 MiB
carts.0 B v1-1 live running ████████████ 100.0 % 0 0 0 1.0 MiB
carts.0 B v2-1 beside running ████████████ 100.0 % 0 0 0 1.0 MiB
carts.1 A v1-1 live running ████████████ 100.0 % 0 0 0 1.0 MiB
carts.1 A v2-1 beside running ████████████ 100.0 % 0 0 0 1.0 MiB
carts.1 B v1-1 live running ████████████ 100.0 % 0 0 0 1.0 MiB
carts.1 B v2-1 beside building ██████░░░░░░ 50.0 % 6,000 300 20s 0 1.0 MiB
`, "", nil},
		{"ls of what has halted", "view ls carts", state(0, "v1-1", "", "v1-1#"), answers{"GET /v1/views/carts.1": nil}, 1, `
RANGE INSTANCE BUILD ROLE STATE PROGRESS LAG-RECORDS RATE/S ETA DLQ SIZE
carts.0 A v1-1 live halted ███░░░░░░░░░ 25.0 % 12 0 0 1.0 MiB
carts.0 B v1-1 live running ████████████ 100.0 % 0 0 0 1.0 MiB
carts.0 B v2-1 beside running ████████████ 100.0 % 0 0 0 1.0 MiB
carts.1 A v1-1 live running ████████████ 100.0 % 0 0 0 1.0 MiB
carts.1 A v2-1 beside running ████████████ 100.0 % 0 0 0 1.0 MiB
`, `
B: carts.1: there is no such view: /v1/views/carts.1; use one of orders [view_not_found]
carts.0 at A, build v1-1 is halted: boom
millrace: it was not done everywhere: B: carts.1 [instances_failed]
`, nil},
		{"a range by its name", "view pause carts.0", nil, nil, 0, "A: carts.0 is paused\nB: carts.0 is paused\n", "", []string{"A POST /v1/views/carts.0/pause", "B POST /v1/views/carts.0/pause"}},
		{"pause fails at one", "view pause carts", nil, answers{"POST /v1/views/carts.0/pause": nil}, 1, "A: carts.0 is paused\nA: carts.1 is paused\nB: carts.1 is paused\n", `
B: carts.0: there is no such view: /v1/views/carts.0/pause; use one of orders [view_not_found]
millrace: it was not done everywhere: B: carts.0 [instances_failed]
`, []string{"A POST /v1/views/carts.0/pause", "A POST /v1/views/carts.1/pause", "B POST /v1/views/carts.0/pause", "B POST /v1/views/carts.1/pause"}},
		{"the other instance is not named", "view pause carts --admin-url A", nil, nil, 1, "", `
millrace: a part of the view is elsewhere: carts.0 is at 10.0.0.2:8088; carts.1 is at 10.0.0.2:8088; name the admin addresses of all instances that have it (--admin-url or MILLRACE_ADMIN_URL), or act on the ranges that are there one by one, such as carts.0 [view_in_part]
`, nil},
		{"a range is nowhere", "view wait carts", answers{"GET /v1/views/carts/ranges": {rangesOf("10.0.0.1:8088", [2]string{"ready", ""})}}, answers{"GET /v1/views/carts/ranges": {rangesOf("10.0.0.2:8088", [2]string{"ready", "failed"})}}, 1, `
A: carts.0: build v1-1 is caught up
B: carts.0: build v1-1 is caught up
`, `
millrace: a part of the view is elsewhere: carts.1 is nowhere; name the admin addresses of all instances that have it (--admin-url or MILLRACE_ADMIN_URL), or act on the ranges that are there one by one, such as carts.0 [view_in_part]
`, nil},
		{"switch", "view switch carts", nil, nil, 0, `
A: carts.0: build v2-1 answers queries
B: carts.0: build v2-1 answers queries
A: carts.1: build v2-1 answers queries
B: carts.1: build v2-1 answers queries
`, "", []string{
			`A POST /v1/views/carts.0/switch {"build":"v2-1","force":false}`, `A POST /v1/views/carts.1/switch {"build":"v2-1","force":false}`,
			`B POST /v1/views/carts.0/switch {"build":"v2-1","force":false}`, `B POST /v1/views/carts.1/switch {"build":"v2-1","force":false}`,
		}},
		{"a switch that goes on", "view switch carts", state(0, "v2-1", "v1-1", "v2-1", "v1-1"), state(1, "v1-1", "", "v1-1", "v2-1!"), 1, `
A: carts.0: build v2-1 answers queries already
B: carts.0: build v2-1 answers queries
A: carts.1: build v2-1 answers queries
`, `
B: carts.1: this cannot be done with the build: view carts.1, build v2-1: it has not caught up [build_state]
millrace: it was not done everywhere: B: carts.1 [instances_failed]
`, []string{`A POST /v1/views/carts.1/switch {"build":"v2-1","force":false}`, `B POST /v1/views/carts.0/switch {"build":"v2-1","force":false}`}},
		{"a range that cannot switch anywhere", "view switch carts", state(1, "v1-1", "", "v1-1"), state(1, "v1-1", "", "v1-1", "v2-1#"), 1, "", `
A: carts.1: this cannot be done with the build: view carts.1, there is no build of version 2 [build_state]
B: carts.1: this cannot be done with the build: view carts.1, build v2-1: it is halted [build_state]
millrace: the view was not switched: it could not be read, or not from the version that is wanted: carts.1 cannot at any instance; millrace view describe carts says more; wait for them, or act on the other ranges one by one: millrace view switch carts.0 [ranges_not_ready]
`, nil},
		{"rollback", "view rollback carts", state(0, "v2-1", "v1-1", "v2-1", "v1-1"), state(0, "v1-1", "v2-1", "v2-1", "v1-1"), 1, "", `
A: carts.1: this cannot be done with the build: view carts.1, there is no build that answered before [build_state]
B: carts.1: this cannot be done with the build: view carts.1, there is no build that answered before [build_state]
millrace: the view was not switched: it could not be read, or not from the version that is wanted: carts.1 cannot at any instance; millrace view describe carts says more; wait for them, or act on the other ranges one by one: millrace view rollback carts.0 [ranges_not_ready]
`, nil},
		{"a rollback that goes on", "view rollback carts", answers{"GET /v1/views/carts.0": {carts(0, "v2-1", "v1-1", "v2-1", "v1-1")}, "GET /v1/views/carts.1": {carts(1, "v2-1", "v1-1", "v2-1", "v1-1")}},
			answers{"GET /v1/views/carts.0": {carts(0, "v1-1", "v2-1", "v2-1", "v1-1")}}, 1, `
A: carts.0: build v2-1 answers queries again
B: carts.0: build v1-1 answers queries already
A: carts.1: build v2-1 answers queries again
`, `
B: carts.1: this cannot be done with the build: view carts.1, there is no build that answered before [build_state]
millrace: it was not done everywhere: B: carts.1 [instances_failed]
`, []string{"A POST /v1/views/carts.0/rollback", "A POST /v1/views/carts.1/rollback"}},
		{"a rollback that is repeated", "view rollback carts", answers{"GET /v1/views/carts.0": {carts(0, "v1-1", "v2-1", "v2-1", "v1-1")}, "GET /v1/views/carts.1": {carts(1, "v1-1", "v2-1", "v2-1", "v1-1")}},
			nil, 1, `
A: carts.0: build v1-1 answers queries already
A: carts.1: build v1-1 answers queries already
`, `
B: carts.0: this cannot be done with the build: view carts.0, there is no build that answered before [build_state]
B: carts.1: this cannot be done with the build: view carts.1, there is no build that answered before [build_state]
millrace: it was not done everywhere: B: carts.0, B: carts.1 [instances_failed]
`, nil},
		{"to different versions", "view rollback carts", answers{"GET /v1/views/carts.0": {carts(0, "v3-1", "v2-1", "v3-1", "v2-1")}, "GET /v1/views/carts.1": {carts(1, "v3-1", "v1-1", "v3-1", "v1-1")}}, nil, 1, "", `
B: carts.0: this cannot be done with the build: view carts.0, there is no build that answered before [build_state]
B: carts.1: this cannot be done with the build: view carts.1, there is no build that answered before [build_state]
millrace: the view was not switched: it could not be read, or not from the version that is wanted: the builds are of different versions, such as carts.1 v1-1 and carts.0 v2-1; act on the ranges one by one: millrace view rollback carts.0 [ranges_not_ready]
`, nil},
		{"rebuild", "view rebuild carts --wait", nil, nil, 0, `
A: carts.0: build v2-1 is begun
B: carts.0: build v2-1 is begun
A: carts.1: build v2-1 is begun
B: carts.1: build v2-1 is begun
A: carts.0: build v2-1 is caught up
B: carts.0: build v2-1 is caught up
A: carts.1: build v2-1 is caught up
B: carts.1: build v2-1 is caught up
`, `
A: 3 records are read with version 2 of carts.0 into a new build; it takes about 0 B, 0 B are free
B: 3 records are read with version 2 of carts.0 into a new build; it takes about 0 B, 0 B are free
A: 3 records are read with version 2 of carts.1 into a new build; it takes about 0 B, 0 B are free
B: 3 records are read with version 2 of carts.1 into a new build; it takes about 0 B, 0 B are free
`, []string{
			`A POST /v1/views/carts.0/rebuild {"dry_run":false,"force":false,"rate":0,"switch":false,"version":0}`, `A POST /v1/views/carts.1/rebuild {"dry_run":false,"force":false,"rate":0,"switch":false,"version":0}`,
			`B POST /v1/views/carts.0/rebuild {"dry_run":false,"force":false,"rate":0,"switch":false,"version":0}`, `B POST /v1/views/carts.1/rebuild {"dry_run":false,"force":false,"rate":0,"switch":false,"version":0}`,
		}},
		{"wait for a position", "view wait carts --position carts.events/3@99", nil, nil, 0, `
A: carts.1: build v1-1 has applied carts.events/3@99
B: carts.1: build v1-1 has applied carts.events/3@99
`, "", nil},
		{"wait too long at one", "view wait carts --build v2-1 --timeout 20ms", nil, state(0, "v1-1", "", "v1-1", "v2-1!"), 3, `
A: carts.0: build v2-1 is caught up
A: carts.1: build v2-1 is caught up
B: carts.1: build v2-1 is caught up
`, `
carts: 3 of 4 builds have caught up, record 400 of 6,400 (6.2 %), 300/s, 20s left
B: carts.0: the view was not that far in time: carts.0 v2-1: building, record 100 of 6,100 (50.0 %), 1 of 1 partitions, 300/s, 20s left [wait_timed_out]
millrace: it was not done everywhere: B: carts.0 [instances_failed]
`, nil},
		{"a position of no range", "view wait carts --position carts.events/6@1", nil, nil, 1, "", `
millrace: the position is not of a topic that the view reads: carts.events/6@1; no range of carts has that partition [foreign_position]
`, nil},
		{"reset asks once", "view reset carts", nil, nil, 2, "", `
A: carts.0: all builds are removed: v1-1 (live, 1.0 MiB), v2-1 (beside, 1.0 MiB); queries are answered from an empty one until the log is read again
B: carts.0: all builds are removed: v1-1 (live, 1.0 MiB), v2-1 (beside, 1.0 MiB); queries are answered from an empty one until the log is read again
A: carts.1: all builds are removed: v1-1 (live, 1.0 MiB), v2-1 (beside, 1.0 MiB); queries are answered from an empty one until the log is read again
B: carts.1: all builds are removed: v1-1 (live, 1.0 MiB), v2-1 (beside, 1.0 MiB); queries are answered from an empty one until the log is read again
millrace: the command line is not understood: this cannot be undone, and there is no terminal to ask at; repeat it with --yes, or with --dry-run to see what it does [usage]
`, nil},
		{"verify", "view verify carts", verified(same, same), verified(same, differs), 3, `
A: carts.0: v1-1, which answers queries, and v2-1
1 rows: 1 the same, 0 different, 0 only in v1-1, 0 only in v2-1
B: carts.0: v1-1, which answers queries, and v2-1
1 rows: 1 the same, 0 different, 0 only in v1-1, 0 only in v2-1
A: carts.1: v1-1, which answers queries, and v2-1
1 rows: 1 the same, 0 different, 0 only in v1-1, 0 only in v2-1
B: carts.1: v1-1, which answers queries, and v2-1
1 rows: 0 the same, 1 different, 0 only in v1-1, 0 only in v2-1
c-1
 ~ n 1 → 2
`, `
both at carts.events/0@1
both at carts.events/0@1
both at carts.events/0@1
both at carts.events/0@1
B: carts.1: the builds do not have the same rows: carts.1: 1 of 1 rows differ; if the code was changed to do that, switch: millrace view switch carts.1; if not, look at the rows with millrace view get carts KEY --explain [verify_differs]
millrace: it was not done everywhere: B: carts.1 [instances_failed]
`, []string{
			`A POST /v1/views/carts.0/verify {"build":"","fresh":false,"rate":0}`, `A POST /v1/views/carts.1/verify {"build":"","fresh":false,"rate":0}`,
			`B POST /v1/views/carts.0/verify {"build":"","fresh":false,"rate":0}`, `B POST /v1/views/carts.1/verify {"build":"","fresh":false,"rate":0}`,
		}},
		{"dlq retry where the stream is", "dlq retry carts --stream c-9", retried(none, one), retried(none, one), 0, "A: carts.1: 1 applied, 0 left\nB: carts.1: 1 applied, 0 left\n", "", append(retries("A"), retries("B")...)},
		{"dlq retry of a stream that has none", "dlq retry carts --stream c-9", retried(none, none), retried(none, none), 1, "", `
millrace: there is no such dead letter: the stream "c-9" [letter_not_found]
`, append(retries("A"), retries("B")...)},
		{"dlq ls", "dlq ls carts", answers{"GET /v1/views/carts.1/letters?limit=1000": {`{"letters":[` + letter + `]}`}, "GET /v1/views/carts.0/letters?limit=1000": {`{"letters":[]}`}},
			answers{"GET /v1/views/carts.1/letters?limit=1000": {`{"letters":[]}`}, "GET /v1/views/carts.0/letters?limit=1000": {`{"letters":[]}`}}, 0, `
INSTANCE VIEW STREAM VERSION POSITION TYPE ATTEMPTS CODE REASON
A carts.1 c-9 1 carts.events/4@7 Put 1 view_failed boom
`, "", nil},
		{"dlq discard where it is", "dlq discard carts carts.events/4@7 --reason test --yes", answers{
			"GET /v1/views/carts.1/letters?at=carts.events%2F4%407": {letter}, "GET /v1/views/carts.1/letters?limit=1000&stream=c-9": {`{"letters":[` + letter + `]}`}, "POST /v1/views/carts.1/letters/discard": {`{}`},
		}, answers{
			"GET /v1/views/carts.1/letters?at=carts.events%2F4%407": {letter}, "GET /v1/views/carts.1/letters?limit=1000&stream=c-9": {`{"letters":[` + letter + `]}`}, "POST /v1/views/carts.1/letters/discard": {`{}`},
		}, 0, "A: carts.1: carts.events/4@7 is discarded\nB: carts.1: carts.events/4@7 is discarded\n", `
A: carts.1: Put at carts.events/4@7, version 1 of c-9, is never applied to the build that answers queries
B: carts.1: Put at carts.events/4@7, version 1 of c-9, is never applied to the build that answers queries
`, []string{`A POST /v1/views/carts.1/letters/discard {"position":"carts.events/4@7","reason":"test"}`, `B POST /v1/views/carts.1/letters/discard {"position":"carts.events/4@7","reason":"test"}`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := newAdmin(t, with("10.0.0.1:8088", tc.first)), newAdmin(t, with("10.0.0.2:8088", tc.other))
			args := strings.Fields(strings.ReplaceAll(tc.args, "--admin-url A", "--admin-url "+a.URL))
			if !strings.Contains(tc.args, "--admin-url") {
				args = append(args, "--admin-url", a.URL+","+b.URL)
			}
			out, talk, status := millrace("", args...)
			plain := func(text string) string {
				text = strings.NewReplacer(strings.TrimPrefix(a.URL, "http://"), "A", strings.TrimPrefix(b.URL, "http://"), "B").Replace(text)
				return strings.ReplaceAll(regexp.MustCompile(` +`).ReplaceAllString(text, " "), " \n", "\n")
			}
			if diff := cmp.Diff(strings.TrimPrefix(tc.out, "\n"), plain(out)); diff != "" {
				t.Errorf("stdout (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(strings.TrimPrefix(tc.talk, "\n"), plain(talk)); diff != "" {
				t.Errorf("stderr (-want +got):\n%s", diff)
			}
			if status != tc.status {
				t.Errorf("exit status %d, want %d", status, tc.status)
			}
			var did []string
			for _, asked := range a.did() {
				did = append(did, "A "+asked)
			}
			for _, asked := range b.did() {
				did = append(did, "B "+asked)
			}
			slices.Sort(did)
			if diff := cmp.Diff(tc.did, did); diff != "" {
				t.Errorf("what was asked for (-want +got):\n%s", diff)
			}
		})
	}
}
