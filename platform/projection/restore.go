package projection

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/store"
)

// A Form is what of a version of a view tells whether a backup is one of it.
type Form struct {
	view    string
	version int
	shape   string
}

// FormOf returns the Form of a view that reads topics.
func FormOf[R, E any](v es.View[R, E], topics ...string) Form {
	return newCode(v).form(v.Name, topics)
}

// suits returns ErrForeignBackup unless a backup is of this version of the view.
func (f Form) suits(b *BackupInfo) error {
	switch {
	case b.View != f.view:
		return ErrForeignBackup.Because("it is of the view %s, not of %s", b.View, f.view)
	case b.Version != f.version:
		return ErrForeignBackup.Because("it is of version %d of the view %s, not of version %d", b.Version, b.View, f.version).
			WithFix("restore it with the program that has that version, or build the view from the log")
	case b.shape != f.shape:
		return ErrForeignBackup.Because("its rows were stored as %s, the code of version %d has %s", b.shape, f.version, f.shape).
			WithFix("raise the view's Version: it is built anew")
	}
	return nil
}

// suited returns nil if a backup suits one of several versions of a view.
func suited(forms []Form, b *BackupInfo) error {
	var versions []string
	for _, f := range forms {
		if f.view == b.View && f.version == b.Version || len(forms) == 1 {
			return f.suits(b)
		}
		versions = append(versions, strconv.Itoa(f.version))
	}
	if len(forms) > 0 && forms[0].view != b.View {
		return forms[0].suits(b)
	}
	return ErrForeignBackup.Because("it is of version %d of the view %s, the program has %s", b.Version, b.View, strings.Join(versions, ", ")).
		WithFix("restore it with the program that has that version, or build the view from the log")
}

// RestoreView makes a build of a backup of a view, in file, and has it answer queries from the next start on, which reads the log on from
// the backup's positions. The build that answered before stays and can be rolled back to. dir is the Config.Dir of the projector, which
// must not run; forms are those of the versions of the view that the program has. Whatever ends RestoreView before its end leaves the view
// as it was. Errors: store.ErrBackup for a file that is no whole backup, ErrForeignBackup, store.ErrLocked if the projector runs,
// ErrControl, those of store.Restore, ctx's.
func RestoreView(ctx context.Context, dir, file string, forms []Form, o store.Options) (build string, info BackupInfo, err error) {
	if info, err = VerifyBackup(ctx, file); err != nil {
		return "", BackupInfo{}, err
	}
	if err := suited(forms, &info); err != nil {
		return "", BackupInfo{}, err
	}
	release, err := store.Lock(dir)
	if err != nil {
		return "", BackupInfo{}, err
	}
	defer func() { err = errors.Join(err, release()) }()
	v := view{name: info.View, dir: filepath.Join(dir, info.View)}
	if err := os.MkdirAll(v.dir, 0o700); err != nil {
		return "", BackupInfo{}, ErrControl.Because("%s", v.dir).Wrap(err)
	}
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if err := v.recall(log); err != nil {
		return "", BackupInfo{}, err
	}
	if err := v.sweep(); err != nil {
		return "", BackupInfo{}, err
	}
	b := birth{Version: info.Version, Build: v.ctl.next(info.Version), Created: time.Now().UTC(), Restored: true}
	if err := v.restore(ctx, file, b, &info, o); err != nil {
		return "", BackupInfo{}, err
	}
	v.ctl.add(b)
	if _, ok := v.ctl.find(v.ctl.Live); ok {
		v.ctl.Previous = v.ctl.Live
	}
	v.ctl.Live = b.id()
	return b.id(), info, v.ctl.write(v.dir)
}

// restore makes the store of a build of a backup that was verified; what is not remembered afterwards is swept away.
func (v *view) restore(ctx context.Context, file string, b birth, info *BackupInfo, o store.Options) error {
	dir := filepath.Join(v.dir, b.id())
	got, err := store.Restore(ctx, file, dir, o)
	if err == nil && got.SHA256 != info.SHA256 {
		return errors.Join(wrongBackup(file, "it was changed while it was read"), store.Remove(dir))
	}
	return err
}

// confirm holds the positions of restored builds against the log before anything is read: a lane compares only those at which it begins,
// which may be those of another build.
func (v *view) confirm(ctx context.Context) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range v.ctl.Generations {
		b := &v.ctl.Generations[i]
		g := v.builds[b.id()]
		if !b.Restored || g == nil || g.code == nil {
			continue
		}
		if err := v.p.continues(ctx, g.cursors); err != nil {
			err = fmt.Errorf("projection: view %s, build %s, which was restored: %w", v.name, b.id(), err)
			if f := fault.From(err); f != nil && errors.Is(err, eventlog.ErrCursor) {
				return f.Because("view %s, build %s, which was restored from a backup: %s", v.name, b.id(), f.Detail).
					WithFix("see that this is the cluster of which the backup is, and that its log is whole; else restore another backup, or remove %s to build the view from the log", v.dir)
			}
			return err
		}
		b.Restored = false
		if err := v.ctl.write(v.dir); err != nil {
			return err
		}
	}
	return nil
}

// continues returns the log's error if it cannot be read on from cursors.
func (p *Projector) continues(ctx context.Context, cursors []eventlog.Cursor) error {
	src, err := p.log.open(ctx, cursors, 0)
	if err != nil {
		return err
	}
	src.Close()
	return nil
}
