//go:build !unix

package main

import "syscall"

// tiny does nothing where there is no such system.
func tiny(_, _ string, _ syscall.RawConn) error { return nil }
