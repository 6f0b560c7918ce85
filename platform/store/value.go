package store

import (
	"encoding/binary"
	"hash/crc32"
)

// A stored value is: format byte, CRC32C of (key, format byte, payload) in big endian, payload. The checksum covers the key
// too, so that a value that turns up under another key is found as well.
const (
	valueFormat = 1
	valueHeader = 5
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func valueSum(key, payload []byte) uint32 {
	var format = [1]byte{valueFormat}
	sum := crc32.Update(0, castagnoli, key)
	sum = crc32.Update(sum, castagnoli, format[:])
	return crc32.Update(sum, castagnoli, payload)
}

func appendValue(dst, key, payload []byte) []byte {
	dst = append(dst, valueFormat)
	dst = binary.BigEndian.AppendUint32(dst, valueSum(key, payload))
	return append(dst, payload...)
}

// openValue returns the payload within stored, or ErrDamaged.
func openValue(key, stored []byte) ([]byte, error) {
	switch {
	case len(stored) < valueHeader:
		return nil, ErrDamaged.Because("the value of key %s has only %d bytes", printable(key), len(stored)).WithFix(rebuildFix)
	case stored[0] != valueFormat:
		return nil, ErrDamaged.Because("the value of key %s has the unknown format %d", printable(key), stored[0]).WithFix(rebuildFix)
	}
	payload := stored[valueHeader:]
	if binary.BigEndian.Uint32(stored[1:]) != valueSum(key, payload) {
		return nil, ErrDamaged.Because("the value of key %s fails its checksum", printable(key)).WithFix(rebuildFix)
	}
	return payload, nil
}

const rebuildFix = "stop the service, move its data directory away and start it again: it rebuilds it from the log; then check the disk"
