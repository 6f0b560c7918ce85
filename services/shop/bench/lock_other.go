//go:build !unix

package main

import "errors"

func acquire(string) (release func(), err error) {
	return nil, errors.New("the bench needs a Unix system, Linux for the memory figures")
}
