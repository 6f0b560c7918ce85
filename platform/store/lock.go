package store

// LockDir creates dir if need be and locks it for this process, for data beside stores that one process may use at a time. It returns
// ErrLocked if another process has it; release gives it back.
func LockDir(dir string) (release func() error, err error) {
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	l, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	return l.release, nil
}
