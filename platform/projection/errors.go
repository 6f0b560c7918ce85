package projection

import "github.com/millrace/millrace/platform/fault"

var (
	// ErrView is returned by Add for a view that cannot work, and by Run for one whose stored form does not fit its code.
	ErrView = fault.New(fault.Internal, "invalid_view", "the view cannot be used")
	// ErrConfig is returned by New for settings that cannot be used.
	ErrConfig = fault.New(fault.Invalid, "invalid_projection_config", "the settings of the projector are not usable")
	// ErrViewNotFound is returned for a view that this projector does not have.
	ErrViewNotFound = fault.New(fault.NotFound, "view_not_found", "there is no such view")
	// ErrRowNotFound is returned by Get for a key without a row.
	ErrRowNotFound = fault.New(fault.NotFound, "row_not_found", "there is no such row")
	// ErrQuery is returned by List for an unknown index, an empty index value, or a key range that is upside down.
	ErrQuery = fault.New(fault.Invalid, "invalid_query", "the query is not possible")
	// ErrLimit is returned by List for a limit that is not 1 to MaxLimit.
	ErrLimit = fault.New(fault.Invalid, "invalid_limit", "the limit is out of range")
	// ErrCursor is returned by List for a cursor that this view did not give out for this very query.
	ErrCursor = fault.New(fault.Invalid, "bad_cursor", "the cursor is not valid for this query")
	// ErrForeignTopic is returned for a position of a topic or partition that the view does not read.
	ErrForeignTopic = fault.New(fault.Invalid, "foreign_position", "the position is not of a topic that the view reads")
	// ErrPositionAhead is returned for a position beyond the end of the log: no event can have it yet.
	ErrPositionAhead = fault.New(fault.Invalid, "position_ahead", "the position is beyond the end of the log")
	// ErrNotCaughtUp is returned when the view did not reach the asked position in time.
	ErrNotCaughtUp = fault.New(fault.Unavailable, "not_caught_up", "the view has not caught up with the position")
	// errRow is why a view halts at an event whose row cannot be stored.
	errRow = fault.New(fault.Internal, "unstorable_row", "the row cannot be stored")
	// errHalt is why a view halts at an event that its code cannot handle.
	errHalt = fault.New(fault.Internal, "view_failed", "the view's code failed")
)
