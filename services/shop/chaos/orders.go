package main

import (
	"fmt"

	"github.com/millrace/millrace/platform/estest/check"
)

// order is what clients ask of an order; two payloads are the same if they are equal.
type order struct {
	kind   string // the command, as it is in the path
	amount int64  // of the one line, in minor units
}

// body is the JSON of the command.
func (o order) body() string {
	switch o.kind {
	case "place":
		return fmt.Sprintf(`{"customer_id":"c-1","currency":"USD","lines":[{"sku":"cd","quantity":1,"amount":%d}]}`, o.amount)
	case "add-line":
		return fmt.Sprintf(`{"sku":"cd","quantity":1,"amount":%d}`, o.amount)
	default:
		return ""
	}
}

// placed is an order as far as the answers show it; the zero value was not placed.
type placed struct {
	status string
	amount int64 // that it was placed with
	lines  int
}

// spec says what the shop's orders do, for the checkers.
func spec() check.Spec {
	return check.Spec{Decide: func(state, payload any) (any, int, string) {
		s, _ := state.(placed)
		o := payload.(order)
		if o.kind == "place" {
			switch {
			case s.status == "":
				return placed{"placed", o.amount, 1}, 1, ""
			case s.amount != o.amount:
				return s, 0, "order_exists"
			}
			return s, 0, ""
		}
		switch {
		case s.status == "":
			return s, 0, "order_not_found"
		case s.status == "cancelled" && o.kind != "cancel":
			return s, 0, "order_cancelled"
		}
		switch o.kind {
		case "add-line":
			switch {
			case s.lines >= 200:
				return s, 0, "invalid_order"
			case s.status == "confirmed":
				return s, 0, "order_confirmed"
			}
			s.lines++
			return s, 1, ""
		case "confirm":
			if s.status == "confirmed" {
				return s, 0, ""
			}
			s.status = "confirmed"
			return s, 1, ""
		default: // cancel
			if s.status == "cancelled" {
				return s, 0, ""
			}
			s.status = "cancelled"
			return s, 1, ""
		}
	}}
}
