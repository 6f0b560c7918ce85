package folds

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
)

func (p *process) signal(s syscall.Signal) {
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Errorf("signal %v: %v", s, err)
	}
}

// freeze stops the process, and returns when none of its threads runs; false if it has ended by itself.
func (p *process) freeze() bool {
	p.t.Helper()
	if p.cmd.Process.Signal(syscall.SIGSTOP) != nil {
		return false
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !p.frozen() {
		select {
		case <-tick.C:
		case <-p.exited:
			return false
		case <-late.C:
			p.t.Fatal("a process does not stop")
		}
	}
	return true
}

func (p *process) frozen() bool {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			return false
		}
		if _, state, _ := bytes.Cut(text, []byte(") ")); len(state) == 0 || state[0] != 'T' {
			return false
		}
	}
	return len(stats) > 0
}

// imagesPerLog is how many power cuts there are before another log is begun.
const imagesPerLog = 20

// TestPowerCuts stops a projector process at random moments, copies its directory, and takes from the newest log of each store what a power
// cut may take: pages that were not synced, of several transactions where views show before they sync. Each build is then the fold up to its
// positions, which may be before those that were served; and a projector goes on from there. At times the one that was stopped does, so that cuts follow cuts.
//
// G14: A row is the fold of exactly the events before the view's position, each once and in the order of its partition.
func TestPowerCuts(t *testing.T) {
	w := newWorld(t, seedOf(t))
	defer w.print()
	for n := 0; n < *images && !t.Failed(); {
		if n%imagesPerLog == 0 {
			w.round()
		}
		w.log.grow(500 + w.rnd.IntN(1500))
		p := w.start(w.anySetup())
		if !w.opens(p) {
			return
		}
		if w.rnd.IntN(2) == 0 {
			p.tell(w.verb(p))
		}
		for k := 0; k < 4 && n < *images && (k == 0 || n%imagesPerLog > 0); k++ {
			w.pause(time.Millisecond, 150*time.Millisecond)
			if !p.freeze() {
				w.ended(p)
				return
			}
			image := filepath.Join(w.tmp, fmt.Sprintf("image-%d", n))
			if err := copyTree(w.dir, image); err != nil {
				t.Fatal(err)
			}
			what, err := w.cutPower(image)
			if err != nil {
				t.Fatal(err)
			}
			n++
			w.counts["power cuts"]++
			when := fmt.Sprintf("power cut %d, %s", n, what)
			w.judgeStored(when, image)
			goesOn := k == 3 && w.rnd.IntN(2) == 0
			if goesOn {
				p.kill()
				if err := errors.Join(os.RemoveAll(w.dir), copyTree(image, w.dir)); err != nil {
					t.Fatal(err)
				}
			}
			w.trickle() // positions that are waited for must come
			if became := w.examine(when, image); became != kept {
				w.violation("%s: it is %s", when, became)
			}
			if err := os.RemoveAll(image); err != nil {
				t.Fatal(err)
			}
			if goesOn {
				break
			}
			p.signal(syscall.SIGCONT)
		}
		p.kill()
		w.settle(p)
		w.shown = map[string]es.Positions{} // of what was cut, less may be there
	}
}

// cutPower takes from the copy of a directory what may not have been synced, and says what.
func (w *world) cutPower(dir string) (what string, err error) {
	stores, err := filepath.Glob(filepath.Join(dir, "*", "v*"))
	if err != nil {
		return "", err
	}
	for _, store := range stores {
		logs, err := filepath.Glob(filepath.Join(store, "*.mem"))
		if err != nil {
			return "", err
		}
		if len(logs) == 0 {
			continue
		}
		rel, err := filepath.Rel(dir, store)
		if err != nil {
			return "", err
		}
		newest := slices.Max(logs)
		text, err := os.ReadFile(newest)
		if err != nil {
			return "", err
		}
		synced, end := syncedEnd(text, filepath.Base(newest) == "00001.mem"), written(text)
		if synced >= end {
			continue
		}
		const page = 4096
		switch w.rnd.IntN(3) {
		case 0:
			clear(text[synced:])
			what += fmt.Sprintf("%s: all %d bytes lost ", rel, end-synced)
		case 1:
			at := synced + w.rnd.IntN(end-synced)
			clear(text[at:])
			what += fmt.Sprintf("%s: %d of %d bytes lost ", rel, end-at, end-synced)
		case 2:
			for at := synced / page * page; at < end; at += page {
				if w.rnd.IntN(2) == 0 {
					clear(text[max(at, synced):min(at+page, end)])
				}
			}
			what += fmt.Sprintf("%s: some pages of %d bytes lost ", rel, end-synced)
		}
		w.counts["logs cut"]++
		if err := os.WriteFile(newest, text, 0o600); err != nil {
			return "", err
		}
	}
	return what, nil
}

// syncedEnd returns where what is synced of a log of Badger's ends for sure: with the last transaction of which a later one says so. The first one
// of a store is, for a build is not begun before that.
func syncedEnd(text []byte, first bool) int {
	const (
		header    = 20
		lastOfTxn = 1 << 7
	)
	at, synced, last := header, header, header
	said, ends := uint64(0), map[uint64]int{} // the newest version that is said to be synced; where each ends
	for {
		meta, key, value, size := entry(text[min(at, len(text)):])
		if size == 0 {
			break
		}
		at += size
		// Each transaction writes the key 00 'b': with 5 bytes before it the version that was synced when it was written, else all before it was.
		if len(key) == 2+8 && key[0] == 0 && key[1] == 'b' && len(value) >= 5 {
			if told := value[5:]; len(told) == 8 {
				said = max(said, binary.BigEndian.Uint64(told))
			} else {
				synced = last
			}
		}
		if meta&lastOfTxn != 0 {
			if first && last == header {
				synced = at
			}
			last = at
			ends[math.MaxUint64-binary.BigEndian.Uint64(key[len(key)-8:])] = at
		}
	}
	for version, end := range ends {
		if version <= said {
			synced = max(synced, end)
		}
	}
	return min(synced, len(text))
}

// entry returns what a log of Badger's has at the beginning of b; size 0 = nothing.
func entry(b []byte) (meta byte, key, value []byte, size int) {
	if len(b) < 2 {
		return 0, nil, nil, 0
	}
	at := 2
	var lengths [3]uint64
	for i := range lengths {
		n, k := binary.Uvarint(b[at:])
		if k <= 0 {
			return 0, nil, nil, 0
		}
		lengths[i], at = n, at+k
	}
	n := lengths[0] + lengths[1]
	if lengths[0] == 0 || lengths[0] > 1<<16 || lengths[1] > 1<<30 || n+crc32.Size > uint64(len(b)-at) {
		return 0, nil, nil, 0
	}
	end := at + int(n)
	if crc32.Checksum(b[:end], crc32.MakeTable(crc32.Castagnoli)) != binary.BigEndian.Uint32(b[end:]) {
		return 0, nil, nil, 0
	}
	return b[0], b[at : at+int(lengths[0])], b[at+int(lengths[0]) : end], end + crc32.Size
}
