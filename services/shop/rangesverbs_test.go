package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestRangesVerbs operates a divided view of three processes by its own name, while clients read it: what is asked for is done in all ranges at all
// of them, and the exit status tells if it was not.
func TestRangesVerbs(t *testing.T) {
	millrace := filepath.Join(t.TempDir(), "millrace")
	if out, err := exec.Command("go", "build", "-o", millrace, "../../platform/cmd/millrace").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f := newFleet(t)
	f.add(t.TempDir())
	prefix := fmt.Sprintf("v-%d-", time.Now().UnixNano()) // a real Kafka may have other orders
	const orders = 60
	for n := range orders {
		id := fmt.Sprintf("%s%05d", prefix, n)
		if _, err := f.send(id, "place", id, `{"customer_id":"c-1","currency":"USD","lines":[{"sku":"a","quantity":1,"amount":100}]}`); err != nil {
			t.Fatal(err)
		}
	}
	var all []*process
	var admins []string
	for range 3 {
		all = append(all, start(t, "serve", "order-views", "--kafka-brokers", f.kafka, "--registry-url", f.registry.at.Registry, "--http-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0",
			"--data-dir", t.TempDir(), "--view-ranges", "3", "--view-copies", "2"))
		admins = append(admins, all[len(all)-1].at.Admin)
	}
	run := func(want int, admins []string, args ...string) string {
		t.Helper()
		c := exec.Command(millrace, append(args, "--admin-url", strings.Join(admins, ","))...)
		var out, talk bytes.Buffer
		c.Stdout, c.Stderr = &out, &talk
		err := c.Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) || c.ProcessState.ExitCode() != want {
			t.Fatalf("millrace %s: %v, want exit status %d\n%s%s", strings.Join(args, " "), err, want, &out, &talk)
		}
		if os.Getenv("MILLRACE_TEST_SHOW") != "" {
			fmt.Printf("$ millrace %s\n%s%s", strings.Join(args, " "), &out, &talk)
		}
		return out.String()
	}
	// six is what a command says that did something with each copy.
	six := func(out, has string) {
		t.Helper()
		if n := strings.Count(out, has); n != 6 {
			t.Errorf("%d times %q in\n%s", n, has, out)
		}
	}
	all[0].until("two copies of each range, and no more", func() bool {
		out, err := exec.Command(millrace, "view", "ls", "orders", "--admin-url", strings.Join(admins, ",")).CombinedOutput()
		return err == nil && strings.Count(string(out), " live ") == 6 && strings.Count(string(out), " running ") == 6
	})
	stop := make(chan struct{})
	read := make(chan error, 1)
	go func() {
		for {
			for _, p := range all {
				status, _, body := p.ask("GET", "/v1/views/orders?limit=1000&prefix="+prefix, "")
				if status != 200 || strings.Count(body, `"order_id"`) != orders {
					read <- fmt.Errorf("%d %.300s", status, body)
					return
				}
			}
			select {
			case <-stop:
				read <- nil
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	six(run(0, admins, "view", "wait", "orders"), "is caught up")
	six(run(0, admins, "view", "rebuild", "orders", "--wait", "--force"), "is caught up")
	six(run(0, admins, "view", "verify", "orders"), ", 0 different, 0 only in")
	six(run(0, admins, "view", "describe", "orders"), " beside ")
	six(run(0, admins, "view", "switch", "orders"), "answers queries")
	six(run(0, admins, "view", "switch", "orders"), "answers queries already")
	six(run(0, admins, "view", "rollback", "orders"), "answers queries again")
	six(run(0, admins, "view", "pause", "orders"), "is paused")
	six(run(0, admins, "view", "resume", "orders"), "is kept up to date again")
	six(run(0, admins, "view", "store", "orders"), "on the disk")
	run(0, admins, "dlq", "ls", "orders")
	six(run(0, admins, "dlq", "retry", "orders", "--all"), "0 applied, 0 left")
	close(stop)
	if err := <-read; err != nil {
		t.Error("a client: ", err)
	}
	run(1, admins[:1], "view", "pause", "orders")
	run(1, append(slices.Clone(admins[:2]), "http://127.0.0.1:1"), "view", "wait", "orders")
	six(run(0, admins, "view", "reset", "orders", "--yes"), "is begun and answers queries")
	six(run(0, admins, "view", "wait", "orders"), "is caught up")
	// The others may still be asked, for up to a second, for builds that are gone.
	all[0].until("all rows are there again", func() bool {
		status, _, body := all[0].ask("GET", "/v1/views/orders?count&prefix="+prefix, "")
		return status == 200 && strings.Contains(body, fmt.Sprint(orders))
	})
}
