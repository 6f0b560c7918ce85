//go:build !linux

package store

const canBeBehind = false
