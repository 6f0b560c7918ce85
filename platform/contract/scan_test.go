package contract

import (
	"bytes"
	"testing"
)

// TestASCII puts a byte that is not ASCII at each place of texts of each length, with and without bytes after them.
func TestASCII(t *testing.T) {
	for n := range 40 {
		for after := range 10 {
			b := bytes.Repeat([]byte{0xff}, 3+n+after)
			for i := range n {
				b[3+i] = 'a'
			}
			if !ascii(b, 3, 3+n) && (n >= 8 || n+after >= 8) {
				t.Errorf("%d bytes of ASCII with %d after them are not", n, after)
			}
			for i := range n {
				b[3+i] = 0x80
				if ascii(b, 3, 3+n) {
					t.Errorf("byte %d of %d, with %d after them, is not seen", i, n, after)
				}
				b[3+i] = 'a'
			}
		}
	}
}

// TestTextsInRecords has a bad byte at each place of a text that is a field.
func TestTextsInRecords(t *testing.T) {
	s := mustParse(t, rec(fld("a", `"string"`)+","+fld("b", `["null","string"]`)+","+fld("c", `"string"`)))
	for n := range 70 {
		text := bytes.Repeat([]byte("x"), n)
		payload := func() []byte {
			b := append(long(int64(n)), text...)
			b = append(append(append(b, 2), long(int64(n))...), text...)
			return append(append(b, long(int64(n))...), text...)
		}
		if err := scan(s.root, payload()); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
		good := payload()
		for i := range good {
			bad := bytes.Clone(good)
			if bad[i] == 'x' {
				bad[i] = 0xc3 // starts a character of two bytes
				if scan(s.root, bad) == nil {
					t.Errorf("byte %d of texts of %d bytes is not seen", i, n)
				}
			}
		}
	}
}

// TestRanges has the first and the last value of each bounded logical type, and those beside them.
func TestRanges(t *testing.T) {
	for logical, typ := range map[string]string{"date": "int", "time-millis": "int", "time-micros": "long", "timestamp-millis": "long", "timestamp-micros": "long", "local-timestamp-micros": "long"} {
		s := mustParse(t, rec(fld("f", `{"type":"`+typ+`","logicalType":"`+logical+`"}`)))
		n := s.root.fields[0].node
		for i, ok := range map[int64]bool{n.lo: true, n.hi: true, n.lo - 1: false, n.hi + 1: false, (n.lo + n.hi) / 2: true} {
			if err := scan(s.root, long(i)); (err == nil) != ok {
				t.Errorf("%s of %d: %v", logical, i, err)
			}
			if err := scan(n, long(i)); (err == nil) != ok {
				t.Errorf("%s of %d alone: %v", logical, i, err)
			}
		}
		for bytes := range 9 { // the longest and the shortest of each length
			for _, i := range []int64{1<<(7*bytes+6) - 1, -1 << (7*bytes + 6), 1 << (7*bytes + 6)} {
				if typ == "int" && int64(int32(i)) != i {
					continue
				}
				if err := scan(s.root, long(i)); (err == nil) != (i >= n.lo && i <= n.hi) {
					t.Errorf("%s of %d: %v", logical, i, err)
				}
			}
		}
	}
}

// TestLongsInRecords has the longest numbers there are, and those that are too long.
func TestLongsInRecords(t *testing.T) {
	s := mustParse(t, rec(fld("a", `"long"`)+","+fld("b", `"string"`)))
	nines := bytes.Repeat([]byte{0xff}, 9)
	for _, c := range []struct {
		number []byte
		ok     bool
	}{
		{long(1<<63 - 1), true},
		{long(-1 << 63), true},
		{append(bytes.Clone(nines), 0x01), true},
		{append(bytes.Clone(nines), 0x02), false},
		{append(bytes.Clone(nines), 0x80, 0x00), false},
		{nines, false},
	} {
		if err := scan(s.root, append(bytes.Clone(c.number), 2, 'x')); (err == nil) != c.ok {
			t.Errorf("%x: %v", c.number, err)
		}
	}
}

// TestBlockSizesInResolution has blocks whose stated size is right and wrong, in an array that has to be rewritten.
func TestBlockSizesInResolution(t *testing.T) {
	conv := resolve(mustParse(t, `{"type":"array","items":"double"}`).root, mustParse(t, `{"type":"array","items":"int"}`).root)
	for size, ok := range map[int64]bool{0: false, 1: false, 2: true, 3: false} {
		payload := append(append(long(-2), long(size)...), 2, 4, 0)
		if _, _, err := conv.transcode(nil, payload, nil); (err == nil) != ok {
			t.Errorf("two items in %d bytes: %v", size, err)
		}
	}
}
