package main

import (
	"encoding/csv"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// TestKilledDuringImport: kill -9 in the middle of an import, start again, import again: every order is there once, and the sums are
// exact. After the kills nothing that was acknowledged may be missing, which the final sums show too.
func TestKilledDuringImport(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	ids := sampleIDs(t)
	dev := append([]string{"dev", "--data-dir", t.TempDir()}, anyPorts...)
	for round := range 3 {
		p := start(t, dev...)
		done := make(chan struct{})
		go func() {
			defer close(done)
			importSample(t, p.at.HTTP, "--retry-for", "1ms")
		}()
		// Each round is killed further into the file.
		mark := ids[(round*len(ids)+rnd.IntN(len(ids)))/4]
		p.until("as far as "+mark, func() bool {
			a, err := try("GET", p.at.HTTP+"/v1/orders/"+mark, "")
			return err == nil && a.status == http.StatusOK
		})
		p.kill()
		<-done
	}
	p := start(t, dev...)
	out, status := importSample(t, p.at.HTTP)
	if status != 0 || !strings.Contains(out, " 0 rows not imported") {
		t.Fatalf("the last import: status %d\n%s", status, out)
	}
	checkSample(t, p.at.HTTP, p.at.HTTP)
	// Once more changes nothing at all.
	if out, status := importSample(t, p.at.HTTP); status != 0 || !strings.HasPrefix(out, "0 orders placed, 6919 were there already") {
		t.Errorf("importing once more: status %d\n%s", status, out)
	}
	p.stop()
	p = start(t, dev...)
	if orders, units, cents := sums(t, p.at.HTTP); orders != sampleOrders || units != sampleUnits || cents != sampleCents {
		t.Errorf("after a restart: %d orders, %d units, %d cents", orders, units, cents)
	}
}

func sampleIDs(t *testing.T) []string {
	t.Helper()
	f, err := os.Open(sample)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, r := range rows[1:] {
		ids = append(ids, r[0])
	}
	return ids
}
