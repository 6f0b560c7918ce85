package command

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
)

type bag struct {
	Name  string
	At    time.Time
	Lines []bagLine
	By    map[string]*bagLine
	Any   any
	Flags [4]bool
}

type bagLine struct {
	SKU string
	N   int64
}

func randomBag(rnd *rand.Rand) bag {
	text := func() string { return strings.Repeat("x", rnd.IntN(200)) }
	b := bag{Name: text(), At: time.Now(), Any: text()}
	for range rnd.IntN(300) {
		b.Lines = append(b.Lines, bagLine{text(), 1})
	}
	if n := rnd.IntN(100); n > 0 {
		b.By = map[string]*bagLine{}
		for i := range n {
			b.By[fmt.Sprint(text(), i)] = &bagLine{text(), 2}
		}
	}
	return b
}

// TestSize compares the estimate with what the heap holds.
func TestSize(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	bags := make([]bag, 2000)
	before := heap()
	for i := range bags {
		bags[i] = randomBag(rnd)
	}
	real := heap() - before
	z, size := newSizer(), 0
	for i := range bags {
		size += z.of(reflect.ValueOf(&bags[i]).Elem())
	}
	if size < real/2 || size > real*3/2 {
		t.Errorf("estimated %d bytes, the heap holds %d", size, real)
	}
	runtime.KeepAlive(bags)
	type loop struct{ Next *loop }
	round := &loop{}
	round.Next = round
	if n := z.of(reflect.ValueOf(round)); n > sizeNodes*16 {
		t.Errorf("a circle takes %d", n)
	}
	for _, flat := range []any{account{}, [3]int{}, struct{ A, B float64 }{}} {
		if n := z.of(reflect.ValueOf(flat)); n != 0 {
			t.Errorf("%T takes %d beside itself", flat, n)
		}
	}
}

// TestCacheRoom: large states make fewer streams stay, and what is not stored yet stays whatever its size.
func TestCacheRoom(t *testing.T) {
	c := newCache[string](1000, 1<<20)
	large := strings.Repeat("x", 64<<10)
	for i := range 200 {
		id := es.StreamID(fmt.Sprint(i))
		if c.get(id) != nil {
			t.Fatalf("%s is there", id)
		}
		c.add(&stream[string]{id: id, state: large, version: 1, last: int64(i)}, int64(i))
	}
	if n := len(c.streams); n < 10 || n > 20 || c.bytes > 1<<20+2*len(large) {
		t.Errorf("%d streams of 64 KiB, %d bytes in 1 MiB", n, c.bytes)
	}
	// One that grows while it is there makes the others go.
	s := c.get("199")
	s.state, s.version = strings.Repeat("y", 1<<20), 100
	c.get("198")
	c.trim(1000)
	for c.full() && len(c.streams) > 2 {
		c.trim(1000)
	}
	if len(c.streams) > 2 {
		t.Errorf("%d streams are there beside one of 1 MiB", len(c.streams))
	}
	sum := 0
	for _, s := range c.streams {
		sum += s.size
	}
	if sum != c.bytes {
		t.Errorf("the streams take %d, the cache says %d", sum, c.bytes)
	}
	pinned := newCache[string](1000, 1<<20)
	for i := range 100 {
		id := es.StreamID(fmt.Sprint(i))
		pinned.get(id)
		pinned.add(&stream[string]{id: id, state: large, version: 1, last: int64(i)}, 0)
	}
	if len(pinned.streams) != 100 {
		t.Errorf("%d of 100 streams are there that the store does not have", len(pinned.streams))
	}
}

func BenchmarkMeasure(b *testing.B) {
	c := newCache[bag](1000, 1<<30)
	s := &stream[bag]{id: "a", version: 1, state: bag{Name: "c-1", At: time.Now(), Lines: []bagLine{{"cd", 2}, {"book", 1}}}, pasts: []past{{id: "k", hash: "h"}}}
	c.add(s, 0)
	for b.Loop() {
		s.resize = 0
		c.measure()
	}
}
