package forward

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
)

var errTooLong = errors.New("the answer is too long to be forwarded")

// An answer is an http.ResponseWriter that keeps the whole answer in memory, as the frame that it becomes.
type answer struct {
	id     uint64
	limit  int // of the body
	header http.Header
	buf    []byte
	body   int // where the body begins in buf; 0 = the header is not written
	bare   bool
	failed string // why this cannot be sent
}

func newAnswer() any { return &answer{header: make(http.Header, 8)} }

// reset prepares a for the answer to another request; whoever had it does not use it any more.
func (a *answer) reset(id uint64, limit int) {
	if cap(a.buf) > keepBuffer {
		a.buf = nil
	}
	clear(a.header)
	*a = answer{id: id, limit: limit, header: a.header, buf: a.buf[:0]}
}

// Header returns the fields, which may be changed until WriteHeader.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader writes status and fields. An interim status has nobody to go to.
func (a *answer) WriteHeader(status int) {
	if a.body > 0 || status < 200 {
		return
	}
	if status > 999 {
		panic(fmt.Sprintf("forward: status %d", status))
	}
	a.bare = status == http.StatusNoContent || status == http.StatusNotModified
	a.buf = appendHeader(a.buf, kindResponse, a.id, 0)
	a.buf = binary.BigEndian.AppendUint16(a.buf, uint16(status))
	count, n := len(a.buf), 0
	a.buf = append(a.buf, 0)
	for name, values := range a.header {
		if aboutConnection(name) {
			continue
		}
		for _, v := range values {
			if n++; n > 0xff || len(name) > 0xff || len(v) > 0xffff {
				a.failed = "its header is too long"
				n = 0xff
				continue
			}
			a.buf = appendField(a.buf, name, v)
		}
	}
	a.buf[count] = uint8(n)
	a.body = len(a.buf)
	if a.body-frameHeader > maxHeader {
		a.failed = "its header is too long"
	}
}

// Write adds p to the body.
func (a *answer) Write(p []byte) (int, error) {
	if err := a.grow(len(p)); err != nil {
		return 0, err
	}
	a.buf = append(a.buf, p...)
	return len(p), nil
}

// WriteString adds s to the body.
func (a *answer) WriteString(s string) (int, error) {
	if err := a.grow(len(s)); err != nil {
		return 0, err
	}
	a.buf = append(a.buf, s...)
	return len(s), nil
}

func (a *answer) grow(n int) error {
	if a.body == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if a.bare {
		return http.ErrBodyNotAllowed
	}
	if a.failed == "" && len(a.buf)-a.body+n > a.limit {
		a.failed = fmt.Sprintf("its body has more than %d bytes", a.limit)
	}
	if a.failed != "" {
		return errTooLong
	}
	return nil
}

// finish makes buf a complete frame, unless the answer has failed.
func (a *answer) finish() {
	if a.body == 0 {
		a.WriteHeader(http.StatusOK)
	}
	endFrame(a.buf, 0)
}
