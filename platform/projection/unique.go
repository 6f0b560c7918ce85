package projection

import (
	"slices"

	"github.com/millrace/millrace/platform/store"
)

// claim notes what e has of the unique indexes, or returns which of it another row has already.
func (s *shard[R, E]) claim(e *entry[R], snap *store.Reader) error {
	if err := s.index(e); err != nil {
		return err
	}
	had := e.claims
	if had == nil {
		had = e.stored
	}
	for i, shape := range s.f.g.shape.Indexes {
		if !shape.Unique || s.values[i] == "" || had != nil && had[i] == s.values[i] {
			continue
		}
		taken, err := s.taken(i, s.values[i], snap)
		if err != nil {
			return err
		}
		if taken != "" && taken != e.key {
			return errRow.Because("the row %q has the same value of the unique index %s", taken, shape.Name)
		}
	}
	for i, shape := range s.f.g.shape.Indexes {
		if !shape.Unique || had != nil && had[i] == s.values[i] {
			continue
		}
		if had != nil && had[i] != "" {
			s.owners[ownerKey(i, had[i])] = owner{batch: s.f.batch}
		}
		if s.values[i] != "" {
			s.owners[ownerKey(i, s.values[i])] = owner{key: e.key, batch: s.f.batch}
		}
	}
	e.claims = slices.Clone(s.values)
	return nil
}

// taken returns the key of the row that has a value of a unique index, "" if none has.
func (s *shard[R, E]) taken(index int, value string, snap *store.Reader) (string, error) {
	if o, ok := s.owners[ownerKey(index, value)]; ok {
		return o.key, nil
	}
	prefix := appendIndexKey(nil, index, value, "")
	rg := store.Prefix(prefix)
	rg.KeysOnly = true
	for pair, err := range snap.Scan(rg) {
		if err != nil {
			return "", err
		}
		return string(pair.Key[len(prefix):]), nil
	}
	return "", nil
}

func ownerKey(index int, value string) string { return string(rune(index)) + value }
