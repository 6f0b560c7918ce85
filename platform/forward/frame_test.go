package forward

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// raw returns a frame with a header as given and this payload.
func raw(kind uint8, id uint64, payload string) string {
	return string(append(appendHeader(nil, kind, id, len(payload)), payload...))
}

func TestFrames(t *testing.T) {
	const limit = 1000
	long := raw(kindResponse, 7, strings.Repeat("x", limit))
	flagged := []byte(raw(kindPing, 0, ""))
	flagged[6] = 1
	for _, c := range []struct {
		name, in string
		kind     uint8
		id       uint64
		payload  int
		err      error
	}{
		{name: "request", in: raw(kindRequest, 1, "abc"), kind: kindRequest, id: 1, payload: 3},
		{name: "as long as allowed", in: long, kind: kindResponse, id: 7, payload: limit},
		{name: "ping", in: raw(kindPing, 0, ""), kind: kindPing},
		{name: "goaway", in: raw(kindGoaway, 0, ""), kind: kindGoaway},
		{name: "cancel", in: raw(kindCancel, 1<<63, ""), kind: kindCancel, id: 1 << 63},
		{name: "nothing", in: "", err: io.EOF},
		{name: "half a header", in: long[:9], err: io.ErrUnexpectedEOF},
		{name: "header only", in: long[:frameHeader], err: io.ErrUnexpectedEOF},
		{name: "half a payload", in: long[:len(long)-1], err: io.ErrUnexpectedEOF},
		{name: "too long", in: raw(kindResponse, 7, strings.Repeat("x", limit+1)), err: errFrame},
		{name: "far too long", in: "\xff\xff\xff\xff" + long[4:], err: errFrame},
		{name: "kind 0", in: raw(0, 1, ""), err: errFrame},
		{name: "kind 8", in: raw(8, 1, ""), err: errFrame},
		{name: "flags", in: string(flagged), err: errFrame},
		{name: "request without an id", in: raw(kindRequest, 0, "abc"), err: errFrame},
		{name: "ping with an id", in: raw(kindPing, 1, ""), err: errFrame},
		{name: "ping with a payload", in: raw(kindPing, 0, "a"), err: errFrame},
		{name: "cancel with a payload", in: raw(kindCancel, 1, "a"), err: errFrame},
	} {
		for _, size := range []int{16, readBuffer} { // read into the buffer, and past it
			f, err := readFrame(bufio.NewReaderSize(strings.NewReader(c.in), size), limit)
			if !errors.Is(err, c.err) || (c.err == nil) != (err == nil) {
				t.Errorf("%s: error %v, want %v", c.name, err, c.err)
				continue
			}
			if err == nil && (f.kind != c.kind || f.id != c.id || len(f.payload) != c.payload) {
				t.Errorf("%s: kind %d, id %d, %d bytes", c.name, f.kind, f.id, len(f.payload))
			}
		}
	}
}

func TestRequestFrames(t *testing.T) {
	big := strings.Repeat("v", 60000)
	for name, c := range map[string]struct {
		r    Request
		left time.Duration
		want time.Duration
	}{
		"least":    {r: Request{Method: "GET", Target: "/"}},
		"command":  {r: *place(), left: 1500 * time.Millisecond, want: 1500 * time.Millisecond},
		"round up": {r: *place(), left: time.Nanosecond, want: time.Millisecond},
		"for ever": {r: *place(), left: 1 << 62, want: (1<<32 - 1) * time.Millisecond},
		"large":    {r: Request{Method: "PUT", Target: "/" + strings.Repeat("p", 4000), Header: []Field{{"A", big}, {"B", ""}}, Body: bytes.Repeat([]byte{0}, 1<<20)}},
	} {
		if err := checkRequest(&c.r, 1<<20); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		f, err := readFrame(bufio.NewReader(bytes.NewReader(appendRequest(nil, 9, &c.r, c.left))), maxHeader+1<<20)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		m, err := parseRequest(f.payload)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if m.left != c.want || m.method != c.r.Method || m.target != c.r.Target || !slices.Equal(m.fields, c.r.Header) || !bytes.Equal(m.body, c.r.Body) {
			t.Errorf("%s: %s left of %s; %s %.40q with %d fields and %d bytes", name, m.left, c.want, m.method, m.target, len(m.fields), len(m.body))
		}
	}
}

func TestRequestsThatDoNotFit(t *testing.T) {
	many := make([]Field, 256)
	for name, c := range map[string]struct {
		r    Request
		want error
	}{
		"no method":      {Request{Target: "/"}, ErrInvalid},
		"method":         {Request{Method: strings.Repeat("M", 256), Target: "/"}, ErrInvalid},
		"target":         {Request{Method: "GET", Target: strings.Repeat("/", 65536)}, ErrTooLarge},
		"name":           {Request{Method: "GET", Target: "/", Header: []Field{{strings.Repeat("N", 256), ""}}}, ErrTooLarge},
		"value":          {Request{Method: "GET", Target: "/", Header: []Field{{"N", strings.Repeat("v", 65536)}}}, ErrTooLarge},
		"fields":         {Request{Method: "GET", Target: "/", Header: many}, ErrTooLarge},
		"all the fields": {Request{Method: "GET", Target: "/", Header: []Field{{"A", strings.Repeat("v", 40000)}, {"B", strings.Repeat("v", 40000)}}}, ErrTooLarge},
		"body":           {Request{Method: "GET", Target: "/", Body: make([]byte, 11)}, ErrTooLarge},
	} {
		if err := checkRequest(&c.r, 10); !errors.Is(err, c.want) || !Unsent(err) {
			t.Errorf("%s: %v, want %v, unsent", name, err, c.want)
		}
	}
}

func TestMalformedPayloads(t *testing.T) {
	good := string(appendRequest(nil, 1, place(), time.Second)[frameHeader:])
	body := len(place().Body)
	for i := range len(good) - body { // what is cut within the body is merely another body
		if _, err := parseRequest([]byte(good[:i])); !errors.Is(err, errFrame) {
			t.Errorf("request cut at %d: %v", i, err)
		}
	}
	a := newAnswer().(*answer)
	a.reset(1, 100)
	a.Header().Set("Content-Type", "application/json")
	a.finish()
	answer := string(a.buf[frameHeader:])
	if m, err := parseResponse([]byte(answer)); err != nil || m.status != http.StatusOK || len(m.fields) != 1 {
		t.Errorf("response: %+v, %v", m, err)
	}
	for i := range answer {
		if _, err := parseResponse([]byte(answer[:i])); !errors.Is(err, errFrame) {
			t.Errorf("response cut at %d: %v", i, err)
		}
	}
	for _, status := range []uint16{0, 101, 199, 1000, 65535} {
		if _, err := parseResponse(append(binary.BigEndian.AppendUint16(nil, status), 0)); !errors.Is(err, errFrame) {
			t.Errorf("status %d: %v", status, err)
		}
	}
	header := binary.BigEndian.AppendUint16(nil, 200)
	header = append(header, 2)
	for range 2 {
		header = appendField(header, "A", strings.Repeat("v", 40000))
	}
	if _, err := parseResponse(header); !errors.Is(err, errFrame) {
		t.Errorf("80,000 bytes before the body: %v", err)
	}
}

// FuzzFrames reads whatever comes: nothing panics, nothing is longer than allowed, and what is understood means the same when written again.
func FuzzFrames(f *testing.F) {
	f.Add([]byte(raw(kindPing, 0, "") + raw(kindGoaway, 0, "")))
	f.Add(appendRequest(nil, 1, place(), time.Second))
	f.Add(appendRequest(appendRequest(nil, 1, &Request{Method: "GET", Target: "/"}, 0), 2, place(), time.Hour))
	f.Add(appendRefusal(nil, 3, reasonBusy, "8192 requests are running"))
	a := newAnswer().(*answer)
	a.reset(4, 100)
	a.Header().Set("Etag", `"4"`)
	if _, err := a.Write([]byte("{}")); err != nil {
		f.Fatal(err)
	}
	a.finish()
	f.Add(bytes.Clone(a.buf))
	f.Fuzz(func(t *testing.T, in []byte) {
		const limit = 1 << 12
		r := bufio.NewReaderSize(bytes.NewReader(in), 64)
		for {
			got, err := readFrame(r, limit)
			if err != nil {
				return
			}
			if len(got.payload) > limit {
				t.Fatalf("%d bytes", len(got.payload))
			}
			switch got.kind {
			case kindRequest:
				checkRequestFrame(t, got)
			case kindResponse:
				if m, err := parseResponse(got.payload); err == nil {
					total := 3 + len(m.body)
					for _, x := range m.fields {
						total += 3 + len(x.Name) + len(x.Value)
					}
					if total != len(got.payload) {
						t.Fatalf("%d bytes became %d", len(got.payload), total)
					}
				}
			case kindRefusal:
				l := &link{}
				if err := l.refusal(got.payload); err == nil {
					t.Fatal("a refusal is no error")
				}
			}
		}
	})
}

func checkRequestFrame(t *testing.T, got frame) {
	m, err := parseRequest(got.payload)
	if err != nil {
		if !errors.Is(err, errFrame) {
			t.Fatal(err)
		}
		return
	}
	r := Request{Method: m.method, Target: m.target, Header: m.fields, Body: m.body}
	for _, x := range m.fields {
		if aboutConnection(x.Name) {
			return // would not be written
		}
	}
	if again := appendRequest(nil, got.id, &r, m.left); !bytes.Equal(again[frameHeader:], got.payload) {
		t.Fatalf("%q became %q", got.payload, again[frameHeader:])
	}
	// What a handler gets to see is valid HTTP.
	n := newSession(t.Context(), NewServer(http.NotFoundHandler(), ServerOptions{}), "shop-1")
	n.base = &http.Request{}
	j := &job{}
	if n.prepare(j, m) != nil {
		return
	}
	j.cancel()
	for name, values := range j.req.Header {
		for _, v := range values {
			if strings.ContainsAny(name, "\r\n: ") || strings.ContainsAny(v, "\r\n\x00") {
				t.Fatalf("the handler got the field %q: %q", name, v)
			}
		}
	}
	if j.req.URL == nil || !strings.HasPrefix(j.req.RequestURI, "/") || j.req.Method == "" {
		t.Fatalf("the handler got %q %q", j.req.Method, j.req.RequestURI)
	}
}
