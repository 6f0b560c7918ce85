package store

// canBeBehind: what a process wrote to a mapped file is on the disk when the file is synced by its name. POSIX does not promise that.
const canBeBehind = true
