package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/store"
)

// admin sends a GET to the admin address.
func (r *running) admin(path string) reply {
	r.t.Helper()
	resp, err := http.Get(r.all.Admin + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return reply{status: resp.StatusCode, header: resp.Header, body: string(text)}
}

type balancesPage struct {
	Rows []struct {
		Key string  `json:"key"`
		Row balance `json:"row"`
	} `json:"rows"`
	Next string `json:"next"`
}

// list returns rows of the view accounts as text, in order.
func (r *running) list(query, atLeast string) (rows []string, next string) {
	r.t.Helper()
	header := []string{}
	if atLeast != "" {
		header = append(header, "Millrace-At-Least: "+atLeast)
	}
	var page balancesPage
	r.send("GET", "/v1/views/accounts?explain&"+query, "", header...).want(r.t, 200, &page)
	for _, row := range page.Rows {
		rows = append(rows, fmt.Sprint(row.Key, "=", row.Row.Balance))
	}
	return rows, page.Next
}

// TestReplicas has a projector take its views from another one: they are those rows, go on from there, and pages begun at one replica go
// on at the other. What it is given as a backup is restored, too.
//
// G40: A backup of a view is its rows at exactly the positions that it names, and what is restored from it goes on from there, or is refused, and is never half there.
// G18: A page's cursor goes on exactly where the page ended, whatever was written in between, and works for no other query.
func TestReplicas(t *testing.T) {
	const secret = "MILLRACE_PEER_TOKEN=s3cret"
	first := launchWith(t, App{Roles: []Role{accounts("accounts"), balances("accounts")}}, true, "MILLRACE_EPHEMERAL=true", secret)
	last := ""
	for n := range 30 {
		last = first.send("POST", fmt.Sprintf("/v1/accounts/a-%02d/pay-in", n), fmt.Sprintf(`{"amount":%d}`, n)).want(t, 200, nil).header.Get("Millrace-Position")
	}
	want, _ := first.list("limit=100", last)
	if len(want) != 30 {
		t.Fatalf("%d rows", len(want))
	}
	there := []string{"MILLRACE_KAFKA_BROKERS=" + strings.TrimPrefix(first.all.Kafka, "kafka://"), "MILLRACE_REGISTRY_URL=" + first.all.Registry, secret}
	cut := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Half of a backup, that looks like all of it.
		a := first.admin(r.URL.RequestURI())
		_, _ = io.WriteString(w, a.body[:len(a.body)/2])
	}))
	defer cut.Close()
	second := launchWith(t, App{Roles: []Role{balances("accounts")}}, false,
		append(there, "MILLRACE_DATA_DIR="+t.TempDir(), "MILLRACE_VIEW_SNAPSHOT_FROM="+strings.Join([]string{cut.URL, first.all.Admin}, ","))...)
	if got, _ := second.list("limit=100", last); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("the replica has %v, want %v", got, want)
	}
	var st projection.ViewStatus
	second.admin("/v1/views/accounts").want(t, 200, &st)
	if st.Live != "v1-2" || len(st.Builds) != 1 {
		t.Errorf("it was built from the log: %+v", st)
	}
	// Both go on.
	last = first.send("POST", "/v1/accounts/a-99/pay-in", `{"amount":99}`).want(t, 200, nil).header.Get("Millrace-Position")
	want = append(want, "a-99=99")
	for _, order := range [][2]*running{{first, second}, {second, first}} {
		rows, next := order[0].list("limit=20", last)
		more, end := order[1].list("limit=20&cursor="+next, last)
		if got := append(rows, more...); strings.Join(got, " ") != strings.Join(want, " ") || end != "" {
			t.Errorf("pages of two replicas: %v, want %v", got, want)
		}
	}
	third := launchWith(t, App{Roles: []Role{balances("accounts")}}, false, append(there[:2:2], "MILLRACE_DATA_DIR="+t.TempDir())...)
	_, next := first.list("limit=20", last)
	third.send("GET", "/v1/views/accounts?limit=20&cursor="+next, "").want(t, http.StatusBadRequest, nil)

	// The backup itself.
	a := second.admin("/v1/views/accounts/backup?version=1")
	file := filepath.Join(t.TempDir(), "accounts.backup")
	if err := os.WriteFile(file, []byte(a.body), 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := projection.VerifyBackup(t.Context(), file)
	if err != nil || a.status != 200 || a.header.Get("Millrace-Position") != info.Applied.String() || info.Rows != 31 || info.View != "accounts" || a.header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("%d, %v: %+v, %v", a.status, a.header, info, err)
	}
	if a := second.admin("/v1/views/accounts/backup?version=2"); a.status != http.StatusNotFound {
		t.Errorf("another version: %d, %s", a.status, a.body)
	}
	if a := second.admin("/v1/views/nothing/backup"); a.status != http.StatusNotFound {
		t.Errorf("another view: %d, %s", a.status, a.body)
	}
	resp, err := http.Head(second.all.Admin + "/v1/views/accounts/backup")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("HEAD: %v, %v", resp, err)
	}
	resp.Body.Close()
	var stats storeAnswer
	second.admin("/v1/views/accounts/store").want(t, 200, &stats)
	if stats.Build != "v1-2" || stats.Logs == 0 {
		t.Errorf("store: %+v", stats)
	}
	first.send("POST", "/v1/accounts/a-99/take-out", `{"amount":98}`).want(t, 200, nil)
	last = first.send("POST", "/v1/accounts/a-00/pay-in", `{"amount":5}`).want(t, 200, nil).header.Get("Millrace-Position")
	dir := t.TempDir()
	out, err := restoreCommand(t, App{Roles: []Role{balances("accounts")}}, "--view", "accounts", "--file", file, "--data-dir", dir)
	if err != nil || !strings.Contains(out, "accounts: build v1-1 has the 31 rows of ") || !strings.Contains(out, "\nat "+info.Applied.String()+"\n") {
		t.Fatalf("%s, %v", out, err)
	}
	fourth := launchWith(t, App{Roles: []Role{balances("accounts")}}, false, append(there, "MILLRACE_DATA_DIR="+dir)...)
	want[0], want[30] = "a-00=5", "a-99=1"
	if got, _ := fourth.list("limit=100", last); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("restored: %v, want %v", got, want)
	}
	if out, err := restoreCommand(t, App{Roles: []Role{balances("accounts")}}, "--view", "accounts", "--file", file, "--data-dir", dir); !errors.Is(err, store.ErrLocked) {
		t.Errorf("while it runs: %s, %v", out, err)
	}
}

// restoreCommand runs the command views restore.
func restoreCommand(t *testing.T, a App, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	a.Name = "bank"
	c := a.command()
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetOut(&out)
	c.SetErr(&out)
	c.SetArgs(append([]string{"views", "restore"}, args...))
	err := c.ExecuteContext(t.Context())
	return out.String(), err
}

func TestRestoreUsage(t *testing.T) {
	app := App{Roles: []Role{accounts("accounts"), balances("accounts")}}
	for _, tc := range []struct {
		args string
		want error
		says string
	}{
		{"", ErrUsage, "name one with --view: accounts"},
		{"--view orders", ErrUsage, `"orders" is not a view`},
		{"--view accounts", ErrUsage, "--file is missing"},
		{"--view accounts --file x --ephemeral", ErrUsage, "nothing is kept"},
		{"--view accounts --file nowhere", store.ErrBackup, "nowhere"},
	} {
		out, err := restoreCommand(t, app, strings.Fields(tc.args+" --data-dir "+t.TempDir())...)
		if !errors.Is(err, tc.want) || !strings.Contains(fault.Line(err), tc.says) {
			t.Errorf("%q: %s, %v, want %v that says %q", tc.args, out, err, tc.want, tc.says)
		}
	}
}

// TestRestoreBesideDev restores into a directory that has only what bank dev keeps: not without --dev, nor is anything left there.
func TestRestoreBesideDev(t *testing.T) {
	app := App{Roles: []Role{accounts("accounts"), balances("accounts")}}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "dev"), 0o700); err != nil {
		t.Fatal(err)
	}
	args := []string{"--view", "accounts", "--file", "nowhere", "--data-dir", dir}
	out, err := restoreCommand(t, app, args...)
	if !errors.Is(err, ErrUsage) || !strings.Contains(fault.Line(err), "--dev") {
		t.Errorf("%s, %v, want that --dev is named", out, err)
	}
	if there, err := os.ReadDir(dir); err != nil || len(there) != 1 {
		t.Errorf("there are %v, %v", there, err)
	}
	if out, err := restoreCommand(t, app, append(args, "--dev")...); !errors.Is(err, store.ErrBackup) {
		t.Errorf("with --dev: %s, %v", out, err)
	}
	// What is there already, or is made as the fix says, is restored into.
	if err := os.MkdirAll(filepath.Join(dir, app.restorable()["accounts"].dir), 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := restoreCommand(t, app, args...); !errors.Is(err, store.ErrBackup) {
		t.Errorf("beside the data of another process: %s, %v", out, err)
	}
}

// TestSnapshotRefused: the words of an instance that gives no snapshot are passed on.
func TestSnapshotRefused(t *testing.T) {
	peer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"title":"the view has no such build","status":404,"detail":"it answers from version 2","code":"build_not_found"}`)
	}))
	defer peer.Close()
	h := newHost(App{Name: "bank"}, Config{DataDir: t.TempDir(), ViewSnapshotFrom: []string{peer.URL + "/"}, CommandTimeout: time.Second}, newLogger(Config{}, io.Discard))
	defer h.close()
	var b bytes.Buffer
	err := h.snapshots()[0](t.Context(), "accounts", 1, &b)
	if !errors.Is(err, errSnapshot) || !strings.Contains(err.Error(), "it answers from version 2") || !strings.Contains(err.Error(), peer.URL) || b.Len() > 0 {
		t.Errorf("%v, %d bytes", err, b.Len())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.snapshots()[0](ctx, "accounts", 1, &b); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that it was cancelled", err)
	}
}
