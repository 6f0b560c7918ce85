package projection

import "github.com/millrace/millrace/platform/fault"

var (
	// ErrView is returned by Add for a view that cannot work, and by Open for one whose stored form does not fit its code.
	ErrView = fault.New(fault.Internal, "invalid_view", "the view cannot be used")
	// ErrConfig is returned by New for settings that cannot be used.
	ErrConfig = fault.New(fault.Invalid, "invalid_projection_config", "the settings of the projector are not usable")
	// ErrControl is returned when what is remembered of a view's builds cannot be read or written.
	ErrControl = fault.New(fault.Internal, "view_control", "what is remembered of the view's builds cannot be used")
	// ErrViewNotFound is returned for a view that this projector does not have.
	ErrViewNotFound = fault.New(fault.NotFound, "view_not_found", "there is no such view")
	// ErrRowNotFound is returned by Get for a key without a row.
	ErrRowNotFound = fault.New(fault.NotFound, "row_not_found", "there is no such row")
	// ErrQuery is returned for an unknown index, an empty index value, or a range that is upside down.
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
	// ErrBuildEnds is returned for a position that a build with an end never comes to.
	ErrBuildEnds = fault.New(fault.Conflict, "build_ends", "the build ends before the position")
	// ErrPaused is returned for what needs a view to be kept up to date while it is not.
	ErrPaused = fault.New(fault.Conflict, "view_paused", "the view is not being kept up to date")
	// ErrBuildNotFound is returned for a build that a view does not have.
	ErrBuildNotFound = fault.New(fault.NotFound, "build_not_found", "the view has no such build")
	// ErrBuild is returned for what cannot be done with a build as it is.
	ErrBuild = fault.New(fault.Conflict, "build_state", "this cannot be done with the build")
	// ErrForeignBackup is returned for a backup that is not of the view, or of the version of it, that it is to be restored for.
	ErrForeignBackup = fault.New(fault.Conflict, "foreign_backup", "the backup is of something else")
	// ErrSpace is returned when a build would not fit on the disk.
	ErrSpace = fault.New(fault.Conflict, "no_disk_space", "there is not enough room on the disk for another build")
	// ErrLetterNotFound is returned for a dead letter that is not there, or not any more.
	ErrLetterNotFound = fault.New(fault.NotFound, "letter_not_found", "there is no such dead letter")
	// ErrLetterOrder is returned for a dead letter that waits behind another one of its stream.
	ErrLetterOrder = fault.New(fault.Conflict, "letter_order", "the dead letters of a stream are dealt with in order")
	// errRow is why a view halts at an event whose row cannot be stored.
	errRow = fault.New(fault.Internal, "unstorable_row", "the row cannot be stored")
	// errHalt is why a view halts at an event that its code cannot handle.
	errHalt = fault.New(fault.Internal, "view_failed", "the view's code failed")
	// errBehind is why an event is a dead letter that was never tried.
	errBehind = fault.New(fault.Conflict, "waits_behind", "it waits behind an earlier dead letter of its stream")
)
