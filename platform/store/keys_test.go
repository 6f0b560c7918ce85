package store

import (
	"bytes"
	"cmp"
	"errors"
	"testing"
)

// FuzzString: round trip, order and freedom from prefixes of any two strings.
func FuzzString(f *testing.F) {
	for _, p := range [][2]string{{"", ""}, {"a", "b"}, {"a", "a\x00"}, {"\x00", "\x00\x00"}, {"a\x00b", "a\xffb"}, {"\x00\x01", "\x00\xff"}, {"é", "e"}} {
		f.Add(p[0], p[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		ka, kb := AppendString(nil, a), AppendString(nil, b)
		if got, rest, err := ParseString(append(ka[:len(ka):len(ka)], "rest"...)); err != nil || got != a || string(rest) != "rest" {
			t.Errorf("%q became %q, %q, %v", a, got, rest, err)
		}
		if got, want := bytes.Compare(ka, kb), cmp.Compare(a, b); got != want {
			t.Errorf("%q and %q order as %d, want %d", a, b, got, want)
		}
		if a != b && (bytes.HasPrefix(ka, kb) || bytes.HasPrefix(kb, ka)) {
			t.Errorf("one of %q and %q is the beginning of the other", ka, kb)
		}
		// What follows never changes the order.
		if got, want := bytes.Compare(append(ka, b...), append(kb, a...)), cmp.Compare(a, b); a != b && got != want {
			t.Errorf("followed by others, %q and %q order as %d, want %d", a, b, got, want)
		}
	})
}

// FuzzParseString: any bytes are a string that is written the same way, or ErrKey.
func FuzzParseString(f *testing.F) {
	for _, s := range []string{"", "a", "\x00", "a\x00\x01b", "a\x00\xff\x00\x01", "\x00\x02", "a\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, key []byte) {
		s, rest, err := ParseString(key)
		if err != nil {
			if !errors.Is(err, ErrKey) {
				t.Fatalf("%v is not ErrKey", err)
			}
			return
		}
		if again := append(AppendString(nil, s), rest...); !bytes.Equal(again, key) {
			t.Errorf("%q was read as %q and written as %q", key, s, again)
		}
	})
}

// FuzzNumbers: round trip and order.
func FuzzNumbers(f *testing.F) {
	f.Add(int64(0), int64(-1))
	f.Add(int64(-1<<63), int64(1<<63-1))
	f.Fuzz(func(t *testing.T, a, b int64) {
		ka, kb := AppendInt64(nil, a), AppendInt64(nil, b)
		if got, rest, err := ParseInt64(ka); err != nil || got != a || len(rest) != 0 {
			t.Errorf("%d became %d, %v", a, got, err)
		}
		if got, want := bytes.Compare(ka, kb), cmp.Compare(a, b); got != want {
			t.Errorf("%d and %d order as %d", a, b, got)
		}
		ua, ub := AppendUint64(nil, uint64(a)), AppendUint64(nil, uint64(b))
		if got, _, err := ParseUint64(ua); err != nil || got != uint64(a) {
			t.Errorf("%d became %d, %v", uint64(a), got, err)
		}
		if got, want := bytes.Compare(ua, ub), cmp.Compare(uint64(a), uint64(b)); got != want {
			t.Errorf("%d and %d order as %d", uint64(a), uint64(b), got)
		}
		if _, _, err := ParseInt64(ka[:7]); !errors.Is(err, ErrKey) {
			t.Errorf("7 bytes: %v", err)
		}
	})
}

func TestPrefixEnd(t *testing.T) {
	for _, tc := range []struct{ prefix, want string }{{"a", "b"}, {"a\xff", "b"}, {"a\xff\xff", "b"}, {"ab", "ac"}, {"\x00", "\x01"}} {
		if got := PrefixEnd([]byte(tc.prefix)); string(got) != tc.want {
			t.Errorf("PrefixEnd(%q) = %q, want %q", tc.prefix, got, tc.want)
		}
	}
	for _, prefix := range []string{"", "\xff", "\xff\xff"} {
		if got := PrefixEnd([]byte(prefix)); got != nil {
			t.Errorf("PrefixEnd(%q) = %q, want none", prefix, got)
		}
	}
}
