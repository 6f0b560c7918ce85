package eventlog

import (
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// TestExpiry shows on a real broker with short memory (kafka.sh start --set producer.id.expiration.ms=10000 --set
// producer.id.expiration.check.interval.ms=1000) why barriers are owed: the fence of an idle owner holds because of them, and without
// them it is gone.
func TestExpiry(t *testing.T) {
	s := realSite(t)
	c := s.open(t)
	if c.cfg.ProducerIDExpiration > 15*time.Second {
		t.Skipf("the brokers' producer.id.expiration.ms is %v; start one with 10000", c.cfg.ProducerIDExpiration)
	}
	topic := topicOf(t, c, 2)
	var zombies, owners [2]*Owner
	for p := range int32(2) {
		zombies[p] = claim(t, c, topic, p, "zombie")
		mustWrite(t, zombies[p], "1")
		owners[p] = claim(t, c, topic, p, "owner")
		mustWrite(t, owners[p], "2")
	}
	// Partition 1 has no upkeep, as the platform never lets happen.
	owners[1].mu.Lock()
	owners[1].upkeep.Stop()
	owners[1].mu.Unlock()
	for _, z := range zombies {
		z.Release()
	}
	began := time.Now()
	eventually(t, "the broker forgets", func() bool { return time.Since(began) > c.cfg.ProducerIDExpiration+4*time.Second })

	if owners[0].Err() != nil || owners[0].Next() < 6 {
		t.Errorf("the idle owner wrote up to %d, %v", owners[0].Next(), owners[0].Err())
	}
	if _, err := raw(t, c, topic, 0, zombies[0].pid, zombies[0].epoch, zombies[0].sequence, "zombie"); !errors.Is(err, kerr.InvalidProducerEpoch) {
		t.Errorf("a zombie against barriers: %v", err)
	}
	mustWrite(t, owners[0], "3")

	// What a silent owner sends after its lease is refused by itself, before the broker could take it for anything.
	if _, err := write(t, owners[1], "late"); !errors.Is(err, ErrFenced) || !errors.Is(err, ErrLease) {
		t.Errorf("append after the lease: %v, want ErrFenced because of ErrLease", err)
	}
	if _, err := raw(t, c, topic, 1, zombies[1].pid, zombies[1].epoch, zombies[1].sequence, "zombie"); err != nil {
		t.Errorf("the broker did not forget: %v", err)
	}
	got := readLog(t, c, topic, 1)
	for _, v := range got {
		if v == "zombie" {
			t.Errorf("a zombie's record counts: %q", got)
		}
	}
}

// TestNewProducerID lets the coordinator forget a transactional id (kafka.sh start --set transactional.id.expiration.ms=12000 --set
// transaction.remove.expired.transaction.cleanup.interval.ms=1000): the next claim gets another producer id, and shuts the old one out.
func TestNewProducerID(t *testing.T) {
	s := realSite(t)
	c := s.open(t)
	if c.cfg.TransactionalIDExpiration > 15*time.Second {
		t.Skipf("the brokers' transactional.id.expiration.ms is %v; start one with 12000", c.cfg.TransactionalIDExpiration)
	}
	topic := topicOf(t, c, 2)
	renewed, silent := claim(t, c, topic, 0, "a"), claim(t, c, topic, 1, "a")
	silent.mu.Lock()
	silent.renewed = time.Now().Add(time.Hour) // barriers, but no renewals
	silent.mu.Unlock()
	began := time.Now()
	eventually(t, "the coordinator forgets", func() bool { return time.Since(began) > c.cfg.TransactionalIDExpiration+6*time.Second })
	mustWrite(t, renewed, "1")
	mustWrite(t, silent, "1")

	b0, b1 := claim(t, c, topic, 0, "b"), claim(t, c, topic, 1, "b")
	if b0.pid != renewed.pid {
		t.Errorf("a renewed producer id %d became %d", renewed.pid, b0.pid)
	}
	if b1.pid == silent.pid {
		t.Fatalf("the coordinator did not forget %d", silent.pid)
	}
	for p, o := range []*Owner{renewed, silent} {
		if _, err := raw(t, c, topic, int32(p), o.pid, o.epoch, o.sequence, "zombie"); !errors.Is(err, kerr.InvalidProducerEpoch) {
			t.Errorf("partition %d: a zombie of %d/%d was answered %v", p, o.pid, o.epoch, err)
		}
	}
	mustWrite(t, b1, "2")
}

// TestEpochExhaustion takes a partition over more often than there are epochs: the coordinator changes the producer id on the way.
func TestEpochExhaustion(t *testing.T) {
	everywhere(t, func(t *testing.T, s site) {
		if testing.Short() || s.fake == nil && !*historyLong {
			t.Skip("32,767 takeovers take a minute on a real Kafka; give -history.long")
		}
		c := s.open(t)
		topic := topicOf(t, c, 1)
		a := claim(t, c, topic, 0, "a")
		mustWrite(t, a, "1")
		ctx := t.Context()
		pid, epoch := a.pid, a.epoch
		for pid == a.pid && epoch < closedEpoch-3 {
			var err error
			if pid, epoch, err = c.initProducerID(ctx, a.txn, -1, -1); err != nil {
				t.Fatal(err)
			}
		}
		var last *Owner
		ids := map[int64]bool{}
		for i := range 6 {
			last = claim(t, c, topic, 0, "b")
			ids[last.pid] = true
			mustWrite(t, last, string(rune('2'+i)))
		}
		if len(ids) != 2 {
			t.Errorf("%d producer ids, want 2: the epochs were not used up", len(ids))
		}
		if last.epoch > 5 {
			t.Errorf("epoch %d", last.epoch)
		}
		zombie(t, c, topic, a.pid, a.epoch, a.sequence, "1")
		got := readLog(t, c, topic, 0)
		if n := len(got); got[n-1] != "7" {
			t.Errorf("log %q", got)
		}
	})
}
