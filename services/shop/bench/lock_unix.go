//go:build unix

package main

import (
	"fmt"
	"os"
	"syscall"
)

// acquire takes the lock file until release is called or the process ends, however it ends.
func acquire(path string) (release func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644) //nolint:gosec // others must be able to lock it too
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, errBusy)
	}
	return func() { f.Close() }, nil
}
