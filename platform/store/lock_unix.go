//go:build linux || darwin || freebsd

package store

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// lockIsOurs tells Badger not to lock the directory again: ours is the same lock, taken earlier, before anything is repaired.
const lockIsOurs = true

type dirLock struct {
	dir *os.File
	pid string
}

func lockDir(dir string) (*dirLock, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, ErrDirectory.Because("%s", dir).Wrap(err)
	}
	pid := filepath.Join(dir, "LOCK")
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrDirectory.Because("%s cannot be locked", dir).WithFix("use a local file system").Wrap(err)
		}
		holder := "another process"
		if text, err := os.ReadFile(pid); err == nil && len(text) > 0 && len(text) < 12 {
			holder = "process " + strings.TrimSpace(string(text))
		}
		return nil, ErrLocked.Because("%s has %s open", holder, dir).WithFix("stop that process, or give this one another --data-dir")
	}
	if err := os.WriteFile(pid, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		f.Close()
		return nil, ErrDirectory.Because("%s", dir).Wrap(err)
	}
	return &dirLock{dir: f, pid: pid}, nil
}

func (l *dirLock) release() error {
	// The name goes first: after the unlock it could be the next owner's.
	return errors.Join(os.Remove(l.pid), l.removed())
}

// moved tells the lock that its directory has another name.
func (l *dirLock) moved(to string) { l.pid = filepath.Join(to, filepath.Base(l.pid)) }

// removed ends the lock of a directory that is not there any more.
func (l *dirLock) removed() error {
	// A process that is being started has all that is open here until it has loaded its program: closing alone would leave the lock with it.
	return errors.Join(syscall.Flock(int(l.dir.Fd()), syscall.LOCK_UN), l.dir.Close())
}

// freeSpace watches the room on the file system of dir.
type freeSpace struct {
	dir   string
	least int64        // bytes that must be free; < 0 = any
	next  atomic.Int64 // when to look again, in Unix milliseconds
}

// check returns ErrDiskFull if there is too little room. It looks once a second, and each time while there is too little.
func (s *freeSpace) check() error {
	now := time.Now().UnixMilli()
	if s.least < 0 || now < s.next.Load() {
		return nil
	}
	free, err := Free(s.dir)
	if err != nil {
		return nil //nolint:nilerr // the commit itself will say what is wrong with this file system
	}
	if free < s.least {
		return ErrDiskFull.Because("%s has %d MiB left, %d are needed", s.dir, free>>20, s.least>>20).
			WithFix("make room on the disk: it goes on by itself").After(5 * time.Second)
	}
	s.next.Store(now + 1000)
	return nil
}

// Free returns how many bytes there are left for this user on the file system of dir, or ErrDirectory.
func Free(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, ErrDirectory.Because("%s", dir).Wrap(err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // their types differ between systems
}
