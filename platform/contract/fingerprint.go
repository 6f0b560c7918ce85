package contract

import (
	"crypto/sha256"
	"maps"
	"slices"
)

// Fingerprint returns a hash of all schemas that stored events are read as, those of retired types among them: what was made of events
// under another fingerprint may be different today.
func (c *Codec[E]) Fingerprint() [32]byte {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(c.byName)) {
		sum := sha256.Sum256([]byte(c.byName[name].schema.Text()))
		h.Write([]byte(name))
		h.Write([]byte{0})
		h.Write(sum[:])
	}
	return [32]byte(h.Sum(nil))
}
