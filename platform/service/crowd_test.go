package service

import (
	"os"
	"runtime"
	"testing"
)

// TestCrowd: there are twice as many threads while any projector has builds beside views that answer, unless somebody has set how many.
func TestCrowd(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	t.Setenv("GOMAXPROCS", "")
	if err := os.Unsetenv("GOMAXPROCS"); err != nil {
		t.Fatal(err)
	}
	runtime.SetDefaultGOMAXPROCS()
	usual := runtime.GOMAXPROCS(0)
	var c crowd
	check := func(more bool, want int) {
		t.Helper()
		if c.change(more); runtime.GOMAXPROCS(0) != want {
			t.Errorf("GOMAXPROCS is %d, want %d", runtime.GOMAXPROCS(0), want)
		}
	}
	check(true, 2*usual)
	check(true, 2*usual)
	check(false, 2*usual)
	check(false, usual)
	check(true, 2*usual)
	check(false, usual)
	t.Setenv("GOMAXPROCS", "3")
	check(true, usual)
	check(false, usual)
}
