package eventlog

import "github.com/millrace/millrace/platform/fault"

// The failures of this package. Only ErrOutcome leaves open what happened.
var (
	// ErrUnreachable is returned when no broker answers.
	ErrUnreachable = fault.New(fault.Unavailable, "broker_unreachable", "no Kafka broker answers")
	// ErrConfig is returned by Open for settings that contradict each other or the cluster.
	ErrConfig = fault.New(fault.Invalid, "invalid_log_config", "the settings of the event log are not usable")
	// ErrTopic is returned for a topic that is missing or whose settings would lose events.
	ErrTopic = fault.New(fault.Unavailable, "topic_unusable", "the topic cannot hold events")
	// ErrFenced says that this owner may not append any more, and that the batch in question is not in the log and never will be. Its
	// cause is why the owner has ended, one of ErrDeposed, ErrForeign, ErrLease, ErrReleased and ErrTopic.
	ErrFenced = fault.New(fault.Unavailable, "owner_fenced", "the partition has to be claimed again")
	// ErrDeposed is why an owner ends when another one has claimed the partition.
	ErrDeposed = fault.New(fault.Unavailable, "owner_deposed", "another owner has the partition")
	// ErrOutcome says that the fate of a batch is open: it is in the log before the next claim, or never. It has ErrFenced's causes,
	// but is never ErrFenced.
	ErrOutcome = fault.New(fault.Unknown, "append_outcome_open", "it is not known whether the events were written")
	// ErrTooLarge says that a record or batch is larger than the topic takes; nothing was written, and the owner goes on.
	ErrTooLarge = fault.New(fault.TooLarge, "events_too_large", "the events are larger than the log takes")
	// ErrRefused says that the broker refuses the content of a batch; nothing was written, and the owner goes on.
	ErrRefused = fault.New(fault.Internal, "batch_refused", "the broker refuses the batch")
	// ErrBatchFull says that a record does not fit into the batch any more; the batch is unchanged.
	ErrBatchFull = fault.New(fault.Busy, "batch_full", "the batch is full")
	// ErrForeign is why an owner stops when its acknowledged batch is not where it must be: somebody else writes the partition.
	ErrForeign = fault.New(fault.Internal, "foreign_writer", "somebody who is not the owner writes the partition")
	// ErrLease is why an owner stops that was silent for so long that its fence may be gone.
	ErrLease = fault.New(fault.Unavailable, "lease_expired", "the owner was silent for too long")
	// ErrReleased is why an owner stops that was released or whose client was closed.
	ErrReleased = fault.New(fault.Unavailable, "owner_released", "the partition was given up")
	// ErrCursor is returned by NewSource for a cursor from which reading on would skip or repeat events.
	ErrCursor = fault.New(fault.Conflict, "cursor_invalid", "the log cannot be read from this position")
	// ErrGap is returned by Poll when the log does not continue where it must.
	ErrGap = fault.New(fault.Internal, "log_gap", "the log has a gap")
	// ErrRead is returned by Poll when a partition cannot be read, for a reason that does not pass by itself.
	ErrRead = fault.New(fault.Unavailable, "log_unreadable", "the log cannot be read")
	// ErrRecord is returned for a record whose headers are not those of an event.
	ErrRecord = fault.New(fault.Invalid, "record_malformed", "the record is not an event")
)
