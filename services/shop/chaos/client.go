package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/estest/check"
	"github.com/millrace/millrace/platform/eventlog"
)

// partitions is how many the topic of the orders has.
const partitions = eventlog.DefaultPartitions

// A recorder keeps what the clients of one segment were told.
type recorder struct {
	began time.Time // of the run

	mu       sync.Mutex
	attempts []check.Attempt
	odd      []string // answers that no client should ever get
	outage   [partitions]outage
}

// An outage is the longest time between two acknowledged commands of a partition that somebody kept asking.
type outage struct {
	last, longest time.Duration
}

func (r *recorder) now() time.Duration { return time.Since(r.began) }

func (r *recorder) add(a check.Attempt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempts = append(r.attempts, a)
}

// served notes that a partition acknowledged a command.
func (r *recorder) served(partition int32, at time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := &r.outage[partition]
	if o.last > 0 {
		o.longest = max(o.longest, at-o.last)
	}
	o.last = at
}

// A sent is a command that somebody sent, for others to repeat.
type sent struct {
	stream, id string
	payload    order
	expect     *int64
}

// A load is the work of the clients of one segment.
type load struct {
	addrs   []string // of the instances
	http    *http.Client
	rec     *recorder
	streams []string

	mu       sync.Mutex
	sent     []sent
	versions map[string]int64
}

// client sends commands until ctx ends.
func (l *load) client(ctx context.Context, name string, rng *rand.Rand) {
	for i := 0; ctx.Err() == nil; i++ {
		pause(ctx, time.Duration(rng.Int64N(int64(150*time.Millisecond))))
		stream := l.streams[rng.IntN(len(l.streams))]
		addr := l.addrs[rng.IntN(len(l.addrs))]
		wait := 300*time.Millisecond + time.Duration(rng.Int64N(int64(6*time.Second)))
		switch n := rng.IntN(20); {
		case n < 3:
			l.read(ctx, name, addr, stream, wait)
		case n < 5:
			if s, ok := l.any(rng); ok {
				l.send(ctx, name, addr, s, wait)
			}
		case n < 7:
			s := l.next(rng, name, i, stream)
			other := l.addrs[rng.IntN(len(l.addrs))]
			var both sync.WaitGroup
			both.Go(func() { l.send(ctx, name, addr, s, wait) })
			both.Go(func() { l.send(ctx, name+"'", other, s, wait) })
			both.Wait()
		default:
			l.insist(ctx, name, rng, l.next(rng, name, i, stream), 4, wait)
		}
	}
}

// insist repeats a command, wherever it gets to, until there is an answer that is final.
func (l *load) insist(ctx context.Context, name string, rng *rand.Rand, s sent, tries int, wait time.Duration) check.Outcome {
	for {
		o := l.send(ctx, name, l.addrs[rng.IntN(len(l.addrs))], s, wait)
		tries--
		if o != check.Unknown && o != check.Absent || tries == 0 || ctx.Err() != nil {
			return o
		}
		pause(ctx, 20*time.Millisecond+time.Duration(rng.Int64N(int64(200*time.Millisecond))))
	}
}

// probe places one order after the other in one partition, and notes when it is served.
func (l *load) probe(ctx context.Context, partition int32, segment int, rng *rand.Rand) {
	for i := 0; ctx.Err() == nil; i++ {
		stream := streamIn(partition, fmt.Sprintf("p%d-%d-%d", segment, partition, i))
		s := sent{stream: stream, id: "probe-" + stream, payload: order{"place", 1}}
		if l.insist(ctx, "probe", rng, s, 1000, 2*time.Second) == check.Acked {
			l.rec.served(partition, l.rec.now())
		}
		pause(ctx, 250*time.Millisecond)
	}
}

// streamIn returns an id in a partition that begins with a name.
func streamIn(partition int32, name string) string {
	for i := 0; ; i++ {
		id := fmt.Sprint(name, "-", i)
		if eventlog.PartitionOf(es.StreamID(id), partitions) == partition {
			return id
		}
	}
}

// next makes a new command.
func (l *load) next(rng *rand.Rand, name string, i int, stream string) sent {
	s := sent{stream: stream, id: fmt.Sprintf("%s-%d", name, i)}
	switch n := rng.IntN(40); {
	case n < 4:
		s.payload = order{"place", 1 + rng.Int64N(2)}
	case n < 5:
		s.payload = order{"confirm", 0}
	case n < 6:
		s.payload = order{"cancel", 0}
	default:
		s.payload = order{"add-line", rng.Int64N(1000)}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if rng.IntN(4) == 0 {
		v := l.versions[stream]
		s.expect = &v
	}
	l.sent = append(l.sent, s)
	return s
}

// any returns a command that was sent before.
func (l *load) any(rng *rand.Rand) (sent, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sent) == 0 {
		return sent{}, false
	}
	return l.sent[rng.IntN(len(l.sent))], true
}

func (l *load) learn(stream string, version int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.versions[stream] = max(l.versions[stream], version)
}

// send sends a command once and records the answer.
func (l *load) send(ctx context.Context, client, addr string, s sent, wait time.Duration) check.Outcome {
	a := check.Attempt{Client: client, Node: addr, Stream: s.stream, Command: s.id, Payload: s.payload, Expect: s.expect, Call: l.rec.now()}
	headers := map[string]string{"Idempotency-Key": strconv.Quote(s.id), "Content-Type": "application/json"}
	switch {
	case s.expect == nil:
	case *s.expect == 0:
		headers["If-None-Match"] = "*"
	default:
		headers["If-Match"] = fmt.Sprintf(`"%d"`, *s.expect)
	}
	status, body, header, err := l.ask(ctx, http.MethodPost, "http://"+addr+"/v1/orders/"+s.stream+"/"+s.payload.kind, s.payload.body(), headers, wait)
	a.Return = l.rec.now()
	l.judge(&a, status, body, header, err)
	l.rec.add(a)
	return a.Outcome
}

// read reads all events of a stream.
func (l *load) read(ctx context.Context, client, addr, stream string, wait time.Duration) check.Outcome {
	a := check.Attempt{Client: client, Node: addr, Stream: stream, Call: l.rec.now()}
	status, body, header, err := l.ask(ctx, http.MethodGet, "http://"+addr+"/v1/orders/"+stream+"/events?limit=1000", "", nil, wait)
	a.Return = l.rec.now()
	var page struct {
		Events []struct {
			ID      string `json:"id"`
			Type    string `json:"type"`
			Version int64  `json:"version"`
		} `json:"events"`
		Next *int64 `json:"next"`
	}
	switch {
	case err == nil && status == http.StatusNotFound:
		a.Outcome = check.Read
	case err == nil && status == http.StatusOK:
		if err := json.Unmarshal(body, &page); err != nil || page.Next != nil {
			l.strange(&a, status, body)
			break
		}
		a.Outcome = check.Read
		for _, e := range page.Events {
			a.Events = append(a.Events, check.Ref{ID: e.ID, Type: e.Type, Version: e.Version})
		}
		l.learn(stream, int64(len(a.Events)))
	default:
		l.judge(&a, status, body, header, err)
	}
	l.rec.add(a)
	return a.Outcome
}

// errUnheard says that a request reached nobody.
var errUnheard = errors.New("nobody listens")

// ask makes one HTTP request.
func (l *load) ask(ctx context.Context, method, url, body string, headers map[string]string, wait time.Duration) (status int, answer []byte, header http.Header, err error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	// Go's transport sends a request with an Idempotency-Key again when a connection breaks: only if there never was one is it certain
	// that nobody heard it.
	connected := false
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected = true }})
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	for k, v := range headers {
		req.Header.Set(k, v)
	}
	resp, err := l.http.Do(req)
	if err != nil {
		var dial *net.OpError
		if !connected && errors.As(err, &dial) && dial.Op == "dial" {
			err = fmt.Errorf("%w: %w", errUnheard, err)
		}
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	return resp.StatusCode, answer, resp.Header, err
}

// judge translates an answer.
func (l *load) judge(a *check.Attempt, status int, body []byte, header http.Header, err error) {
	var problem struct {
		Code    string `json:"code"`
		Current *int64 `json:"current_version"`
	}
	if err == nil && status != http.StatusOK {
		if e := json.Unmarshal(body, &problem); e != nil || problem.Code == "" {
			l.strange(a, status, body)
			return
		}
	}
	switch {
	case errors.Is(err, errUnheard):
		a.Outcome, a.Note = check.Absent, err.Error()
	case err != nil:
		a.Outcome, a.Return, a.Note = check.Unknown, check.Forever, err.Error()
	case status == http.StatusOK:
		l.receipt(a, body, header)
	case status == http.StatusPreconditionFailed && problem.Current != nil:
		a.Outcome, a.Current = check.Conflict, *problem.Current
	case status == http.StatusUnprocessableEntity && problem.Code == "idempotency_key_reused":
		a.Outcome = check.Reused
	case status == http.StatusUnprocessableEntity, status == http.StatusConflict, status == http.StatusNotFound:
		a.Outcome, a.Code = check.Refused, problem.Code
	case status == http.StatusServiceUnavailable:
		a.Outcome, a.Note = check.Absent, string(body)
	case status == http.StatusGatewayTimeout:
		a.Outcome, a.Return = check.Unknown, check.Forever
	default:
		l.strange(a, status, body)
	}
}

func (l *load) receipt(a *check.Attempt, body []byte, header http.Header) {
	var r struct {
		ID      string      `json:"id"`
		Version int64       `json:"version"`
		Events  []check.Ref `json:"-"`
		Raw     []struct {
			ID      string `json:"id"`
			Type    string `json:"type"`
			Version int64  `json:"version"`
		} `json:"events"`
		Position es.Position `json:"position"`
	}
	if err := json.Unmarshal(body, &r); err != nil || r.ID != a.Stream {
		l.strange(a, http.StatusOK, body)
		return
	}
	a.Outcome = check.Acked
	a.Receipt = check.Receipt{Version: r.Version, Partition: r.Position.Partition, Offset: r.Position.Offset, Replayed: header.Get("Idempotent-Replayed") == "true"}
	for _, e := range r.Raw {
		a.Receipt.Events = append(a.Receipt.Events, check.Ref{ID: e.ID, Type: e.Type, Version: e.Version})
	}
	l.learn(a.Stream, r.Version)
}

// strange records an answer that no client should get; what became of the command is not known.
func (l *load) strange(a *check.Attempt, status int, body []byte) {
	a.Outcome, a.Return = check.Unknown, check.Forever
	l.rec.mu.Lock()
	defer l.rec.mu.Unlock()
	l.rec.odd = append(l.rec.odd, fmt.Sprintf("%s answered %q on %q with %d %.300s", a.Node, a.Command, a.Stream, status, body))
}

// pause waits, but not longer than ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
