package projection

import (
	"context"
	"io"
	"strconv"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/store"
)

// A BackupInfo says what is in a backup of a view: the rows, index entries and dead letters of a build, and how far it was.
type BackupInfo struct {
	View    string       `json:"view"`
	Version int          `json:"version"`
	Build   string       `json:"build"` // that it was taken of
	Created time.Time    `json:"created"`
	Applied es.Positions `json:"-"` // the rows are the fold up to there
	Rows    int64        `json:"rows"`
	Bytes   int64        `json:"bytes"`
	SHA256  string       `json:"sha256"`

	shape   string
	cursors []eventlog.Cursor
}

// The metadata of a backup.
const (
	metaView      = "view"
	metaVersion   = "version"
	metaBuild     = "build"
	metaShape     = "shape"
	metaPositions = "positions"
)

// A Backup is one state of a view, to be written as a backup. It must be closed.
type Backup struct {
	Applied es.Positions
	Build   string
	Version int
	g       *generation
	snap    *snapshot
}

// Backup writes a backup of what a view shows to w, while it goes on. Errors: those of BeginBackup and Backup.Write.
func (p *Projector) Backup(ctx context.Context, view string, w io.Writer) (BackupInfo, error) {
	b, err := p.BeginBackup(view)
	if err != nil {
		return BackupInfo{}, err
	}
	defer b.Close()
	return b.Write(ctx, w)
}

// BeginBackup holds the state that a view shows, of the build that answers queries, to be backed up. Errors: ErrViewNotFound, the store's.
func (p *Projector) BeginBackup(view string) (*Backup, error) {
	g, err := p.live(view)
	if err != nil {
		return nil, err
	}
	b := &Backup{Build: g.born.id(), Version: g.born.Version, g: g}
	if b.snap, _, err = g.hold(); err != nil {
		return nil, err
	}
	cursors, err := storedCursors(b.snap.Reader)
	if err != nil {
		b.Close()
		return nil, err
	}
	b.Applied = applied(cursors)
	return b, nil
}

// Write writes the backup, with the view's name, version, shape and positions in its description, to w. If it returns an error (the
// store's, store.ErrBackupFailed if w fails, ErrBuild if the build is dropped meanwhile, ctx's), what was written is no backup.
func (b *Backup) Write(ctx context.Context, w io.Writer) (BackupInfo, error) {
	ctx, cancel := b.g.lasting(ctx)
	defer cancel()
	rows := int64(0)
	got, err := b.snap.Backup(ctx, w, store.BackupOptions{Describe: b.describe, Each: func(key []byte) {
		if key[0] == rowSpace {
			rows++
		}
	}})
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return BackupInfo{}, err
	}
	return BackupInfo{View: b.g.view.name, Version: b.Version, Build: b.Build, Created: got.Created, Applied: b.Applied, Rows: rows, Bytes: got.Bytes, SHA256: got.SHA256}, nil
}

func (b *Backup) describe(r *store.Reader) (map[string]string, error) {
	form, err := r.Get([]byte{shapeSpace})
	if err != nil {
		return nil, err
	}
	return map[string]string{metaView: b.g.view.name, metaVersion: strconv.Itoa(b.Version), metaBuild: b.Build, metaShape: string(form), metaPositions: b.Applied.String()}, nil
}

// Close lets the state go.
func (b *Backup) Close() { b.snap.release() }

// storedCursors returns how far a store is.
func storedCursors(r *store.Reader) (cursors []eventlog.Cursor, err error) {
	for pair, err := range r.Scan(store.Prefix([]byte{cursorSpace})) {
		if err != nil {
			return nil, err
		}
		var c eventlog.Cursor
		if err := c.UnmarshalBinary(pair.Value); err != nil {
			return nil, err
		}
		cursors = append(cursors, c)
	}
	return cursors, nil
}

// applied returns the positions before cursors.
func applied(cursors []eventlog.Cursor) (ps es.Positions) {
	for _, c := range cursors {
		if c.Next > 0 {
			ps = ps.With(es.Position{TopicPartition: c.TopicPartition, Offset: c.Next - 1})
		}
	}
	return ps
}

func wrongBackup(file, why string) *fault.Error {
	return store.ErrBackup.Because("%s: %s", file, why).WithFix("use another backup")
}

// VerifyBackup reads the backup in a file as a whole, checks all its checksums and that it is as far as it says, and says what is in it.
// Errors: store.ErrBackup, also for one that is not of a view; ctx's.
func VerifyBackup(ctx context.Context, file string) (BackupInfo, error) {
	var b BackupInfo
	shape := ""
	got, err := store.ReadBackup(ctx, file, func(key, value []byte) error {
		switch key[0] {
		case rowSpace:
			b.Rows++
		case shapeSpace:
			shape = string(value)
		case cursorSpace:
			var c eventlog.Cursor
			if err := c.UnmarshalBinary(value); err != nil {
				return wrongBackup(file, "it is not of a view").Wrap(err)
			}
			b.cursors = append(b.cursors, c)
		}
		return nil
	})
	if err != nil {
		return BackupInfo{}, err
	}
	of := got.Metadata
	b.View, b.Build, b.shape = of[metaView], of[metaBuild], of[metaShape]
	b.Created, b.Applied, b.Bytes, b.SHA256 = got.Created, applied(b.cursors), got.Bytes, got.SHA256
	if b.Version, err = strconv.Atoi(of[metaVersion]); err != nil || !viewName.MatchString(b.View) {
		return BackupInfo{}, wrongBackup(file, "it is not of a view")
	}
	if says := of[metaPositions]; says != b.Applied.String() || b.shape != shape {
		return BackupInfo{}, wrongBackup(file, "it says that it is at "+says+", and what is in it is at "+b.Applied.String()+" or of another shape")
	}
	return b, nil
}
