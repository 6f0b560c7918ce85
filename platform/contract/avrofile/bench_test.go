package avrofile

import (
	"fmt"
	"io"
	"testing"
	"time"
)

// BenchmarkWrite writes rows of 10 fields.
func BenchmarkWrite(b *testing.B) {
	type line struct {
		SKU      string `json:"sku"`
		Quantity int64  `json:"quantity"`
		Amount   int64  `json:"amount"`
	}
	type order struct {
		OrderID    string    `json:"order_id"`
		CustomerID string    `json:"customer_id"`
		Status     string    `json:"status"`
		Currency   string    `json:"currency"`
		OrderedAt  time.Time `json:"ordered_at"`
		Lines      []line    `json:"lines"`
		Units      int64     `json:"units"`
		Total      int64     `json:"total"`
	}
	rows := make([]Row, 1000)
	for i := range rows {
		rows[i].Key = fmt.Sprint("o-", i*7919%100_000)
		o := order{rows[i].Key, fmt.Sprint("c-", i*31%977), "placed", "USD", time.Unix(int64(i)*86_413, 0).UTC(), nil, int64(i % 9), int64(i*i) % 9973}
		for j := range 1 + i%3 {
			o.Lines = append(o.Lines, line{fmt.Sprint("sku-", i*j%50), int64(j), int64(i*j) % 5000})
		}
		rows[i].JSON = asJSON(b, o)
	}
	w, err := NewWriter(io.Discard, form(b, order{}, Options{}), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		b.SetBytes(int64(len(rows[i%1000].JSON)))
		if err := w.Write(&rows[i%1000]); err != nil {
			b.Fatal(err)
		}
	}
}
