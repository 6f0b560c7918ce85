package eventlog

import (
	"encoding/binary"
	"math"

	"github.com/millrace/millrace/platform/es"
)

// A Cursor is a place in a partition from which to read on: Next is the offset to read, and the rest ties it to this very log and
// to the latest claim before it. Make the first with Topic.Start, the later ones come with what was fetched.
type Cursor struct {
	TopicPartition es.TopicPartition
	TopicID        [16]byte
	Next           int64
	LeaderEpoch    int32 // of the last record read; -1 = none
	ProducerID     int64 // of the latest claim; -1 = none
	Epoch          int16
}

// Start returns the cursor of a partition's beginning.
func (t Topic) Start(partition int32) Cursor {
	return Cursor{TopicPartition: es.TopicPartition{Topic: t.Name, Partition: partition}, TopicID: t.ID, LeaderEpoch: -1, ProducerID: -1, Epoch: -1}
}

// cursorVersion leads the binary form; the length of the rest is fixed but for the topic's name.
const (
	cursorVersion = 1
	cursorFixed   = 1 + 4 + 16 + 8 + 4 + 8 + 2
	maxTopicName  = 249
)

// AppendBinary appends the form that UnmarshalBinary reads; it fails for what can be no cursor.
func (c Cursor) AppendBinary(d []byte) ([]byte, error) {
	if err := c.check(); err != nil {
		return d, err
	}
	be := binary.BigEndian
	d = append(d, cursorVersion)
	d = be.AppendUint32(d, uint32(c.TopicPartition.Partition))
	d = append(d, c.TopicID[:]...)
	d = be.AppendUint64(d, uint64(c.Next))
	d = be.AppendUint32(d, uint32(c.LeaderEpoch))
	d = be.AppendUint64(d, uint64(c.ProducerID))
	d = be.AppendUint16(d, uint16(c.Epoch))
	return append(d, c.TopicPartition.Topic...), nil
}

// MarshalBinary returns what AppendBinary appends.
func (c Cursor) MarshalBinary() ([]byte, error) { return c.AppendBinary(nil) }

// UnmarshalBinary reads what AppendBinary wrote, or returns ErrCursor.
func (c *Cursor) UnmarshalBinary(b []byte) error {
	if len(b) <= cursorFixed || b[0] != cursorVersion {
		return ErrCursor.Because("%d bytes are no stored cursor of this version", len(b))
	}
	be := binary.BigEndian
	n := Cursor{
		TopicPartition: es.TopicPartition{Topic: string(b[cursorFixed:]), Partition: int32(be.Uint32(b[1:]))},
		TopicID:        [16]byte(b[5:21]),
		Next:           int64(be.Uint64(b[21:])),
		LeaderEpoch:    int32(be.Uint32(b[29:])),
		ProducerID:     int64(be.Uint64(b[33:])),
		Epoch:          int16(be.Uint16(b[41:])),
	}
	if err := n.check(); err != nil {
		return err
	}
	*c = n
	return nil
}

func (c *Cursor) check() error {
	switch {
	case c.TopicPartition.Topic == "" || len(c.TopicPartition.Topic) > maxTopicName:
		return ErrCursor.Because("a topic name has 1 to %d bytes", maxTopicName)
	case c.TopicPartition.Partition < 0, c.Next < 0, c.Next == math.MaxInt64, c.LeaderEpoch < -1, c.ProducerID < -1, c.Epoch < -1:
		return ErrCursor.Because("a number of the cursor of %s is out of range", c.TopicPartition)
	case c.ProducerID == -1 != (c.Epoch == -1):
		return ErrCursor.Because("the cursor of %s has a producer id without an epoch", c.TopicPartition)
	}
	return nil
}
