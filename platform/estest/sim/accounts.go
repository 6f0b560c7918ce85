package sim

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/estest/check"
	"github.com/millrace/millrace/platform/fault"
)

// The streams of a simulation are accounts that never go below zero.

// event is what happens to an account.
//
//sumtype:decl
type event interface{ isEvent() }

type credited struct {
	Amount int64 `avro:"amount"`
}

type debited struct {
	Amount int64 `avro:"amount"`
}

func (credited) isEvent() {}
func (debited) isEvent()  {}

// account is its balance.
type account int64

// request is what clients ask for: payloads are compared with ==.
type request struct {
	Credit int64 // each of so much …
	Times  int   // … so many times; 0 = nothing to do
	Debit  int64 // once, if there is so much
}

var errOverdrawn = fault.New(fault.Rejected, "overdrawn", "not enough money")

// decide returns the balance after a command and how many events it causes.
func (c request) decide(a account) (after account, events int, err error) {
	switch {
	case c.Debit > int64(a):
		return a, 0, errOverdrawn
	case c.Debit > 0:
		return a - account(c.Debit), 1, nil
	default:
		return a + account(c.Credit*int64(c.Times)), c.Times, nil
	}
}

func decider() es.Decider[account, request, event] {
	return es.Decider[account, request, event]{
		Fold: 1,
		Decide: func(a account, c request, _ es.Meta) ([]event, error) {
			_, n, err := c.decide(a)
			if err != nil {
				return nil, err
			}
			if c.Debit > 0 {
				return []event{debited{c.Debit}}, nil
			}
			events := make([]event, n)
			for i := range events {
				events[i] = credited{c.Credit}
			}
			return events, nil
		},
		Evolve: func(a account, e event) account {
			switch e := e.(type) {
			case credited:
				a += account(e.Amount)
			case debited:
				a -= account(e.Amount)
			}
			return a
		},
	}
}

// spec is the same decider for the checkers.
func spec() check.Spec {
	return check.Spec{Decide: func(state, payload any) (any, int, string) {
		a, _ := state.(account) // nil is the empty account
		after, n, err := payload.(request).decide(a)
		if err != nil {
			return a, 0, fault.From(err).Code
		}
		return after, n, ""
	}, Hash: func(payload any) string {
		// As package command does it: of the canonical JSON and the type.
		text, err := json.Marshal(payload)
		if err != nil {
			panic(err) // a struct of numbers
		}
		sum := sha256.Sum256(fmt.Appendf(text, "\n%T", payload))
		return hex.EncodeToString(sum[:16])
	}}
}

func accounts(topic string) contract.Set[event] {
	return contract.Set[event]{Topic: topic, Types: []contract.Type[event]{
		contract.For[credited, event](`{"type":"record","name":"Credited","namespace":"sim.v1","fields":[{"name":"amount","type":"long"}]}`),
		contract.For[debited, event](`{"type":"record","name":"Debited","namespace":"sim.v1","fields":[{"name":"amount","type":"long"}]}`),
	}}
}
