package main

import (
	"context"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
)

// importText imports a text into a service that answers with answer, and returns what was posted, by path.
func importText(t *testing.T, text string, answer func(path string) (status int, body string), change ...func(*importer)) (posted map[string]string, stdout, stderr string, err error) {
	t.Helper()
	var mu sync.Mutex
	posted = map[string]string{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		posted[r.URL.Path] = string(body)
		mu.Unlock()
		status, text := http.StatusOK, "{}"
		if answer != nil {
			status, text = answer(r.URL.Path)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}))
	defer s.Close()
	im := importer{url: s.URL, concurrency: 2, currency: "USD", patience: 10 * time.Millisecond}
	for _, f := range change {
		f(&im)
	}
	var out, errs strings.Builder
	err = im.command(context.Background(), "-", strings.NewReader(text), &out, &errs)
	return posted, out.String(), errs.String(), err
}

const head = "order_id,customer_id,ordered_at,sku,quantity,total\n"

// TestBadRows: bad rows are reported with line and reason, the others are imported, and the command fails.
func TestBadRows(t *testing.T) {
	posted, out, errs, err := importText(t, "\ufeff"+strings.TrimSuffix(head, "\n")+"\r\n"+
		"o-1,c-1,1997-01-01T12:00:00Z,cd,1,29.33\r\n"+
		"\n"+
		"o-2,c-1,yesterday,cd,1,1.00\n"+
		"o-3,c-1,1997-01-01T12:00:00Z,cd,one,1.00\n"+
		"o-4,c-1,1997-01-01T12:00:00Z,cd,1,1.005\n"+
		"o-5,c-1,1997-01-01T12:00:00Z,cd,1\n"+
		"o-6,c-1,1997-01-01T12:00:00Z,\"7 inch,1,1.00\n"+
		"o-7,c-1,1997-01-01T12:00:00Z,\"cd, used\",1,1.5\n"+
		",c-1,1997-01-01T12:00:00Z,cd,1,1.00\n"+
		"o-9,c-1,1997-01-01T12:00:00Z,cd,1,-\n"+
		"o-10,c-1,1997-01-01T12:00:00Z,cd,1,10\n", nil)
	if len(posted) != 3 || posted["/v1/orders/o-1/place"] != `{"customer_id":"c-1","currency":"USD","ordered_at":"1997-01-01T12:00:00Z","lines":[{"sku":"cd","quantity":1,"amount":2933}]}` ||
		!strings.Contains(posted["/v1/orders/o-7/place"], `"sku":"cd, used","quantity":1,"amount":150}`) || !strings.Contains(posted["/v1/orders/o-10/place"], `"amount":1000}`) {
		t.Errorf("posted %v", posted)
	}
	for _, want := range []string{"line 4: ordered_at", "line 5: quantity", "line 6: total", "line 7: it has 5 fields, not 6", "line 8: ", "line 10: order_id", "line 11: total"} {
		if !strings.Contains(errs, want) {
			t.Errorf("it does not say %q:\n%s", want, errs)
		}
	}
	if !strings.HasPrefix(out, "3 orders placed, 0 were there already, 7 rows not imported") {
		t.Error(out)
	}
	if fault.From(err) == nil || fault.From(err).Code != "rows_not_imported" {
		t.Errorf("error %v", err)
	}
}

// TestRefusedRows: what the service refuses or fails at is one row's failure; only a service that is not there ends the import.
func TestRefusedRows(t *testing.T) {
	_, out, errs, err := importText(t, head+"o-1,c-1,1997-01-01T12:00:00Z,cd,0,1\no-2,c-1,1997-01-01T12:00:00Z,cd,1,1\no-3,c-1,1997-01-01T12:00:00Z,cd,1,1\n", func(path string) (int, string) {
		switch {
		case strings.Contains(path, "o-1"):
			return 422, `{"title":"the order is not acceptable","code":"invalid_order","errors":[{"pointer":"/lines/0/quantity","detail":"must be 1 to 1000000"}]}`
		case strings.Contains(path, "o-2"):
			return 500, `{"title":"an internal error occurred","code":"internal"}`
		}
		return 200, "{}"
	})
	if !strings.Contains(errs, "line 2: the order is not acceptable; /lines/0/quantity must be") || !strings.Contains(errs, "line 3: an internal error occurred [internal]") {
		t.Error(errs)
	}
	if !strings.HasPrefix(out, "1 orders placed, 0 were there already, 2 rows not imported") || err == nil {
		t.Errorf("%s %v", out, err)
	}
	_, out, _, err = importText(t, head+"o-1,c-1,1997-01-01T12:00:00Z,cd,1,1\n", func(string) (int, string) {
		return 503, `{"title":"too many commands are waiting","code":"overloaded","retryable":true}`
	})
	if fault.From(err) == nil || fault.From(err).Code != "service_unreachable" || !strings.HasPrefix(out, "0 orders placed") {
		t.Errorf("%v %q", err, out)
	}
}

func TestBadFiles(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "no header": "o-1,c-1,1997-01-01T12:00:00Z,cd,1,1\n", "an empty line first": "\n" + head, "a line without end": head + strings.Repeat("x", maxLine+1)} {
		posted, _, _, err := importText(t, text, nil)
		if e := fault.From(err); e == nil || e.Code != "invalid_import_file" || len(posted) > 0 {
			t.Errorf("%s: %v, posted %v", name, err, posted)
		}
	}
}

func TestMinorUnits(t *testing.T) {
	for _, tc := range []struct {
		in     string
		digits int
		want   int64
	}{{"29.33", 2, 2933}, {"29", 2, 2900}, {"29.3", 2, 2930}, {"0.00", 2, 0}, {"-1.5", 2, -150}, {"100", 0, 100}, {"1.234", 3, 1234}, {"92233720368547758.07", 2, math.MaxInt64}} {
		if got, err := minorUnits(tc.in, tc.digits); err != nil || got != tc.want {
			t.Errorf("%s: %d, %v", tc.in, got, err)
		}
	}
	for _, bad := range []string{"", "-", ".", "1.", ".5", "1.234", "1,5", "1e3", "+1", "0x1", " 1", "--1", "92233720368547758.08", "1.-5"} {
		if got, err := minorUnits(bad, 2); err == nil {
			t.Errorf("%q is taken for %d", bad, got)
		}
	}
}

// TestCommandID: whatever an order may be called, its command id is one that the service takes, and no two orders share one.
func TestCommandID(t *testing.T) {
	seen := map[string]bool{}
	for _, id := range []string{"o-1", "ü", "a b", `a"b`, `a\b`, strings.Repeat("x", 256), strings.Repeat("x", 255), strings.Repeat("日", 85)} {
		got := commandID(id)
		if err := es.CheckID(got); err != nil || seen[got] || strings.ContainsFunc(got, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			t.Errorf("%.20q: %q, %v", id, got, err)
		}
		seen[got] = true
	}
}
