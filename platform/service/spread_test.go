package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/registry"
	"github.com/millrace/millrace/platform/rest"
	"github.com/millrace/millrace/platform/store"
)

// TestChart: a divided view is read from builds of one version, the newest that answers queries of every range, wherever these are.
func TestChart(t *testing.T) {
	parse := func(lines ...string) []heldAnswer { return parseHeld(t, lines...) }
	for _, tc := range []struct {
		name string
		have map[string][]heldAnswer
		want string // version: the targets of each range
	}{
		{"here and there", map[string][]heldAnswer{"": parse("0:v1-1*"), "b": parse("1:v1-2*")}, "1: /v1-1 | b/v1-2"},
		{"here first", map[string][]heldAnswer{"a": parse("0:v1-1*", "1:v1-1*"), "": parse("0:v1-3*")}, "1: /v1-3 a/v1-1 | a/v1-1"},
		{"nobody has one", map[string][]heldAnswer{"": parse("0:v1-1*")}, "no instance has the ranges 1"},
		{"one range is not there yet", map[string][]heldAnswer{"": parse("0:v1-1 v2-1*"), "b": parse("1:v1-1* v2-1")}, "1: /v1-1 | b/v1-1"},
		{"both are", map[string][]heldAnswer{"": parse("0:v1-1 v2-1*"), "b": parse("1:v1-1 v2-1*")}, "2: /v2-1 | b/v2-1"},
		{"of two copies one is", map[string][]heldAnswer{"": parse("0:v2-1*"), "b": parse("0:v1-1*", "1:v1-1*")}, "1: b/v1-1 | b/v1-1"},
		{"a build that was replaced, and one to be compared", map[string][]heldAnswer{"": parse("0:v1-2* v1-1 v1-3"), "b": parse("0:v1-5* v1-4", "1:v1-1*")}, "1: /v1-2 b/v1-5 | b/v1-1"},
		{"not kept up to date any more", map[string][]heldAnswer{"": parse("0:v2-1* v1-1!"), "b": parse("1:v1-1*")}, "1: /v1-1 | b/v1-1"},
		{"kept up to date elsewhere", map[string][]heldAnswer{"": parse("0:v2-1* v1-1!"), "b": parse("0:v1-1*", "1:v1-1*")}, "1: b/v1-1 | b/v1-1"},
		{"one was reset, or paused while it was built", map[string][]heldAnswer{"": parse("0:v1-2!*"), "b": parse("0:v1-1*", "1:v1-1*")}, "1: b/v1-1 | b/v1-1"},
		{"what is there no more", map[string][]heldAnswer{"": parse("0:v2-1*"), "b": parse("1:v1-1*")}, "version 1 of the view orders is not everywhere, and range 0"},
		{"a range that there is not", map[string][]heldAnswer{"": parse("0:v1-1*", "1:v1-1*", "7:v1-1*")}, "1: /v1-1 | /v1-1"},
	} {
		r := chart("orders", 2, tc.have)
		var got string
		if r.err != nil {
			got = r.err.Error()
		} else {
			var ranges []string
			for _, of := range r.of {
				var at []string
				for _, t := range of {
					at = append(at, t.address+"/"+t.build)
				}
				ranges = append(ranges, strings.Join(at, " "))
			}
			got = fmt.Sprintf("%d: %s", r.version, strings.Join(ranges, " | "))
		}
		if r.err == nil && got != tc.want || r.err != nil && !strings.Contains(got, tc.want) {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

// TestSee: who is gone keeps its place for a while as long as others have what it had, and not if there is one copy of each range only.
func TestSee(t *testing.T) {
	for copies, want := range map[int][]string{1: {"a b c", "a c", "a c", "a b c"}, 2: {"a b c", "a b c", "a c", "a b c"}} {
		s := &spreader{h: &host{advertise: "a"}, copies: copies, gone: map[string]time.Time{}, left: make(chan struct{})}
		now := time.Now()
		for i, there := range []struct {
			who   string
			after time.Duration
		}{{"a b c", 0}, {"c a", spreadGrace / 2}, {"a c", 2 * spreadGrace}, {"b c", 2*spreadGrace + time.Second}} {
			s.see(strings.Fields(there.who), now.Add(there.after))
			if got := strings.Join(s.members, " "); got != want[i] {
				t.Errorf("%d copies, step %d: %s, want %s", copies, i, got, want[i])
			}
		}
		close(s.left)
		s.see([]string{"a", "b", "c"}, now.Add(time.Hour))
		if slices.Contains(s.members, "a") {
			t.Errorf("it leaves, and is to have ranges: %v", s.members)
		}
	}
}

// TestSpreadReady: an instance is ready once it has what it should have, and stays so when it is given more because another one has died.
func TestSpreadReady(t *testing.T) {
	s := &spreader{h: &host{advertise: "a"}, ranges: 2, copies: 1, gone: map[string]time.Time{}, left: make(chan struct{}), held: map[int]*heldRange{}}
	if s.ready() == nil {
		t.Error("it does not know who is there, and is ready")
	}
	s.see([]string{"a"}, time.Now())
	if s.ready() == nil {
		t.Error("it has nothing of what it should have, and is ready")
	}
	s.back = map[int]*setback{1: {err: store.ErrDiskFull}}
	if err := s.ready(); err == nil || !strings.Contains(err.Error(), "range 1 cannot be taken: the disk is nearly full") {
		t.Errorf("a range cannot be taken: %v", err)
	}
	s.back = nil
	s.copies = 0 // it has all that it should have
	if err := s.ready(); err != nil {
		t.Error(err)
	}
	s.copies = 1
	if err := s.ready(); err != nil {
		t.Errorf("it is given another range: %v", err)
	}
}

// TestReadable: builds come in the order in which they are to be read, and those that are not whole not at all.
func TestReadable(t *testing.T) {
	st := &projection.ViewStatus{Live: "v2-1", Previous: "v1-2", Builds: []projection.BuildStatus{
		{ID: "v2-1", Version: 2, CaughtUp: true}, {ID: "v1-1", Version: 1, CaughtUp: true}, {ID: "v1-2", Version: 1, State: projection.Frozen}, {ID: "v2-2", Version: 2, State: projection.Building},
		{ID: "v2-3", Version: 2, CaughtUp: true, Until: es.Positions{}},
	}}
	want := []heldBuild{{Version: 2, Build: "v2-1", Live: true}, {Version: 1, Build: "v1-2", Behind: true}, {Version: 1, Build: "v1-1"}}
	paused := &projection.ViewStatus{Live: "v1-1", Builds: []projection.BuildStatus{{ID: "v1-1", Version: 1, State: projection.Paused}}}
	if got := readable(paused, true); len(got) != 1 || !got[0].Behind {
		t.Errorf("paused while it was built: %+v", got)
	}
	if got := readable(paused, false); len(got) != 0 {
		t.Errorf("a view that has not caught up: %+v", got)
	}
	frozen := &projection.ViewStatus{Live: "v1-1", Builds: []projection.BuildStatus{{ID: "v1-1", Version: 1, State: projection.Frozen}, {ID: "v2-1", Version: 2, State: projection.Building}}}
	if got := readable(frozen, false); len(got) != 1 || got[0].Build != "v1-1" || !got[0].Live || !got[0].Behind {
		t.Errorf("the old version, until the new one is there: %+v", got)
	}
	if got := readable(st, true); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// parseHeld reads what an instance has: "0:v1-1* v2-1" is range 0 with two builds, of which the first answers queries; v1-1! is behind.
func parseHeld(t *testing.T, lines ...string) []heldAnswer {
	t.Helper()
	var out []heldAnswer
	for _, line := range lines {
		number, builds, _ := strings.Cut(line, ":")
		a := heldAnswer{Views: map[string][]heldBuild{}}
		if _, err := fmt.Sscan(number, &a.Range); err != nil {
			t.Fatal(err)
		}
		for _, id := range strings.Fields(builds) {
			id, live := strings.CutSuffix(id, "*")
			id, behind := strings.CutSuffix(id, "!")
			version, ok := versionOf(id)
			if !ok {
				t.Fatal(id)
			}
			a.Views["orders"] = append(a.Views["orders"], heldBuild{Version: version, Build: id, Live: live, Behind: behind})
		}
		out = append(out, a)
	}
	return out
}

// TestMissed: a range that is elsewhere in a version that other ranges do not have is not given up.
func TestMissed(t *testing.T) {
	for _, tc := range []struct {
		here, there []string
		want        bool
	}{
		{[]string{"0:v1-1*", "1:v1-1*"}, []string{"0:v1-7*"}, false},
		{[]string{"0:v1-1*", "1:v1-1*"}, []string{"1:v1-7*"}, true},
		{[]string{"0:v1-1*", "1:v1-1*"}, []string{"0:v2-1*"}, true},
		{[]string{"0:v1-1*", "1:v1-1*"}, []string{"0:v2-1* v1-1!"}, true},
		{[]string{"0:v2-1* v1-1!", "1:v1-1*"}, []string{"0:v2-1* v1-1!"}, false},
		{[]string{"0:v1-1*"}, []string{"0:v2-1*", "1:v2-1*"}, false},
		{[]string{"0:v1-1*", "1:v1-1*"}, []string{"0:v1-2!*"}, true}, // it was reset, or paused while it was built
		{[]string{"0:v1-1*"}, nil, false},                            // it cannot be read anyway
	} {
		have := map[string][]heldAnswer{"": parseHeld(t, tc.here...), "b": parseHeld(t, tc.there...)}
		if got := missed([]View{{name: "orders"}}, 2, 0, have); got != tc.want {
			t.Errorf("%v here, %v there: %t", tc.here, tc.there, got)
		}
		if len(have[""]) != len(tc.here) {
			t.Errorf("it changed what is here: %v", have)
		}
	}
}

// TestChartMissing: rows of the ranges that are there can be read though others are not.
func TestChartMissing(t *testing.T) {
	r := chart("orders", 3, map[string][]heldAnswer{"": parseHeld(t, "0:v2-1* v1-1"), "b": parseHeld(t, "2:v1-3*")})
	if r.err == nil || len(r.of[0]) != 1 || r.of[0][0].build != "v1-1" || len(r.of[1]) != 0 || len(r.of[2]) != 1 || r.version != 1 {
		t.Errorf("%+v", r)
	}
	if e := fault.From(r.err); e == nil || !strings.Contains(e.Fix, "millrace view ranges orders") {
		t.Errorf("%v has no fix", r.err)
	}
}

// TestRangeUsers: a range has nobody who reads it when a request for it has ended, however that was: it could not be given up else.
func TestRangeUsers(t *testing.T) {
	s := &spreader{ranges: 1, held: map[int]*heldRange{0: {engine: &projection.Projector{}, ctx: t.Context()}}}
	stream := func(context.Context, *rest.Stream) error { panic("while it is sent") }
	for name, answer := range map[string]func() (*rest.Response, error){
		"an answer":            func() (*rest.Response, error) { return &rest.Response{}, nil },
		"a refusal":            func() (*rest.Response, error) { return nil, errRangeElsewhere },
		"a panic":              func() (*rest.Response, error) { panic("before there is an answer") },
		"a panic when it sent": func() (*rest.Response, error) { return &rest.Response{Stream: stream}, nil },
	} {
		h, done, ok := s.use(0)
		if !ok {
			t.Fatal("the range cannot be used")
		}
		func() {
			defer func() { _ = recover() }()
			if resp, err := h.lend(done, answer); err == nil && resp.Stream != nil {
				_ = resp.Stream(t.Context(), nil)
			}
		}()
		left := make(chan struct{})
		go func() { h.users.Wait(); close(left) }()
		select {
		case <-left:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: the range is still used", name)
		}
		done() // nothing comes of saying it twice
	}
}

// TestTogether: what panics in one of several goroutines is the caller's affair, who answers for one request and not for the process.
func TestTogether(t *testing.T) {
	var did atomic.Int32
	defer func() {
		if p := fmt.Sprint(recover()); !strings.HasPrefix(p, "two\n") || did.Load() != 3 {
			t.Errorf("%d were done, and %.80s", did.Load(), p)
		}
	}()
	together(4, func(n int) {
		if n == 2 {
			panic("two")
		}
		did.Add(1)
	})
}

// TestPassing: what may pass is tried again, and what will not ends the process, which says so.
func TestPassing(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{store.ErrDiskFull.Because("1 MiB left"), true},
		{store.ErrDirectory.Wrap(syscall.EACCES), true},
		{store.ErrLocked, true},
		{registry.ErrUnreachable, true},
		{projection.ErrControl.Wrap(&os.PathError{Op: "write", Path: "view.json", Err: syscall.ENOSPC}), true},
		{projection.ErrControl.Because("view.json is not JSON"), false},
		{projection.ErrView, false},
		{store.ErrDamaged, false},
		{store.ErrFailed.Wrap(syscall.EIO), false},
		{errors.New("something else"), false},
	} {
		if got := passing(tc.err); got != tc.want {
			t.Errorf("%v: %t", tc.err, got)
		}
	}
}

// TestSetback: each failure is waited for longer, up to a minute, until the range can be taken or need not be.
func TestSetback(t *testing.T) {
	h := newHost(App{Name: "bank"}, Config{}, slog.New(slog.DiscardHandler))
	defer h.close()
	s := &spreader{h: h, ranges: 2, back: map[int]*setback{}}
	var waits []time.Duration
	for range 8 {
		s.setBack(1, store.ErrDiskFull)
		waits = append(waits, s.back[1].wait/time.Second)
	}
	if want := []time.Duration{1, 2, 4, 8, 16, 32, 60, 60}; !slices.Equal(waits, want) {
		t.Errorf("it waits %v seconds, want %v", waits, want)
	}
	if err := s.try(t.Context(), 1, nil); err != nil { // it would have no engine to open
		t.Error(err)
	}
	if s.setBack(1, nil); s.setbacks() != "" {
		t.Errorf("it can be taken: %s", s.setbacks())
	}
}
