//go:build !unix

package main

import "os/exec"

// An account is whom a command runs as; here always who runs this process.
type account struct{}

func notRoot() (*account, error)    { return nil, nil }
func (a *account) take(*exec.Cmd)   {}
func (a *account) own(string) error { return nil }
