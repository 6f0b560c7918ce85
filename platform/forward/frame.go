package forward

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"time"
)

// The kinds of frames.
const (
	kindRequest = iota + 1
	kindResponse
	kindCancel
	kindRefusal
	kindPing
	kindPong
	kindGoaway
)

// The reasons of a refusal.
const (
	reasonBusy = iota + 1
	reasonDraining
	reasonInvalid
	reasonAborted
	reasonTooLong
)

const (
	frameHeader = 16
	maxHeader   = 64 << 10 // of a frame's payload before the body
	readBuffer  = 64 << 10
)

var errFrame = errors.New("malformed frame")

// A frame is one message. Its payload is valid until the next one is read, unless it is owned.
type frame struct {
	kind    uint8
	id      uint64
	payload []byte
	owned   bool // the payload is memory of its own
}

// readFrame reads one frame whose payload has at most limit bytes. What fits into the buffer is not copied.
func readFrame(r *bufio.Reader, limit int) (frame, error) {
	h, err := r.Peek(frameHeader)
	if err != nil {
		if err == io.EOF && len(h) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	size := int64(binary.BigEndian.Uint32(h))
	f := frame{kind: h[4], id: binary.BigEndian.Uint64(h[8:])}
	switch {
	case f.kind < kindRequest || f.kind > kindGoaway:
		return frame{}, fmt.Errorf("%w: unknown kind %d", errFrame, f.kind)
	case h[5]|h[6]|h[7] != 0:
		return frame{}, fmt.Errorf("%w: kind %d has unknown flags", errFrame, f.kind)
	case (f.id == 0) != (f.kind >= kindPing):
		return frame{}, fmt.Errorf("%w: kind %d with id %d", errFrame, f.kind, f.id)
	case size > 0 && (f.kind == kindCancel || f.kind >= kindPing):
		return frame{}, fmt.Errorf("%w: kind %d with %d bytes of payload", errFrame, f.kind, size)
	case size > int64(limit):
		return frame{}, fmt.Errorf("%w: %d bytes of payload, at most %d are allowed", errFrame, size, limit)
	}
	n := int(size)
	if frameHeader+n <= r.Size() {
		b, err := r.Peek(frameHeader + n)
		if err != nil {
			return frame{}, cut(err)
		}
		f.payload = b[frameHeader:]
		_, _ = r.Discard(frameHeader + n) // cannot fail: it is buffered
		return f, nil
	}
	_, _ = r.Discard(frameHeader)
	f.payload, f.owned = make([]byte, n), true
	if _, err := io.ReadFull(r, f.payload); err != nil {
		return frame{}, cut(err)
	}
	return f, nil
}

func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func appendHeader(b []byte, kind uint8, id uint64, payload int) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(payload))
	b = append(b, kind, 0, 0, 0)
	return binary.BigEndian.AppendUint64(b, id)
}

// endFrame writes into the frame that begins at start and ends with b how long it is.
func endFrame(b []byte, start int) {
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-frameHeader))
}

// checkRequest reports what of r cannot be written into a frame; body is how much the peer takes.
func checkRequest(r *Request, body int) error {
	size := len(r.Method) + len(r.Target) + 8
	for _, f := range r.Header {
		if len(f.Name) > 0xff || len(f.Value) > 0xffff {
			return ErrTooLarge.Because("the header field %.40q has %d bytes", f.Name, len(f.Value)).Wrap(ErrUnsent)
		}
		size += 3 + len(f.Name) + len(f.Value)
	}
	switch {
	case r.Method == "" || len(r.Method) > 0xff:
		return ErrInvalid.Because("its method is %.40q", r.Method).Wrap(ErrUnsent)
	case len(r.Target) > 0xffff || len(r.Header) > 0xff || size > maxHeader:
		return ErrTooLarge.Because("its target has %d bytes, and %d header fields come to %d in total", len(r.Target), len(r.Header), size).Wrap(ErrUnsent)
	case len(r.Body) > body:
		return ErrTooLarge.Because("its body has %d bytes, the peer takes %d", len(r.Body), body).Wrap(ErrUnsent)
	}
	return nil
}

// appendRequest appends a frame for r, which checkRequest found fit. left is the time to the deadline, 0 = none.
func appendRequest(b []byte, id uint64, r *Request, left time.Duration) []byte {
	start := len(b)
	b = appendHeader(b, kindRequest, id, 0)
	// Rounded up: the peer must not give up before the sender does, who then would see a refusal and not its own deadline.
	b = binary.BigEndian.AppendUint32(b, uint32(min((left+time.Millisecond-1)/time.Millisecond, 1<<32-1)))
	b = append(b, uint8(len(r.Method)))
	b = append(b, r.Method...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Target)))
	b = append(b, r.Target...)
	count := len(b)
	b = append(b, 0)
	for _, f := range r.Header {
		if !aboutConnection(f.Name) {
			b = appendField(b, f.Name, f.Value)
			b[count]++
		}
	}
	b = append(b, r.Body...)
	endFrame(b, start)
	return b
}

func appendField(b []byte, name, value string) []byte {
	b = append(b, uint8(len(name)))
	b = append(b, name...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	return append(b, value...)
}

func appendRefusal(b []byte, id uint64, reason uint8, text string) []byte {
	text = text[:min(len(text), 1024)]
	b = appendHeader(b, kindRefusal, id, 1+len(text))
	return append(append(b, reason), text...)
}

// A message is a parsed request or response. Its body is part of the payload.
type message struct {
	left   time.Duration // of a request
	method string
	target string
	status int // of a response
	fields []Field
	body   []byte
}

// parseRequest parses the payload of a request.
func parseRequest(p []byte) (m message, err error) {
	head, rest, count, err := split(p, 4, true)
	if err != nil {
		return m, err
	}
	s := string(head) // the one copy that all strings are parts of
	m.left = time.Duration(binary.BigEndian.Uint32(head)) * time.Millisecond
	at := 5 + int(head[4])
	m.method = s[5:at]
	n := int(binary.BigEndian.Uint16(head[at:]))
	m.target = s[at+2 : at+2+n]
	m.fields = fields(s[at+2+n+1:], count)
	m.body = rest
	return m, nil
}

// parseResponse parses the payload of a response.
func parseResponse(p []byte) (m message, err error) {
	head, rest, count, err := split(p, 2, false)
	if err != nil {
		return m, err
	}
	m.status = int(binary.BigEndian.Uint16(head))
	if m.status < 200 || m.status > 999 {
		return m, fmt.Errorf("%w: status %d", errFrame, m.status)
	}
	m.fields = fields(string(head[3:]), count)
	m.body = rest
	return m, nil
}

// split checks the lengths in a payload and cuts it into all before the body, the body, and the number of fields. fixed bytes come
// first, then the request line if there is one.
func split(p []byte, fixed int, line bool) (head, body []byte, count int, err error) {
	at := fixed
	if line {
		at += 1
		if len(p) < at {
			return nil, nil, 0, short("request line")
		}
		at += int(p[at-1]) + 2
		if len(p) < at {
			return nil, nil, 0, short("request line")
		}
		at += int(binary.BigEndian.Uint16(p[at-2:]))
	}
	if len(p) <= at {
		return nil, nil, 0, short("number of fields")
	}
	count = int(p[at])
	at++
	for range count {
		if len(p) <= at {
			return nil, nil, 0, short("field")
		}
		at += 1 + int(p[at]) + 2
		if len(p) < at {
			return nil, nil, 0, short("field")
		}
		at += int(binary.BigEndian.Uint16(p[at-2:]))
		if len(p) < at {
			return nil, nil, 0, short("field")
		}
	}
	if at > maxHeader {
		return nil, nil, 0, fmt.Errorf("%w: %d bytes before the body", errFrame, at)
	}
	return p[:at], p[at:], count, nil
}

func short(what string) error { return fmt.Errorf("%w: it ends within its %s", errFrame, what) }

// fields parses what split found sound.
func fields(s string, count int) []Field {
	if count == 0 {
		return nil
	}
	fs := make([]Field, count)
	for i := range fs {
		n := int(s[0])
		fs[i].Name, s = s[1:1+n], s[1+n:]
		n = int(s[0])<<8 | int(s[1])
		fs[i].Value, s = s[2:2+n], s[2+n:]
	}
	return fs
}

// aboutConnection reports whether a field speaks of one connection or of its framing, and so must not travel on.
func aboutConnection(name string) bool {
	switch textproto.CanonicalMIMEHeaderKey(name) {
	case "Connection", "Content-Length", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// validToken reports whether s can be a method or a field name.
func validToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || separators[c] {
			return false
		}
	}
	return s != ""
}

var separators = [128]bool{'(': true, ')': true, '<': true, '>': true, '@': true, ',': true, ';': true, ':': true, '\\': true, '"': true,
	'/': true, '[': true, ']': true, '?': true, '=': true, '{': true, '}': true}

// validValue reports whether s can be a field's value.
func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < ' ' && c != '\t') || c == 0x7f {
			return false
		}
	}
	return true
}

// header makes a header of fs, or says which field is none.
func header(fs []Field) (http.Header, error) {
	h := make(http.Header, len(fs)+1)
	values := make([]string, len(fs))
	for i, f := range fs {
		if !validToken(f.Name) || !validValue(f.Value) {
			return nil, fmt.Errorf("the header field %.40q is malformed", f.Name)
		}
		name := textproto.CanonicalMIMEHeaderKey(f.Name)
		if old := h[name]; old != nil {
			h[name] = append(old, f.Value)
			continue
		}
		values[i] = f.Value
		h[name] = values[i : i+1 : i+1]
	}
	return h, nil
}
