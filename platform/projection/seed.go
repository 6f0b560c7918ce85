package projection

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/millrace/millrace/platform/store"
)

// A Snapshot writes a backup of a version of a view, as another projector has it, to w.
type Snapshot func(ctx context.Context, view string, version int, w io.Writer) error

// snapshotExt ends the name of the file that a snapshot is written to; before is that of the build.
const snapshotExt = ".snapshot"

// errNothing is why a snapshot is not used that has nothing.
var errNothing = ErrBuild.Because("it has applied nothing")

// reserve prepares a view of which nothing is stored for a snapshot, and reports whether it is one; until released, it is not kept up to date.
func (v *view) reserve() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	live, _ := v.serving()
	if v.ctl.Paused || len(v.ctl.Generations) != 1 || live.code == nil || live.born.Bounded || !live.untouched() {
		return false
	}
	v.seed = birth{Version: live.born.Version, Build: v.next(live.born.Version), Created: time.Now().UTC()}
	return true
}

// untouched reports whether nothing was ever applied.
func (g *generation) untouched() bool {
	for _, at := range g.shown.Load().slots {
		if at.next > 0 {
			return false
		}
	}
	return true
}

// seedAll has views that are reserved begin with snapshots, and those for which there is none with the beginning of the log.
func (p *Projector) seedAll(ctx context.Context, views []*view) {
	for _, v := range views {
		v.sow(ctx)
		v.mu.Lock()
		v.seed = birth{}
		v.mu.Unlock()
	}
	p.startAll() // together: what is about as far is read together
}

// sow begins a reserved view with the first snapshot that can be used.
func (v *view) sow(ctx context.Context) {
	log := v.p.cfg.Logger
	for _, from := range v.p.cfg.Snapshots {
		began := time.Now()
		info, err := v.take(ctx, from)
		if err == nil {
			if err = v.adopt(); err == nil {
				log.Info("projection: a view begins with a snapshot", "view", v.name, "build", v.seed.id(), "rows", info.Rows, "bytes", info.Bytes, "took", time.Since(began))
				return
			}
			err = errors.Join(err, store.Remove(filepath.Join(v.dir, v.seed.id())))
		}
		if ctx.Err() != nil {
			return
		}
		log.Warn("projection: a snapshot cannot be used", "view", v.name, "error", err)
	}
	log.Warn("projection: no snapshot can be used, the view is built from the log", "view", v.name)
}

// take makes the store of the reserved build of a snapshot, if that is whole, of this version of the view, and of this log.
func (v *view) take(ctx context.Context, from Snapshot) (info BackupInfo, err error) {
	path := filepath.Join(v.dir, v.seed.id()+snapshotExt)
	defer func() { err = errors.Join(err, os.Remove(path)) }()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return BackupInfo{}, ErrControl.Because("%s", path).Wrap(err)
	}
	if err := errors.Join(from(ctx, v.name, v.seed.Version, f), f.Close()); err != nil {
		return BackupInfo{}, err
	}
	if info, err = VerifyBackup(ctx, path); err != nil {
		return BackupInfo{}, err
	}
	c := v.codes[v.seed.Version]
	if err := c.form(v.name, c.shape.Topics).suits(&info); err != nil {
		return BackupInfo{}, err
	}
	if len(info.Applied) == 0 {
		return BackupInfo{}, errNothing
	}
	if err := v.p.continues(ctx, info.cursors); err != nil {
		return BackupInfo{}, err
	}
	o := v.p.cfg.StoreOptions
	o.Logger = v.p.cfg.Logger
	return info, v.restore(ctx, path, v.seed, &info, o)
}

// adopt has the reserved build, which was restored, answer queries in place of the empty one.
func (v *view) adopt() error {
	_, done, err := v.p.verb(v.name)
	if err != nil {
		return err
	}
	defer done()
	empty, _ := v.serving()
	if !empty.untouched() {
		return ErrBuild.Because("build %s was begun meanwhile", empty.born.id())
	}
	g, err := v.addSeed()
	if err != nil {
		return err
	}
	if err := v.switchTo(g); err != nil {
		return errors.Join(err, v.drop(g))
	}
	if err := v.drop(empty); err != nil {
		v.p.cfg.Logger.Error("projection: the empty build that a snapshot replaces cannot be removed", "view", v.name, "build", empty.born.id(), "error", err)
	}
	return nil
}

// addSeed opens the reserved build. Should the process be killed before it is switched to, it takes over by itself.
func (v *view) addSeed() (*generation, error) {
	b := v.seed
	b.Auto = true
	return v.add(b)
}
