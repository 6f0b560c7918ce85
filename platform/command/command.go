// Package command is the write side of Millrace: it decides commands one after the other on everything that was decided before on
// their stream, appends the events of many commands in one fenced write, and answers each command, also a repeated one, with the one
// receipt it ever gets. It knows neither HTTP nor Kafka nor Badger: packages rest, eventlog and store do.
package command

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
)

// The errors of this package. Refusals of the domain are the decider's own faults, passed on unchanged.
var (
	ErrCommandID      = fault.New(fault.Invalid, "invalid_command_id", "the command id is not allowed")
	ErrVersion        = fault.New(fault.PreconditionFailed, "version_conflict", "the stream is not at the expected version")
	ErrReused         = fault.New(fault.Rejected, "idempotency_key_reused", "this command id was used for another command")
	ErrStreamNotFound = fault.New(fault.NotFound, "stream_not_found", "there is no such stream")
	ErrUnknownCommand = fault.New(fault.NotFound, "command_not_found", "no command with this id took effect on this stream")
	ErrTooLarge       = fault.New(fault.TooLarge, "command_too_large", "the events of this command do not fit in one write")
	ErrOverloaded     = fault.New(fault.Unavailable, "overloaded", "too many commands are waiting")
	ErrUnavailable    = fault.New(fault.Unavailable, "partition_unavailable", "the stream's partition takes no commands at the moment")
	ErrElsewhere      = fault.New(fault.Unavailable, "not_owner", "another instance decides the commands of this stream")
	ErrGone           = fault.New(fault.Unavailable, "owner_gone", "nobody listens at the address of the stream's owner")
	ErrMoved          = fault.New(fault.Unknown, "owner_changed", "another instance took the stream's partition before the outcome of the command was known")
	ErrOutcome        = fault.New(fault.Unknown, "outcome_unknown", "the outcome of the command is not known yet")
	ErrDecider        = fault.New(fault.Internal, "decider_failed", "the decider failed")
	ErrStore          = fault.New(fault.Internal, "stream_store", "the stream store and the log do not fit together")
)

// A Command is one request to a decider.
type Command[C any] struct {
	Stream  es.StreamID
	ID      string // the idempotency key: a command takes effect at most once under it, for ever
	Payload C
	Expect  *es.Version // the version the stream must have; nil = decide on the latest, 0 = the stream must be new
	Repeat  bool        // an earlier attempt for the same caller may have taken effect: that is no replay to him
	Meta    es.Meta     // CommandID, CommandHash and Time are filled in by the engine where empty
}

// A Receipt is the answer to an accepted command: what it changed and where that is.
type Receipt struct {
	ID       es.StreamID `json:"id"`
	Version  es.Version  `json:"version"`
	Events   []EventRef  `json:"events"`
	Position es.Position `json:"position,omitzero"` // of the last event
	Replayed bool        `json:"-"`                 // true if the command had taken effect before this request
}

// An EventRef names one event of a receipt.
type EventRef struct {
	Type    string     `json:"type"`
	ID      string     `json:"id"`
	Version es.Version `json:"version"`
}

// receipt derives a command's receipt from what the log holds of it, so that a repeat gets the same answer for ever.
func receipt(at es.TopicPartition, stream es.StreamID, p *past) Receipt {
	r := Receipt{
		ID:       stream,
		Version:  p.first + es.Version(len(p.types)) - 1,
		Events:   make([]EventRef, len(p.types)),
		Position: es.Position{TopicPartition: at, Offset: p.offset},
	}
	for i, t := range p.types {
		r.Events[i] = EventRef{Type: t, ID: es.EventID(stream, p.id, i), Version: p.first + es.Version(i)}
	}
	return r
}

// fingerprint tells the payload of a repeated command from another one under the same id: type and canonical JSON, 128 bit.
func fingerprint(payload any) (string, error) {
	text, err := json.Marshal(payload)
	if err != nil {
		return "", fmt.Errorf("command: fingerprint of %T: %w", payload, err)
	}
	text = append(append(text, '\n'), reflect.TypeOf(payload).String()...)
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16]), nil
}

// The life of a request: the caller may give up only while it is queued; once admitted its outcome belongs to the log.
const (
	queued int32 = iota
	admitted
	abandoned
)

type result struct {
	receipt Receipt
	err     error
}

// prepare checks the command and fills in its metadata.
func (c *Command[C]) prepare(now time.Time) error {
	if err := es.CheckID(string(c.Stream)); err != nil {
		return err
	}
	if err := es.CheckID(c.ID); err != nil {
		return ErrCommandID.Because("%s", fault.From(err).Detail)
	}
	c.Meta.Stream, c.Meta.CommandID = c.Stream, c.ID
	if c.Meta.CorrelationID == "" {
		c.Meta.CorrelationID = c.ID
	}
	if c.Meta.Time.IsZero() {
		// Microseconds are what events and stores keep: finer digits would differ after a reload.
		c.Meta.Time = now.UTC().Truncate(time.Microsecond)
	}
	if c.Meta.CommandHash == "" {
		hash, err := fingerprint(c.Payload)
		if err != nil {
			return err
		}
		c.Meta.CommandHash = hash
	}
	return nil
}
