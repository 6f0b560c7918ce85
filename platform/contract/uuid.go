package contract

import (
	"encoding/hex"
	"fmt"
)

// A UUID is the Go type for the logical type uuid, of a string or of 16 bytes. The zero UUID is the nil UUID, all zeros.
type UUID [16]byte

// ParseUUID reads the form 0191d5a4-0000-7000-8000-000000000000, in either case; any other text is an error.
func ParseUUID(text string) (UUID, error) {
	var u UUID
	if !readUUID(&u, text) {
		return UUID{}, fmt.Errorf("%q is no UUID", clip(text))
	}
	return u, nil
}

// readUUID is ParseUUID without an allocation; it may leave a part of a wrong text in u.
func readUUID[T string | []byte](u *UUID, text T) bool {
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return false
	}
	at := 0
	for i := range u {
		if at == 8 || at == 13 || at == 18 || at == 23 {
			at++
		}
		high, low := nibble(text[at]), nibble(text[at+1])
		if high|low > 15 {
			return false
		}
		u[i] = high<<4 | low
		at += 2
	}
	return true
}

// nibble returns the value of a hexadecimal digit, 255 for any other byte.
func nibble(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}

// String returns the form with lower-case digits.
func (u UUID) String() string {
	text, _ := u.MarshalText() // never fails
	return string(text)
}

// MarshalText returns the form with lower-case digits. It is how a UUID is written in JSON, and in Avro if it is a string.
func (u UUID) MarshalText() ([]byte, error) {
	b := make([]byte, 36)
	hex.Encode(b, u[:4])
	hex.Encode(b[9:], u[4:6])
	hex.Encode(b[14:], u[6:8])
	hex.Encode(b[19:], u[8:10])
	hex.Encode(b[24:], u[10:])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return b, nil
}

// UnmarshalText is ParseUUID.
func (u *UUID) UnmarshalText(text []byte) error {
	if !readUUID(u, text) {
		return fmt.Errorf("%q is no UUID", clip(string(text)))
	}
	return nil
}
