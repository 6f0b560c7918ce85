package forward

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

const (
	instanceHeader = "Millrace-Instance"
	sessionHeader  = "Millrace-Session"
	bodyHeader     = "Millrace-Max-Body"
)

// dial connects to addr and shakes hands. Nothing was sent that a handler runs, so every error is an ErrUnsent.
func (p *Pool) dial(ctx context.Context, addr string, number uint64) (*link, error) {
	conn, err := p.o.Dial(ctx, "tcp", addr)
	if err != nil {
		if ctx.Err() != nil {
			return nil, p.late(addr)
		}
		return nil, ErrUnsent.Because("%s", addr).Wrap(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	l, err := p.shake(ctx, conn, addr, number)
	if !stop() {
		err = p.late(addr)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return l, nil
}

// late says that dialling took too long. It has no cause: that would look like the end of the caller's context.
func (p *Pool) late(addr string) error {
	return ErrUnsent.Because("%s did not accept the connection within %s", addr, p.o.DialTimeout)
}

func (p *Pool) shake(ctx context.Context, conn net.Conn, addr string, number uint64) (*link, error) {
	scheme := "http"
	if p.o.TLS != nil {
		scheme = "https"
		config := p.o.TLS.Clone()
		if config.ServerName == "" {
			config.ServerName, _, _ = net.SplitHostPort(addr)
		}
		config.NextProtos = []string{"http/1.1"} // HTTP/2 has no way to hand a connection over
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, ErrUnsent.Because("%s: TLS", addr).Wrap(err)
		}
		conn = secure
	}
	req := (&http.Request{
		Method: http.MethodGet, URL: &url.URL{Scheme: scheme, Host: addr, Path: Path}, Host: addr,
		Header: http.Header{
			"Connection": {"Upgrade"}, "Upgrade": {protocol}, instanceHeader: {p.o.Instance},
			sessionHeader: {p.nonce + "-" + strconv.FormatUint(number, 10)}, bodyHeader: {strconv.Itoa(p.o.MaxBody)},
		},
	}).WithContext(ctx)
	if p.o.Sign != nil {
		if err := p.o.Sign(req); err != nil {
			return nil, ErrRefused.Because("%s: this process has no credentials to show", addr).Wrap(fmt.Errorf("%w: %w", ErrUnsent, err))
		}
	}
	if err := req.Write(conn); err != nil {
		return nil, ErrUnsent.Because("%s", addr).Wrap(err)
	}
	w := newWire(p.o.MaxBody+maxHeader, p.o.PingInterval, p.o.PingTimeout)
	w.attach(conn)
	resp, err := http.ReadResponse(w.in, req)
	if err != nil {
		return nil, ErrUnsent.Because("%s", addr).Wrap(err)
	}
	defer resp.Body.Close() // a switch has none
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, denied(addr, resp)
	}
	body, err := strconv.Atoi(resp.Header.Get(bodyHeader))
	if got := resp.Header.Get("Upgrade"); got != protocol || err != nil || body <= 0 || body > maxBody {
		return nil, ErrRefused.Because("%s speaks %.40q with a %s of %.20q", addr, got, bodyHeader, resp.Header.Get(bodyHeader)).Wrap(ErrUnsent)
	}
	return &link{wire: w, pool: p, addr: addr, body: body, calls: map[uint64]*call{}}, nil
}

// maxBody is the longest body that either side may take: the length of a frame has 32 bits.
const maxBody = 1 << 30

// denied says why the handshake failed: for now, or for ever.
func denied(addr string, resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // what cannot be read of an explanation is not missed
	why := resp.Status
	var problem struct{ Title, Detail, Fix string }
	if json.Unmarshal(text, &problem) == nil && problem.Title != "" {
		why = strings.TrimSuffix(problem.Title+": "+problem.Detail, ": ")
	}
	if resp.StatusCode == http.StatusServiceUnavailable {
		return ErrUnsent.Because("%s: %s", addr, why)
	}
	return ErrRefused.Because("%s: %s", addr, why).WithFix("%s", problem.Fix).Wrap(ErrUnsent)
}
