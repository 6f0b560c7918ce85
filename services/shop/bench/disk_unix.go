//go:build unix

package main

import "syscall"

// flush has all that was written to any disk be there: what is measured next does not pay for what was measured before.
func flush() { syscall.Sync() }
