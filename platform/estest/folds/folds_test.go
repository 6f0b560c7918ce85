package folds

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
)

var (
	kills    = flag.Int("folds.kills", 4, "how often TestKills kills")
	every    = flag.Int("folds.every", 3, "after how many kills all that is stored is judged")
	seedFlag = flag.Uint64("folds.seed", 0, "the seed of what is done and when; 0 = another one each time")
	bits     = flag.Int("folds.bits", 2, "how many bits TestFlippedBits flips")
	images   = flag.Int("folds.images", 1, "how many power cuts TestPowerCuts tries")
	until    = flag.Bool("folds.until", false, "end the process with status 3 at the first violation")
)

// foundCode is the exit status of a test that found what it was to look for.
const foundCode = 3

func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-folds.seed=%d", seed)
	return seed
}

// killsPerLog is how often a projector is killed before another log is begun.
const killsPerLog = 36

// TestKills kills a projector process with SIGKILL at random moments, over and over on the same directory, and holds what is stored against
// the fold of the log, and what is served by the process that comes after.
//
// G14: A row is the fold of exactly the events before the view's position, each once and in the order of its partition.
// G38: A view that parks keeps an event that it cannot handle, and the later ones of its stream, as dead letters, in order and over kills; all other events are applied.
// G40: A backup of a view is its rows at exactly the positions that it names, and what is restored from it goes on from there, or is refused, and is never half there.
func TestKills(t *testing.T) {
	w := newWorld(t, seedOf(t))
	defer w.print()
	for n := range *kills {
		if n%killsPerLog == 0 {
			w.round()
		}
		w.killOnce()
		when := fmt.Sprintf("after kill %d", n+1)
		if last := n+1 == *kills; last || (n+1)%*every == 0 {
			w.judgeStored(when, w.dir)
		}
		if last := n+1 == *kills; last || (n+1)%12 == 0 || (n+1)%killsPerLog == 0 {
			w.goOn(when)
		}
		if t.Failed() {
			return
		}
	}
}

// verbs are what a projector is told to do when it is killed, as often as they stand here.
var verbs = []string{"rebuild", "rebuild", "switch", "switch", "rollback", "drop", "drop", "reset", "pause", "resume", "retry", "retry", "discard", "backup", "backup", "verify", "verify-fresh"}

// killOnce starts a projector and kills it at a moment that is drawn.
func (w *world) killOnce() {
	if w.rnd.IntN(3) > 0 {
		w.log.grow(w.rnd.IntN(600)) // while it was down
	}
	s := w.anySetup()
	moment := []string{"start", "start", "catching up", "catching up", "following", "verb", "verb", "verb", "verb", "retry", "snapshot", "restore"}[w.rnd.IntN(12)]
	if moment == "snapshot" || moment == "restore" {
		if len(w.backups) == 0 {
			moment = "verb"
		} else if moment == "snapshot" {
			s.Snapshot = w.backups[w.rnd.IntN(len(w.backups))]
			if err := os.RemoveAll(filepath.Join(w.dir, "orders")); err != nil {
				w.t.Fatal(err)
			}
		} else {
			s.Restore = w.backups[w.rnd.IntN(len(w.backups))]
		}
	}
	if moment == "retry" { // of letters that can be applied now
		s.Mended = w.log.curse > 0
	}
	if moment == "restore" {
		p := w.spawn(s)
		w.pause(w.opening/20, 2*w.opening)
		w.killed(p, "restoring a backup")
		return
	}
	p := w.start(s)
	switch moment {
	case "start":
		w.pause(w.opening/10, w.opening*3/2)
		select {
		case <-p.opened:
			w.killed(p, "just started")
		default:
			w.killed(p, "starting")
		}
		return
	case "snapshot":
		if w.opens(p) {
			w.pause(time.Millisecond, 150*time.Millisecond)
			w.killed(p, "beginning with a snapshot")
		}
		return
	case "catching up":
		if w.opens(p) {
			w.pause(time.Millisecond, 100*time.Millisecond)
			select {
			case <-p.ready:
				w.killed(p, "following")
			default:
				w.killed(p, "catching up")
			}
		}
		return
	case "following":
		if w.opens(p) && w.becomes(p) {
			w.pause(time.Millisecond, 60*time.Millisecond)
			w.killed(p, "following")
		}
		return
	}
	if !w.opens(p) || w.rnd.IntN(3) > 0 && !w.becomes(p) {
		return
	}
	if moment == "retry" {
		p.tell(command{Verb: "retry", View: "orders"})
		w.pause(time.Millisecond, 500*time.Millisecond)
		w.killed(p, "")
		return
	}
	for range 1 + w.rnd.IntN(2) {
		p.tell(w.verb(p))
		w.pause(100*time.Microsecond, 10*time.Millisecond)
	}
	w.pause(100*time.Microsecond, 200*time.Millisecond)
	w.killed(p, "")
}

// opens waits until a projector serves. That it ends instead is a violation.
func (w *world) opens(p *process) bool {
	if p.await(p.opened) {
		w.opening = (9*w.opening + time.Since(p.begun)) / 10
		return true
	}
	w.ended(p)
	return false
}

func (w *world) becomes(p *process) bool {
	if p.await(p.ready) {
		return true
	}
	w.ended(p)
	return false
}

func (w *world) ended(p *process) {
	err := p.end()
	w.settle(p)
	w.violation("a projector ended by itself: %s (%s) %v\n%s", p.ended.Error, p.ended.Code, err, p.log())
}

// killed kills a projector while it does something, or what it was told to do.
func (w *world) killed(p *process, doing string) {
	select {
	case <-p.exited:
		if p.first.What != "restored" {
			w.ended(p)
			return
		}
		if code := p.first.Code; code != "" && code != "backup_invalid" && code != "foreign_backup" {
			w.violation("a backup is not restored: %s (%s)", p.first.Error, code)
		}
	default:
	}
	open := p.kill()
	for _, s := range p.done {
		if s.Applied > 0 {
			w.counts["dead letters applied again"] += s.Applied
		}
	}
	w.settle(p)
	w.remembered(p)
	switch {
	case doing != "":
		w.counts["kills, "+doing]++
	case len(open) == 0:
		w.counts["kills, after a verb"]++
	}
	for _, c := range open {
		w.counts["kills, in the middle of "+c.Verb]++
	}
	w.counts["kills"]++
}

// remembered looks whether what a process that was killed said was done is so: which build answers queries, and whether a view is paused.
func (w *world) remembered(p *process) {
	for view, told := range p.told {
		said, ok := p.done[told[0].N]
		if len(told) > 1 || !ok || said.Error != "" {
			continue // which of several was the last one is not known
		}
		c, err := readControl(filepath.Join(w.dir, view))
		if err != nil {
			w.violation("view %s: %v", view, err)
			continue
		}
		switch verb := told[0].Verb; verb {
		case "switch", "rollback", "reset":
			if c.Live != said.Text {
				w.violation("view %s: %s was answered with %s, and %s answers queries", view, verb, said.Text, c.Live)
			}
		case "pause", "resume":
			if c.Paused != (verb == "pause") {
				w.violation("view %s: %s was done, and paused is %v", view, verb, c.Paused)
			}
		default:
			continue
		}
		w.counts["verbs that were done before a kill, and are still"]++
	}
}

// verb draws something to do.
func (w *world) verb(p *process) command {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := command{Verb: verbs[w.rnd.IntN(len(verbs))], View: viewNames[w.rnd.IntN(len(viewNames))], Num: w.rnd.IntN(1000)}
	v := p.views[c.View]
	var beside []string
	for _, b := range v.Builds {
		if b.ID != v.Live {
			beside = append(beside, b.ID)
		}
	}
	if c.Verb == "rebuild" && len(beside) > 2 {
		c.Verb = "drop"
	}
	switch c.Verb {
	case "rebuild":
		c.Num = []int{0, 0, 20_000}[w.rnd.IntN(3)]
		c.Arg = []string{"", "switch", "until"}[w.rnd.IntN(3)]
	case "switch", "drop":
		if len(beside) == 0 {
			c.Verb, c.Num = "rebuild", 0
			break
		}
		c.Build = beside[w.rnd.IntN(len(beside))]
	case "retry", "discard":
		c.View = "orders" // what the others cannot handle they never can
	case "backup":
		c.View = "orders"
		c.Arg = filepath.Join(w.tmp, fmt.Sprintf("backup-%d", w.rnd.Uint32()))
		w.backups = append(w.backups, c.Arg) // also what a kill leaves of it
	}
	return c
}

// goOn has a projector catch up, and holds what it serves against the fold. Then it is stopped as it should be, or killed.
func (w *world) goOn(when string) {
	p := w.start(w.setup())
	if !w.opens(p) {
		return
	}
	if stray := w.tidy(); len(stray) > 0 {
		w.violation("%s: what nothing knows of is left: %v", when, stray)
	}
	if !w.catchUp(p) {
		w.ended(p)
		return
	}
	s, ok := p.ask(command{Verb: "dump"})
	if !ok {
		w.ended(p)
		return
	}
	if w.judgeServed(when, s.Dump) {
		w.violation("%s: something is refused that nobody has damaged: %+v", when, s.Dump)
	}
	for _, view := range []string{"balances", "seats"} {
		if s, ok := p.ask(command{Verb: "verify-fresh", View: view}); ok && (s.Error != "" || s.Text != "") {
			w.violation("%s: verify --fresh of %s: %s %s", when, view, s.Error, s.Text)
		}
	}
	w.counts["projectors that caught up"]++
	w.settleWith(p, w.rnd.IntN(2) == 0)
	w.judgeStored(when+", caught up", w.dir)
}

// settleWith ends a process, as it should be or by a kill.
func (w *world) settleWith(p *process, kill bool) {
	if kill {
		p.kill()
	} else if err := p.stop(); err != nil {
		w.violation("a projector does not stop as it should: %s %v\n%s", p.ended.Error, err, p.log())
	}
	w.settle(p)
}

// catchUp has all views answer queries from the end of the log as it is now; false if the process ends.
func (w *world) catchUp(p *process) bool {
	for _, view := range viewNames {
		if _, ok := p.ask(command{Verb: "resume", View: view}); !ok {
			return false
		}
	}
	if !p.await(p.ready) {
		return false
	}
	for _, view := range viewNames {
		p.mu.Lock()
		v := p.views[view]
		p.mu.Unlock()
		for _, b := range v.Builds {
			if b.ID == v.Live && b.Bounded { // it does not go on
				if _, ok := p.ask(command{Verb: "reset", View: view}); !ok {
					return false
				}
			}
		}
	}
	end := w.log.end()
	for _, view := range viewNames {
		var at es.Positions
		for _, pos := range end {
			if topic := w.log.topicOf(pos.TopicPartition); view == "balances" || view == "orders" && topic == ordersTopic || view == "seats" && topic == seatsTopic {
				at = at.With(pos)
			}
		}
		s, ok := p.ask(command{Verb: "at-least", View: view, Arg: at.String()})
		if !ok {
			return false
		}
		if s.Error != "" && s.Code != "store_damaged" {
			w.violation("view %s does not catch up with %s: %s", view, at, s.Error)
		}
	}
	return true
}
