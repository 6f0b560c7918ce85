package service

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/projection"
)

// A savingsRow is large if the notes are.
type savingsRow struct {
	Balance int64  `json:"balance"`
	Note    string `json:"note"`
}

// savings is a view whose rows come and go: accounts that hold something, by how much.
func savings() Projector {
	return Projector{Name: "savings-views", Views: []View{ViewOf(accounts("accounts").Contract, es.View[savingsRow, accountEvent]{
		Name: "savings", Version: 1,
		Key: func(e es.Envelope[accountEvent]) (string, bool) { return string(e.Stream), true },
		Apply: func(b savingsRow, e es.Envelope[accountEvent]) savingsRow {
			switch e := e.Event.(type) {
			case paidIn:
				b.Balance, b.Note = b.Balance+e.Amount, e.Note
			case takenOut:
				b.Balance -= e.Amount
			}
			return b
		},
		Gone:    func(b savingsRow) bool { return b.Balance == 0 },
		Indexes: map[string]es.Index[savingsRow]{"balance": es.By(es.Number(func(b savingsRow) int64 { return b.Balance }))},
	})}}
}

// A follower is a client that follows rows over server-sent events as a browser does, and knows them from these alone.
type follower struct {
	at, last string // URL; id of the last event
	rows     map[string]string
	applied  es.Positions
	states   int // how often it had to begin anew
	resumed  int // how often it did not
}

func follow(at string) *follower { return &follower{at: at, rows: map[string]string{}} }

// run connects and takes events in until enough says so, after each, or the connection ends.
func (f *follower) run(ctx context.Context, enough func() bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.at, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	if f.last != "" {
		req.Header.Set("Last-Event-ID", f.last)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || got != "text/event-stream" {
		return fmt.Errorf("%s, %s", resp.Status, got)
	}
	first := true
	in := bufio.NewReader(resp.Body)
	event := map[string]string{}
	for {
		text, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		if text = strings.TrimSuffix(text, "\n"); text != "" {
			name, value, _ := strings.Cut(text, ": ")
			event[name] = value
			continue
		}
		if event["data"] != "" {
			if event["event"] == "error" {
				return errors.New(event["data"])
			}
			if err := f.take(event, first); err != nil {
				return err
			}
			first = false
			if enough() {
				return nil
			}
		}
		clear(event)
	}
}

func (f *follower) take(event map[string]string, first bool) error {
	var u struct {
		Rows []struct {
			Key string          `json:"key"`
			Row json.RawMessage `json:"row"`
		} `json:"rows"`
		Gone []string `json:"gone"`
	}
	if err := json.Unmarshal([]byte(event["data"]), &u); err != nil {
		return err
	}
	switch event["event"] {
	case "state":
		clear(f.rows)
		f.states++
	case "change":
		if first {
			f.resumed++
		}
	default:
		return fmt.Errorf("an event called %q", event["event"])
	}
	for _, r := range u.Rows {
		f.rows[r.Key] = string(r.Row)
	}
	for _, key := range u.Gone {
		delete(f.rows, key)
	}
	f.last = event["id"]
	var err error
	_, f.applied, err = projection.ParseUpdateID(f.last)
	return err
}

// holds reports whether what the follower has seen holds all of need.
func (f *follower) holds(need es.Positions) bool {
	for _, p := range need {
		if at, ok := f.applied.Offset(p.TopicPartition); !ok || at < p.Offset {
			return false
		}
	}
	return true
}

// TestLiveResume follows rows over connections that are cut again and again, while rows change, come into the selection, leave it, and are
// deleted, and while another build takes over: in the end the client has the rows that the query has.
func TestLiveResume(t *testing.T) {
	r := launch(t, App{Roles: []Role{accounts("accounts"), savings()}})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const accountsN = 20
	var need es.Positions
	emptied := 0
	change := func() {
		id := fmt.Sprintf("a-%d", rnd.IntN(accountsN))
		at := "/v1/accounts/" + id
		a := r.send("POST", at+"/pay-in", fmt.Sprintf(`{"amount":%d}`, 1+rnd.IntN(80)))
		if rnd.IntN(3) == 0 {
			var s account
			r.send("GET", at, "").want(t, 200, &s)
			a = r.send("POST", at+"/take-out", fmt.Sprintf(`{"amount":%d}`, s.Balance))
			emptied++
		}
		got, err := es.ParsePositions(a.want(t, 200, nil).header.Get("Millrace-Position"))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range got {
			need = need.With(p)
		}
	}
	all, some, one := follow(r.at+"/v1/views/savings?limit=1000"), follow(r.at+"/v1/views/savings?limit=1000&where=balance+%3E+100&balance.from=10"), follow(r.at+"/v1/views/savings/a-3")
	followers := []*follower{all, some, one}
	for round := range 8 {
		for range 1 + rnd.IntN(8) {
			change()
		}
		if round == 4 {
			if _, err := r.host.engine(t, "savings").Rebuild(ctx, "savings", projection.Rebuild{Switch: true}); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range followers {
			// The connection is cut at any moment: before the first event, or in the middle of changes.
			connected, cut := context.WithCancel(ctx)
			ended := make(chan error, 1)
			events := rnd.IntN(4)
			if round == 0 {
				events = 0 // each has a state to go on from
			}
			go func() {
				ended <- f.run(connected, func() bool { events--; return events < 0 })
			}()
			for range rnd.IntN(7) {
				change()
			}
			if round > 0 {
				cut()
			}
			err := <-ended
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			cut()
		}
	}
	for range 3 {
		change()
	}
	// What is not selected brings no event, so the last one need not bring everybody to the end: only equal rows do.
	atLeast := "Millrace-At-Least: " + need.String()
	for i, f := range followers {
		want := map[string]string{}
		if f == one {
			if a := r.send("GET", "/v1/views/savings/a-3", "", atLeast); a.status == http.StatusOK {
				want["a-3"] = strings.TrimSpace(a.body)
			}
		} else {
			var page struct {
				Rows []struct {
					Key string          `json:"key"`
					Row json.RawMessage `json:"row"`
				} `json:"rows"`
			}
			r.send("GET", strings.TrimPrefix(f.at, r.at)+"&explain", "", atLeast).want(t, 200, &page)
			for _, row := range page.Rows {
				want[row.Key] = string(row.Row)
			}
		}
		if !maps.Equal(f.rows, want) {
			patience, cancel := context.WithTimeout(ctx, 10*time.Second)
			err := f.run(patience, func() bool { return maps.Equal(f.rows, want) })
			cancel()
			if err != nil {
				t.Errorf("follower %d: %v; rows (-query +followed):\n%s", i, err, cmp.Diff(want, f.rows))
			}
		}
	}
	if emptied == 0 {
		t.Error("no row was ever deleted")
	}
	if all.resumed == 0 || some.resumed == 0 {
		t.Errorf("connections that went on where they were: %d of all rows, %d of some", all.resumed, some.resumed)
	}
}

// TestLiveSlowReader has a client that reads nothing: others see every change all the same.
func TestLiveSlowReader(t *testing.T) {
	r := launch(t, App{Roles: []Role{accounts("accounts"), savings()}})
	note := strings.Repeat("n", 20_000)
	const accountsN = 40
	pay := func(round int) (need es.Positions) {
		for n := range accountsN {
			a := r.send("POST", fmt.Sprintf("/v1/accounts/a-%d/pay-in", n), fmt.Sprintf(`{"amount":1,"note":"%d %s"}`, round, note)).want(t, 200, nil)
			got, err := es.ParsePositions(a.header.Get("Millrace-Position"))
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range got {
				need = need.With(p)
			}
		}
		return need
	}
	need := pay(0)
	slow, err := net.Dial("tcp", strings.TrimPrefix(r.at, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if err := slow.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(slow, "GET /v1/views/savings HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(slow, make([]byte, 100)); err != nil { // it is being answered, and reads no more
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	f := follow(r.at + "/v1/views/savings?limit=1000")
	round := 0
	err = f.run(ctx, func() bool {
		if !f.holds(need) {
			return false
		}
		if len(f.rows) != accountsN {
			t.Errorf("%d rows of %d", len(f.rows), accountsN)
		}
		for key, row := range f.rows {
			if !strings.Contains(row, fmt.Sprintf(`"note":"%d n`, round)) {
				t.Errorf("round %d: %s is %.60s…", round, key, row)
			}
		}
		if round++; round > 10 { // 8 MB: more than is held for the slow one anywhere
			return true
		}
		need = pay(round)
		return false
	})
	if err != nil {
		t.Fatal(err)
	}
	// Once more if changes that nobody had watched were on their way when it came.
	if f.states > 2 {
		t.Errorf("the reader had to begin anew %d times", f.states-1)
	}
}
