package audit

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		p := pace{rate: 100}
		if p.step() != 5 {
			t.Errorf("steps of %d", p.step())
		}
		for range 20 {
			p.wait(t.Context(), 5)
		}
		if took := time.Since(began); took != 950*time.Millisecond {
			t.Errorf("100 records at 100/s began their last step after %v", took)
		}
		sleep(t.Context(), time.Minute) // what was not used is not made up for
		began = time.Now()
		p.wait(t.Context(), 5)
		p.wait(t.Context(), 5)
		if took := time.Since(began); took != 50*time.Millisecond {
			t.Errorf("after a pause, the second step began after %v", took)
		}
		ctx, stop := context.WithCancel(t.Context())
		stop()
		p.wait(ctx, 1000)
		p.wait(ctx, 1000)
		if took := time.Since(began); took != 50*time.Millisecond {
			t.Errorf("it waits after its end, until %v", took)
		}
		free := pace{}
		free.wait(t.Context(), 1<<30)
	})
}
