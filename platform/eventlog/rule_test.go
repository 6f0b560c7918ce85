package eventlog

import (
	"math"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
)

func TestReaderRule(t *testing.T) {
	type step struct {
		mark  MarkKind
		pid   int64
		epoch int16
		want  bool
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"nothing counts before the first claim", []step{{0, -1, -1, false}, {0, 7, 0, false}, {MarkBarrier, 7, 0, false}, {MarkClaim, 7, 0, true}, {0, 7, 0, true}}},
		{"only the latest claim counts", []step{{MarkClaim, 7, 0, true}, {0, 7, 0, true}, {MarkClaim, 7, 1, true}, {0, 7, 0, false}, {0, 7, 1, true}, {0, 7, 2, false}}},
		{"a plain producer never counts", []step{{MarkClaim, 7, 0, true}, {0, -1, -1, false}, {MarkClaim, -1, -1, false}, {MarkClose, -1, closedEpoch, false}, {0, 7, 0, true}}},
		{"a claim of an old epoch is none", []step{{MarkClaim, 7, 3, true}, {MarkClaim, 7, 3, false}, {MarkClaim, 7, 2, false}, {0, 7, 3, true}}},
		{"a renewal goes on", []step{{MarkClaim, 7, 3, true}, {MarkBarrier, 7, 3, true}, {MarkBarrier, 7, 4, true}, {0, 7, 3, false}, {0, 7, 4, true}, {MarkBarrier, 7, 3, false}}},
		{"a renewal by another is none", []step{{MarkClaim, 7, 3, true}, {MarkBarrier, 8, 4, false}, {0, 8, 4, false}, {0, 7, 3, true}}},
		{"another producer id can claim", []step{{MarkClaim, 7, 3, true}, {MarkClose, 7, closedEpoch, true}, {MarkClaim, 8, 0, true}, {0, 7, 3, false}, {0, 8, 0, true}}},
		{"a closing batch changes nothing", []step{{MarkClaim, 8, 0, true}, {MarkClose, 7, closedEpoch, true}, {MarkClose, 7, 3, false}, {0, 8, 0, true}}},
	} {
		cur := Topic{Name: "t"}.Start(0)
		for i, s := range c.steps {
			if got := cur.admit(s.mark, s.pid, s.epoch); got != s.want {
				t.Errorf("%s: step %d: %v, want %v", c.name, i, got, s.want)
			}
		}
	}
}

func TestReaderRuleCompacted(t *testing.T) {
	type step struct {
		mark  MarkKind
		pid   int64
		epoch int16
		want  bool
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"what was there before the first owner counts", []step{{0, -1, -1, true}, {0, 5, 0, true}, {MarkClaim, 7, 0, true}, {0, 7, 0, true}}},
		{"a plain producer beside an owner does not", []step{{MarkClaim, 7, 0, true}, {0, -1, -1, false}, {MarkClaim, -1, -1, false}, {0, 7, 0, true}}},
		{"a lost claim is made up for", []step{{0, 7, 0, true}, {0, 7, 3, true}, {0, 8, 0, true}, {MarkClaim, 8, 1, true}, {0, 8, 1, true}}},
		{"a deposed owner does not count", []step{{MarkClaim, 7, 3, true}, {0, 7, 2, false}, {MarkBarrier, 7, 2, false}, {0, 7, 3, true}}},
		{"a closing batch changes nothing", []step{{0, 7, 3, true}, {MarkClose, 6, closedEpoch, true}, {MarkClose, 6, 3, false}, {0, 7, 3, true}}},
	} {
		cur := Topic{Name: "t"}.Start(0)
		for i, s := range c.steps {
			if got := cur.admitCompacted(s.mark, s.pid, s.epoch); got != s.want {
				t.Errorf("%s: step %d: %v, want %v", c.name, i, got, s.want)
			}
		}
	}
}

func FuzzReaderRule(f *testing.F) {
	f.Add([]byte{1, 7, 0, 0, 7, 0, 1, 7, 1, 0, 7, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		cur := Topic{Name: "t"}.Start(0)
		for ; len(in) >= 3; in = in[3:] {
			mark, pid, epoch := MarkKind(in[0]%5), int64(int8(in[1]))%4, int16(int8(in[2]))
			if in[2] == 99 {
				epoch = math.MaxInt16
			}
			before := cur
			ok := cur.admit(mark, pid, epoch)
			switch {
			case !ok && cur != before:
				t.Fatal("a refused record moved the cursor")
			case ok && pid < 0:
				t.Fatal("a record without a producer id counts")
			case ok && mark == 0 && (pid != before.ProducerID || epoch != before.Epoch):
				t.Fatal("an event of another claim counts")
			case cur.ProducerID == before.ProducerID && cur.Epoch < before.Epoch:
				t.Fatal("an epoch went back")
			case cur.check() != nil:
				t.Fatalf("cursor %+v", cur)
			}
		}
	})
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		code int16
		act  action
		open bool
	}{
		{0, proceed, false},
		{kerr.InvalidProducerEpoch.Code, depose, false},
		{kerr.ProducerFenced.Code, depose, false},
		{kerr.RequestTimedOut.Code, resend, true},
		{kerr.NotLeaderForPartition.Code, resend, true},
		{kerr.NotEnoughReplicas.Code, resend, false},
		{kerr.NotEnoughReplicasAfterAppend.Code, resend, true},
		{kerr.CorruptMessage.Code, resend, false},
		{kerr.UnknownTopicID.Code, resend, false},
		{kerr.UnknownTopicOrPartition.Code, resend, false},
		{kerr.LeaderNotAvailable.Code, resend, true},
		{kerr.KafkaStorageError.Code, resend, true},
		{kerr.UnknownServerError.Code, resend, true},
		{kerr.MessageTooLarge.Code, reject, false},
		{kerr.RecordListTooLarge.Code, reject, false},
		{kerr.InvalidTimestamp.Code, reject, false},
		{kerr.InvalidRecord.Code, reject, false},
		{kerr.OutOfOrderSequenceNumber.Code, halt, false},
		{kerr.DuplicateSequenceNumber.Code, halt, false},
		{kerr.UnknownProducerID.Code, halt, false},
		{kerr.InvalidTxnState.Code, halt, false},
		{kerr.TopicAuthorizationFailed.Code, halt, false},
		{32000, halt, true}, // a code of the future
	} {
		if act, open := judge(c.code); act != c.act || open != c.open {
			t.Errorf("code %d: %v open=%v, want %v open=%v", c.code, act, open, c.act, c.open)
		}
	}
	for code := int16(1); code < 200; code++ {
		if act, open := judge(code); act == proceed {
			t.Errorf("code %d is taken for success", code)
		} else if act == resend && !open && kerr.ErrorForCode(code) != nil && !kerr.IsRetriable(kerr.ErrorForCode(code)) {
			t.Errorf("code %d is sent again though it does not pass", code)
		}
	}
}
