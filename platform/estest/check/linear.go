package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// A Spec is the decider of the streams that are judged, as far as its answers show it. States are compared with ==.
type Spec struct {
	// Decide returns the state after a command and the number of its events, or the code of its refusal.
	Decide func(state, payload any) (after any, events int, refusal string)
	// Hash returns the fingerprint that the log keeps of a payload: it tells which of several payloads under one id took effect. nil = no
	// client ever used an id twice.
	Hash func(payload any) string
}

// operation is the input of a step of the model, with what is known of its output.
type operation struct {
	kind    Outcome
	command string
	payload any
	expect  int64 // -1 = any
	first   int64 // of a command that took effect: its versions
	last    int64
	code    string
	version int64 // of an answer that names one; -1 = none
	who     string
}

// state is one stream. applied holds "id@first-last;" for each command that took effect.
type state struct {
	version int64
	domain  any
	applied string
}

func (s state) has(id string) bool {
	return strings.HasPrefix(s.applied, id+"@") || strings.Contains(s.applied, ";"+id+"@")
}

// Linearizable checks, stream by stream, that all answers can be explained by commands that took effect one after the other, each
// between its call and its answer. What the log holds of commands without an answer counts as an effect at any time after the call.
// Answers that appended nothing may be older than their call by the lease.
//
// It decides in two ways that must agree. Versions say in which order commands took effect, and what appended nothing can as well come at
// the first moment at which it is right: so explain needs no search. Porcupine searches without knowing that; what it has not found
// within limit of real time, it does not contradict.
func (l *Log) Linearizable(history []Attempt, spec Spec, lease, limit time.Duration) []Violation {
	f := found{checker: "Linearizable"}
	type effect struct {
		call, ret time.Duration
		op        operation
	}
	effects := map[commandKey]*effect{}
	streams := map[string][]porcupine.Operation{}
	add := func(stream string, op operation, call, ret time.Duration) {
		streams[stream] = append(streams[stream], porcupine.Operation{Input: op, Call: int64(call), Return: int64(ret)})
	}
	for i := range history {
		a := &history[i]
		k := commandKey{a.Stream, a.Command}
		switch {
		case a.took():
			e := effects[k]
			if e == nil {
				e = &effect{call: Forever, ret: Forever}
				effects[k] = e
			}
			e.ret = min(e.ret, a.Return)
			if a.Payload == nil {
				continue // a look-up causes nothing
			}
			e.call = min(e.call, a.Call)
			if e.op.kind != Acked {
				e.op = operation{kind: Acked, command: a.Command, payload: a.Payload, expect: expected(a),
					first: a.Receipt.Version - int64(len(a.Receipt.Events)) + 1, last: a.Receipt.Version, who: a.Node}
			}
		case a.Outcome == Unknown && a.Payload != nil:
			events := l.commands[k]
			if len(events) == 0 || spec.Hash != nil && spec.Hash(a.Payload) != events[0].Hash {
				continue
			}
			e := effects[k]
			if e == nil {
				e = &effect{call: a.Call, ret: Forever}
				effects[k] = e
			}
			e.call = min(e.call, a.Call)
			if e.op.kind != Acked {
				e.op = operation{kind: Acked, command: a.Command, payload: a.Payload, expect: expected(a),
					first: events[len(events)-1].Version - int64(events[0].Count) + 1, last: events[len(events)-1].Version, who: a.Node}
			}
		case a.rests():
			op := operation{kind: a.Outcome, command: a.Command, payload: a.Payload, expect: expected(a), code: a.Code, version: -1, who: a.Node}
			switch a.Outcome {
			case Read:
				op.version = int64(len(a.Events))
			case Conflict:
				op.version = a.Current
			}
			add(a.Stream, op, a.Call-lease, a.Return)
		}
	}
	for k, e := range effects {
		if e.op.kind == Acked {
			add(k.stream, e.op, e.call, e.ret)
		}
	}
	model := modelOf(spec)
	for stream, ops := range streams {
		if reason := l.explain(stream, ops, spec); reason != "" {
			f.add("%q: %s; its %d operations: %s", stream, reason, len(ops), describe(ops, stream, history))
			continue
		}
		if porcupine.CheckOperationsTimeout(model, ops, limit) == porcupine.Illegal {
			f.add("%q: no order of its %d operations explains the answers: %s", stream, len(ops), describe(ops, stream, history))
		}
	}
	return f.list
}

// modelOf returns the specification as porcupine takes it.
func modelOf(spec Spec) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return state{} },
		Step: func(s, in, _ any) (bool, any) { return step(spec, s.(state), in.(operation)) },
	}
}

// explain goes through the effects on a stream in their order, and returns what cannot be explained, or "".
func (l *Log) explain(stream string, ops []porcupine.Operation, spec Spec) string {
	var effects, rest []*porcupine.Operation
	for i := range ops {
		if ops[i].Input.(operation).kind == Acked {
			effects = append(effects, &ops[i])
		} else {
			rest = append(rest, &ops[i])
		}
	}
	// Of the effects at one version the events come first, and notes follow in the order of the log.
	offset := func(op operation) int64 {
		if events := l.Command(stream, op.command); len(events) > 0 && op.last < op.first {
			return events[0].Offset
		}
		return -1
	}
	slices.SortStableFunc(effects, func(a, b *porcupine.Operation) int {
		x, y := a.Input.(operation), b.Input.(operation)
		return cmp.Or(cmp.Compare(x.last, y.last), cmp.Compare(offset(x), offset(y)))
	})
	// before returns an operation among the remaining ones that had ended when another one began.
	before := func(o *porcupine.Operation) *porcupine.Operation {
		for _, list := range [...][]*porcupine.Operation{effects, rest} {
			for _, r := range list {
				if r != o && r.Return < o.Call {
					return r
				}
			}
		}
		return nil
	}
	s := state{}
	for {
		// Taking one may make another one the first that remains.
		for taken := true; taken; {
			taken = false
			rest = slices.DeleteFunc(rest, func(r *porcupine.Operation) bool {
				ok, _ := step(spec, s, r.Input.(operation))
				ok = ok && before(r) == nil
				taken = taken || ok
				return ok
			})
		}
		if len(effects) == 0 {
			break
		}
		e := effects[0]
		op := e.Input.(operation)
		ok, after := step(spec, s, op)
		switch {
		case !ok:
			return fmt.Sprintf("%q cannot follow at version %d", op.command, s.version)
		case before(e) != nil:
			late := before(e).Input.(operation)
			return fmt.Sprintf("%q of %s (%v) had ended before %q began, and fits nowhere before it", late.command, late.who, late.kind, op.command)
		}
		s = after.(state)
		effects = effects[1:]
	}
	if len(rest) > 0 {
		late := rest[0].Input.(operation)
		return fmt.Sprintf("%q of %s (%v) fits nowhere", late.command, late.who, late.kind)
	}
	return ""
}

func expected(a *Attempt) int64 {
	if a.Expect == nil {
		return -1
	}
	return *a.Expect
}

// step is the specification: whether an operation can have its outcome in a state, and the state after it.
func step(spec Spec, s state, op operation) (bool, any) {
	fits := op.expect < 0 || op.expect == s.version
	switch op.kind {
	case Acked:
		after, n, refusal := spec.Decide(s.domain, op.payload)
		ok := !s.has(op.command) && fits && refusal == "" && op.first == s.version+1 && op.last == s.version+int64(n)
		return ok, state{op.last, after, fmt.Sprintf("%s%s@%d-%d;", s.applied, op.command, op.first, op.last)}
	case Refused:
		_, _, refusal := spec.Decide(s.domain, op.payload)
		return !s.has(op.command) && fits && refusal == op.code, s
	case Conflict:
		return !s.has(op.command) && op.expect >= 0 && op.expect != s.version && op.version == s.version, s
	case Reused:
		return s.has(op.command), s
	case Read:
		return op.version == s.version, s
	case NotFound:
		return !s.has(op.command), s
	}
	return false, s
}

// describe lists the operations on a stream, and the attempts without an answer that may have to do with it.
func describe(ops []porcupine.Operation, stream string, history []Attempt) string {
	var b strings.Builder
	for _, o := range ops {
		op := o.Input.(operation)
		fmt.Fprintf(&b, "\n  [%v..%v] %s %q %v expect %d: %v", time.Duration(o.Call), time.Duration(o.Return), op.who, op.command, op.payload, op.expect, op.kind)
		switch {
		case op.kind == Acked:
			fmt.Fprintf(&b, ", versions %d-%d", op.first, op.last)
		case op.version >= 0:
			fmt.Fprintf(&b, ", at %d", op.version)
		default:
			fmt.Fprintf(&b, " %s", op.code)
		}
	}
	for i := range history {
		if a := &history[i]; a.Stream == stream && (a.Outcome == Unknown || a.Outcome == Absent) && a.Command != "" {
			fmt.Fprintf(&b, "\n  [%v..] %s %q %v: %v %.200s", a.Call, a.Node, a.Command, a.Payload, a.Outcome, a.Note)
		}
	}
	return b.String()
}
