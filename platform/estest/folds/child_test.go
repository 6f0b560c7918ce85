package folds

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/store"
)

// childEnv makes the test binary a projector: a setup as JSON.
const childEnv = "MILLRACE_FOLDS_CHILD"

// memTable makes a store of a few MiB several tables.
const memTable = 8 << 20

// A setup is what a projector process is started with.
type setup struct {
	Addr      string
	Topics    [topicCount]eventlog.Topic
	Dir       string
	Versions  []int // of the code of orders that the program has
	Mended    bool  // that code can handle every event
	Manual    bool
	Batch     int    // events of one transaction while behind
	Rate      int    // events per second while behind
	Snapshot  string // a file that a view begins with, as if a peer sent it
	Restore   string // a backup to be restored in place of anything else
	DumpFirst bool   // before the log is read on
}

// An order to a projector, and what it says. A projector says "opened", "at" whenever a position changes, "ready" when it has caught up,
// "done" with the number of an order, and "ended" with why it ends by itself.
type command struct {
	N     int    `json:"n"`
	Verb  string `json:"verb"`
	View  string `json:"view,omitempty"`
	Build string `json:"build,omitempty"`
	Arg   string `json:"arg,omitempty"`
	Num   int    `json:"num,omitempty"`
}

type said struct {
	What    string       `json:"what"`
	N       int          `json:"n,omitempty"`
	Error   string       `json:"error,omitempty"`
	Code    string       `json:"code,omitempty"`
	Text    string       `json:"text,omitempty"`
	Applied int          `json:"applied,omitempty"` // dead letters
	Views   []viewSaid   `json:"views,omitempty"`
	Dump    []dumpedView `json:"dump,omitempty"`
}

type viewSaid struct {
	Name   string      `json:"name"`
	Live   string      `json:"live"`
	Paused bool        `json:"paused"`
	Builds []buildSaid `json:"builds"`
}

type buildSaid struct {
	ID       string `json:"id"`
	Version  int    `json:"version"`
	State    string `json:"state"`
	CaughtUp bool   `json:"caught_up"`
	Created  string `json:"created"`
	Bounded  bool   `json:"bounded"`
	Applied  string `json:"applied"`
	Letters  int    `json:"letters"`
}

// A dumpedView is all that a view serves by one way to its rows.
type dumpedView struct {
	View    string      `json:"view"`
	Build   string      `json:"build"`
	Version int         `json:"version"`
	Index   string      `json:"index,omitempty"` // "" = by key, with the rows' content
	Applied string      `json:"applied"`
	Rows    []dumpedRow `json:"rows"`
	Letters []letter    `json:"letters,omitempty"`
	Given   []letter    `json:"given,omitempty"`
	Error   string      `json:"error,omitempty"`
	Code    string      `json:"code,omitempty"`
}

type dumpedRow struct {
	Key  string `json:"key"`
	JSON string `json:"json,omitempty"`
	At   string `json:"at,omitempty"`
	ID   string `json:"id,omitempty"`
}

// TestMain lets the test binary be the projector that is killed.
func TestMain(m *testing.M) {
	arg := os.Getenv(childEnv)
	if arg == "" {
		os.Exit(m.Run())
	}
	c := &child{out: json.NewEncoder(os.Stdout)}
	err := json.Unmarshal([]byte(arg), &c.setup)
	if err == nil {
		err = c.run(context.Background())
	}
	if err != nil {
		c.say(said{What: "ended"}.because(err))
		os.Exit(1)
	}
}

func (s said) because(err error) said {
	if err != nil {
		s.Error = err.Error()
		s.Code = codeOf(err)
	}
	return s
}

func codeOf(err error) string {
	if f := fault.From(err); f != nil {
		return f.Code
	}
	return ""
}

type child struct {
	setup
	p   *projection.Projector
	mu  sync.Mutex
	out *json.Encoder
}

func (c *child) say(s said) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.out.Encode(s); err != nil {
		os.Exit(2) // nobody is there any more
	}
}

func (c *child) inputs(topics ...int) (all []projection.Input[event]) {
	for _, n := range topics {
		all = append(all, projection.Input[event]{Topic: c.Topics[n], Events: decoder{}})
	}
	return all
}

func (c *child) run(ctx context.Context) error {
	options := store.Options{MinFree: -1, MemTable: memTable}
	if c.Restore != "" {
		var forms []projection.Form
		for _, v := range c.Versions {
			forms = append(forms, projection.FormOf(orders(v, c.Mended), c.Topics[ordersTopic].Name))
		}
		build, _, err := projection.RestoreView(ctx, c.Dir, c.Restore, forms, options)
		c.say(said{What: "restored", Text: build}.because(err))
		return nil
	}
	log, err := eventlog.Open(ctx, eventlog.Config{Brokers: []string{c.Addr}, FetchWait: 50 * time.Millisecond})
	if err != nil {
		return err
	}
	cfg := projection.Config{Log: log, Dir: c.Dir, StoreOptions: options, WaitMax: time.Minute, BatchEvents: c.Batch, CatchUpRate: c.Rate, CacheBytes: 1 << 20, Manual: c.Manual,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	if c.Snapshot != "" {
		cfg.Snapshots = []projection.Snapshot{c.snapshot}
	}
	if c.p, err = projection.New(cfg); err != nil {
		return err
	}
	for _, v := range c.Versions {
		if err := projection.Add(c.p, orders(v, c.Mended), c.inputs(ordersTopic)...); err != nil {
			return err
		}
	}
	if err := errors.Join(projection.Add(c.p, balances(), c.inputs(ordersTopic, seatsTopic)...), projection.Add(c.p, seats(), c.inputs(seatsTopic)...)); err != nil {
		return err
	}
	if err := c.p.Open(); err != nil {
		return err
	}
	opened := said{What: "opened", Views: c.views()}
	if c.DumpFirst {
		opened.Dump = c.dump(ctx)
	}
	c.say(opened)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- c.p.Run(ctx) }()
	go c.watch(ctx)
	go c.obey(ctx, stop)
	if err := <-ran; err != nil {
		return err // what is left is for the next start
	}
	return c.p.Close()
}

// snapshot is what a peer would send: a file, in pieces.
func (c *child) snapshot(ctx context.Context, _ string, _ int, w io.Writer) error {
	f, err := os.Open(c.Snapshot)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 16<<10)
	for ctx.Err() == nil {
		n, err := f.Read(buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			_, err = w.Write(buf[:n])
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (c *child) views() (all []viewSaid) {
	for _, st := range c.p.Status() {
		v := viewSaid{Name: st.Name, Live: st.Live, Paused: st.Paused}
		for _, b := range st.Builds {
			v.Builds = append(v.Builds, buildSaid{ID: b.ID, Version: b.Version, State: b.State, CaughtUp: b.CaughtUp, Created: b.Created.Format(time.RFC3339Nano), Bounded: b.Until != nil || b.State == projection.Complete, Applied: b.Applied.String(), Letters: b.Letters})
		}
		all = append(all, v)
	}
	return all
}

// watch tells of positions as they come to be served, and when all is caught up.
func (c *child) watch(ctx context.Context) {
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	was, ready := "", false
	for ctx.Err() == nil {
		<-tick.C
		s := said{What: "at", Views: c.views()}
		if text := fmt.Sprint(s.Views); text != was {
			was = text
			c.say(s)
		}
		if !ready && c.p.CaughtUp() {
			ready = true
			c.say(said{What: "ready", Views: c.views()})
		}
	}
}

// obey does what it is told to; orders do not wait for each other.
func (c *child) obey(ctx context.Context, stop func()) {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var o command
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			panic(err)
		}
		if o.Verb == "stop" {
			stop()
			continue
		}
		go func() {
			s := said{What: "done", N: o.N}
			var err error
			s.Text, err = c.do(ctx, o, &s)
			s.Views = c.views()
			c.say(s.because(err))
		}()
	}
	os.Exit(3) // nobody is there any more
}

func (c *child) do(ctx context.Context, o command, s *said) (text string, err error) {
	p := c.p
	switch o.Verb {
	case "rebuild":
		r := projection.Rebuild{Force: true, Rate: o.Num, Switch: o.Arg == "switch"}
		if o.Arg == "until" {
			st, err := p.StatusOf(o.View)
			if err != nil {
				return "", err
			}
			r.Until = es.Positions{}
			for _, at := range st.Builds[0].Applied {
				at.Offset /= 2
				r.Until = r.Until.With(at)
			}
		}
		return p.Rebuild(ctx, o.View, r)
	case "switch":
		return p.Switch(o.View, o.Build, true)
	case "rollback":
		return p.Rollback(o.View)
	case "drop":
		return "", p.Drop(o.View, o.Build)
	case "reset":
		return p.Reset(o.View)
	case "pause":
		return "", p.Pause(o.View)
	case "resume":
		return "", p.Resume(o.View)
	case "verify":
		r, err := p.Verify(ctx, o.View, "")
		return differences(&r), err
	case "verify-fresh":
		r, err := p.VerifyFresh(ctx, o.View, 0)
		return differences(&r), err
	case "retry":
		r, err := p.Retry(ctx, o.View, "")
		s.Applied = r.Applied
		return "", err
	case "discard":
		ls, err := p.Letters(o.View, "", false, nil, 200)
		if err != nil || len(ls) == 0 {
			return "", err
		}
		first := ls[o.Num%len(ls)]
		for _, l := range ls {
			if l.Stream == first.Stream {
				first = l
				break
			}
		}
		_, err = p.Discard(ctx, o.View, first.Position, "why not")
		return "", err
	case "backup":
		f, err := os.Create(o.Arg)
		if err != nil {
			return "", err
		}
		_, err = p.Backup(ctx, o.View, f)
		return "", errors.Join(err, f.Close())
	case "at-least":
		ps, err := es.ParsePositions(o.Arg)
		if err != nil {
			return "", err
		}
		_, err = p.Applied(ctx, o.View, ps)
		return "", err
	case "dump":
		s.Dump = c.dump(ctx)
		return "", nil
	}
	return "", fmt.Errorf("what is %q?", o.Verb)
}

// differences returns "" for two builds that are the same.
func differences(r *projection.Report) string {
	if r.Equal() {
		return ""
	}
	text := fmt.Sprintf("%s and %s at %s: %d different, %d and %d only in one, %d and %d letters", r.A, r.B, r.Applied, r.Different, r.OnlyA, r.OnlyB, r.LettersA, r.LettersB)
	for _, d := range r.Samples[:min(3, len(r.Samples))] {
		text += fmt.Sprintf("\n%s: %+v, %+v", d.Key, d.A, d.B)
	}
	return text
}

// dump returns all that the views serve, by key and by each index.
func (c *child) dump(ctx context.Context) (all []dumpedView) {
	for _, st := range c.p.Status() {
		for _, index := range append([]string{""}, st.Builds[0].Indexes...) {
			d := dumpedView{View: st.Name, Build: st.Live, Version: st.Builds[0].Version, Index: index}
			err := c.export(ctx, &d)
			if now, e := c.p.StatusOf(st.Name); e != nil || now.Live != st.Live {
				return c.dump(ctx) // another build answers now
			}
			if err == nil { // those that are needed are there: none goes while nobody retries them
				d.Letters, err = c.letters(st.Name, false)
				if err == nil {
					d.Given, err = c.letters(st.Name, true)
				}
			}
			if err != nil {
				d.Error, d.Code = err.Error(), codeOf(err)
			}
			all = append(all, d)
		}
	}
	return all
}

func (c *child) export(ctx context.Context, d *dumpedView) error {
	x, err := c.p.Export(ctx, d.View, projection.Query{Index: d.Index}, nil)
	if err != nil {
		return err
	}
	defer x.Close()
	d.Applied = x.Applied.String()
	for r, err := range x.Rows() {
		if err != nil {
			return err
		}
		one := dumpedRow{Key: r.Key}
		if d.Index == "" {
			one.JSON, one.At, one.ID = string(r.JSON), r.Position.String(), cmp.Or(r.EventID, "none")
		}
		d.Rows = append(d.Rows, one)
	}
	return nil
}

func (c *child) letters(view string, given bool) (all []letter, err error) {
	var after *projection.Letter
	for {
		page, err := c.p.Letters(view, "", given, after, 1000)
		if err != nil {
			return nil, err
		}
		for _, l := range page {
			all = append(all, letter{Stream: l.Stream, Position: l.Position, EventID: l.EventID, Code: l.Code, Attempts: l.Attempts})
		}
		if len(page) < 1000 {
			return all, nil
		}
		after = &page[len(page)-1]
	}
}
