package folds

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A fate is what became of a directory that was damaged.
type fate int

const (
	kept    fate = iota // what was stored is served
	mended              // so it is, for what was damaged was there twice
	rebuilt             // a store was refused, and built anew
	unread              // something is refused when it is read
	refused             // nothing is served until somebody looks at it
)

func (f fate) String() string {
	return []string{"what was stored is served", "what was damaged was restored from its copy", "refused, and built anew", "refused when it is read", "refused until somebody looks at it"}[f]
}

// lives is how many times a projector of a damaged directory is started: one that crashes while it opens a store is told so by the store
// after some starts.
const lives = 9

// examine has projectors go on from dir, one after the other should they end, and holds what they serve against the fold: at once, and when
// they have caught up. They may refuse to serve, but serve nothing else. What they did in the end, and what is stored then, counts.
func (w *world) examine(when, dir string) fate {
	w.t.Helper()
	w.trickle()
	became := kept
	var p *process
	for life := 0; ; life++ {
		if life == lives {
			if p.ended.Code == "" {
				w.violation("%s: every projector crashes: %s", when, p.log())
			}
			return refused
		}
		s := w.setup()
		s.Dir, s.DumpFirst = dir, true
		p = w.spawn(s)
		w.counts["starts"]++
		served, ok := w.revive(when, p)
		became = max(became, served)
		if ok {
			break
		}
		_ = p.end() // it ended by itself
		if p.ended.Code != "" && !slices.Contains(damaged, p.ended.Code) {
			w.violation("%s: a projector ended: %s (%s)\n%s", when, p.ended.Error, p.ended.Code, p.log())
			return refused
		}
		became = max(became, rebuilt)
	}
	aside, err := filepath.Glob(filepath.Join(dir, "*", "*.damaged-*"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, name := range aside {
		if strings.HasPrefix(filepath.Base(name), "view.") {
			became = max(became, mended)
		} else {
			became = max(became, rebuilt)
		}
	}
	w.judgeWhole(when+", at last", dir, false)
	return became
}

// revive has a projector catch up, and judges what it serves; ok is false if it ends before.
func (w *world) revive(when string, p *process) (became fate, ok bool) {
	w.t.Helper()
	became = kept
	if !p.await(p.opened) {
		return became, false
	}
	if w.judgeServed(when+", opened", p.first.Dump) {
		became = unread
	}
	if !w.catchUp(p) {
		return became, false
	}
	s, ok := p.ask(command{Verb: "dump"})
	if !ok {
		return became, false
	}
	if w.judgeServed(when+", caught up", s.Dump) {
		became = unread
	}
	p.kill()
	return became, true
}

// grown returns the directory of a projector that has caught up with a log of some length, has builds beside, and was closed or killed.
func (w *world) grown(kill bool) (dir string) {
	w.t.Helper()
	p := w.start(w.setup())
	if !w.opens(p) || !w.becomes(p) {
		w.t.FailNow()
	}
	for _, view := range viewNames {
		if v := p.views[view]; len(v.Builds) < 2 {
			p.ask(command{Verb: "rebuild", View: view})
		}
	}
	w.log.grow(3000)
	if !w.catchUp(p) {
		w.ended(p)
		w.t.FailNow()
	}
	w.settleWith(p, kill)
	dir = filepath.Join(w.tmp, fmt.Sprintf("grown-%d", w.rnd.Uint32()))
	if err := copyTree(w.dir, dir); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

// bitsPerLog is how many bits are flipped before another log is begun.
const bitsPerLog = 50

// TestFlippedBits flips one bit somewhere in the directory of a projector, and has a projector go on from there: what it serves is the fold of
// the log, or it refuses to, or builds what was damaged anew.
//
// G17: A damaged row is never served.
func TestFlippedBits(t *testing.T) {
	w := newWorld(t, seedOf(t))
	defer w.print()
	var from []string
	for n := range *bits {
		if n%bitsPerLog == 0 {
			w.round()
			from = []string{w.grown(false), w.grown(true)}
		}
		image := filepath.Join(w.tmp, fmt.Sprintf("image-%d", n))
		if err := copyTree(from[n%2], image); err != nil {
			t.Fatal(err)
		}
		name, bit, err := flip(w.rnd, image)
		if err != nil {
			t.Fatal(err)
		}
		kind := filepath.Ext(name)
		if kind == "" {
			kind = filepath.Base(name)
		}
		rel, _ := filepath.Rel(image, name)
		w.counts["bits flipped"]++
		when := fmt.Sprintf("bit %d of %s", bit, rel)
		was, err := w.controls(from[n%2])
		if err != nil {
			t.Fatal(err)
		}
		became := w.examine(when, image)
		if kind == ".json" {
			// What is remembered of a view is there twice: it neither keeps it from serving nor changes what answers.
			now, err := w.controls(image)
			if became != mended || err != nil || !maps.Equal(was, now) {
				w.violation("%s: %s; what is remembered of the views was %v, and is %v, %v", when, became, was, now, err)
			}
		}
		w.counts[fmt.Sprintf("bits of %s: %s", kind, became)]++
		if err := os.RemoveAll(image); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			return
		}
	}
}

// controls returns of each view which build answers, which there are, and whether it is paused.
func (w *world) controls(dir string) (map[string]string, error) {
	said := map[string]string{}
	for _, view := range viewNames {
		c, err := readControl(filepath.Join(dir, view))
		if err != nil {
			return nil, err
		}
		said[view] = fmt.Sprintf("%+v", c)
	}
	return said, nil
}

// flip flips a bit of one of the files below dir, each kind of them as likely as the others, of that what was written to it.
func flip(rnd *rand.Rand, dir string) (name string, bit int, err error) {
	kinds := map[string][]string{}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		kind := filepath.Ext(path)
		if kind == "" {
			kind = filepath.Base(path)
		}
		kinds[kind] = append(kinds[kind], path)
		return nil
	})
	if err != nil {
		return "", 0, err
	}
	// In order, so that a seed means the same again.
	var names []string
	for kind := range kinds {
		names = append(names, kind)
	}
	slices.Sort(names)
	for range 1000 {
		kind := names[rnd.IntN(len(names))]
		if rnd.IntN(2) == 0 {
			kind = []string{".mem", ".sst"}[rnd.IntN(2)] // where the rows are
		}
		if len(kinds[kind]) == 0 {
			continue
		}
		name = kinds[kind][rnd.IntN(len(kinds[kind]))]
		text, err := os.ReadFile(name)
		if err != nil {
			return "", 0, err
		}
		end := len(text)
		if kind == ".mem" {
			end = written(text)
		}
		if end == 0 {
			continue
		}
		bit = rnd.IntN(end * 8)
		text[bit/8] ^= 1 << (bit % 8)
		return name, bit, os.WriteFile(name, text, 0o600)
	}
	return "", 0, errors.New("there is nothing to flip")
}
