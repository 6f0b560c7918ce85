//go:build !(linux || darwin || freebsd)

package store

import "io/fs"

func allocated(info fs.FileInfo) int64 { return info.Size() }
