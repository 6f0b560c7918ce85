package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// A conn is one kept-alive HTTP/1.1 connection. It does as little as it can, so that on a machine shared with the server the
// server is measured and not the client.
type conn struct {
	net  net.Conn
	in   *bufio.Reader
	host string
	out  []byte
	id   []byte
	body []byte

	// Of the latest answer.
	status   int
	position string
	after    time.Duration
}

func dial(ctx context.Context, addr string) (*conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	// No request of this bench takes as long as a whole figure.
	if err := c.SetDeadline(time.Now().Add(10 * time.Minute)); err != nil {
		return nil, err
	}
	return &conn{net: c, in: bufio.NewReader(c), host: addr}, nil
}

// post sends an order's command with a JSON body.
func (c *conn) post(id []byte, body string) (position string, err error) {
	c.request(id, body)
	return c.exchange()
}

// postTo sends a command with a JSON body to any path.
func (c *conn) postTo(path, body string) (position string, err error) {
	c.head(append(append(c.out[:0], "POST "...), path...), body)
	return c.exchange()
}

func (c *conn) request(id []byte, body string) {
	b := append(c.out[:0], "POST /v1/orders/"...)
	b = append(b, id...)
	c.head(append(b, "/place"...), body)
}

// head goes on with a request after its path.
func (c *conn) head(b []byte, body string) {
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, c.host...)
	b = append(b, "\r\nContent-Type: application/json\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(b, "\r\n\r\n"...)
	c.out = append(b, body...)
}

// get sends a query that waits for a position.
func (c *conn) get(path, position string) error {
	b := append(c.out[:0], "GET "...)
	b = append(b, path...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, c.host...)
	if position != "" {
		b = append(b, "\r\nMillrace-At-Least: "...)
		b = append(b, position...)
	}
	c.out = append(b, "\r\n\r\n"...)
	_, err := c.exchange()
	return err
}

var (
	headerLength   = []byte("Content-Length: ")
	headerPosition = []byte("Millrace-Position: ")
	headerAfter    = []byte("Retry-After: ")
)

// exchange writes the request in out and reads the answer; any status but 200 is an error. The body is in c.body.
func (c *conn) exchange() (position string, err error) {
	if err := c.answer(); err != nil {
		return "", err
	}
	if c.status != http.StatusOK {
		return "", fmt.Errorf("%d: %s", c.status, c.body)
	}
	return c.position, nil
}

// try sends an order's command, and returns the status of whatever is answered, and how long the server wants to be left alone.
func (c *conn) try(id []byte, body string) (status int, after time.Duration, err error) {
	c.request(id, body)
	err = c.answer()
	return c.status, c.after, err
}

// answer writes the request in out and reads the answer.
func (c *conn) answer() error {
	c.position, c.after = "", 0
	if _, err := c.net.Write(c.out); err != nil {
		return err
	}
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if len(line) < 12 {
		return fmt.Errorf("no status line: %q", line)
	}
	if c.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return err
	}
	length := -1
	for {
		if line, err = c.in.ReadSlice('\n'); err != nil {
			return err
		}
		if line = bytes.TrimRight(line, "\r\n"); len(line) == 0 {
			break
		}
		if v, found := bytes.CutPrefix(line, headerLength); found {
			if length, err = strconv.Atoi(string(v)); err != nil {
				return err
			}
		} else if v, found := bytes.CutPrefix(line, headerPosition); found {
			c.position = string(v)
		} else if v, found := bytes.CutPrefix(line, headerAfter); found {
			n, err := strconv.Atoi(string(v))
			if err != nil {
				return err
			}
			c.after = time.Duration(n) * time.Second
		}
	}
	if length < 0 {
		return errors.New("an answer without Content-Length")
	}
	if cap(c.body) < length {
		c.body = make([]byte, length)
	}
	c.body = c.body[:length]
	if _, err := io.ReadFull(c.in, c.body); err != nil {
		return err
	}
	return nil
}

func (c *conn) close() { c.net.Close() }
