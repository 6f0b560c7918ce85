package eventlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// decode reads a sealed batch with the library's reader.
func decode(t testing.TB, sealed []byte) (kmsg.RecordBatch, []*kgo.Record) {
	t.Helper()
	var b kmsg.RecordBatch
	if err := b.ReadFrom(sealed); err != nil {
		t.Fatalf("the batch cannot be read: %v", err)
	}
	if got := crc32.Checksum(sealed[21:], castagnoli); int32(got) != b.CRC {
		t.Fatalf("checksum %x, want %x", b.CRC, got)
	}
	if int(b.Length) != len(sealed)-12 || b.Magic != 2 || b.LastOffsetDelta != b.NumRecords-1 || b.FirstOffset != 0 || b.PartitionLeaderEpoch != -1 {
		t.Fatalf("head %+v", b)
	}
	rp := kmsg.NewFetchResponseTopicPartition()
	rp.RecordBatches = sealed
	rp.HighWatermark = math.MaxInt64
	fp, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Topic: "t"}, &rp, kgo.DefaultDecompressor(), nil)
	if fp.Err != nil {
		t.Fatalf("the records cannot be read: %v", fp.Err)
	}
	if len(fp.Records) != int(b.NumRecords) {
		t.Fatalf("%d records, want %d", len(fp.Records), b.NumRecords)
	}
	return b, fp.Records
}

func FuzzBatch(f *testing.F) {
	f.Add([]byte("k"), []byte("v"), "h", []byte("x"), uint8(3), uint8(1), int64(7), int16(2), int32(5), uint16(500))
	f.Add([]byte(nil), []byte(nil), "", []byte(nil), uint8(0), uint8(0), int64(math.MaxInt64), int16(math.MaxInt16), int32(math.MaxInt32), uint16(0))
	f.Add(bytes.Repeat([]byte{0xff}, 200), bytes.Repeat([]byte{0}, 9000), "ce_type", []byte{}, uint8(255), uint8(20), int64(0), int16(0), int32(0), uint16(60000))
	f.Fuzz(func(t *testing.T, key, value []byte, header string, hv []byte, n, headers uint8, pid int64, epoch int16, sequence int32, limit uint16) {
		if pid < 0 || epoch < 0 || sequence < 0 || len(key)+len(value)+len(header)+len(hv) > 10_000 {
			return
		}
		b := NewBatch(int(limit))
		if limit == 0 {
			b = NewBatch(math.MaxInt32)
		}
		var hs []Header
		for range headers % 32 {
			hs = append(hs, Header{Key: header, Value: hv})
		}
		added := 0
		for range n {
			before, size := b.Savepoint(), b.Size()
			err := b.Add(key, value, hs)
			if err == nil {
				added++
				continue
			}
			if !errors.Is(err, ErrBatchFull) && !errors.Is(err, ErrTooLarge) {
				t.Fatal(err)
			}
			if b.Savepoint() != before || b.Size() != size {
				t.Fatal("a refused record changed the batch")
			}
			if errors.Is(err, ErrBatchFull) && added == 0 {
				t.Fatal("an empty batch is full")
			}
			break
		}
		if b.Len() != added || limit > 0 && added > 0 && b.Size() > int(limit) {
			t.Fatalf("%d records in %d bytes, added %d, limit %d", b.Len(), b.Size(), added, limit)
		}
		if added == 0 {
			return
		}
		at := time.UnixMilli(1_700_000_000_123)
		sealed := b.seal(pid, epoch, sequence, at)
		if again := bytes.Clone(sealed); !bytes.Equal(again, b.seal(pid, epoch, sequence, at)) {
			t.Fatal("sealing twice gives other bytes")
		}
		head, records := decode(t, sealed)
		if head.ProducerID != pid || head.ProducerEpoch != epoch || head.FirstSequence != sequence || head.Attributes != 0 {
			t.Fatalf("head %+v", head)
		}
		for i, r := range records {
			if r.Offset != int64(i) || !bytes.Equal(r.Key, key) || !bytes.Equal(r.Value, value) || len(r.Headers) != len(hs) || !r.Timestamp.Equal(at) {
				t.Fatalf("record %d: %+v", i, r)
			}
			if (r.Key == nil) != (key == nil) || (r.Value == nil) != (value == nil) {
				t.Fatalf("record %d: null and empty are mixed up", i)
			}
			for _, h := range r.Headers {
				if h.Key != header || !bytes.Equal(h.Value, hv) {
					t.Fatalf("record %d: header %+v", i, h)
				}
			}
		}
	})
}

func TestBatchRollback(t *testing.T) {
	b := NewBatch(0)
	add := func(v string) {
		t.Helper()
		if err := b.Add(nil, []byte(v), nil); err != nil {
			t.Fatal(err)
		}
	}
	add("1")
	s := b.Savepoint()
	add("2")
	add("3")
	b.Rollback(s)
	add("4")
	_, rs := decode(t, b.seal(1, 2, 3, time.Now()))
	var got []string
	for _, r := range rs {
		got = append(got, string(r.Value))
	}
	if diff := cmp.Diff([]string{"1", "4"}, got); diff != "" {
		t.Error(diff)
	}
	b.Reset()
	if b.Len() != 0 || b.Size() != headLen {
		t.Errorf("%d records, %d bytes after Reset", b.Len(), b.Size())
	}
	var zero Batch
	zero.limit = 1000
	if err := zero.Add(nil, nil, nil); err != nil || zero.Len() != 1 {
		t.Errorf("a zero batch: %v", err)
	}
}

func TestBatchLimit(t *testing.T) {
	one := NewBatch(0)
	if err := one.Add([]byte("k"), make([]byte, 100), nil); err != nil {
		t.Fatal(err)
	}
	exact := NewBatch(one.Size())
	if err := exact.Add([]byte("k"), make([]byte, 100), nil); err != nil {
		t.Errorf("a record that fits exactly: %v", err)
	}
	if err := exact.Add([]byte("k"), make([]byte, 100), nil); !errors.Is(err, ErrBatchFull) {
		t.Errorf("a second one: %v, want ErrBatchFull", err)
	}
	if err := exact.Add([]byte("k"), make([]byte, 101), nil); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one that never fits: %v, want ErrTooLarge", err)
	}
}

func TestNextSequence(t *testing.T) {
	for _, c := range []struct{ sequence, count, want int32 }{
		{0, 1, 1},
		{5, 10, 15},
		{math.MaxInt32 - 1, 1, math.MaxInt32},
		{math.MaxInt32, 1, 0},
		{math.MaxInt32, 5, 4},
		{math.MaxInt32 - 2, 3, 0},
	} {
		if got := nextSequence(c.sequence, c.count); got != c.want {
			t.Errorf("%d + %d = %d, want %d", c.sequence, c.count, got, c.want)
		}
	}
}

func TestVarintLen(t *testing.T) {
	for _, v := range []int64{0, 1, -1, 63, 64, -64, -65, 8191, 8192, math.MaxInt32, math.MinInt32, math.MaxInt64, math.MinInt64} {
		if got, want := varintLen(v), len(binary.AppendVarint(nil, v)); got != want {
			t.Errorf("%d takes %d bytes, want %d", v, got, want)
		}
	}
}
