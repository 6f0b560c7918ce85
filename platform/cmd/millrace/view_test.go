package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/service"
)

// An adminFake answers what a test tells it to, and remembers what it was asked.
type adminFake struct {
	*httptest.Server
	mu      sync.Mutex
	answers map[string][]string // by method and path, with the query; the last one stays
	asked   []string            // method, path and body
}

func newAdmin(t *testing.T, answers map[string][]string) *adminFake {
	t.Helper()
	f := &adminFake{answers: answers}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		var body bytes.Buffer
		_, _ = body.ReadFrom(r.Body)
		at := r.Method + " " + r.URL.RequestURI()
		f.asked = append(f.asked, strings.TrimSpace(at+" "+body.String()))
		all := f.answers[at]
		if len(all) == 0 {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprintf(w, `{"title":"there is no such view","status":404,"detail":%q,"code":"view_not_found","fix":"use one of orders"}`, r.URL.Path)
			return
		}
		if len(all) > 1 {
			f.answers[at] = all[1:]
		}
		fmt.Fprint(w, all[0])
	}))
	t.Cleanup(f.Close)
	return f
}

// did returns the requests that changed something.
func (f *adminFake) did() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.asked), func(s string) bool { return strings.HasPrefix(s, "GET ") })
}

// millrace runs a command in this process.
func millrace(stdin string, args ...string) (out, talk string, status int) {
	var stdout, stderr bytes.Buffer
	c := root()
	c.SetIn(strings.NewReader(stdin))
	c.SetOut(&stdout)
	c.SetErr(&stderr)
	status = service.Execute(c, args, &stderr)
	return stdout.String(), stderr.String(), status
}

const ordersStatus = `{"name":"orders","live":"v2-1","previous":"v1-1","paused":false,"builds":[
 {"id":"v2-1","version":2,"state":"running","created":"2026-01-31T12:00:00Z","topics":["orders.events"],"indexes":["customer","status"],"lag_records":0,"lag_seconds":0,"progress":1,"rate":1204.4,"caught_up":true,"dead_letters":3,"bytes":1288490188,
  "partitions":[{"topic":"orders.events","partition":0,"next":1500,"end":1500,"lag_seconds":0,"state":"running"},{"topic":"orders.events","partition":1,"next":1200,"end":1200,"lag_seconds":0,"state":"running"}]},
 {"id":"v1-1","version":1,"state":"frozen","why":"the program does not have this version any more","created":"2025-12-01T00:00:00Z","topics":["orders.events"],"lag_records":700,"lag_seconds":90000,"progress":0.7407,"rate":0,"caught_up":true,"dead_letters":0,"bytes":52428800,
  "partitions":[{"topic":"orders.events","partition":0,"next":1000,"end":1500,"lag_seconds":90000,"state":"running"},{"topic":"orders.events","partition":1,"next":1000,"end":1200,"lag_seconds":80000,"state":"running"}]},
 {"id":"v3-1","version":3,"state":"halted","why":"at orders.events/1@17: boom","created":"2026-01-31T12:00:00Z","topics":["orders.events"],"lag_records":2283,"lag_seconds":372,"progress":0.1544,"rate":88310,"eta_seconds":372.4,"caught_up":false,"dead_letters":0,"bytes":0,
  "partitions":[{"topic":"orders.events","partition":0,"next":400,"end":1500,"lag_seconds":372,"state":"running"},{"topic":"orders.events","partition":1,"next":17,"end":1200,"lag_seconds":372,"state":"halted","halted_at":"orders.events/1@17","reason":"at orders.events/1@17: boom"}]}]}`

func TestViewTables(t *testing.T) {
	letters := `{"letters":[
 {"stream":"o-1","position":"orders.events/1@17","appended":"2026-01-31T12:00:00Z","event_id":"e-1","type":"shop.OrderPlaced","version":4,"code":"view_failed","reason":"the view's code failed: panic:\n  division by zero","attempts":2},
 {"stream":"o-1","position":"orders.events/1@19","appended":"2026-01-31T12:00:01Z","event_id":"e-2","type":"shop.OrderCancelled","version":5,"code":"waits_behind","reason":"it waits","attempts":0}],"more":false}`
	f := newAdmin(t, map[string][]string{
		"GET /v1/views":                                          {`{"views":[` + ordersStatus + `]}`},
		"GET /v1/views/orders":                                   {ordersStatus},
		"GET /v1/views/orders/end":                               {`{"positions":"orders.events/0@1499,orders.events/1@1199"}`},
		"GET /v1/views/orders/letters?limit=1000":                {letters},
		"GET /v1/views/orders/letters?at=orders.events%2F1%4017": {`{"stream":"o-1","position":"orders.events/1@17","appended":"2026-01-31T12:00:00Z","event_id":"e-1","type":"shop.OrderPlaced","version":4,"code":"view_failed","reason":"boom","attempts":2,"tried":"2026-02-01T00:00:00Z","headers":{"ce_id":"e-1","odd":"a\u001bb"},"events":[{"order_id":"o-1","lines":[1]}]}`},
		"GET /v1/views/orders/letters?at=orders.events%2F1%4018": {`{"stream":"o-1","position":"orders.events/1@18","appended":"2026-01-31T12:00:00Z","version":4,"code":"undecodable","reason":"bad","attempts":1,"headers":{},"undecodable":"truncated","value":"AAEC"}`},
		"POST /v1/views/orders/verify": {`   {"view":"orders","a":"v2-1","b":"v3-1","rows":4,"same":1,"different":2,"only_a":1,"only_b":1,"dead_letters_a":3,"dead_letters_b":0,"applied":"orders.events/0@1499,orders.events/1@1199","equal":false,"rows_that_differ":[
  {"key":"o-1","a":{"status":"placed","total":5,"lines":[{"sku":"cd"},{"sku":"lp"}]},"b":{"status":"confirmed","total":5,"lines":[{"sku":"cd","n":1}],"units":1}},
  {"key":"o-2","a":{"status":"placed"},"b":null},{"key":"o-3","a":null,"b":{"status":"placed"}},{"key":"o-4","a":12,"b":[1]}]}`},
		"GET /v1/views/carts/ranges": {`{"view":"carts","here":"10.0.0.1:8088","ranges":[
 {"range":0,"partitions":"0-5","wanted":["10.0.0.1:8088","10.0.0.2:8088"],"ready":["10.0.0.1:8088","10.0.0.3:8088"],"here":"ready","version":2},
 {"range":1,"partitions":"6-11","wanted":["10.0.0.1:8088","10.0.0.3:8088"],"ready":[],"here":"failed","why":"the disk is nearly full [disk_full]"}]}`},
		"POST /v1/views/orders/rebuild": {`{"version":3,"events":12804113,"bytes":2040109465,"free_bytes":44023414784,"rate":88310,"seconds":145}`},
	})
	g := newAdmin(t, map[string][]string{"GET /v1/views": {`{"views":[{"name":"sales","live":"v1-1","paused":true,"builds":[{"id":"v1-1","version":1,"state":"paused","created":"2026-01-31T12:00:00Z","topics":[],"partitions":[],"progress":1,"lag_records":0}]}]}`}})
	for _, tc := range []struct {
		name, args string
		status     int
		out, talk  string
	}{
		{"ls", "view ls", 0, `
VIEW    BUILD  ROLE      STATE    PROGRESS  LAG-RECORDS    LAG  RATE/S  PARTITIONS  DLQ     SIZE
orders  v2-1   live      running   100.0 %            0     0s   1,204         2/2    3  1.2 GiB
orders  v1-1   previous  frozen     74.0 %          700  25h0m       0         0/2    0   50 MiB
orders  v3-1   beside    halted     15.4 %        2,283  6m12s  88,310         0/2    0      0 B
`, `
orders v1-1 is frozen: the program does not have this version any more
orders v3-1 is halted: at orders.events/1@17: boom
`},
		{"ranges", "view ranges carts", 0, `
RANGE  PARTITIONS  VERSION  READY          COMING                       LEAVING
    0  0-5               2  10.0.0.1:8088  10.0.0.2:8088                10.0.0.3:8088
    1  6-11              -                 10.0.0.1:8088 10.0.0.3:8088
`, `
10.0.0.1:8088 cannot take range 1: the disk is nearly full [disk_full]
`},
		{"describe", "view describe orders", 0, `
orders at HOST: v2-1 answers queries

build v2-1: live, running, begun 2026-01-31T12:00:00Z, 1.2 GiB
  topics        orders.events
  indexes       customer, status
  progress      100.0 %, 0 records behind, 1,204/s
  lag           0s
  dead letters  3
  PARTITION         NEXT    END  LAG-RECORDS  LAG  STATE
  orders.events/0  1,500  1,500            0   0s  running
  orders.events/1  1,200  1,200            0   0s  running

build v1-1: previous, frozen, begun 2025-12-01T00:00:00Z, 50 MiB
  why           the program does not have this version any more
  topics        orders.events
  progress      74.0 %, 700 records behind, 0/s
  lag           25h0m
  dead letters  0
  PARTITION         NEXT    END  LAG-RECORDS     LAG  STATE
  orders.events/0  1,000  1,500          500   25h0m  running
  orders.events/1  1,000  1,200          200  22h13m  running

build v3-1: beside, halted, begun 2026-01-31T12:00:00Z, 0 B
  why           at orders.events/1@17: boom
  topics        orders.events
  progress      15.4 %, 2,283 records behind, 88,310/s
  caught up in  6m12s
  lag           6m12s
  dead letters  0
  PARTITION        NEXT    END  LAG-RECORDS    LAG  STATE
  orders.events/0   400  1,500        1,100  6m12s  running
  orders.events/1    17  1,200        1,183  6m12s  halted
  orders.events/1 halted at orders.events/1@17: at orders.events/1@17: boom
`, ""},
		{"describe what is not there", "view describe nope", 1, "", `
millrace: there is no such view: /v1/views/nope; use one of orders [view_not_found]
`},
		{"verify", "view verify orders", 3, `
orders: v2-1, which answers queries, and v3-1
5 rows: 1 the same, 2 different, 1 only in v2-1, 1 only in v3-1
o-1
  + lines[0].n  1
  - lines[1]    {"sku":"lp"}
  ~ status      "placed" → "confirmed"
  + units       1
o-2  only in v2-1: {"status":"placed"}
o-3  only in v3-1: {"status":"placed"}
o-4
  ~ the row  12 → [1]
`, `
both at orders.events/0@1499,orders.events/1@1199
events that are in no row, for they are dead letters: 3 in v2-1, 0 in v3-1
millrace: the builds do not have the same rows: orders: 4 of 5 rows differ; if the code was changed to do that, switch: millrace view switch orders; if not, look at the rows with millrace view get orders KEY --explain [verify_differs]
`},
		{"rebuild --dry-run", "view rebuild orders --dry-run", 0, `
12,804,113 records are read with version 3 of orders into a new build, in about 2m25s; it takes about 1.9 GiB, 41 GiB are free
`, ""},
		{"rebuild with two ends", "view rebuild orders --at 2026-01-31T12:00:00Z --until orders.events/0@1", 2, "", `
millrace: the command line is not understood: --until and --at are two ends [usage]
`},
		{"wait that cannot end", "view wait orders --build v3-1", 3, "", `
millrace: the build does not go on by itself: view orders, build v3-1: at orders.events/1@17: boom; millrace view describe orders says more; millrace view resume orders tries again [build_stuck]
`},
		{"wait that ends", "view wait orders --position orders.events/0@1499,orders.events/1@1199", 0, `
orders: build v2-1 has applied orders.events/0@1499,orders.events/1@1199
`, ""},
		{"wait in another partition than the halted one", "view wait orders --build v3-1 --position orders.events/0@399", 0, `
orders: build v3-1 has applied orders.events/0@399
`, ""},
		{"wait too long", "view wait orders --position orders.events/0@1500 --timeout 30ms", 3, "", `
orders v2-1: running, record 2,700 of 2,700 (100.0 %), 2 of 2 partitions, 1,204/s
millrace: the view was not that far in time: view orders, build v2-1: orders.events/0 has everything before offset 1500, asked was 1500 [wait_timed_out]
`},
		{"wait for another topic", "view wait orders --position stock.events/0@1", 1, "", `
millrace: the position is not of a topic that the view reads: stock.events/0@1; build v2-1 of orders reads 2 partitions [foreign_position]
`},
		{"drop what answers", "view drop orders v2-1 --yes", 1, "", `
millrace: this cannot be done with the build: build v2-1 of orders answers queries; switch to another one first: millrace view switch orders [build_state]
`},
		{"reset without a terminal", "view reset orders", 2, "", `
orders: all builds are removed: v2-1 (live, 1.2 GiB), v1-1 (previous, 50 MiB), v3-1 (beside, 0 B); queries are answered from an empty one until the log is read again; 3 dead letters go with them
millrace: the command line is not understood: this cannot be undone, and there is no terminal to ask at; repeat it with --yes, or with --dry-run to see what it does [usage]
`},
		{"drop --dry-run", "view drop orders v1-1 --dry-run", 0, "", `
orders: build v1-1 is removed (previous, frozen, 50 MiB); there is nothing to roll back to any more
`},
		{"dlq ls", "dlq ls", 0, `
VIEW    STREAM  VERSION  POSITION            TYPE                 ATTEMPTS  CODE          REASON
orders  o-1           4  orders.events/1@17  shop.OrderPlaced            2  view_failed   the view's code failed: panic: division by zero
orders  o-1           5  orders.events/1@19  shop.OrderCancelled         0  waits_behind  it waits
`, ""},
		{"dlq show", "dlq show orders orders.events/1@17", 0, `
position   orders.events/1@17
stream     o-1, version 4
type       shop.OrderPlaced
event      e-1
appended   2026-01-31T12:00:00.000Z
code       view_failed
reason     boom
attempts   2, last 2026-02-01T00:00:00Z
headers
  ce_id                e-1
  odd                  "a\x1bb"
data
  {
    "order_id": "o-1",
    "lines": [
      1
    ]
  }
`, ""},
		{"dlq show what cannot be decoded", "dlq show orders orders.events/1@18", 0, `
position   orders.events/1@18
stream     o-1, version 4
appended   2026-01-31T12:00:00.000Z
code       undecodable
reason     bad
attempts   1
headers
undecodable truncated
value, 3 bytes in base64
  AAEC
`, ""},
		{"dlq retry of what", "dlq retry orders", 2, "", `
millrace: the command line is not understood: retry needs --stream or --all [usage]
`},
		{"dlq discard without a reason", "dlq discard orders orders.events/1@17", 2, "", `
millrace: the command line is not understood: discard needs --reason [usage]
`},
		{"several instances", "view ls --admin-url " + f.URL + "," + g.URL, 0, `
INSTANCE  VIEW    BUILD  ROLE      STATE    PROGRESS  LAG-RECORDS    LAG  RATE/S  PARTITIONS  DLQ     SIZE
HOST      orders  v2-1   live      running   100.0 %            0     0s   1,204         2/2    3  1.2 GiB
HOST      orders  v1-1   previous  frozen     74.0 %          700  25h0m       0         0/2    0   50 MiB
HOST      orders  v3-1   beside    halted     15.4 %        2,283  6m12s  88,310         0/2    0      0 B
HOST      sales   v1-1   live      paused    100.0 %            0     0s       0         0/0    0      0 B
`, `
orders v1-1 is frozen: the program does not have this version any more
orders v3-1 is halted: at orders.events/1@17: boom
`},
		{"some instances fail", "view describe orders -o json --admin-url " + g.URL + "," + f.URL, 1, "", `
HOST: there is no such view: /v1/views/orders; use one of orders [view_not_found]
millrace: it was not done everywhere: HOST [instances_failed]
`},
		{"no command", "view", 2, "", `
millrace: the command line is not understood: millrace view needs a command; one of backup, describe, drop, get, ls, pause, ranges, rebuild, reset, resume, rollback, scan, store, switch, verify, wait, watch; millrace view --help [usage]
`},
		{"unknown command", "dlq nope", 2, "", `
millrace: the command line is not understood: unknown command "nope" for "millrace dlq" [usage]
`},
		{"not an address", "view ls --admin-url localhost:9090", 2, "", `
millrace: the command line is not understood: --admin-url "localhost:9090" is not a URL like http://127.0.0.1:9090 [usage]
`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			args := strings.Fields(tc.args)
			if !strings.Contains(tc.args, "--admin-url") {
				args = append(args, "--admin-url", f.URL)
			}
			out, talk, status := millrace("", args...)
			plain := func(text string) string {
				for _, s := range []*adminFake{f, g} {
					host := strings.TrimPrefix(s.URL, "http://")
					text = strings.NewReplacer("INSTANCE"+strings.Repeat(" ", max(len(host)-8, 0)), "INSTANCE", host, "HOST    ").Replace(text)
				}
				return text
			}
			hosts := func(text string) string {
				return strings.NewReplacer("HOST    :", "HOST:", "HOST     [", "HOST [").Replace(plain(text))
			}
			if tc.name == "some instances fail" {
				if !json.Valid([]byte(out)) || !strings.Contains(out, `"live": "v2-1"`) {
					t.Errorf("stdout is %s", out)
				}
				out = ""
			}
			if diff := cmp.Diff(strings.TrimPrefix(tc.out, "\n"), hosts(out)); diff != "" {
				t.Errorf("stdout (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(strings.TrimPrefix(tc.talk, "\n"), hosts(talk)); diff != "" {
				t.Errorf("stderr (-want +got):\n%s", diff)
			}
			if status != tc.status {
				t.Errorf("exit status %d, want %d", status, tc.status)
			}
		})
	}
	for _, asked := range append(f.did(), g.did()...) {
		if !strings.Contains(asked, "/verify ") && !strings.Contains(asked, `"dry_run":true`) {
			t.Errorf("something was changed: %s", asked)
		}
	}
}

// TestViewJSON checks that what is written as JSON is, whatever the command.
func TestViewJSON(t *testing.T) {
	f := newAdmin(t, map[string][]string{
		"GET /v1/views":                           {`{"views":[` + ordersStatus + `]}`},
		"GET /v1/views/orders":                    {ordersStatus},
		"GET /v1/views/orders/end":                {`{"positions":"orders.events/0@1499,orders.events/1@1199"}`},
		"GET /v1/views/orders/letters?limit=1000": {`{"letters":[],"more":false}`},
		"POST /v1/views/orders/verify":            {`{"view":"orders","a":"v2-1","b":"v3-1","rows":1,"same":1,"applied":"orders.events/0@1499","equal":true,"rows_that_differ":[]}`},
		"POST /v1/views/orders/switch":            {`{"build":"v3-1"}`},
		"POST /v1/views/orders/rollback":          {`{"build":"v2-1"}`},
		"POST /v1/views/orders/reset":             {`{"build":"v3-2"}`},
		"POST /v1/views/orders/pause":             {ordersStatus},
		"POST /v1/views/orders/resume":            {ordersStatus},
		"POST /v1/views/orders/rebuild":           {`{"build":"v2-1","version":2,"events":3}`},
		"DELETE /v1/views/orders/builds/v1-1":     {``},
		"POST /v1/views/orders/letters/retry":     {`{"applied":3,"left":0,"failed":[]}`},
	})
	for _, tc := range []struct{ args, has string }{
		{"view ls", `"live": "v2-1"`},
		{"view describe orders", `"progress": 0.7407`},
		{"view verify orders", `"equal": true`},
		{"view switch orders v3-1", `"build": "v3-1"`},
		{"view rollback orders", `"state": "live"`},
		{"view reset orders --yes", `"build": "v3-2"`},
		{"view pause orders", `"state": "running"`},
		{"view resume orders", `"build": "v2-1"`},
		{"view rebuild orders --wait", `"state": "running"`},
		{"view drop orders v1-1 --yes", `"state": "removed"`},
		{"view wait orders", `"state": "running"`},
		{"dlq ls", `"letters": []`},
		{"dlq retry orders --all", `"applied": 3`},
	} {
		out, talk, status := millrace("", append(strings.Fields(tc.args), "-o", "json", "--admin-url", f.URL)...)
		if status != 0 || !json.Valid([]byte(out)) || !strings.Contains(out, tc.has) {
			t.Errorf("%s: status %d, want JSON with %s, got\n%s%s", tc.args, status, tc.has, out, talk)
		}
	}
	want := []string{
		`POST /v1/views/orders/verify {"build":"","fresh":false,"rate":0}`,
		`POST /v1/views/orders/switch {"build":"v3-1","force":false}`,
		`POST /v1/views/orders/rollback`,
		`POST /v1/views/orders/reset`,
		`POST /v1/views/orders/pause`,
		`POST /v1/views/orders/resume`,
		`POST /v1/views/orders/rebuild {"dry_run":false,"force":false,"rate":0,"switch":false,"version":0}`,
		`DELETE /v1/views/orders/builds/v1-1`,
		`POST /v1/views/orders/letters/retry {}`,
	}
	if diff := cmp.Diff(want, f.did()); diff != "" {
		t.Errorf("what was asked for (-want +got):\n%s", diff)
	}
}

// TestPatience waits for a build whose process is away for a while.
func TestPatience(t *testing.T) {
	behind := strings.ReplaceAll(ordersStatus, `"next":1500,"end":1500`, `"next":10,"end":1500`)
	f := newAdmin(t, map[string][]string{"GET /v1/views/orders": {behind, behind, `cut off`, behind, ordersStatus}})
	out, talk, status := millrace("", "view", "wait", "orders", "--position", "orders.events/0@1499", "--timeout", "0", "--admin-url", f.URL)
	if status != 0 || out != "orders: build v2-1 has applied orders.events/0@1499\n" {
		t.Errorf("status %d, stdout %q, stderr %q", status, out, talk)
	}
}

func TestNobodyAnswers(t *testing.T) {
	f := newAdmin(t, nil)
	f.Close()
	for _, args := range []string{"view ls", "view wait orders", "dlq ls"} {
		_, talk, status := millrace("", append(strings.Fields(args), "--admin-url", f.URL)...)
		if status != 1 || !strings.Contains(talk, "the process does not answer: "+f.URL) || !strings.Contains(talk, "--admin-url or MILLRACE_ADMIN_URL") {
			t.Errorf("%s: status %d, %s", args, status, talk)
		}
	}
}

// TestPublicAddress: where queries are answered there is nothing at the paths of the admin address.
func TestPublicAddress(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintf(w, `{"title":"there is nothing at this path","status":404,"detail":%q,"code":"route_not_found","fix":"GET /openapi.json lists what is here"}`, r.URL.Path)
	}))
	defer s.Close()
	for _, args := range []string{"view ls", "view describe orders"} {
		_, talk, status := millrace("", append(strings.Fields(args), "--admin-url", s.URL)...)
		if status != 1 || !strings.Contains(talk, "see that this is the admin address of a projector") || !strings.Contains(talk, "--admin-url or MILLRACE_ADMIN_URL [route_not_found]") {
			t.Errorf("%s: status %d, %s", args, status, talk)
		}
	}
	_, talk, status := millrace("", "view", "get", "orders", "o-1", "--url", s.URL)
	if status != 1 || !strings.Contains(talk, "GET /openapi.json") {
		t.Errorf("view get: status %d, %s", status, talk)
	}
}

func TestBars(t *testing.T) {
	b := projection.BuildStatus{ID: "v3-1", State: "building", Records: 3000, Progress: 0.25, Rate: 512, ETASeconds: 5.9}
	for n, next := range []int64{1000, 0, 500} {
		b.Partitions = append(b.Partitions, projection.PartitionStatus{Topic: "t.events", Partition: int32(n * 5), Next: next, End: 1000, State: "running"})
	}
	got := strings.Join(bars("orders v3-1", &b), "\n")
	want := `orders v3-1: building, record 1,500 of 4,500 (25.0 %), 1 of 3 partitions, 512/s, 5.9s left
  t.events/0  ██████████████████████████████ 100.0 %  1,000 of 1,000
  t.events/5  ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░   0.0 %      0 of 1,000
  t.events/10 ███████████████░░░░░░░░░░░░░░░  50.0 %    500 of 1,000`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// What is drawn on a terminal is drawn over, and leaves one line.
	var w bytes.Buffer
	p := progress{w: &w, name: "orders v3-1", live: true, first: -1}
	now := time.Now()
	p.show("orders", &b, now)
	p.show("orders", &b, now.Add(drawEvery/2)) // too early
	p.show("orders", &b, now.Add(drawEvery))
	p.end(&b)
	last := strings.Split(got, "\n")[0] + "\n"
	if want := got + "\n\x1b[4A\x1b[J" + got + "\n\x1b[4A\x1b[J" + last; w.String() != want {
		t.Errorf("drawn was %q, want %q", w.String(), want)
	}
	for n := range int32(30) {
		b.Partitions = append(b.Partitions, projection.PartitionStatus{Topic: "more", Partition: n, Next: 1, End: 1, State: "running"})
	}
	if lines := bars("x", &b); len(lines) != mostBars+2 || !strings.HasPrefix(lines[1], "  t.events/5 ") || lines[mostBars+1] != "  … and 17 partitions with less left" {
		t.Errorf("bars of many partitions:\n%s", strings.Join(lines, "\n"))
	}
}

func TestWords(t *testing.T) {
	for _, tc := range []struct{ got, want string }{
		{count(0), "0"}, {count(999), "999"}, {count(1000), "1,000"}, {count(-1234567), "-1,234,567"},
		{span(0), "0s"}, {span(time.Microsecond), "1ms"}, {span(1500 * time.Millisecond), "1.5s"}, {span(59 * time.Second), "59s"}, {span(90 * time.Second), "1m30s"},
		{span(2 * time.Hour), "2h0m"}, {span(72 * time.Hour), "3d"},
		{size(0), "0 B"}, {size(1023), "1023 B"}, {size(1536), "1.5 KiB"}, {size(50 << 20), "50 MiB"}, {size(3 << 40), "3072 GiB"}, {size(30 << 40), "30.0 TiB"},
		{percent(0.9999), "99.9 %"}, {percent(1), "100.0 %"}, {percent(-1), "0.0 %"},
		{ordinal(1), "1st"}, {ordinal(2), "2nd"}, {ordinal(3), "3rd"}, {ordinal(11), "11th"}, {ordinal(112), "112th"}, {ordinal(21), "21st"},
	} {
		if tc.got != tc.want {
			t.Errorf("got %q, want %q", tc.got, tc.want)
		}
	}
}

func TestSelection(t *testing.T) {
	for _, tc := range []struct {
		s    selection
		want string
	}{
		{selection{}, ""},
		{selection{prefix: "o-", limit: 3, order: "desc"}, "limit=3&order=desc&prefix=o-"},
		{selection{from: "a", to: "b", counted: true}, "count=&from=a&to=b"},
		{selection{indexes: []string{"newest"}}, "newest.from="},
		{selection{indexes: []string{"total=USD"}, from: "5"}, "total=USD&total.from=5"},
		{selection{indexes: []string{"total=USD", "total=5"}, where: "a == 'x=y'", fields: "a,b"}, "fields=a%2Cb&total=USD&total=5&where=a+%3D%3D+%27x%3Dy%27"},
		{selection{indexes: []string{"a=1", "b=2"}}, "usage"},
		{selection{indexes: []string{"=1"}}, "usage"},
	} {
		q, err := tc.s.query()
		got := q.Encode()
		if err != nil {
			got = "usage"
		}
		if got != tc.want {
			t.Errorf("%+v: got %s, want %s", tc.s, got, tc.want)
		}
	}
}

func TestChanges(t *testing.T) {
	for _, tc := range []struct{ old, now, want string }{
		{`{"a":1}`, `{"a":1}`, ""},
		{`{"a":1,"b":2}`, `{"b":2,"a":1}`, ""},
		{`{"a":12345678901234567890}`, `{"a":12345678901234567891}`, "a:12345678901234567890→12345678901234567891"},
		{`{"a":{"b":{"c":1}}}`, `{"a":{"b":{"c":null}}}`, "a.b.c:1→null"},
		{`{"a":null}`, `{}`, "a:null→"},
		{`{"a":[1,2]}`, `{"a":[1,3,4]}`, "a[1]:2→3 a[2]:→4"},
		{`{"a.b":1}`, `{"a.b":2}`, `["a.b"]:1→2`},
		{`{"a":{}}`, `{"a":[]}`, "a:{}→[]"},
		{`1`, `"<"`, `:1→"<"`},
	} {
		all, err := changes(json.RawMessage(tc.old), json.RawMessage(tc.now))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range all {
			got = append(got, c.Path+":"+string(c.Old)+"→"+string(c.New))
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s and %s: %q, want %q", tc.old, tc.now, got, tc.want)
		}
	}
}

// FuzzChanges checks that texts differ if and only if values are named that do.
func FuzzChanges(f *testing.F) {
	f.Add(`{"a":[1,{"b":null}]}`, `{"a":[1,{"b":2}],"c":"d"}`)
	f.Add(`[]`, `{}`)
	f.Add(`1.0`, `1`)
	f.Fuzz(func(t *testing.T, a, b string) {
		all, err := changes(json.RawMessage(a), json.RawMessage(b))
		if err != nil {
			return
		}
		treeA, _ := tree(json.RawMessage(a))
		treeB, _ := tree(json.RawMessage(b))
		if same := cmp.Equal(treeA, treeB); same != (len(all) == 0) {
			t.Errorf("%s and %s: equal is %v, changes are %v", a, b, same, all)
		}
		for _, c := range all {
			if bytes.Equal(c.Old, c.New) {
				t.Errorf("%s and %s: no change: %+v", a, b, c)
			}
		}
		writeChanges(&bytes.Buffer{}, all)
	})
}
