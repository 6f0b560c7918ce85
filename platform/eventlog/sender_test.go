package eventlog

import (
	"testing"

	"github.com/millrace/millrace/platform/es"
)

// TestOneBatchPerPartition: a request never names a partition twice, for a broker would write only one of the two batches and give one
// answer, which would pass for both.
func TestOneBatchPerPartition(t *testing.T) {
	at := func(partition int32) *attempt {
		return &attempt{owner: &Owner{tp: es.TopicPartition{Topic: "orders.events", Partition: partition}}}
	}
	batch, claim := at(0), at(0) // of an owner that is deposed, and of the one who deposes it
	s := sender{pending: []*attempt{batch, at(1), claim, at(2)}}
	if got := s.take(nil); len(got) != 2 || got[0] != batch {
		t.Errorf("the first request holds %d batches, want the first two", len(got))
	}
	if got := s.take(nil); len(got) != 2 || got[0] != claim {
		t.Errorf("the second request holds %d batches, want the claim and what follows", len(got))
	}
}
