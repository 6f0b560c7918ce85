//go:build !unix

package embedded

import "os"

// lock does nothing where there is no flock: two brokers on one directory are the user's to avoid there.
func lock(*os.File) error { return nil }
