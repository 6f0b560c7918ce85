//go:build unix

package embedded

import (
	"os"
	"syscall"
)

// lock takes a file for this process until the file is closed or the process ends, in whichever way.
func lock(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) //nolint:gosec // a descriptor fits an int
}
