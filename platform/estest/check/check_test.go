package check

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// rec makes a record; headers are key, value, key, value.
func rec(offset, pid int64, epoch int16, key string, headers ...string) Record {
	r := Record{Offset: offset, ProducerID: pid, Epoch: epoch, Key: []byte(key), Value: fmt.Append(nil, "value-", offset)}
	for i := 0; i < len(headers); i += 2 {
		r.Headers = append(r.Headers, Header{headers[i], []byte(headers[i+1])})
	}
	return r
}

func mark(offset, pid int64, epoch int16, kind string) Record {
	return rec(offset, pid, epoch, "", "millrace-mark", kind)
}

func ev(offset, pid int64, epoch int16, stream, id string, version, index, count int) Record {
	return rec(offset, pid, epoch, stream, "ce_id", fmt.Sprint(stream, id, index), "ce_type", "T", "ce_subject", stream, "ce_commandid", id, "ce_commandhash", "h",
		"ce_streamversion", fmt.Sprint(version), "ce_commandindex", fmt.Sprint(index), "ce_commandcount", fmt.Sprint(count))
}

func note(offset, pid int64, epoch int16, stream, id string, version int) Record {
	r := ev(offset, pid, epoch, stream, id, version, 0, 0)
	r.Headers = append(r.Headers, Header{"millrace-mark", []byte("note")})
	return r
}

// good is a log without fault: two owners, a renewal, a command of two events, a note.
func good() []Record {
	return []Record{
		mark(0, 7, 0, "claim"), ev(1, 7, 0, "s", "a", 1, 0, 1), ev(2, 7, 0, "s", "b", 2, 0, 2), ev(3, 7, 0, "s", "b", 3, 1, 2),
		mark(4, 7, 1, "barrier"), ev(5, 7, 1, "t", "a", 1, 0, 1), mark(6, 7, 32767, "close"), mark(7, 8, 0, "claim"), note(8, 8, 0, "s", "n", 3), ev(9, 8, 0, "s", "c", 4, 0, 1),
	}
}

// expect compares what was found with the checkers that should have found something.
func expect(t *testing.T, got []Violation, want ...string) {
	t.Helper()
	var names []string
	for _, v := range got {
		if !slices.Contains(names, v.Checker) {
			names = append(names, v.Checker)
		}
	}
	slices.Sort(names)
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("found by %v, want %v: %v", names, want, got)
	}
}

func TestLog(t *testing.T) {
	for name, c := range map[string]struct {
		change func([]Record) []Record
		want   []string
	}{
		"nothing wrong": {func(l []Record) []Record { return l }, nil},
		"an old epoch after a newer claim": {func(l []Record) []Record {
			return append(l, ev(10, 7, 1, "t", "z", 2, 0, 1))
		}, []string{"Epochs"}},
		"no claim": {func(l []Record) []Record {
			l[0] = mark(0, 7, 0, "barrier")
			return l[:2]
		}, []string{"Epochs"}},
		"a claim that does not rise":        {func(l []Record) []Record { return append(l, mark(10, 8, 0, "claim")) }, []string{"Epochs"}},
		"a claim of a shut out producer id": {func(l []Record) []Record { return append(l, mark(10, 7, 5, "claim")) }, []string{"Epochs"}},
		"a gap in the offsets":              {func(l []Record) []Record { return append(l[:8], l[9]) }, []string{"Epochs"}},
		"a transaction":                     {func(l []Record) []Record { l[9].Control = true; return l }, []string{"Epochs"}},
		"no producer id":                    {func(l []Record) []Record { l[9].ProducerID, l[9].Epoch = -1, -1; return l }, []string{"Epochs"}},
		"no event":                          {func(l []Record) []Record { l[9].Headers = nil; return l }, []string{"Epochs"}},
		"a version left out": {func(l []Record) []Record {
			l[9] = ev(9, 8, 0, "s", "c", 5, 0, 1)
			return l
		}, []string{"Versions"}},
		"a version twice": {func(l []Record) []Record {
			l[9] = ev(9, 8, 0, "s", "c", 3, 0, 1)
			return l
		}, []string{"Versions"}},
		"a command cut in two": {func(l []Record) []Record {
			l[3] = ev(3, 7, 0, "t", "b", 1, 0, 1)
			return l[:4]
		}, []string{"Versions"}},
		"a command under two epochs": {func(l []Record) []Record {
			l[9], l = ev(9, 8, 0, "s", "c", 4, 0, 2), append(l, mark(10, 8, 1, "barrier"), ev(11, 8, 1, "s", "c", 5, 1, 2))
			return l
		}, []string{"Versions"}},
		"a note of another version": {func(l []Record) []Record {
			l[8] = note(8, 8, 0, "s", "n", 2)
			return l
		}, []string{"Versions"}},
		"a command twice": {func(l []Record) []Record {
			return append(l, ev(10, 8, 0, "s", "a", 5, 0, 1))
		}, []string{"Once"}},
		"a note and events": {func(l []Record) []Record {
			return append(l, ev(10, 8, 0, "s", "n", 5, 0, 1))
		}, []string{"Once"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := NewLog(c.change(good()), nil)
			expect(t, slices.Concat(l.Epochs(), l.Versions(), l.Once()), c.want...)
		})
	}
}

func TestForeign(t *testing.T) {
	foreign := func(r *Record) bool { return r.ProducerID == -1 }
	l := NewLog(append(good(), ev(10, -1, -1, "s", "x", 5, 0, 1), ev(11, 8, 0, "s", "d", 5, 0, 1)), foreign)
	expect(t, slices.Concat(l.Epochs(), l.Versions(), l.Once()))
	if len(l.Rogue) != 1 {
		t.Errorf("rogue: %v", l.Rogue)
	}
	l = NewLog(append(good(), ev(10, 8, 0, "s", "x", 5, 0, 1)), func(r *Record) bool { return r.Offset == 10 })
	expect(t, l.Epochs(), "Epochs") // it counts as an owner's
}

const second = time.Second

// got is an acknowledged attempt of a command in good.
func got(stream, id string, call, ret time.Duration, receipt Receipt) Attempt {
	return Attempt{Node: "n", Stream: stream, Command: id, Payload: 1, Call: call, Return: ret, Outcome: Acked, Receipt: receipt}
}

func receiptOf(stream, id string, offset, first int64, count int) Receipt {
	r := Receipt{Version: first + int64(count) - 1, Offset: offset}
	for i := range count {
		r.Events = append(r.Events, Ref{fmt.Sprint(stream, id, i), "T", first + int64(i)})
	}
	return r
}

// answers explain good: a, b and c on s, and a read between.
func answers() []Attempt {
	return []Attempt{
		got("s", "a", 1*second, 2*second, receiptOf("s", "a", 1, 1, 1)),
		got("s", "b", 2*second, 3*second, receiptOf("s", "b", 3, 2, 2)),
		got("t", "a", 2*second, 3*second, receiptOf("t", "a", 5, 1, 1)),
		{Stream: "s", Call: 4 * second, Return: 5 * second, Outcome: Read, Events: []Ref{{"sa0", "T", 1}, {"sb0", "T", 2}, {"sb1", "T", 3}}},
		got("s", "n", 5*second, 6*second, receiptOf("s", "n", 8, 4, 0)),
		{Stream: "s", Command: "c", Payload: 1, Call: 6 * second, Return: Forever, Outcome: Unknown},
	}
}

func TestAnswers(t *testing.T) {
	conflict := func(call time.Duration, current int64) Attempt {
		v := int64(77)
		return Attempt{Node: "n", Stream: "s", Command: "q", Payload: 1, Expect: &v, Call: call, Return: call + second, Outcome: Conflict, Current: current}
	}
	for name, c := range map[string]struct {
		more []Attempt
		want []string
	}{
		"nothing wrong":           {nil, nil},
		"the same receipt":        {[]Attempt{got("s", "a", 9*second, 10*second, receiptOf("s", "a", 1, 1, 1))}, nil},
		"another receipt":         {[]Attempt{got("s", "a", 9*second, 10*second, receiptOf("s", "a", 2, 1, 1))}, []string{"Acked", "Receipts"}},
		"a lost command":          {[]Attempt{got("s", "x", 9*second, 10*second, receiptOf("s", "x", 10, 5, 1))}, []string{"Acked"}},
		"a lost note":             {[]Attempt{got("s", "x", 9*second, 10*second, receiptOf("s", "x", 10, 5, 0))}, []string{"Acked"}},
		"another payload":         {[]Attempt{{Stream: "s", Command: "a", Payload: 2, Outcome: Acked, Receipt: receiptOf("s", "a", 1, 1, 1)}}, []string{"Receipts"}},
		"refused, and in the log": {[]Attempt{{Stream: "u", Command: "c", Outcome: Absent}}, nil},
		"a short read":            {[]Attempt{{Stream: "s", Call: 3*second + second/2, Return: 4 * second, Outcome: Read, Events: []Ref{{"sa0", "T", 1}}}}, []string{"Stale"}},
		"a read within the lease": {[]Attempt{
			{Stream: "s", Call: 6 * second, Return: 6 * second, Outcome: Conflict, Current: 4},
			{Stream: "s", Call: 6*second + second/10, Return: 7 * second, Outcome: Read, Events: []Ref{{"sa0", "T", 1}, {"sb0", "T", 2}, {"sb1", "T", 3}}},
		}, nil},
		"an old read of the same owner":       {[]Attempt{{Stream: "s", Call: 3*second + second/10, Return: 4 * second, Outcome: Read, Events: []Ref{{"sa0", "T", 1}}}}, []string{"Stale"}},
		"a read of something else":            {[]Attempt{{Stream: "t", Call: 4 * second, Return: 5 * second, Outcome: Read, Events: []Ref{{"sa0", "T", 1}}}}, []string{"Reads"}},
		"a read of too much":                  {[]Attempt{{Stream: "t", Call: 4 * second, Return: 5 * second, Outcome: Read, Events: []Ref{{"ta0", "T", 1}, {"tb0", "T", 2}}}}, []string{"Reads"}},
		"an old conflict":                     {[]Attempt{conflict(5*second, 1)}, []string{"Stale"}},
		"a conflict of now":                   {[]Attempt{conflict(5*second, 3)}, nil},
		"a look-up that finds nothing of old": {[]Attempt{{Stream: "s", Command: "a", Call: 9 * second, Return: 10 * second, Outcome: NotFound}}, []string{"Stale"}},
	} {
		t.Run(name, func(t *testing.T) {
			log := good()
			log[0].Time, log[7].Time = time.Unix(0, 0), time.Unix(5, 950e6)
			l := NewLog(log, nil)
			h := append(answers(), c.more...)
			expect(t, slices.Concat(l.Acked(h), Receipts(h), l.Absent(h, time.Unix(0, 0)), l.Reads(h), l.Stale(h, 200*time.Millisecond, time.Unix(0, 0))), c.want...)
		})
	}
	l := NewLog(good(), nil)
	expect(t, l.Absent([]Attempt{{Stream: "s", Command: "c", Outcome: Absent}}, time.Time{}), "Absent")
	log := good()
	log[9].Time = time.Unix(100, 0)
	l = NewLog(log, nil)
	for after, want := range map[time.Duration][]string{99 * time.Second: nil, 101 * time.Second: {"Absent"}} {
		h := []Attempt{{Stream: "s", Command: "c", Payload: 1, Outcome: Absent}, {Stream: "s", Command: "c", Payload: 1, Call: after, Outcome: Acked}}
		expect(t, l.Absent(h, time.Unix(0, 0)), want...)
	}
	expect(t, l.Strangers(answers()))
	expect(t, l.Strangers(answers()[1:]), "Strangers")
}

// TestLinearizable checks histories of a counter: a command adds one, "if 3" is refused below three.
func TestLinearizable(t *testing.T) {
	add := func(id string, call, ret int, version int64) Attempt {
		a := got("s", id, time.Duration(call)*second, time.Duration(ret)*second, Receipt{Version: version, Events: []Ref{{id, "T", version}}})
		a.Payload = "add"
		return a
	}
	open := func(id string, call int) Attempt {
		return Attempt{Stream: "s", Command: id, Payload: "add", Call: time.Duration(call) * second, Return: Forever}
	}
	refused := func(call, ret int) Attempt {
		return Attempt{Stream: "s", Command: "r", Payload: "if 3", Call: time.Duration(call) * second, Return: time.Duration(ret) * second, Outcome: Refused, Code: "few"}
	}
	read := func(call, ret, n int) Attempt {
		return Attempt{Stream: "s", Call: time.Duration(call) * second, Return: time.Duration(ret) * second, Outcome: Read, Events: make([]Ref, n)}
	}
	spec := Spec{Decide: func(state, payload any) (any, int, string) {
		n, _ := state.(int)
		if payload == "if 3" && n < 3 {
			return n, 0, "few"
		}
		return n + 1, 1, ""
	}}
	var log []Record
	log = append(log, mark(0, 1, 0, "claim"))
	for i, id := range []string{"a", "b", "c", "d"} {
		log = append(log, ev(int64(i)+1, 1, 0, "s", id, i+1, 0, 1))
	}
	l := NewLog(log, nil)
	two := int64(2)
	for name, c := range map[string]struct {
		history []Attempt
		ok      bool
	}{
		"in order":                           {[]Attempt{add("a", 1, 2, 1), add("b", 3, 4, 2)}, true},
		"at the same time":                   {[]Attempt{add("a", 1, 5, 2), add("b", 1, 5, 1)}, true},
		"out of order":                       {[]Attempt{add("a", 3, 4, 1), add("b", 1, 2, 2)}, false},
		"two at one version":                 {[]Attempt{add("a", 1, 2, 1), add("b", 1, 2, 1)}, false},
		"an open one takes effect late":      {[]Attempt{open("a", 1), read(8, 9, 0), add("b", 10, 11, 2)}, true},
		"an open one is needed before":       {[]Attempt{open("a", 5), add("b", 1, 2, 2)}, false},
		"a read of less than was known":      {[]Attempt{add("a", 1, 2, 1), read(4, 5, 0)}, false},
		"a read within the lease":            {[]Attempt{add("a", 1, 4, 1), read(5, 6, 0)}, true},
		"a read that goes back":              {[]Attempt{open("a", 1), read(2, 3, 1), read(5, 6, 0)}, false},
		"a refusal of what was allowed":      {[]Attempt{add("a", 1, 2, 1), add("b", 1, 2, 2), add("c", 1, 2, 3), refused(5, 6)}, false},
		"a refusal in time":                  {[]Attempt{add("a", 1, 2, 1), add("b", 1, 2, 2), add("c", 1, 4, 3), refused(3, 6)}, true},
		"reused by nobody":                   {[]Attempt{{Stream: "s", Command: "a", Payload: "add", Call: second, Return: 2 * second, Outcome: Reused}}, false},
		"an expected version that was there": {[]Attempt{add("a", 1, 2, 1), add("b", 3, 4, 2), {Stream: "s", Command: "c", Payload: "add", Expect: &two, Call: 5 * second, Return: 6 * second, Outcome: Acked, Receipt: Receipt{Version: 3, Events: []Ref{{"c", "T", 3}}}}}, true},
		"an expected version that was not":   {[]Attempt{add("a", 1, 2, 1), {Stream: "s", Command: "b", Payload: "add", Expect: &two, Call: 5 * second, Return: 6 * second, Outcome: Acked, Receipt: Receipt{Version: 2, Events: []Ref{{"b", "T", 2}}}}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, limit := range []time.Duration{10 * second, 1} { // with porcupine, and without
				if found := l.Linearizable(c.history, spec, second, limit); len(found) == 0 != c.ok {
					t.Errorf("limit %v: found %v", limit, found)
				}
			}
		})
	}
	// A payload under a used id did not take effect, whatever became of its attempt.
	spec.Hash = func(p any) string {
		if p == "add" {
			return "h"
		}
		return "other"
	}
	other := open("a", 9)
	other.Payload = "if 3"
	if found := l.Linearizable([]Attempt{open("a", 1), other, read(2, 3, 1)}, spec, second, 10*second); len(found) > 0 {
		t.Errorf("found %v", found)
	}
}

func TestStores(t *testing.T) {
	l := NewLog(good(), nil)
	row := func(stream string, version int64, e Record) Row {
		id, _ := e.header("ce_commandid")
		return Row{[]byte(eventKey(0, stream, version)), append([]byte("facts of "+id+" "), e.Value...)}
	}
	g := good()
	all := []Row{row("s", 1, g[1]), row("s", 2, g[2]), row("s", 3, g[3]), row("s", 4, g[9]), row("t", 1, g[5])}
	expect(t, l.Stores(map[string][]Row{"n": all}, all))
	expect(t, l.Stores(map[string][]Row{"n": nil}, all))
	expect(t, l.Stores(nil, all[1:]), "Stores")
	expect(t, l.Stores(nil, append(slices.Clone(all), row("u", 1, g[1]))), "Stores")
	wrong := slices.Clone(all)
	wrong[1].Value = []byte("facts of b something else")
	expect(t, l.Stores(nil, wrong), "Stores")
	expect(t, l.Stores(map[string][]Row{"n": wrong}, all), "Stores")
	expect(t, l.Stores(map[string][]Row{"n": append(slices.Clone(all), row("u", 1, g[1]))}, all), "Stores")
	expect(t, l.Stores(map[string][]Row{"n": {{[]byte("?"), nil}}}, all), "Stores")
	if v := l.Stores(map[string][]Row{"n": {{[]byte("p\x00\x00\x00\x00"), []byte("rubbish")}}}, all); len(v) != 1 || !strings.Contains(v[0].String(), "cursor") {
		t.Errorf("a broken cursor: %v", v)
	}
}

// TestExplain lets random histories of a counter, right ones and wrong ones, be decided in both ways.
func TestExplain(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	spec := Spec{Decide: func(state, payload any) (any, int, string) {
		n, _ := state.(int)
		if payload.(int) > n {
			return n, 0, "few"
		}
		return n + 1, 1, ""
	}}
	ok, bad := 0, 0
	for range 3000 {
		var ops []porcupine.Operation
		version := int64(0)
		at := int64(0)
		for range 2 + rng.IntN(7) {
			at += rng.Int64N(10)
			op := operation{command: fmt.Sprint("c", len(ops)), payload: 0, expect: -1, version: -1}
			switch rng.IntN(3) {
			case 0:
				version++
				op.kind, op.first, op.last = Acked, version, version
			case 1:
				op.kind, op.version = Read, version
			default:
				op.kind, op.payload, op.code = Refused, int(version)+1, "few"
			}
			// Some are a little beside the truth.
			call, ret := at-rng.Int64N(5), at+rng.Int64N(5)
			if rng.IntN(4) == 0 {
				call, ret = at+8, at+12
			}
			ops = append(ops, porcupine.Operation{Input: op, Call: call, Return: ret})
		}
		direct := NewLog(nil, nil).explain("s", ops, spec)
		search := porcupine.CheckOperations(modelOf(spec), ops)
		if (direct == "") != search {
			t.Fatalf("directly %q, by search %v: %s", direct, search, describe(ops, "s", nil))
		}
		if search {
			ok++
		} else {
			bad++
		}
	}
	if ok < 100 || bad < 100 {
		t.Errorf("%d right and %d wrong histories: the test shows little", ok, bad)
	}
}
