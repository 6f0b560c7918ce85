package audit

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/estest/check"
	"github.com/millrace/millrace/platform/eventlog"
)

func mark(offset, pid int64, epoch int16, kind eventlog.MarkKind) eventlog.Record {
	return eventlog.Record{ProducerID: pid, Epoch: epoch, Mark: kind, Position: es.Position{TopicPartition: es.TopicPartition{Topic: "t"}, Offset: offset},
		Headers: []eventlog.Header{{Key: "millrace-mark", Value: []byte(kind.String())}}}
}

func ev(offset, pid int64, epoch int16, stream, command string, version, index, count int) eventlog.Record {
	r := mark(offset, pid, epoch, 0)
	r.Key, r.Headers = []byte(stream), nil
	for _, h := range [][2]string{{"ce_id", es.EventID(es.StreamID(stream), command, index)}, {"ce_type", "Done"}, {"ce_subject", stream}, {"ce_commandid", command}, {"ce_commandhash", "h"},
		{"ce_streamversion", strconv.Itoa(version)}, {"ce_commandindex", strconv.Itoa(index)}, {"ce_commandcount", strconv.Itoa(count)}} {
		r.Headers = append(r.Headers, eventlog.Header{Key: h[0], Value: []byte(h[1])})
	}
	return r
}

func note(offset, pid int64, epoch int16, stream, command string, version int) eventlog.Record {
	r := ev(offset, pid, epoch, stream, command, version, 0, 0)
	r.Mark = eventlog.MarkNote
	r.Headers = append(r.Headers, eventlog.Header{Key: "millrace-mark", Value: []byte("note")})
	return r
}

const (
	claim   = eventlog.MarkClaim
	barrier = eventlog.MarkBarrier
	closed  = eventlog.MarkClose
)

// good is a log without fault: two owners, a renewal, a command of two events, a note.
func good() []eventlog.Record {
	return []eventlog.Record{
		mark(0, 7, 0, claim), ev(1, 7, 0, "s", "a", 1, 0, 1), ev(2, 7, 0, "s", "b", 2, 0, 2), ev(3, 7, 0, "s", "b", 3, 1, 2),
		mark(4, 7, 1, barrier), ev(5, 7, 1, "t", "a", 1, 0, 1), mark(6, 7, closing, closed), mark(7, 8, 0, claim), note(8, 8, 0, "s", "n", 3), ev(9, 8, 0, "s", "c", 4, 0, 1),
	}
}

// judged returns what a ledger finds in records, which end there.
func judged(records []eventlog.Record) []Finding {
	l := newLedger(es.TopicPartition{Topic: "t"}, [16]byte{1})
	l.partitions = 1
	l.recall.bound(100)
	var all []Finding
	report := func(f Finding) { all = append(all, f) }
	for i := range records {
		l.judge(&records[i], report)
	}
	l.missing(report)
	return all
}

func TestLedger(t *testing.T) {
	for name, c := range map[string]struct {
		change func([]eventlog.Record) []eventlog.Record
		want   []string
	}{
		"nothing wrong":                     {func(l []eventlog.Record) []eventlog.Record { return l }, nil},
		"an old epoch after a newer claim":  {func(l []eventlog.Record) []eventlog.Record { return append(l, ev(10, 7, 1, "t", "z", 2, 0, 1)) }, []string{"t/0@10 claim_order want 8/0 got 7/1"}},
		"no claim":                          {func(l []eventlog.Record) []eventlog.Record { return []eventlog.Record{mark(0, 7, 0, barrier), l[1]} }, []string{"t/0@0 claim_order want -1/-1 got 7/0", "t/0@1 claim_order want -1/-1 got 7/0"}},
		"a claim that does not rise":        {func(l []eventlog.Record) []eventlog.Record { return append(l, mark(10, 8, 0, claim)) }, []string{"t/0@10 claim_order want 8/0 got 8/0"}},
		"a claim of a shut out producer id": {func(l []eventlog.Record) []eventlog.Record { return append(l, mark(10, 7, 5, claim)) }, []string{"t/0@10 claim_order want 8/0 got 7/5"}},
		"a closing record with an epoch":    {func(l []eventlog.Record) []eventlog.Record { return append(l, mark(10, 7, 5, closed)) }, []string{"t/0@10 claim_order want 8/0 got 7/5"}},
		"no producer id":                    {func(l []eventlog.Record) []eventlog.Record { l[9].ProducerID, l[9].Epoch = -1, -1; return l }, []string{"t/0@9 claim_order want 8/0 got -1/-1"}},
		"no event":                          {func(l []eventlog.Record) []eventlog.Record { l[9].Headers = nil; return l }, []string{"t/0@9 malformed_event want  got the header ce_id is missing"}},
		"another key":                       {func(l []eventlog.Record) []eventlog.Record { l[9].Key = []byte("u"); return l }, []string{`t/0@9 malformed_event want  got the key is "u" and ce_subject "s"`}},
		"a header twice": {func(l []eventlog.Record) []eventlog.Record {
			l[9].Headers = append(l[9].Headers, eventlog.Header{Key: "ce_streamversion", Value: []byte("4")})
			return l
		}, []string{"t/0@9 malformed_event want  got the header ce_streamversion is there twice"}},
		"a version left out": {func(l []eventlog.Record) []eventlog.Record {
			l[9] = ev(9, 8, 0, "s", "c", 5, 0, 1)
			return append(l, ev(10, 8, 0, "s", "d", 6, 0, 1))
		}, []string{"t/0@9 version_order want 4 got 5"}},
		"a version twice": {func(l []eventlog.Record) []eventlog.Record {
			l[9] = ev(9, 8, 0, "s", "c", 3, 0, 1)
			return append(l, ev(10, 8, 0, "s", "d", 4, 0, 1))
		}, []string{"t/0@9 version_order want 4 got 3"}},
		"an old version again": {func(l []eventlog.Record) []eventlog.Record {
			l[9] = ev(9, 8, 0, "s", "c", 1, 0, 1)
			return append(l, ev(10, 8, 0, "s", "d", 4, 0, 1))
		}, []string{"t/0@9 version_order want 4 got 1"}},
		"a stream that does not begin at 1":   {func(l []eventlog.Record) []eventlog.Record { return append(l, ev(10, 8, 0, "u", "d", 2, 0, 1)) }, []string{"t/0@10 version_order want 1 got 2"}},
		"a command cut in two":                {func(l []eventlog.Record) []eventlog.Record { l[3] = ev(3, 7, 0, "t", "b", 1, 0, 1); return l[:4] }, []string{"t/0@2 command_torn want event 1 of 2 after it got "}},
		"a command that ends with the log":    {func(l []eventlog.Record) []eventlog.Record { return l[:3] }, []string{"t/0@2 command_torn want event 1 of 2 after it got "}},
		"a command that begins in its middle": {func(l []eventlog.Record) []eventlog.Record { return append(l, ev(10, 8, 0, "s", "d", 5, 1, 2)) }, []string{"t/0@10 command_torn want event 0 of 2 before it got "}},
		"a command with a mark in it": {func(l []eventlog.Record) []eventlog.Record {
			return append(l[:9], ev(9, 8, 0, "s", "c", 4, 0, 2), mark(10, 8, 0, barrier), ev(11, 8, 0, "s", "c", 5, 1, 2))
		}, []string{"t/0@9 command_torn want event 1 of 2 after it got ", "t/0@11 command_torn want event 0 of 2 before it got "}},
		"a command of two payloads":      {func(l []eventlog.Record) []eventlog.Record { l[3].Headers[4].Value = []byte("other"); return l[:4] }, []string{"t/0@2 command_torn want event 1 of 2 after it got ", "t/0@3 command_torn want event 0 of 2 before it got "}},
		"a note of another version":      {func(l []eventlog.Record) []eventlog.Record { l[8] = note(8, 8, 0, "s", "n", 2); return l }, []string{"t/0@8 note_version want 3 got 2"}},
		"a command twice":                {func(l []eventlog.Record) []eventlog.Record { return append(l, ev(10, 8, 0, "s", "a", 5, 0, 1)) }, []string{"t/0@10 command_twice want  got a"}},
		"a note and events":              {func(l []eventlog.Record) []eventlog.Record { return append(l, ev(10, 8, 0, "s", "n", 5, 0, 1)) }, []string{"t/0@10 command_twice want  got n"}},
		"an event id of another command": {func(l []eventlog.Record) []eventlog.Record { l[9].Headers[0] = l[1].Headers[0]; return l }, []string{"t/0@9 event_id want " + es.EventID("s", "c", 0) + " got " + es.EventID("s", "a", 0)}},
		"several faults, each reported once": {func(l []eventlog.Record) []eventlog.Record {
			return append(l, ev(10, 8, 0, "u", "a", 7, 0, 1), ev(11, 8, 0, "u", "b", 8, 0, 1), ev(12, 8, 0, "s", "c", 5, 0, 1))
		}, []string{"t/0@10 version_order want 1 got 7", "t/0@12 command_twice want  got c"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, f := range judged(c.change(good())) {
				got = append(got, fmt.Sprintf("%s %s want %s got %s", f.Position, f.Code, f.Want, f.Got))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q\nwant %q", got, c.want)
			}
		})
	}
}

// Each stream has its partition.
func TestPartition(t *testing.T) {
	l := newLedger(es.TopicPartition{Topic: "t"}, [16]byte{1})
	l.partitions = 12
	l.recall.bound(100)
	var all []Finding
	records := good()
	for i := range records {
		l.judge(&records[i], func(f Finding) { all = append(all, f) })
	}
	for _, f := range all {
		if f.Code != Partition || f.Got != "0" || f.Want != fmt.Sprint(eventlog.PartitionOf(f.Stream, 12)) {
			t.Error(f)
		}
	}
	if len(all) == 0 {
		t.Error("nothing found")
	}
}

// Only so many commands are known, the latest ones.
func TestRecall(t *testing.T) {
	c := recall{known: map[uint64]struct{}{}}
	c.bound(3)
	add := func(digest uint64, want bool) {
		t.Helper()
		if got := c.add(digest); got != want {
			t.Errorf("%d: %v", digest, got)
		}
	}
	for n := range uint64(5) {
		add(n, true)
	}
	add(2, false)
	add(0, true) // forgotten, now the newest in place of 2
	c.bound(5)
	add(2, true)
	add(3, false)
	add(7, true)
	c.bound(2)
	add(2, false)
	add(7, false)
	add(0, true)
	if len(c.known) != 2 || len(c.order) != 2 {
		t.Errorf("%d and %d are known", len(c.known), len(c.order))
	}
}

// The checkers of the fault harness, which see the whole log at once, judge as the audit does, which sees one record after the other.
func TestAgreesWithCheckers(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	faults := 0
	for range 3000 {
		records := random(rnd)
		raw := make([]check.Record, len(records))
		for i, r := range records {
			raw[i] = check.Record{Offset: r.Position.Offset, ProducerID: r.ProducerID, Epoch: r.Epoch, Key: r.Key}
			for _, h := range r.Headers {
				raw[i].Headers = append(raw[i].Headers, check.Header{Key: h.Key, Value: h.Value})
			}
		}
		found := judged(records)
		log := check.NewLog(raw, nil)
		violations := slices.Concat(log.Epochs(), log.Versions(), log.Once())
		has := func(codes ...Code) bool {
			return slices.ContainsFunc(found, func(f Finding) bool { return slices.Contains(codes, f.Code) })
		}
		of := func(checker string) bool {
			return slices.ContainsFunc(violations, func(v check.Violation) bool { return v.Checker == checker })
		}
		if has(Claim, Malformed) != of("Epochs") || has(Version, Note, Torn) != of("Versions") || has(Twice) && !of("Once") || of("Once") && !has(Twice, Torn) {
			t.Fatalf("the audit found %v\nthe checkers %v\nin %v", found, violations, records)
		}
		if len(found) > 0 {
			faults++
		}
	}
	if faults < 1000 || faults > 2900 {
		t.Errorf("%d of 3000 logs had faults", faults)
	}
}

// random returns a log of a few records in which, often, something is wrong.
func random(rnd *rand.Rand) []eventlog.Record {
	var records []eventlog.Record
	pid, epoch := int64(7), int16(0)
	versions := map[string]int{}
	add := func(r eventlog.Record) {
		r.Position.Offset = int64(len(records))
		records = append(records, r)
	}
	add(mark(0, pid, epoch, claim))
	for n := range 3 + rnd.IntN(10) {
		stream, command := string(rune('s'+rnd.IntN(3))), fmt.Sprint("c", n)
		wrong := rnd.IntN(25)
		by, at := pid, epoch
		switch wrong {
		case 0:
			by, at = 6+rnd.Int64N(4), int16(rnd.IntN(3))
		case 1:
			versions[stream] += rnd.IntN(3) - 1
		case 2:
			command = fmt.Sprint("c", rnd.IntN(n+1))
		}
		switch kind := rnd.IntN(10); kind {
		case 0:
			epoch++
			add(mark(0, pid, epoch, claim))
		case 1:
			add(mark(0, pid, closing, closed))
			pid, epoch = pid+1, 0
			add(mark(0, pid, epoch, claim))
		case 2:
			if wrong == 3 {
				epoch--
			}
			add(mark(0, by, epoch, barrier))
		case 3:
			add(note(0, by, at, stream, command, versions[stream]))
		default:
			count := 1 + rnd.IntN(3)
			for i := range count {
				versions[stream]++
				if wrong == 4 && rnd.IntN(2) == 0 {
					continue
				}
				if versions[stream] < i+1 {
					versions[stream] = i + 1
				}
				add(ev(0, by, at, stream, command, versions[stream], i, count))
			}
		}
	}
	return records
}
