//go:build !unix

package main

// flush does nothing where there is no such call.
func flush() {}
