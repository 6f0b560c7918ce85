//go:build linux || darwin || freebsd

package store

import (
	"io/fs"
	"syscall"
)

// allocated returns how many bytes a file takes on the disk: logs are longer than that.
func allocated(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}
