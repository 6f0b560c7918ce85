package eventlog

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/platform/es"
)

// A Record is one record of the log as read. Its slices share the memory of the fetch it came with.
type Record struct {
	Key, Value []byte
	Headers    []Header
	Position   es.Position
	Time       time.Time // when the broker appended it
	ProducerID int64
	Epoch      int16
	Mark       MarkKind // 0 = an event
	Owner      Identity // of a mark: who wrote it
}

// recordOf converts what kgo read.
func recordOf(k *kgo.Record) Record {
	r := Record{Key: k.Key, Value: k.Value, Headers: k.Headers, Time: k.Timestamp, ProducerID: k.ProducerID, Epoch: k.ProducerEpoch,
		Position: es.Position{TopicPartition: es.TopicPartition{Topic: k.Topic, Partition: k.Partition}, Offset: k.Offset}}
	r.Mark, r.Owner = markOf(k.Headers)
	return r
}
