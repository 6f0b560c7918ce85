package service

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/rest"
	"github.com/millrace/millrace/platform/store"
)

// backup answers a backup of the build that answers queries; what fails while it is sent cuts the connection.
func (a *viewAdmin) backup(_ context.Context, r *rest.Request) (*rest.Response, error) {
	e, name, err := a.engine(r)
	if err != nil {
		return nil, err
	}
	return backupOf(e, name, r)
}

func backupOf(e *projection.Projector, name string, r *rest.Request) (*rest.Response, error) {
	q, err := r.Only("version")
	if err != nil {
		return nil, err
	}
	version := int64(-1)
	if q.Has("version") {
		if version, err = number(q, "version", 0, 1<<31-1); err != nil {
			return nil, err
		}
	}
	b, err := e.BeginBackup(name)
	if err != nil {
		return nil, err
	}
	if version >= 0 && int64(b.Version) != version {
		b.Close()
		return nil, projection.ErrBuildNotFound.Because("the view %s answers from version %d here, not from version %d", name, b.Version, version)
	}
	resp := &rest.Response{ContentType: "application/octet-stream", Stream: func(ctx context.Context, w *rest.Stream) error {
		defer b.Close()
		_, err := b.Write(ctx, patient{w})
		return err
	}}
	if len(b.Applied) > 0 {
		resp.Set("Millrace-Position", b.Applied.String())
	}
	return resp, nil
}

// A patient writer waits for a client, but not for ever.
type patient struct{ *rest.Stream }

func (p patient) Write(b []byte) (int, error) {
	if err := p.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return 0, err
	}
	return p.Stream.Write(b)
}

// A storeAnswer says what the store of the build that answers queries takes.
type storeAnswer struct {
	Build string `json:"build"`
	store.Stats
}

func (a *viewAdmin) store(_ context.Context, r *rest.Request) (*rest.Response, error) {
	e, name, err := a.engine(r)
	if err != nil {
		return nil, err
	}
	build, stats, err := e.StoreStats(name)
	if err != nil {
		return nil, err
	}
	return rest.JSON(http.StatusOK, storeAnswer{build, stats}), nil
}

// errSnapshot is why the snapshot of another instance is not there.
var errSnapshot = fault.New(fault.Unavailable, "no_snapshot", "the instance gives no snapshot")

// snapshots returns how the backups of other instances are had.
func (h *host) snapshots() (all []projection.Snapshot) {
	for _, at := range h.config.ViewSnapshotFrom {
		all = append(all, h.snapshotFrom(strings.TrimSuffix(at, "/")+"/v1/views", ""))
	}
	return all
}

// snapshotFrom returns how backups of views are had from an instance; at is the URL before the view's name, token what it is to know us by.
func (h *host) snapshotFrom(at string, token peerToken) projection.Snapshot {
	return func(ctx context.Context, view string, version int, w io.Writer) error {
		if err := h.snapshot(ctx, at+"/"+url.PathEscape(view)+"/backup?version="+strconv.Itoa(version), token, w); err != nil {
			return errSnapshot.Because("%s", at).Wrap(err)
		}
		return nil
	}
}

// snapshot writes a backup that another instance has to w.
func (h *host) snapshot(ctx context.Context, target string, token peerToken, w io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Not the whole takes at most this long, but each piece.
	silent := time.AfterFunc(writeTime, func() { cancel(errSnapshot.Because("it sent nothing for %s", writeTime)) })
	defer silent.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err == nil {
		err = token.sign(req)
	}
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: h.streams}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var p rest.Problem
		text, err := io.ReadAll(io.LimitReader(resp.Body, problemBytes))
		if err != nil || json.Unmarshal(text, &p) != nil || p.Title == "" {
			return errSnapshot.Because("it answers %s", resp.Status)
		}
		return errSnapshot.Because("it answers %s: %s", p.Title, p.Detail)
	}
	if _, err := io.Copy(w, &heard{resp.Body, silent}); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	return nil
}

// A heard reader notes that something comes.
type heard struct {
	from   io.Reader
	silent *time.Timer
}

func (h *heard) Read(p []byte) (int, error) {
	n, err := h.from.Read(p)
	h.silent.Reset(writeTime)
	return n, err
}
