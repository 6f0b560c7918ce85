package main

import "testing"

// TestMurmur2 compares with org.apache.kafka.common.utils.Utils.murmur2, the sign taken away.
func TestMurmur2(t *testing.T) {
	for key, want := range map[string]int32{"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536, "k-012345": -1725880802} {
		h := newMurmur2()
		_, _ = h.Write([]byte(key))
		if got := h.Sum32(); got != uint32(want)&0x7fffffff {
			t.Errorf("%s: got %d, want %d", key, got, want)
		}
	}
}

func TestCodec(t *testing.T) {
	frame := []byte{0, 0, 0, 0, 7, 4, 'a', 'b', 0x85, 0x01, 6, 1, 2, 3}
	for name, c := range map[string]struct {
		bytes []byte
		want  any
		bad   bool
	}{
		"an event":       {bytes: frame, want: int64(-67)},
		"another schema": {bytes: []byte{0, 0, 0, 0, 8, 4}},
		"nothing":        {},
		"cut":            {bytes: frame[:7], bad: true},
	} {
		got, err := amountCodec{7}.Decode(c.bytes)
		if got != c.want || (err != nil) != c.bad {
			t.Errorf("%s: got %v, %v; want %v", name, got, err, c.want)
		}
	}
	b, err := sumCodec{}.Encode(sum{3, -4})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := (sumCodec{}).Decode(b); err != nil || got != (sum{3, -4}) {
		t.Errorf("got %v, %v", got, err)
	}
}
