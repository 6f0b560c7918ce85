package service

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/rest"
)

const (
	// liveInterval is the least time between two frames for one client: what changes within it is one frame, with each row once.
	liveInterval = 100 * time.Millisecond
	// liveBeat is after what silence a comment is sent, so that whoever is between does not take the connection for dead.
	liveBeat = 15 * time.Second
	// liveFrame is how many bytes a client's buffer keeps between two frames: the first one may be of a thousand rows, and thousands of
	// clients of which nothing is heard afterwards.
	liveFrame = 8 << 10
	// liveRetry is after how many milliseconds a client is to come back.
	liveRetry = 2000
)

// live answers with server-sent events: first "state", all rows, and again whenever they cannot be told from what changed; then "change",
// rows that changed and keys that went. The id of each is the view's version and the positions that it brings the client to; a client that comes back with it as
// Last-Event-ID goes on from there. Nobody waits for a client: it is given what changed since the frame before when it has read that.
func live(_ context.Context, w *projection.Watch, form form) (*rest.Response, error) {
	form.explain = true
	return streamed(form, w.Close, w.Next), nil
}

// streamed answers with what next returns, until it returns an error or the client is gone; done is called at the end.
func streamed(form form, done func(), next func(context.Context) (projection.Update, error)) *rest.Response {
	return &rest.Response{
		Header: http.Header{"Cache-Control": {"no-store"}, "X-Accel-Buffering": {"no"}}, ContentType: typeEvents,
		Stream: func(ctx context.Context, out *rest.Stream) error {
			defer done()
			send := func(frame []byte) bool {
				if out.SetWriteDeadline(time.Now().Add(writeTime)) != nil {
					return false
				}
				if _, err := out.Write(frame); err != nil {
					return false
				}
				return out.Flush() == nil
			}
			frame := strconv.AppendInt([]byte("retry: "), liveRetry, 10)
			if !send(append(frame, "\n\n"...)) {
				return nil
			}
			for {
				beat, cancel := context.WithTimeout(ctx, liveBeat)
				u, err := next(beat)
				cancel()
				switch {
				case ctx.Err() != nil:
					return nil // the client is gone, or this instance stops: it comes back
				case errors.Is(err, context.DeadlineExceeded):
					if !send([]byte(":\n\n")) {
						return nil
					}
					continue
				case err != nil:
					send(failure(err))
					return nil
				}
				if frame, err = appendUpdate(frame[:0], &u, form); err != nil {
					return err
				}
				if !send(frame) {
					return nil
				}
				if cap(frame) > liveFrame {
					frame = nil
				}
				select {
				case <-time.After(liveInterval):
				case <-ctx.Done():
					return nil
				}
			}
		},
	}
}

// appendUpdate appends a frame.
func appendUpdate(dst []byte, u *projection.Update, form form) (_ []byte, err error) {
	name := "change"
	if u.Anew {
		name = "state"
	}
	dst = append(append(append(dst, "event: "...), name...), "\nid: "...)
	dst = append(append(dst, projection.UpdateID(u.Version, u.Applied)...), "\ndata: {\"rows\":["...)
	for i := range u.Rows {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = form.append(dst, &u.Rows[i]); err != nil {
			return nil, err
		}
	}
	dst = append(dst, ']')
	if len(u.Gone) > 0 {
		keys, err := json.Marshal(u.Gone)
		if err != nil {
			return nil, err
		}
		dst = append(append(dst, `,"gone":`...), keys...)
	}
	return append(dst, "}\n\n"...), nil
}

// failure is the last frame of a stream that cannot go on; the client comes back after what it says.
func failure(err error) []byte {
	retry, code := int64(liveRetry), "internal"
	if f := fault.From(err); f != nil {
		code, retry = f.Code, max(retry, f.RetryAfter.Milliseconds())
	}
	text, _ := json.Marshal(map[string]string{"code": code, "detail": fault.Line(err)}) // two texts always have JSON
	frame := strconv.AppendInt([]byte("event: error\nretry: "), retry, 10)
	return append(append(append(frame, "\ndata: "...), text...), "\n\n"...)
}
