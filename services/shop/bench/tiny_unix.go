//go:build unix

package main

import (
	"errors"
	"syscall"
)

// tiny has a connection take as little as the system lets it: what the other side may send ahead goes by the size of a segment, too.
func tiny(_, _ string, c syscall.RawConn) error {
	var err1, err2 error
	err := c.Control(func(fd uintptr) {
		err1 = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096)
		err2 = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 536)
	})
	return errors.Join(err, err1, err2)
}
