// Package order is the write model of orders: what may happen to an order, and what follows from it. It is pure.
package order

import (
	"fmt"
	"slices"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
	ordersv1 "github.com/millrace/millrace/schemas/orders/v1"
)

// The refusals of this service.
var (
	ErrInvalid   = fault.New(fault.Rejected, "invalid_order", "the order is not acceptable")
	ErrNotFound  = fault.New(fault.NotFound, "order_not_found", "there is no such order")
	ErrExists    = fault.New(fault.Conflict, "order_exists", "another order was placed under this id")
	ErrCancelled = fault.New(fault.Rejected, "order_cancelled", "the order is cancelled and takes nothing more")
	ErrConfirmed = fault.New(fault.Rejected, "order_confirmed", "the order is confirmed and takes no more lines")
)

// The bounds of an order.
const (
	MaxLines    = 200
	MaxQuantity = 1_000_000
	MaxTotal    = 1_000_000_000_000 // minor units: sums over millions of orders still fit in 64 bits
	MaxText     = 64
	MaxReason   = 500
)

// A Command is one of Place, AddLine, Confirm, Cancel.
//
//sumtype:decl
type Command interface{ isCommand() }

// Place places a new order. Placing the same order again changes nothing.
type Place struct {
	CustomerID string     `json:"customer_id"`
	Currency   string     `json:"currency"`             // ISO 4217, e.g. "USD"
	OrderedAt  *time.Time `json:"ordered_at,omitempty"` // default: the time of the command
	Lines      []Line     `json:"lines"`
}

// A Line is a quantity of one article and what it costs altogether, in minor units of the order's currency.
type Line struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
	Amount   int64  `json:"amount"`
}

// AddLine adds a line to an order that is not confirmed yet.
type AddLine Line

// Confirm confirms an order. Confirming it again changes nothing.
type Confirm struct{}

// Cancel cancels an order. Cancelling it again changes nothing.
type Cancel struct {
	Reason string `json:"reason,omitempty"`
}

func (Place) isCommand()   {}
func (AddLine) isCommand() {}
func (Confirm) isCommand() {}
func (Cancel) isCommand()  {}

// A Status says how far an order has come.
type Status string

// The states of an order; the zero value is an order that does not exist.
const (
	Placed    Status = "placed"
	Confirmed Status = "confirmed"
	Cancelled Status = "cancelled"
)

// A State is an order.
type State struct {
	OrderID    string    `json:"order_id"`
	Status     Status    `json:"status"`
	CustomerID string    `json:"customer_id"`
	Currency   string    `json:"currency"`
	OrderedAt  time.Time `json:"ordered_at"`
	Lines      []Line    `json:"lines"`
	Units      int64     `json:"units"`
	Total      int64     `json:"total"` // minor units
	Reason     string    `json:"reason,omitempty"`

	placedLines int // how many of Lines the order was placed with
}

// Decider is the write model.
var Decider = es.Decider[State, Command, ordersv1.Event]{Decide: decide, Evolve: evolve}

func decide(s State, c Command, m es.Meta) ([]ordersv1.Event, error) {
	if place, ok := c.(Place); ok {
		return s.place(place, m)
	}
	if s.Status == "" {
		return nil, ErrNotFound.Because("%q", m.Stream)
	}
	if _, ok := c.(Cancel); !ok && s.Status == Cancelled {
		return nil, ErrCancelled.Because("%q", s.OrderID)
	}
	switch c := c.(type) {
	case AddLine:
		return s.addLine(c)
	case Confirm:
		if s.Status == Confirmed {
			return nil, nil
		}
		return []ordersv1.Event{ordersv1.OrderConfirmed{OrderID: s.OrderID, CustomerID: s.CustomerID, OrderedAt: s.OrderedAt}}, nil
	case Cancel:
		return s.cancel(c)
	default:
		return nil, fmt.Errorf("order: no rule for %T", c)
	}
}

func (s State) place(c Place, m es.Meta) ([]ordersv1.Event, error) {
	units, total, err := c.check()
	if err != nil {
		return nil, err
	}
	if s.Status != "" {
		same := s.CustomerID == c.CustomerID && s.Currency == c.Currency && slices.Equal(s.Lines[:s.placedLines], c.Lines) &&
			(c.OrderedAt == nil || s.OrderedAt.Equal(c.OrderedAt.Truncate(time.Microsecond)))
		if !same {
			return nil, ErrExists.Because("%q is another order", s.OrderID).WithFix("choose another order id")
		}
		return nil, nil
	}
	at := m.Time
	if c.OrderedAt != nil {
		at = c.OrderedAt.UTC().Truncate(time.Microsecond)
	}
	placed := ordersv1.OrderPlaced{
		OrderID: string(m.Stream), CustomerID: c.CustomerID, Currency: c.Currency, OrderedAt: at,
		Lines: make([]ordersv1.OrderLine, len(c.Lines)), Units: units, Total: total,
	}
	for i, l := range c.Lines {
		placed.Lines[i] = ordersv1.OrderLine(l)
	}
	return []ordersv1.Event{placed}, nil
}

// check returns the sums of the order's lines, or everything that is wrong with it.
func (c Place) check() (units, total int64, err error) {
	bad := ErrInvalid
	if err := es.CheckID(c.CustomerID); err != nil {
		bad = bad.At("/customer_id", "%s", fault.From(err).Detail)
	}
	if !isCurrency(c.Currency) {
		bad = bad.At("/currency", "three capital letters of ISO 4217 are needed")
	}
	if c.OrderedAt != nil && (c.OrderedAt.UTC().Year() < 1 || c.OrderedAt.UTC().Year() > 9999) {
		bad = bad.At("/ordered_at", "the year must be 1 to 9999, in UTC")
	}
	if len(c.Lines) == 0 || len(c.Lines) > MaxLines {
		bad = bad.At("/lines", "1 to %d lines are needed, there are %d", MaxLines, len(c.Lines))
	}
	for i, l := range c.Lines[:min(len(c.Lines), MaxLines)] {
		at := fmt.Sprintf("/lines/%d", i)
		bad = l.check(bad, at)
		if l.Amount > MaxTotal-total {
			bad = bad.At(at+"/amount", "the total must not exceed %d minor units", MaxTotal)
			break
		}
		units += l.Quantity
		total += max(l.Amount, 0)
	}
	if len(bad.Fields) > 0 {
		return 0, 0, bad
	}
	return units, total, nil
}

// check adds what is wrong with the line at a JSON pointer to bad.
func (l Line) check(bad *fault.Error, at string) *fault.Error {
	if err := es.CheckID(l.SKU); err != nil {
		bad = bad.At(at+"/sku", "%s", fault.From(err).Detail)
	} else if len(l.SKU) > MaxText {
		bad = bad.At(at+"/sku", "at most %d bytes are allowed", MaxText)
	}
	if l.Quantity < 1 || l.Quantity > MaxQuantity {
		bad = bad.At(at+"/quantity", "must be 1 to %d", MaxQuantity)
	}
	if l.Amount < 0 {
		bad = bad.At(at+"/amount", "must not be negative")
	}
	return bad
}

func isCurrency(s string) bool {
	if len(s) != 3 {
		return false
	}
	for i := range len(s) {
		if s[i] < 'A' || s[i] > 'Z' {
			return false
		}
	}
	return true
}

func (s State) addLine(c AddLine) ([]ordersv1.Event, error) {
	bad := Line(c).check(ErrInvalid, "")
	if len(s.Lines) >= MaxLines {
		bad = bad.At("", "the order has %d lines, the most it can have", MaxLines)
	}
	if c.Amount > MaxTotal-s.Total {
		bad = bad.At("/amount", "the total must not exceed %d minor units", MaxTotal)
	}
	if len(bad.Fields) > 0 {
		return nil, bad
	}
	if s.Status == Confirmed {
		return nil, ErrConfirmed.Because("%q", s.OrderID)
	}
	return []ordersv1.Event{ordersv1.OrderLineAdded{
		OrderID: s.OrderID, CustomerID: s.CustomerID, Currency: s.Currency, OrderedAt: s.OrderedAt,
		SKU: c.SKU, Quantity: c.Quantity, Amount: c.Amount, Units: s.Units + c.Quantity, Total: s.Total + c.Amount,
	}}, nil
}

func (s State) cancel(c Cancel) ([]ordersv1.Event, error) {
	if len(c.Reason) > MaxReason {
		return nil, ErrInvalid.At("/reason", "at most %d bytes are allowed", MaxReason)
	}
	if s.Status == Cancelled {
		return nil, nil
	}
	return []ordersv1.Event{ordersv1.OrderCancelled{
		OrderID: s.OrderID, CustomerID: s.CustomerID, Currency: s.Currency, OrderedAt: s.OrderedAt,
		Units: s.Units, Total: s.Total, Reason: c.Reason,
	}}, nil
}

func evolve(s State, e ordersv1.Event) State {
	switch e := e.(type) {
	case ordersv1.OrderPlaced:
		s = State{
			OrderID: e.OrderID, Status: Placed, CustomerID: e.CustomerID, Currency: e.Currency, OrderedAt: e.OrderedAt,
			Units: e.Units, Total: e.Total, placedLines: len(e.Lines),
		}
		for _, l := range e.Lines {
			s.Lines = append(s.Lines, Line(l))
		}
	case ordersv1.OrderLineAdded:
		// Clipped, for the state before this event may share the array.
		s.Lines = append(slices.Clip(s.Lines), Line{SKU: e.SKU, Quantity: e.Quantity, Amount: e.Amount})
		s.Units, s.Total = e.Units, e.Total
	case ordersv1.OrderConfirmed:
		s.Status = Confirmed
	case ordersv1.OrderCancelled:
		s.Status, s.Reason = Cancelled, e.Reason
	}
	return s
}
