package ordersv1

import (
	"bytes"
	"context"
	"encoding/hex"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/estest"
)

// TestGenerated regenerates the committed code of every folder of schemas and compares: an .avsc and its Go type cannot drift apart.
func TestGenerated(t *testing.T) {
	dirs, err := filepath.Glob("../../*/v*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no folders of schemas: %v", err)
	}
	for _, dir := range dirs {
		files, err := contract.Generate(dir)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range files {
			got, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s/%s is not what its schemas give; run: millrace contract generate %s", dir, name, dir)
			}
		}
	}
}

var at = time.Date(1997, 1, 2, 3, 4, 5, 678901000, time.UTC)

// The payloads are what version 1 writes, for ever: they may never have to change.
var golden = []struct {
	event   Event
	payload string
}{
	{
		OrderPlaced{OrderID: "o-1", CustomerID: "c-1", Currency: "USD", OrderedAt: at, Lines: []OrderLine{{SKU: "cd", Quantity: 2, Amount: 2933}}, Units: 2, Total: 2933},
		"066f2d3106632d3106555344eabc9af388c383030204636404ea2d0004ea2d",
	},
	{OrderLineAdded{OrderID: "o-1", CustomerID: "c-1", Currency: "USD", OrderedAt: at, SKU: "lp", Quantity: 1, Amount: 1999, Units: 3, Total: 4932}, "066f2d3106632d3106555344eabc9af388c38303046c70029e1f06884d"},
	{OrderConfirmed{OrderID: "o-1", CustomerID: "c-1", OrderedAt: at}, "066f2d3106632d31eabc9af388c38303"},
	{OrderCancelled{OrderID: "o-1", CustomerID: "c-1", Currency: "USD", OrderedAt: at, Units: 3, Total: 4932, Reason: "changed my mind – sorry"}, "066f2d3106632d3106555344eabc9af388c3830306884d326368616e676564206d79206d696e6420e2809320736f727279"},
}

func TestGoldenPayloads(t *testing.T) {
	ctx := context.Background()
	codec, err := contract.Bind(ctx, Contract, contract.NewMemory())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, g := range golden {
		name := codec.TypeName(g.event)
		seen[name] = true
		frame, err := codec.Append(nil, g.event)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(frame[5:]); got != g.payload {
			t.Errorf("%s is written as\n%s, version 1 wrote\n%s", name, got, g.payload)
		}
		back, err := codec.Decode(ctx, frame)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(back, g.event) {
			t.Errorf("%s: got %+v, want %+v", name, back, g.event)
		}
	}
	if len(seen) != len(Contract.Types) {
		t.Errorf("%d of %d types have a golden payload", len(seen), len(Contract.Types))
	}
}

func TestSubjects(t *testing.T) {
	var got []string
	for _, s := range Contract.Subjects() {
		got = append(got, s.Name)
	}
	want := []string{"orders.events-shop.orders.v1.OrderCancelled", "orders.events-shop.orders.v1.OrderConfirmed",
		"orders.events-shop.orders.v1.OrderLineAdded", "orders.events-shop.orders.v1.OrderPlaced"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestHistory: every released version can be read, and none was changed.
func TestHistory(t *testing.T) { estest.History(t, Contract, ".") }
