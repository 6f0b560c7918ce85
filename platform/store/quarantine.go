package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace/millrace/platform/fault"
)

// condemned is the file beside a database that says why it must not be opened any more.
func condemned(dir string) string { return dir + ".condemned" }

// Condemn notes that the data is not what it should be, so that it is not opened again: Open returns ErrDamaged with the reason from the
// next time on. It may be called several times; the first reason stays.
func (db *DB) Condemn(reason string) error {
	path := condemned(db.dir)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := ReplaceFile(path, []byte(strings.TrimSpace(reason)+"\n")); err != nil {
		return ErrDirectory.Because("%s", path).Wrap(err)
	}
	return nil
}

// checkCondemned returns ErrDamaged if a database was condemned.
func checkCondemned(dir string) error {
	text, err := os.ReadFile(condemned(dir))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return ErrDirectory.Because("%s", condemned(dir)).Wrap(err)
	}
	return ErrDamaged.Because("%s was found to be wrong: %s", dir, strings.TrimSpace(string(text))).WithFix(rebuildFix)
}

// maxQuarantined is how many databases are kept beside one that was damaged again and again.
const maxQuarantined = 3

// Quarantine moves a damaged database aside, to dir + ".damaged-1" and so on, with a file REASON in it, so that the next Open begins a new
// one. It returns where it is now. ErrLocked: it is open. ErrDamaged, with reason as its cause: there is nothing to move, as when a disk
// is not mounted, or there have been so many that the disk must be looked at first.
func Quarantine(dir string, reason error) (moved string, err error) {
	dir = filepath.Clean(dir)
	lock, err := lockDir(dir)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return "", ErrDamaged.Because("%s is not there", dir).Wrap(reason)
		}
		return "", err
	}
	defer func() { err = errors.Join(err, lock.release()) }()
	held, err := holdsData(dir)
	if err != nil {
		return "", err
	}
	if !held {
		sent := sentinel{path: dir + ".sentinel"}
		if e := fault.From(reason); e != nil && e.Error() == sent.missing(dir).Error() {
			return "", reason // it says all of that already
		}
		return "", ErrDamaged.Because("%s is empty", dir).
			WithFix("look whether the right disk is mounted and bring the data back; to begin anew and rebuild it from the log, remove %s", dir+".sentinel").Wrap(reason)
	}
	n := 1
	for ; ; n++ {
		moved = fmt.Sprintf("%s.damaged-%d", dir, n)
		if _, err := os.Lstat(moved); errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	if n > maxQuarantined {
		return "", ErrDamaged.Because("%s was damaged %d times before", dir, maxQuarantined).
			WithFix("check the disk; then remove %s and start again: the store is rebuilt from the log", dir+".damaged-*").Wrap(reason)
	}
	text := time.Now().UTC().Format(time.RFC3339) + " " + reason.Error() + "\n"
	if err := os.WriteFile(filepath.Join(dir, "REASON"), []byte(text), 0o600); err != nil {
		return "", ErrDirectory.Because("%s", dir).Wrap(err)
	}
	// The sentinel goes last: killed in between, the next start finds nothing where there was something, and asks.
	if err := os.Rename(dir, moved); err != nil {
		return "", ErrDirectory.Because("%s cannot be moved aside", dir).WithFix("move it by hand, with %s and %s, and start again", dir+".sentinel", condemned(dir)).Wrap(err)
	}
	lock.moved(moved)
	return moved, forget(dir)
}

// Remove deletes the database in dir and all that is remembered of it, so that the next Open begins a new one. ErrLocked: it is open. A
// database that is not there is no error.
func Remove(dir string) error {
	dir = filepath.Clean(dir)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return forget(dir)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	// The lock file is among what is removed.
	err = errors.Join(os.RemoveAll(dir), lock.removed())
	if err != nil {
		return ErrDirectory.Because("%s cannot be removed", dir).Wrap(err)
	}
	return forget(dir)
}

func forget(dir string) error {
	for _, path := range []string{dir + ".sentinel", condemned(dir)} {
		if err := removeFile(path); err != nil {
			return ErrDirectory.Because("%s", path).Wrap(err)
		}
	}
	return nil
}

// holdsData reports whether there is anything of a database in dir.
func holdsData(dir string) (bool, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return false, ErrDirectory.Because("%s", dir).Wrap(err)
	}
	for _, f := range files {
		if name := f.Name(); name != "LOCK" && name != "opening" && name != probeName {
			return true, nil
		}
	}
	return false, nil
}
