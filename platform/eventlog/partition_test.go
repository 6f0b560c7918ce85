package eventlog

import (
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/platform/es"
)

// The library's partitioner is the oracle; the fixed values are the Java client's (Utils.murmur2).
func TestPartitionOf(t *testing.T) {
	for s, want := range map[string]int32{"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107} {
		if got := int32(murmur2(s)); got != want {
			t.Errorf("murmur2(%q) = %d, want %d", s, got, want)
		}
	}
	oracle := kgo.StickyKeyPartitioner(nil).ForTopic("t")
	for i := range 5000 {
		id := fmt.Sprintf("%*d-%x", i%40, i, i*i)
		for _, n := range []int32{1, 3, 12, 97} {
			want := oracle.Partition(&kgo.Record{Key: []byte(id)}, int(n))
			if got := PartitionOf(es.StreamID(id), n); int(got) != want {
				t.Fatalf("%q of %d is in %d, want %d", id, n, got, want)
			}
		}
	}
}
