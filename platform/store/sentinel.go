package store

import (
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// A sentinel is the file beside a database that says: there is a database with this id. Without it a database that lost its
// manifest, or whose disk was not mounted, would pass for a new one.
type sentinel struct {
	path string
	id   []byte // nil = there is no such file
}

func (s *sentinel) read() error {
	text, err := os.ReadFile(s.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return ErrDirectory.Because("%s", s.path).Wrap(err)
	}
	id, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(id) != 16 {
		return ErrDamaged.Because("%s is not a sentinel", s.path).WithFix("remove %s if the directory beside it is the right one", s.path)
	}
	s.id = id
	return nil
}

// write replaces the file as a whole: a half-written sentinel would be an alarm for nothing.
func (s *sentinel) write(id []byte) error {
	if err := ReplaceFile(s.path, append([]byte(hex.EncodeToString(id)), '\n')); err != nil {
		return ErrDirectory.Because("%s", s.path).WithFix("make the directory above the data directory writable").Wrap(err)
	}
	s.id = id
	return nil
}

// missing is why a database that has a sentinel, and else nothing, is not opened.
func (s *sentinel) missing(dir string) error {
	return ErrDamaged.Because("%s is empty, but %s says that there was data in it", dir, s.path).
		WithFix("look whether the right disk is mounted and bring the data back; to begin anew and rebuild it from the log, remove %s", s.path)
}

// ReplaceFile writes a file as a whole: whoever reads it, after a crash too, finds what was there before or text.
func ReplaceFile(path string, text []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(text)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
