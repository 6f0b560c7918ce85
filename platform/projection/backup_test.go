package projection

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/store"
)

// backupTo writes a backup of a view to a file.
func backupTo(t *testing.T, p *Projector, view, path string) BackupInfo {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := p.Backup(t.Context(), view, f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return info
}

// form returns the form of a view of the test log.
func form[R any](l *memLog, v es.View[R, change]) Form { return FormOf(v, l.topic.Name) }

// TestBackup takes backups of views while events are applied: each is the fold of the log at the positions that it names, and what is
// restored from it goes on from there.
//
// G40: A backup of a view is its rows at exactly the positions that it names, and what is restored from it goes on from there, or is refused, and is never half there.
func TestBackup(t *testing.T) {
	rnd := seed(t)
	r := newRig(t, 3)
	r.cfg.WaitMax = 20 * time.Second
	history(rnd, r.log, 4000, 300)
	r.start()
	r.wait("orders", "customers", "sales")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		rnd := rand.New(rand.NewPCG(1, 2))
		for {
			select {
			case <-stop:
				return
			default:
				history(rnd, r.log, 20, 300)
				r.wait("orders")
			}
		}
	}()
	tmp := t.TempDir()
	var last es.Positions
	for round := range 4 {
		dir := filepath.Join(tmp, fmt.Sprint("restored-", round))
		taken := map[string]BackupInfo{}
		for view, f := range map[string]Form{"orders": form(r.log, ordersView()), "customers": form(r.log, customersView()), "sales": form(r.log, salesView())} {
			path := filepath.Join(tmp, fmt.Sprint(view, "-", round))
			info := backupTo(t, r.p, view, path)
			read, err := VerifyBackup(t.Context(), path)
			read.shape, read.cursors = "", nil
			if err != nil || !reflect.DeepEqual(read, info) || info.View != view || info.Build != "v1-1" || info.Rows == 0 {
				t.Errorf("written %+v, read %+v, %v", info, read, err)
			}
			build, restored, err := RestoreView(t.Context(), dir, path, []Form{f}, store.Options{})
			if err != nil || build != "v1-1" || restored.SHA256 != info.SHA256 {
				t.Fatalf("%s of %+v, %v", build, restored, err)
			}
			taken[view] = info
		}
		p := opened(t, Config{Dir: dir, WaitMax: 20 * time.Second}, r.log, testViews(r.log)...)
		if err := checkAll(t.Context(), p, r.log); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for view, info := range taken {
			rows, applied, err := dump(t.Context(), p, view, Query{})
			if err != nil || applied.String() != info.Applied.String() || int64(len(rows)) != info.Rows {
				t.Errorf("%s: %d rows at %s, want %d at %s, %v", view, len(rows), applied, info.Rows, info.Applied, err)
			}
		}
		if at := taken["orders"].Applied; at.String() == last.String() {
			t.Errorf("nothing was applied since the backup before, at %s", at)
		} else {
			last = at
		}
		// It is a view like any other.
		ctx, end := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		for view := range taken {
			if _, err := p.List(ctx, view, Query{Limit: 1}, r.log.last()); err != nil {
				t.Error(err)
			}
		}
		if err := checkAll(ctx, p, r.log); err != nil {
			t.Errorf("round %d, after the restored views went on: %v", round, err)
		}
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if c, _, _, err := readControl(filepath.Join(dir, "orders")); err != nil || c.Generations[0].Restored {
			t.Errorf("its positions are still to be compared: %+v, %v", c, err)
		}
	}
	close(stop)
	<-stopped
}

// TestBackupEnds: a backup of a build that is dropped ends, and does not hold it.
func TestBackupEnds(t *testing.T) {
	r := newRig(t, 1)
	history(rand.New(rand.NewPCG(3, 4)), r.log, 3000, 2000)
	r.start()
	r.wait("orders")
	b, err := r.p.BeginBackup("orders")
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	slow := &blocked{begun: make(chan struct{}), on: make(chan struct{})}
	go func() {
		_, err := b.Write(t.Context(), slow)
		b.Close()
		written <- err
	}()
	<-slow.begun
	reset := make(chan error, 1)
	go func() {
		_, err := r.p.Reset("orders")
		reset <- err
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for closing := false; !closing; <-tick.C {
		b.g.mu.Lock()
		closing = b.g.ends == nil
		b.g.mu.Unlock()
	}
	close(slow.on)
	if err := <-written; !errors.Is(err, ErrBuild) {
		t.Errorf("backup: %v, want ErrBuild", err)
	}
	if err := <-reset; err != nil {
		t.Error(err)
	}
	if _, err := r.p.BeginBackup("nothing"); !errors.Is(err, ErrViewNotFound) {
		t.Errorf("no such view: %v", err)
	}
}

// A blocked writer takes nothing until it may.
type blocked struct {
	begun, on chan struct{}
	once      bool
}

func (b *blocked) Write(p []byte) (int, error) {
	if !b.once {
		b.once = true
		close(b.begun)
	}
	<-b.on
	return len(p), nil
}

// TestRestoreRefused: what is not a whole backup of this version of the view is refused, and changes nothing.
func TestRestoreRefused(t *testing.T) {
	rnd := seed(t)
	r := newRig(t, 2)
	history(rnd, r.log, 2000, 200)
	r.start()
	r.wait("orders", "customers")
	tmp := t.TempDir()
	good, other := tmp+"/orders", tmp+"/customers"
	backupTo(t, r.p, "orders", good)
	backupTo(t, r.p, "customers", other)
	forms := []Form{form(r.log, ordersView())}
	if _, _, err := RestoreView(t.Context(), r.dir, good, forms, store.Options{}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("while the projector runs: %v, want ErrLocked", err)
	}
	history(rnd, r.log, 500, 200)
	r.wait("orders", "customers", "sales")
	r.close()
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string, text []byte) string {
		path := filepath.Join(tmp, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	flipped := slices.Clone(text)
	flipped[rnd.IntN(len(text))] ^= 1 << rnd.IntN(8)
	db, err := store.Open(tmp+"/db", store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.BackupFile(t.Context(), tmp+"/no-view", store.BackupOptions{})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	shaped := ordersView()
	shaped.Indexes["total"] = es.By(es.Number(func(r orderRow) int64 { return r.Total }))
	before, err := os.ReadFile(r.dir + "/orders/view.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, file string
		forms      []Form
		want       error
		says       string
	}{
		{"another view", other, forms, ErrForeignBackup, "of the view customers, not of orders"},
		{"another version", good, []Form{form(r.log, version(2))}, ErrForeignBackup, "of version 1 of the view orders, not of version 2"},
		{"other versions", good, []Form{form(r.log, version(2)), form(r.log, version(3))}, ErrForeignBackup, "the program has 2, 3"},
		{"another view of several versions", other, []Form{form(r.log, ordersView()), form(r.log, version(3))}, ErrForeignBackup, "of the view customers"},
		{"another shape", good, []Form{form(r.log, shaped)}, ErrForeignBackup, "its rows were stored as"},
		{"no view", tmp + "/no-view", forms, store.ErrBackup, "not of a view"},
		{"a flipped bit", file("flipped", flipped), forms, store.ErrBackup, ""},
		{"cut off", file("cut", text[:rnd.IntN(len(text))]), forms, store.ErrBackup, ""},
		{"not there", tmp + "/nowhere", forms, store.ErrBackup, "nowhere"},
	} {
		_, _, err := RestoreView(t.Context(), r.dir, tc.file, tc.forms, store.Options{})
		if e := fault.From(err); !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) || e == nil {
			t.Errorf("%s: %v, want %v that says %q", tc.name, err, tc.want, tc.says)
		}
		if now, err := os.ReadFile(r.dir + "/orders/view.json"); err != nil || string(now) != string(before) {
			t.Errorf("%s: the view was changed: %s, %v", tc.name, now, err)
		}
		if left, err := filepath.Glob(r.dir + "/orders/v1-2*"); err != nil || len(left) > 0 {
			t.Errorf("%s: %v is left", tc.name, left)
		}
	}
	// A backup that is good answers from the next start on, and the build before can be rolled back to.
	if build, _, err := RestoreView(t.Context(), r.dir, good, forms, store.Options{}); err != nil || build != "v1-2" {
		t.Fatalf("%s, %v", build, err)
	}
	r.start()
	r.wait("orders")
	if err := checkAll(t.Context(), r.p, r.log); err != nil {
		t.Error(err)
	}
	if got := r.live("orders"); got != "v1-2" {
		t.Errorf("%s answers, want v1-2", got)
	}
	if now, err := r.p.Rollback("orders"); err != nil || now != "v1-1" {
		t.Errorf("rolled back to %s, %v", now, err)
	}
}

// TestRestoreForeignLog restores a backup of another log, and of one that has lost its end, beside a build of this one that is about as far:
// Run refuses to go on, and says what to do.
func TestRestoreForeignLog(t *testing.T) {
	for name, foreign := range map[string]func(l *memLog){
		"created anew":     func(l *memLog) { l.topic.ID = [16]byte{2} },
		"lost its end":     func(*memLog) {},
		"of other records": func(l *memLog) { l.topic.ID = [16]byte{3} },
	} {
		t.Run(name, func(t *testing.T) {
			there := newRig(t, 2)
			foreign(there.log)
			history(rand.New(rand.NewPCG(5, 6)), there.log, 1200, 100)
			there.start(there.views()[0])
			there.wait("orders")
			file := t.TempDir() + "/orders"
			backupTo(t, there.p, "orders", file)
			here := newRig(t, 2)
			history(rand.New(rand.NewPCG(5, 6)), here.log, 1000, 100)
			here.start(here.views()[0])
			here.wait("orders")
			here.close()
			if _, _, err := RestoreView(t.Context(), here.dir, file, []Form{form(here.log, ordersView())}, store.Options{}); err != nil {
				t.Fatal(err)
			}
			for range 2 { // it does not get used to it
				here.start(here.views()[0])
				var err error
				select {
				case err = <-here.done:
				case <-time.After(time.Minute):
					t.Fatal("it goes on")
				}
				here.stop = func() error { return nil }
				e := fault.From(err)
				if !errors.Is(err, eventlog.ErrCursor) || e == nil || !strings.Contains(e.Detail, "v1-2, which was restored") || !strings.Contains(e.Fix, here.dir+"/orders") {
					t.Errorf("%v: %s", err, fault.Line(err))
				}
				here.close()
			}
		})
	}
}

// TestSweep: what a killed process was making is gone after the next start, and nothing else.
func TestSweep(t *testing.T) {
	r := newRig(t, 1)
	r.log.add(0, change{Kind: "placed", Order: "o-1", Customer: "c-1", Amount: 5})
	r.start(r.views()[0])
	r.wait("orders")
	r.close()
	dir := r.dir + "/orders/"
	for _, name := range []string{"v1-1.snapshot", "v1-2.snapshot", "v1-2.sentinel", "v1-2.sentinel.123", "v1-2.restoring.sentinel", "v1-2.restoring.sentinel.99", "v1-1.condemned.7", "view.json.4711", "view.copy.json.1", "view.json.damaged-1", "v1-1.damaged-1", "notes"} {
		if err := os.WriteFile(dir+name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"v1-2", "v1-2.restoring", "v1-1.restoring"} {
		if err := os.MkdirAll(dir+name, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r.start(r.views()[0])
	r.wait("orders")
	left, err := filepath.Glob(dir + "*")
	for i := range left {
		left[i] = filepath.Base(left[i])
	}
	if want := []string{"notes", "v1-1", "v1-1.damaged-1", "v1-1.sentinel", "view.copy.json", "view.json", "view.json.damaged-1"}; err != nil || !slices.Equal(left, want) {
		t.Errorf("there are %v, want %v, %v", left, want, err)
	}
}

const restoreEnv = "MILLRACE_PROJECTION_RESTORE"

// TestRestoreKilled kills a process that restores a view again and again: what is there is the view as it was, or as the backup has it.
func TestRestoreKilled(t *testing.T) {
	if arg := os.Getenv(restoreEnv); arg != "" {
		f := strings.Fields(arg)
		fmt.Println("opened")
		for {
			if _, _, err := RestoreView(t.Context(), f[0], f[1], []Form{form(newLog(4), ordersView())}, store.Options{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	rnd := seed(t)
	log := killLog(1, 5000)
	tmp := t.TempDir()
	p := opened(t, Config{Dir: tmp + "/from", WaitMax: 20 * time.Second}, log, testViews(log)[0])
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	if _, err := p.List(ctx, "orders", Query{Limit: 1}, log.last()); err != nil {
		t.Fatal(err)
	}
	info := backupTo(t, p, "orders", tmp+"/backup")
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for n := range 8 {
		dir := fmt.Sprint(tmp, "/to-", n)
		cmd := exec.Command(os.Args[0], "-test.run=^TestRestoreKilled$", "-test.v")
		cmd.Env = append(os.Environ(), restoreEnv+"="+dir+" "+tmp+"/backup")
		begun := &awaitedText{text: "opened\n", seen: make(chan struct{})}
		cmd.Stdout = begun
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-begun.seen
		timer := time.NewTimer(time.Duration(rnd.IntN(500_000)) * time.Microsecond)
		<-timer.C
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the child ended by itself")
		}
		p := opened(t, Config{Dir: dir}, log, testViews(log)[0])
		if err := checkOrders(t.Context(), p, log); err != nil {
			t.Errorf("kill %d: %v", n, err)
		}
		_, applied, err := dump(t.Context(), p, "orders", Query{})
		switch {
		case err != nil:
			t.Error(err)
		case len(applied) == 0:
			counts["as it was"]++
		case applied.String() == info.Applied.String():
			counts["as in the backup"]++
		default:
			t.Errorf("kill %d: it is at %s, neither at the beginning nor at %s", n, applied, info.Applied)
		}
		if left, err := filepath.Glob(dir + "/orders/*.restoring*"); err != nil || len(left) > 0 {
			t.Errorf("%v is left", left)
		}
	}
	t.Log(counts)
}

// awaitedText is a writer that tells when it was given a text.
type awaitedText struct {
	text string
	all  strings.Builder
	seen chan struct{}
}

func (a *awaitedText) Write(p []byte) (int, error) {
	had := strings.Contains(a.all.String(), a.text)
	a.all.Write(p)
	if !had && strings.Contains(a.all.String(), a.text) {
		close(a.seen)
	}
	return len(p), nil
}
