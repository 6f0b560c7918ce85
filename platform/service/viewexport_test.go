package service

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hamba/avro/v2/ocf"

	"github.com/millrace/millrace/platform/es"
)

const avroFile = "Accept: application/avro"

// A clockRow has a time that Avro can hold if its note is a whole number of microseconds.
type clockRow struct {
	Note string    `json:"note"`
	At   time.Time `json:"at"`
	Sum  uint64    `json:"sum,omitempty"`
}

func clocks() Projector {
	return Projector{Name: "clock-views", Views: []View{ViewOf(accounts("accounts").Contract, es.View[clockRow, accountEvent]{
		Name: "clocks", Version: 3,
		Key: func(e es.Envelope[accountEvent]) (string, bool) { return string(e.Stream), true },
		Apply: func(b clockRow, e es.Envelope[accountEvent]) clockRow {
			if e, ok := e.Event.(paidIn); ok {
				d, _ := time.ParseDuration(e.Note)
				b.Note, b.At, b.Sum = e.Note, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(d), b.Sum+uint64(e.Amount)
			}
			return b
		},
	})}}
}

// readAvro reads a file.
func readAvro(t *testing.T, body string) (meta map[string][]byte, schema string, rows []map[string]any) {
	t.Helper()
	d, err := ocf.NewDecoder(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for d.HasNext() {
		var row map[string]any
		if err := d.Decode(&row); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row)
	}
	if d.Error() != nil {
		t.Fatal(d.Error())
	}
	return d.Metadata(), string(d.Metadata()["avro.schema"]), rows
}

// TestAvroExport compares exports in Avro with the same ones in lines.
func TestAvroExport(t *testing.T) {
	r := launch(t, App{Roles: []Role{accounts("accounts"), balances("accounts"), clocks()}})
	var at string
	for n := range 300 {
		at = r.send("POST", fmt.Sprintf("/v1/accounts/a-%03d/pay-in", n), fmt.Sprintf(`{"amount":%d,"note":"%dus"}`, n+1, n)).want(t, 200, nil).header.Get("Millrace-Position")
		r.send("GET", fmt.Sprintf("/v1/views/clocks/a-%03d", n), "", "Millrace-At-Least: "+at).want(t, 200, nil)
	}
	fresh := "Millrace-At-Least: " + at
	type explained struct {
		Key      string   `json:"key"`
		Position string   `json:"position"`
		EventID  string   `json:"event_id"`
		Row      clockRow `json:"row"`
	}
	for _, query := range []string{"", "?prefix=a-00", "?from=a-010&to=a-012&order=desc", "?where=" + "sum%20%3E%20250", "?prefix=none"} {
		sep := "?"
		if query != "" {
			sep = "&"
		}
		var want []map[string]any
		text := r.send("GET", "/v1/views/clocks"+query+sep+"explain", "", ndjson, fresh).want(t, 200, nil)
		for line := range strings.Lines(text.body) {
			var e explained
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			want = append(want, map[string]any{"key": e.Key, "position": e.Position, "event_id": e.EventID, "row": map[string]any{"note": e.Row.Note, "at": e.Row.At, "sum": fmt.Sprint(e.Row.Sum, "/1")}})
		}
		a := r.send("GET", "/v1/views/clocks"+query+sep+"explain", "", avroFile, fresh).want(t, 200, nil)
		meta, _, got := readAvro(t, a.body)
		for _, row := range got {
			row := row["row"].(map[string]any)
			row["sum"] = fmt.Sprint(row["sum"])
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", query, diff)
		}
		if a.header.Get("Content-Type") != "application/avro" || string(meta["millrace.view"]) != "clocks" || string(meta["millrace.build"]) != "v3-1" || string(meta["millrace.position"]) != a.header.Get("Millrace-Position") {
			t.Errorf("%q: header %v, metadata %q", query, a.header, meta)
		}
		for _, a := range []reply{a, text} {
			if got := a.trailer.Get("Millrace-Rows"); got != strconv.Itoa(len(want)) {
				t.Errorf("%q: the trailer says %q rows, there are %d", query, got, len(want))
			}
		}
	}
	_, schema, rows := readAvro(t, r.send("GET", "/v1/views/clocks?fields=sum&prefix=a-000", "", avroFile).want(t, 200, nil).body)
	if len(rows) != 1 || strings.Contains(schema, "note") || len(rows[0]) != 2 || len(rows[0]["row"].(map[string]any)) != 1 {
		t.Errorf("fields=sum: %v of %s", rows, schema)
	}
	// The other view's row has a field only, and rows that the first row does not speak for are not read twice.
	if _, _, rows := readAvro(t, r.send("GET", "/v1/views/accounts?sign=plus", "", avroFile).want(t, 200, nil).body); len(rows) != 300 || !cmp.Equal(rows[299], map[string]any{"key": "a-299", "row": map[string]any{"balance": int64(300)}}) {
		t.Errorf("%d rows by the index, the last %v", len(rows), rows[len(rows)-1])
	}
	if a := r.send("HEAD", "/v1/views/clocks", "", avroFile).want(t, 200, nil); a.body != "" {
		t.Errorf("HEAD has a body of %d bytes", len(a.body))
	}
	r.send("GET", "/v1/views/clocks?where=sum%20%3C", "", avroFile).want(t, 400, nil)
	// Not a list of rows as JSON, as whoever names a type that there is not gets.
	r.send("GET", "/v1/views/clocks?limit=1", "", "Accept: avro/binary").want(t, 200, &struct{ Rows []clockRow }{})
}

// TestBrokenExport has a row that Avro cannot hold: as the first one it is an answer, later it cuts the connection.
func TestBrokenExport(t *testing.T) {
	r := launch(t, App{Roles: []Role{accounts("accounts"), clocks()}})
	pay := func(id, note string) {
		at := r.send("POST", "/v1/accounts/"+id+"/pay-in", `{"amount":1,"note":"`+note+`"}`).want(t, 200, nil).header.Get("Millrace-Position")
		r.send("GET", "/v1/views/clocks/"+id, "", "Millrace-At-Least: "+at).want(t, 200, nil)
	}
	pay("a", "7us")
	pay("b", "7ns")
	if a, err := r.do("GET", "/v1/views/clocks", "", avroFile); err == nil {
		t.Errorf("%d bytes look like the whole, trailer %v", len(a.body), a.trailer)
	}
	var problem struct{ Code, Detail, Fix string }
	r.send("GET", "/v1/views/clocks?from=b", "", avroFile).want(t, 409, &problem)
	if problem.Code != "unexportable_row" || problem.Detail != `of the row "b", at is "2026-01-01T00:00:00.000000007Z": the time has more than microseconds, and Avro's timestamp-micros has not` || !strings.Contains(problem.Fix, "fields=") {
		t.Errorf("%+v", problem)
	}
	r.send("GET", "/v1/views/clocks?fields=note", "", avroFile).want(t, 200, nil)
	if a := r.send("GET", "/v1/views/clocks", "", ndjson).want(t, 200, nil); strings.Count(a.body, "\n") != 2 {
		t.Error(a.body)
	}
}

// TestExportOfDrained ends the process while exports are being read: none may look like the whole.
func TestExportOfDrained(t *testing.T) {
	r := launch(t, App{Roles: []Role{accounts("accounts"), savings()}})
	var at string
	random := rand.NewChaCha8([32]byte{})
	note := make([]byte, 130_000)
	for n := range 150 {
		random.Read(note)
		body, err := json.Marshal(map[string]any{"amount": 1, "note": base64.StdEncoding.EncodeToString(note)})
		if err != nil {
			t.Fatal(err)
		}
		at = r.send("POST", fmt.Sprintf("/v1/accounts/a-%d/pay-in", n), string(body)).want(t, 200, nil).header.Get("Millrace-Position")
		r.send("GET", fmt.Sprintf("/v1/views/savings/a-%d", n), "", "Millrace-At-Least: "+at).want(t, 200, nil)
	}
	var open []*http.Response
	for _, accept := range []string{"application/avro", "application/x-ndjson"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.at+"/v1/views/savings", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		resp, err := new(http.Transport).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.ReadFull(resp.Body, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		open = append(open, resp)
	}
	stopped := make(chan struct{})
	go func() { r.stop(); close(stopped) }()
	// Only once it drains are the exports read, far more than fits between it and its clients.
	for {
		c, err := net.Dial("tcp", strings.TrimPrefix(r.at, "http://"))
		if err != nil {
			break
		}
		c.Close()
		time.Sleep(time.Millisecond)
	}
	for _, resp := range open {
		var b bytes.Buffer
		_, err := io.Copy(&b, resp.Body)
		if err == nil {
			t.Errorf("%s: %d bytes look like the whole, trailer %v", resp.Header.Get("Content-Type"), b.Len(), resp.Trailer)
		}
	}
	<-stopped
}
