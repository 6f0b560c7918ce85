package forward

import (
	"net/http"
	"testing"
)

func TestDo(t *testing.T) {
	_, addr := serving(t, echo, ServerOptions{})
	p := pool(t, PoolOptions{})
	r := place()
	resp, err := p.Do(within(t, wait), addr, r)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Status != http.StatusOK || string(resp.Body) != string(r.Body) || resp.Get("Millrace-Position") != "orders.events/3@1042" {
		t.Errorf("got %d %v %s", resp.Status, resp.Header, resp.Body)
	}
}
