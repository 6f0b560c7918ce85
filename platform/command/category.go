package command

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/store"
)

// ErrCategoryCursor is returned for a cursor of a category read that no page gave.
var ErrCategoryCursor = fault.New(fault.Invalid, "bad_cursor", "the cursor is not one that an earlier page gave")

// CategoryOptions say which events of all streams are read. Either Cursor or After says where to begin; without both it is the start.
type CategoryOptions struct {
	Cursor string        // CategoryPage.Next of an earlier page
	After  es.Positions  // after these events; a partition that is not named is read from its start
	Types  []string      // only events that are read as one of these types; none = all
	Limit  int           // events; 0 = 1000
	Bytes  int           // of the events as they are framed, at least one event whatever its size; 0 = 4 MiB
	Wait   time.Duration // how long to wait for events if there are none; 0 = not at all
}

// A CategoryPage holds events of many streams, those of one partition in the order of the log.
type CategoryPage[E any] struct {
	Events    []es.Envelope[E]
	Next      string       // the Cursor of the next page, whether there is more or not
	Positions es.Positions // of the last event of each partition that was looked at, also if it is of another type
	End       bool         // nothing more was there when the page was begun
}

// categoryLook bounds the bytes of the events that one page looks at: a page of a rare type may be empty, and yet not the last.
const categoryLook = 32 << 20

// Category returns events of all streams of the topic. It reads the log itself, so it works on any instance and waits for nobody: an
// event is in it once it is in the log. The partitions follow each other as the brokers answer, so that one may be ahead of another.
// A cursor or a position that does not fit the log is eventlog.ErrCursor.
func (e *Engine[S, C, E]) Category(ctx context.Context, o CategoryOptions) (CategoryPage[E], error) {
	var page CategoryPage[E]
	limit, room := o.Limit, o.Bytes
	if limit <= 0 {
		limit = pageLimit
	}
	if room <= 0 {
		room = pageBytes
	}
	ends, err := e.cfg.Log.Ends(ctx, e.cfg.Topic)
	if err != nil {
		return page, err
	}
	cursors, after, err := e.categoryStart(ctx, o, ends)
	if err != nil {
		return page, err
	}
	waiting, cancel := context.WithTimeout(ctx, max(o.Wait, 0))
	defer cancel()
	source, err := e.cfg.Log.NewSource(ctx, cursors...)
	if err != nil {
		return page, err
	}
	defer source.Close()
	full, looked := false, 0
	for !full && looked < categoryLook {
		behind := slices.ContainsFunc(cursors, func(c eventlog.Cursor) bool { return c.Next < ends[c.TopicPartition.Partition] })
		if !behind && (len(page.Events) > 0 || o.Wait <= 0) {
			page.End = true
			break
		}
		polling := ctx
		if !behind {
			polling = waiting
		}
		fetched, err := source.Poll(polling)
		if err != nil {
			if !behind && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
				page.End = true
				break
			}
			return page, err
		}
		for _, f := range fetched {
			at := f.Cursor.TopicPartition.Partition
			end := f.Cursor
			for i := range f.Records {
				r := &f.Records[i]
				if r.Mark != 0 || r.Position.Offset <= after[at] {
					continue
				}
				if len(page.Events) >= limit || len(page.Events) > 0 && len(r.Value) > room {
					// The claim that counts here is the one that this record belongs to.
					end.Next, end.ProducerID, end.Epoch = r.Position.Offset, r.ProducerID, r.Epoch
					full = true
					break
				}
				looked += len(r.Value)
				before := len(page.Events)
				if page.Events, err = e.events.Envelopes(ctx, page.Events, *r); err != nil {
					return page, fmt.Errorf("command: record %s: %w", r.Position, err)
				}
				if len(o.Types) > 0 {
					read := slices.DeleteFunc(page.Events[before:], func(env es.Envelope[E]) bool { return !slices.Contains(o.Types, env.Type) })
					page.Events = page.Events[:before+len(read)]
				}
				if len(page.Events) > before {
					room -= len(r.Value)
				}
				page.Positions = page.Positions.With(r.Position)
			}
			cursors[at] = end
		}
	}
	page.Next, err = categoryEnd(cursors)
	return page, err
}

// categoryStart returns where each partition is to be read from, and the offsets up to which what is read there is left out.
func (e *Engine[S, C, E]) categoryStart(ctx context.Context, o CategoryOptions, ends []int64) (cursors []eventlog.Cursor, after []int64, err error) {
	t := e.cfg.Topic
	for i := range t.Partitions {
		cursors, after = append(cursors, t.Start(i)), append(after, -1)
	}
	if o.Cursor != "" {
		return cursors, after, parseCategory(o.Cursor, cursors)
	}
	for _, at := range o.After {
		if at.Topic != t.Name || at.Partition < 0 || at.Partition >= t.Partitions {
			return nil, nil, es.ErrPosition.Because("%s is not in %s, which has %d partitions", at, t.Name, t.Partitions)
		}
		if end := ends[at.Partition]; at.Offset >= end {
			return nil, nil, eventlog.ErrCursor.Because("%s is beyond the end of the log, %d", at, end).WithFix("give the position of an event, or the cursor of an earlier page")
		}
		if cursors[at.Partition], err = e.cursorAt(ctx, at); err != nil {
			return nil, nil, err
		}
		after[at.Partition] = at.Offset
	}
	return cursors, after, nil
}

// cursorAt returns a cursor from which the event at a position, or what follows it, can be read under the reader rule. The rule needs
// the claim that counts there. What the store holds was read under it: so an event that the store has tells its claim. If the store has
// not come that far, its own cursor does.
func (e *Engine[S, C, E]) cursorAt(ctx context.Context, at es.Position) (eventlog.Cursor, error) {
	cursor, err := readCursor(e.cfg.Store, e.cfg.Topic, at.Partition)
	if err != nil || cursor.Next <= at.Offset {
		return cursor, err
	}
	r, err := e.cfg.Log.RecordAt(ctx, e.cfg.Topic, at)
	if err != nil {
		return cursor, err
	}
	notOurs := eventlog.ErrCursor.Because("there is no event at %s", at).WithFix("give the position of a receipt or an event, or the cursor of an earlier page")
	env, err := e.events.Facts(r)
	if err != nil {
		return cursor, notOurs.Wrap(err)
	}
	err = e.cfg.Store.Read(func(rd *store.Reader) error {
		offset := int64(-1)
		if r.Mark == eventlog.MarkNote {
			note, err := findIndexed(rd, at.Partition, env.Stream, env.Meta.CommandID)
			if err != nil {
				return err
			}
			if note != nil {
				offset = note.offset
			}
		} else if kept, err := readRow(rd, eventKey(nil, at.Partition, env.Stream, env.Version)); err == nil {
			offset = kept.offset
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if offset != at.Offset {
			return notOurs
		}
		return nil
	})
	cursor = e.cfg.Topic.Start(at.Partition)
	cursor.Next, cursor.ProducerID, cursor.Epoch = at.Offset+1, r.ProducerID, r.Epoch
	return cursor, err
}

const categoryFormat = 1

// parseCategory reads what categoryEnd wrote: a cursor for each partition that was read from, its length before it.
func parseCategory(text string, into []eventlog.Cursor) error {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) == 0 || b[0] != categoryFormat {
		return ErrCategoryCursor.Because("%.60q", text)
	}
	for b = b[1:]; len(b) > 0; {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			return ErrCategoryCursor.Because("it is cut off")
		}
		b = b[size:]
		var c eventlog.Cursor
		if err := c.UnmarshalBinary(b[:n]); err != nil {
			return ErrCategoryCursor.Wrap(err)
		}
		b = b[n:]
		p := c.TopicPartition
		if int(p.Partition) >= len(into) || into[p.Partition].TopicPartition != p {
			return ErrCategoryCursor.Because("it is one of %s", p)
		}
		into[p.Partition] = c
	}
	return nil
}

func categoryEnd(cursors []eventlog.Cursor) (string, error) {
	b := []byte{categoryFormat}
	for _, c := range cursors {
		if c.Next == 0 {
			continue
		}
		text, err := c.AppendBinary(nil)
		if err != nil {
			return "", err
		}
		b = append(binary.AppendUvarint(b, uint64(len(text))), text...)
	}
	return base64.RawURLEncoding.EncodeToString(b), nil
}
