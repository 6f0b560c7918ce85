//go:build !(linux || darwin || freebsd)

package store

// lockIsOurs is false where only Badger knows how to lock a directory.
const lockIsOurs = false

type dirLock struct{}

func lockDir(string) (*dirLock, error) { return &dirLock{}, nil }

func (*dirLock) release() error { return nil }

func (*dirLock) moved(string) {}

func (*dirLock) removed() error { return nil }

// freeSpace watches nothing on these systems.
type freeSpace struct {
	dir   string
	least int64
}

func (*freeSpace) check() error { return nil }

// Free is not known on these systems: it returns the largest number.
func Free(string) (int64, error) { return 1<<63 - 1, nil }
