//go:build unix

package main

import (
	"errors"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// An account is whom a command runs as; nil = who runs this process.
type account syscall.Credential

// notRoot returns an account that PostgreSQL runs as.
func notRoot() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	who, err := user.Lookup("postgres")
	if err != nil {
		if who, err = user.Lookup("nobody"); err != nil {
			return nil, err
		}
	}
	uid, err1 := strconv.ParseUint(who.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(who.Gid, 10, 32)
	return &account{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(err1, err2)
}

// take has a command run as this account.
func (a *account) take(cmd *exec.Cmd) {
	if a != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: (*syscall.Credential)(a)}
	}
}

// own gives it a file.
func (a *account) own(path string) error {
	if a == nil {
		return nil
	}
	return os.Chown(path, int(a.Uid), int(a.Gid))
}
