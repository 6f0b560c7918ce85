package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/audit"
	"github.com/millrace/millrace/platform/embedded"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/service"
)

// An auditRig is a broker with a topic, whose owner writes what a test likes.
type auditRig struct {
	t     *testing.T
	addr  string
	owner *eventlog.Owner
}

func newAuditRig(t *testing.T) *auditRig {
	t.Helper()
	broker, err := embedded.Start(embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	log, err := eventlog.Open(t.Context(), eventlog.Config{Brokers: []string{broker.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	topic, err := log.EnsureTopic(t.Context(), eventlog.TopicSpec{Name: "things.events", Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	owner, err := log.Claim(t.Context(), topic, 0, eventlog.Identity{Instance: "a", Address: "a:1"}, eventlog.NoopMarks)
	if err != nil {
		t.Fatal(err)
	}
	return &auditRig{t, broker.Addr(), owner}
}

// write appends an event of thing t-1.
func (r *auditRig) write(command string, version int) {
	r.t.Helper()
	b := eventlog.NewBatch(0)
	var headers []eventlog.Header
	for _, h := range [][2]string{{"ce_specversion", "1.0"}, {"ce_id", es.EventID("t-1", command, 0)}, {"ce_type", "Done"}, {"ce_subject", "t-1"}, {"ce_commandid", command},
		{"ce_streamversion", strconv.Itoa(version)}, {"ce_commandindex", "0"}, {"ce_commandcount", "1"}} {
		headers = append(headers, eventlog.Header{Key: h[0], Value: []byte(h[1])})
	}
	if err := b.Add([]byte("t-1"), []byte("{}"), headers); err != nil {
		r.t.Fatal(err)
	}
	done := make(chan error, 1)
	r.owner.Append(b, func(_ int64, err error) { done <- err })
	if err := <-done; err != nil {
		r.t.Fatal(err)
	}
}

// callAudit runs the command in this process and returns what it printed and its exit status.
func callAudit(args ...string) (out, problem string, status int) {
	var stdout, stderr bytes.Buffer
	c := root()
	c.SetOut(&stdout)
	c.SetErr(&stderr)
	status = service.Execute(c, append([]string{"audit"}, args...), &stderr)
	return stdout.String(), stderr.String(), status
}

func TestAudit(t *testing.T) {
	r := newAuditRig(t)
	state := filepath.Join(t.TempDir(), "audit")
	flag := "--brokers=" + r.addr
	r.write("c-1", 1)
	expect := func(wantStatus int, wantOut, wantProblem string, args ...string) {
		t.Helper()
		out, problem, status := callAudit(args...)
		if status != wantStatus || out != wantOut || !strings.Contains(problem, wantProblem) {
			t.Errorf("%q: status %d, want %d; stdout:\n%s\nwant:\n%s\nstderr:\n%s", args, status, wantStatus, out, wantOut, problem)
		}
	}
	expect(0, "", "2 records of things.events were judged in ", flag)
	expect(0, "", "1 streams are known; 0 findings", flag, "--state", state)
	expect(0, "", "0 records of things.events", flag, "--state", state)
	r.write("c-2", 2)
	r.write("c-3", 2)
	expect(3, "things.events/0@3 version_order: version 2 of \"t-1\" follows version 2\n", "1 findings, the first at things.events/0@3", flag, "--state", state, "--topic", "things.events")
	expect(0, "", "earlier runs found 1, the first: things.events/0@3 version_order", "--kafka-brokers", r.addr, "--state", state)
	expect(3, `{"code":"version_order","position":"things.events/0@3","stream":"t-1","want":"3","got":"2","text":"version 2 of \"t-1\" follows version 2"}`+"\n", `"records":4`, flag, "-o", "ndjson")
	expect(1, "", "topic_unusable", flag, "--topic", "none.events")
	expect(2, "", "is not text, json or ndjson", flag, "-o", "yaml")
	expect(2, "", "not negative", flag, "--rate", "-1")
	expect(2, "", "usage", flag, "things.events")

	out, problem, status := callAudit(flag, "-o", "json")
	var doc struct {
		Clean    bool
		Topics   []string
		Progress audit.Progress
		Findings []audit.Finding
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil || status != 3 || doc.Clean || len(doc.Findings) != 1 || doc.Progress.Records != 4 || doc.Findings[0].Code != audit.Version || doc.Findings[0].Position.Offset != 3 {
		t.Errorf("status %d, %v: %+v of\n%s\n%s", status, err, doc, out, problem)
	}
	if err := os.WriteFile(state, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(1, "", "audit_state_unusable", flag, "--state", state)
}

// Only so many findings are told one by one.
func TestAuditFlood(t *testing.T) {
	var out, talk bytes.Buffer
	w := &auditWriter{format: "text", out: &out, talk: &talk, began: time.Now()}
	for n := range int64(mostFindings + 5) {
		w.finding(audit.Finding{Code: audit.Version, Position: es.Position{TopicPartition: es.TopicPartition{Topic: "t"}, Offset: n}})
	}
	if err := w.end(audit.Progress{Findings: mostFindings + 5}, []string{"t"}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(out.String(), "\n"); got != mostFindings || !strings.Contains(talk.String(), "… and 5 findings more\n") {
		t.Errorf("%d lines, then %s", got, talk.String())
	}
}

// TestAuditFollow: findings are told as they come, until the command is interrupted.
func TestAuditFollow(t *testing.T) {
	r := newAuditRig(t)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	read, write := io.Pipe()
	c := root()
	c.SetOut(write)
	c.SetErr(io.Discard)
	c.SetArgs([]string{"audit", "--brokers", r.addr, "--follow", "--rate", "1000"})
	c.SilenceErrors, c.SilenceUsage = true, true
	var err error
	var running sync.WaitGroup
	running.Go(func() {
		err = c.ExecuteContext(ctx)
		_ = write.Close()
	})
	buf := make([]byte, 4096)
	for v := 1; v <= 2; v++ {
		r.write(fmt.Sprint("c-", v), 2*v)
		n, readErr := read.Read(buf)
		if want := fmt.Sprintf("things.events/0@%d version_order: version %d of \"t-1\" follows version %d\n", v, 2*v, 2*v-2); readErr != nil || string(buf[:n]) != want {
			t.Errorf("%v: %q, want %q", readErr, buf[:n], want)
		}
	}
	interrupt()
	running.Wait()
	if err == nil || !strings.Contains(err.Error(), "2 findings, the first at things.events/0@1") {
		t.Errorf("it ended with %v", err)
	}
}
