package eventlog

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/millrace/millrace/platform/es"
)

func FuzzCursor(f *testing.F) {
	for _, c := range []Cursor{
		Topic{Name: "orders.events", ID: [16]byte{1, 2, 3}}.Start(11),
		{TopicPartition: es.TopicPartition{Topic: "t", Partition: math.MaxInt32}, Next: math.MaxInt64 - 1, LeaderEpoch: math.MaxInt32, ProducerID: math.MaxInt64, Epoch: math.MaxInt16},
	} {
		b, err := c.MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
		f.Add(b[:cursorFixed])
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var c Cursor
		if err := c.UnmarshalBinary(b); err != nil {
			if !errors.Is(err, ErrCursor) || c != (Cursor{}) {
				t.Fatalf("%v left %+v", err, c)
			}
			return
		}
		back, err := c.AppendBinary([]byte("x"))
		if err != nil || !bytes.Equal(back[1:], b) {
			t.Fatalf("%x came back as %x, %v", b, back, err)
		}
	})
}

func TestCursorRefusals(t *testing.T) {
	good := Topic{Name: "t"}.Start(0)
	for name, change := range map[string]func(*Cursor){
		"no topic":      func(c *Cursor) { c.TopicPartition.Topic = "" },
		"long topic":    func(c *Cursor) { c.TopicPartition.Topic = strings.Repeat("x", 250) },
		"partition":     func(c *Cursor) { c.TopicPartition.Partition = -1 },
		"offset":        func(c *Cursor) { c.Next = -1 },
		"leader epoch":  func(c *Cursor) { c.LeaderEpoch = -2 },
		"producer only": func(c *Cursor) { c.ProducerID = 1 },
		"epoch only":    func(c *Cursor) { c.Epoch = 1 },
	} {
		c := good
		change(&c)
		if _, err := c.MarshalBinary(); !errors.Is(err, ErrCursor) {
			t.Errorf("%s: %v, want ErrCursor", name, err)
		}
	}
}
