package folds

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/embedded"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
)

// A world is a log, the directory of a projector, and what has become of it so far.
type world struct {
	t       *testing.T
	rnd     *rand.Rand
	addr    string
	client  *eventlog.Client
	log     *growing
	dir     string // of the projector
	tmp     string
	mended  bool // the code of orders could handle every event once
	shown   map[string]es.Positions
	backups []string
	opening time.Duration // how long the last starts took
	counts  map[string]int
	found   int
	trickle func() // ends the growth beside a process
	started []*process
}

// newWorld starts a broker; round makes the rest.
func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	b, err := embedded.Start(embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	client, err := eventlog.Open(t.Context(), eventlog.Config{Brokers: []string{b.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, 7)), addr: b.Addr(), client: client, counts: map[string]int{}, opening: 200 * time.Millisecond, trickle: func() {}}
	t.Cleanup(w.killAll)
	return w
}

// round begins anew with another log: so it stays as short as a fold of it from its beginning can be had all the time.
func (w *world) round() {
	if w.tmp != "" {
		if err := os.RemoveAll(w.tmp); err != nil {
			w.t.Fatal(err)
		}
	}
	w.tmp = filepath.Join(w.t.TempDir(), fmt.Sprintf("round-%x", w.rnd.Uint32()))
	w.dir = filepath.Join(w.tmp, "views")
	if err := os.MkdirAll(w.tmp, 0o750); err != nil {
		w.t.Fatal(err)
	}
	curse := []float64{0, 0.002, 0.01}[w.rnd.IntN(3)]
	w.log = newLog(w.t, w.client, w.addr, w.rnd.Uint64(), curse)
	w.mended, w.backups, w.shown = false, nil, map[string]es.Positions{}
	w.counts["logs"]++
	w.log.grow(1500)
}

// violation tells of something that must not be, and keeps what is stored.
func (w *world) violation(format string, args ...any) {
	w.t.Helper()
	w.found++
	text := fmt.Sprintf(format, args...)
	if *until {
		fmt.Printf("found: %s\n", text)
		w.killAll()
		os.Exit(foundCode)
	}
	kept := filepath.Join(os.TempDir(), fmt.Sprintf("millrace-folds-%d-%d", os.Getpid(), w.found))
	if err := copyTree(w.dir, kept); err != nil {
		kept = err.Error()
	}
	w.t.Errorf("%s\nkept in %s", text, kept)
}

// setup returns how a projector is started.
func (w *world) setup() setup {
	s := setup{Addr: w.addr, Topics: w.log.topics, Dir: w.dir, Versions: []int{1, 2}, Batch: []int{40, 700, 1 << 18}[w.rnd.IntN(3)]}
	return s
}

// anySetup returns how one is started where anything goes: with more or less code, mended or not, slowly or not.
func (w *world) anySetup() setup {
	s := w.setup()
	s.Versions = [][]int{{1}, {1, 2}, {1, 2}, {2}}[w.rnd.IntN(4)]
	s.Mended = w.log.curse > 0 && w.rnd.IntN(3) == 0
	s.Manual = len(s.Versions) == 2 && w.rnd.IntN(2) == 0 // else a build that is frozen would answer for ever
	if w.rnd.IntN(4) == 0 {
		s.Rate = 20_000
	}
	return s
}

// killAll kills what is left: a process that is stopped does not see that nobody is there any more.
func (w *world) killAll() {
	for _, p := range w.started {
		_ = p.cmd.Process.Kill() // most have ended
	}
}

// spawn starts a projector.
func (w *world) spawn(s setup) *process {
	p := start(w.t, s)
	w.started = append(w.started, p)
	return p
}

// start starts a projector, and has the log grow beside it.
func (w *world) start(s setup) *process {
	w.mended = w.mended || s.Mended
	p := w.spawn(s)
	w.counts["starts"]++
	stop := make(chan struct{})
	var wg sync.WaitGroup
	n := 1 + w.rnd.IntN(12)
	wg.Go(func() {
		tick := time.NewTicker(4 * time.Millisecond)
		defer tick.Stop()
		for left := 600; ; {
			select {
			case <-tick.C:
				if left > 0 {
					w.log.grow(n)
				}
				left -= n
			case <-stop:
				return
			}
		}
	})
	w.trickle = func() { close(stop); wg.Wait(); w.trickle = func() {} }
	return p
}

// settle takes in what a process that has ended had served.
func (w *world) settle(p *process) {
	w.trickle()
	if strings.Contains(p.errs.String(), "WARNING: DATA RACE") { // of a build that looks for them
		w.violation("a projector races: %s", p.errs.String())
	}
	for key, ps := range p.shown {
		old := w.shown[key]
		for _, at := range ps {
			if was, ok := old.Offset(at.TopicPartition); !ok || was < at.Offset {
				old = old.With(at)
			}
		}
		w.shown[key] = old
	}
}

// pause waits for a random time: short ones are as likely as long ones.
func (w *world) pause(least, most time.Duration) {
	d := time.Duration(float64(least) * math.Pow(float64(most)/float64(least), w.rnd.Float64()))
	timer := time.NewTimer(d)
	<-timer.C
}

// A control is what is remembered of a view's builds.
type control struct {
	Live        string `json:"live"`
	Paused      bool   `json:"paused"`
	Generations []struct {
		Version int    `json:"version"`
		Build   int    `json:"build"`
		Created string `json:"created"`
	} `json:"generations"`
}

// readControl reads the one of the two files that is written first; a projector that opens makes them the same.
func readControl(dir string) (c control, err error) {
	text, err := os.ReadFile(filepath.Join(dir, "view.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	return c, err
}

var viewNames = []string{"orders", "balances", "seats"}

// judgeStored holds all that is stored in dir against the fold. It works on a copy: what is judged has not been opened by anybody since
// it was left.
func (w *world) judgeStored(when, dir string) {
	w.t.Helper()
	w.judgeWhole(when, dir, true)
}

// judgeWhole is judgeStored; whole says that nothing was damaged, so that nothing may be refused or be behind what was served.
func (w *world) judgeWhole(when, dir string, whole bool) {
	w.t.Helper()
	at := filepath.Join(w.tmp, "judged")
	if err := copyTree(dir, at); err != nil {
		w.t.Fatal(err)
	}
	defer os.RemoveAll(at)
	for _, view := range viewNames {
		c, err := readControl(filepath.Join(at, view))
		if err != nil {
			if !whole {
				continue
			}
			w.violation("%s: view %s: %v", when, view, err)
			continue
		}
		aside, err := filepath.Glob(filepath.Join(at, view, "*.damaged-*", "REASON"))
		if err != nil {
			w.t.Fatal(err)
		}
		for _, name := range aside {
			if why, err := os.ReadFile(name); whole && (err != nil || !strings.Contains(string(why), "starts ended while")) { // which is what was done
				w.violation("%s: view %s: a store was found damaged that was not: %s %v", when, view, why, err)
			}
		}
		for _, g := range c.Generations {
			id := fmt.Sprintf("v%d-%d", g.Version, g.Build)
			store := filepath.Join(at, view, id)
			if _, err := os.Stat(store); err != nil {
				continue // it was killed before it was begun
			}
			b, err := readStored(store, view, g.Version)
			if !whole && slices.Contains(damaged, codeOf(err)) {
				continue
			}
			if err == nil {
				err = w.log.judge(b, w.mended)
			}
			if err != nil {
				w.violation("%s: view %s, build %s, at %v: %v", when, view, id, b.at(), err)
				continue
			}
			w.counts["builds judged"]++
			for _, pos := range w.shown[buildKey(view, id, g.Created)] {
				if whole && len(aside) == 0 && b.next[pos.TopicPartition] <= pos.Offset {
					w.violation("%s: view %s, build %s: it is at %s@%d, and %s was served before", when, view, id, pos.TopicPartition, b.next[pos.TopicPartition], pos)
				}
			}
		}
	}
}

func (b *build) at() string {
	if b == nil {
		return "?"
	}
	return fmt.Sprint(b.next)
}

// damaged are the codes of errors that say that something is not as it was written.
var damaged = []string{"store_damaged", "view_control"}

// judgeServed holds what a process serves against the fold. refused says that something was not served because it is damaged, which it
// must not be unless it was damaged on purpose.
func (w *world) judgeServed(when string, dump []dumpedView) (refused bool) {
	w.t.Helper()
	if len(dump) == 0 {
		w.violation("%s: nothing is served", when)
	}
	for _, d := range dump {
		if d.Error != "" {
			if refused = true; !slices.Contains(damaged, d.Code) {
				w.violation("%s: view %s, index %q: %s (%s)", when, d.View, d.Index, d.Error, d.Code)
			}
			continue
		}
		if d.Index != "" {
			continue
		}
		b, err := w.served(d)
		if err == nil {
			err = w.log.judge(b, w.mended)
		}
		if err != nil {
			w.violation("%s: view %s, build %s serves at %s: %v", when, d.View, d.Build, d.Applied, err)
		}
		w.counts["views judged as served"]++
	}
	// Each index was read at positions of its own.
	for _, d := range dump {
		if d.Index == "" || d.Error != "" {
			continue
		}
		if err := w.log.judgeIndex(d); err != nil {
			w.violation("%s: view %s, build %s serves at %s: %v", when, d.View, d.Build, d.Applied, err)
		}
	}
	return refused
}

func nextOf(applied string) (map[es.TopicPartition]int64, error) {
	next := map[es.TopicPartition]int64{}
	if applied == "" {
		return next, nil
	}
	ps, err := es.ParsePositions(applied)
	for _, at := range ps {
		next[at.TopicPartition] = at.Offset + 1
	}
	return next, err
}

// served makes a build of what was dumped. Its letters were read a little later than its rows: those behind its positions came since.
func (w *world) served(d dumpedView) (b *build, err error) {
	b = &build{view: d.View, version: d.Version, rows: map[string]row{}, letters: map[es.Position]letter{}, given: map[es.Position]letter{}}
	if b.next, err = nextOf(d.Applied); err != nil {
		return nil, err
	}
	for _, r := range d.Rows {
		at, err := es.ParsePosition(r.At)
		if err != nil {
			return nil, err
		}
		if _, twice := b.rows[r.Key]; twice {
			return nil, fmt.Errorf("row %s is there twice", r.Key)
		}
		b.rows[r.Key] = row{json: r.JSON, at: at, id: r.ID}
	}
	for _, l := range d.Letters {
		if l.Position.Offset < b.next[l.Position.TopicPartition] {
			b.letters[l.Position] = l
		}
	}
	for _, l := range d.Given {
		b.given[l.Position] = l
	}
	return b, nil
}

// judgeIndex compares the order of the rows in an index with that of the fold at the positions of the answer.
func (l *growing) judgeIndex(d dumpedView) error {
	next, err := nextOf(d.Applied)
	if err != nil {
		return err
	}
	skipped := map[es.Position]bool{}
	for _, x := range append(slices.Clone(d.Letters), d.Given...) {
		skipped[x.Position] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	none := func(es.Position) bool { return false }
	var f fold
	switch d.View {
	case "orders":
		f = foldOf(l, orders(d.Version, true), next, func(at es.Position) bool { return skipped[at] })
	case "balances":
		f = foldOf(l, balances(), next, none)
	default:
		f = foldOf(l, seats(), next, none)
	}
	b := &build{ordered: map[string][]string{d.Index: nil}}
	for _, r := range d.Rows {
		b.ordered[d.Index] = append(b.ordered[d.Index], r.Key)
	}
	return sameIndexes(b, f)
}

var buildDir = regexp.MustCompile(`^(v[0-9]+-[0-9]+)(\.sentinel)?$`)

// tidy says what is in the directories of the views that nothing remembers, of a process that has opened them and was told to do nothing.
func (w *world) tidy() (stray []string) {
	for _, view := range viewNames {
		c, err := readControl(filepath.Join(w.dir, view))
		if err != nil {
			return []string{err.Error()}
		}
		known := map[string]bool{}
		for _, g := range c.Generations {
			known[fmt.Sprintf("v%d-%d", g.Version, g.Build)] = true
		}
		files, err := os.ReadDir(filepath.Join(w.dir, view))
		if err != nil {
			return []string{err.Error()}
		}
		for _, f := range files {
			if m := buildDir.FindStringSubmatch(f.Name()); !strings.HasPrefix(f.Name(), "view.") && (m == nil || !known[m[1]]) && !strings.Contains(f.Name(), ".damaged-") {
				stray = append(stray, view+"/"+f.Name())
			}
		}
	}
	return stray
}

// copyTree copies a directory; of logs only what was written to them, the rest is room.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went meanwhile
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		name := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			return os.MkdirAll(name, 0o750)
		case d.Name() == "LOCK" || d.Name() == "opening":
			return nil
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		size := len(text)
		if filepath.Ext(path) == ".mem" {
			text = text[:written(text)]
		}
		if err := os.WriteFile(name, text, 0o600); err != nil {
			return err
		}
		return os.Truncate(name, int64(size))
	})
}

// written returns where what is not zero of a file ends.
func written(text []byte) int {
	n := len(text)
	for n > 0 && text[n-1] == 0 {
		n--
	}
	return n
}

// print writes what was done, as docs/reliability.md has it.
func (w *world) print() {
	var b strings.Builder
	b.WriteString("\n| what | how often |\n|---|---|\n")
	for _, what := range slices.Sorted(maps.Keys(w.counts)) {
		fmt.Fprintf(&b, "| %s | %d |\n", what, w.counts[what])
	}
	fmt.Fprintf(&b, "| **violations** | **%d** |\n", w.found)
	w.t.Log(b.String())
}
