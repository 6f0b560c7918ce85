package store

import (
	"os"
	"path/filepath"
)

// Lock keeps others, in this process too, from locking the directory dir, which is created, until release is called or the process ends.
// It is for directories that hold databases: a database locks its own. ErrLocked: somebody has it. ErrDirectory: dir cannot be used.
func Lock(dir string) (release func() error, err error) {
	dir = filepath.Clean(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, ErrDirectory.Because("%s", dir).WithFix("name a directory that this user may write to").Wrap(err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	return lock.release, nil
}
