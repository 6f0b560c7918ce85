package folds

import (
	"slices"

	"github.com/millrace/millrace/platform/es"
)

// An order is a row of the events of one stream.
type order struct {
	Customer string   `json:"customer"`
	Status   string   `json:"status"`
	Total    int64    `json:"total"`
	Events   int64    `json:"events"`
	Steps    []string `json:"steps,omitempty"`
}

// orders has a row per stream, rows that go and come back, and events that it cannot handle until its code is mended. Version 2 has
// another total and one index less.
func orders(version int, mended bool) es.View[order, event] {
	v := es.View[order, event]{
		Name: "orders", Version: version, OnError: es.Park,
		Key: func(e es.Envelope[event]) (string, bool) { return string(e.Stream), e.Event.Kind != "none" },
		Apply: func(r order, e es.Envelope[event]) order {
			if e.Event.Kind == "sick" && !mended {
				r.Events = -1
				panic("sick")
			}
			r.Status = e.Event.Kind
			if e.Event.Kind == "placed" {
				r.Customer = e.Event.Customer
			}
			r.Total += e.Event.Amount * int64(version)
			r.Events++
			if r.Steps = append(r.Steps, e.Position.String()); len(r.Steps) > 3 {
				r.Steps = slices.Delete(r.Steps, 0, 1)
			}
			return r
		},
		Gone: func(r order) bool { return r.Status == "archived" },
		Indexes: map[string]es.Index[order]{
			"customer": es.By(es.Text(func(r order) string { return r.Customer }), es.Descending(es.Number(func(r order) int64 { return r.Total }))),
			"status":   es.By(es.Text(func(r order) string { return r.Status })),
		},
	}
	if version == 2 {
		delete(v.Indexes, "status")
	}
	return v
}

// A balance is a row that events of all partitions of both topics change, in any order.
type balance struct {
	Sum int64 `json:"sum"`
}

// balances has rows that are gone when nothing is left on them, so that their fold is the same whatever the order of the partitions.
func balances() es.View[balance, event] {
	return es.View[balance, event]{
		Name: "balances", Version: 1, OnError: es.Park,
		Key:   func(e es.Envelope[event]) (string, bool) { return e.Event.Customer, e.Event.Customer != "" },
		Apply: func(r balance, e es.Envelope[event]) balance { r.Sum += e.Event.Amount; return r },
		Gone:  func(r balance) bool { return r.Sum == 0 },
		Indexes: map[string]es.Index[balance]{
			"sum": es.By(es.Number(func(r balance) int64 { return r.Sum })),
		},
	}
}

// A seat is a row of which one event changes many.
type seat struct {
	Who   string `json:"who"`
	Row   int64  `json:"row"`
	Email string `json:"email,omitempty"`
}

// seats has events of many rows, all of them or none, rows that are deleted, an index that refuses a second row, and dead letters.
func seats() es.View[seat, event] {
	return es.View[seat, event]{
		Name: "seats", Version: 1, OnError: es.Park,
		Keys: func(e es.Envelope[event]) []string { return e.Event.Seats },
		ApplyTo: func(key string, r seat, e es.Envelope[event]) seat {
			if e.Event.Kind == "poison" && key == e.Event.Seats[len(e.Event.Seats)-1] {
				panic("poison")
			}
			r.Who, r.Email = string(e.Stream), e.Event.Email
			r.Row += e.Event.Amount
			if e.Event.Kind == "left" {
				r.Who = ""
			}
			return r
		},
		Gone: func(r seat) bool { return r.Who == "" },
		Indexes: map[string]es.Index[seat]{
			"who":   es.By(es.Text(func(r seat) string { return r.Who }), es.Number(func(r seat) int64 { return r.Row })),
			"email": es.UniqueBy(es.Text(func(r seat) string { return r.Email })),
		},
	}
}
