package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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
	b := append(c.out[:0], "POST /v1/orders/"...)
	b = append(b, id...)
	b = append(b, "/place HTTP/1.1\r\nHost: "...)
	b = append(b, c.host...)
	b = append(b, "\r\nContent-Type: application/json\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(b, "\r\n\r\n"...)
	c.out = append(b, body...)
	return c.exchange()
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
)

// exchange writes the request in out and reads the answer; any status but 200 is an error. The body is in c.body.
func (c *conn) exchange() (position string, err error) {
	if _, err := c.net.Write(c.out); err != nil {
		return "", err
	}
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return "", err
	}
	ok := bytes.HasPrefix(line, []byte("HTTP/1.1 200 "))
	status := string(bytes.TrimSpace(line[:min(len(line), 15)]))
	length := -1
	for {
		if line, err = c.in.ReadSlice('\n'); err != nil {
			return "", err
		}
		if line = bytes.TrimRight(line, "\r\n"); len(line) == 0 {
			break
		}
		if v, found := bytes.CutPrefix(line, headerLength); found {
			if length, err = strconv.Atoi(string(v)); err != nil {
				return "", err
			}
		} else if v, found := bytes.CutPrefix(line, headerPosition); found {
			position = string(v)
		}
	}
	if length < 0 {
		return "", errors.New("an answer without Content-Length")
	}
	if cap(c.body) < length {
		c.body = make([]byte, length)
	}
	c.body = c.body[:length]
	if _, err := io.ReadFull(c.in, c.body); err != nil {
		return "", err
	}
	if !ok {
		return "", fmt.Errorf("%s: %s", status, c.body)
	}
	return position, nil
}

func (c *conn) close() { c.net.Close() }
