package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/text/currency"

	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/service"
)

// Errors of the import.
var (
	errFile = fault.New(fault.Invalid, "invalid_import_file", "the file cannot be imported")
	errRows = fault.New(fault.Rejected, "rows_not_imported", "some rows were not imported")
)

var header = []string{"order_id", "customer_id", "ordered_at", "sku", "quantity", "total"}

// importCommand returns shop import: each row of a CSV file becomes one order. The command id is derived from the order id, so that
// importing a file again imports nothing twice, wherever the last run ended.
func importCommand() *cobra.Command {
	var im importer
	c := &cobra.Command{
		Use: "import FILE", Short: "Place the orders of a CSV file; running it again imports nothing twice", Args: cobra.ExactArgs(1),
		Long: "Place an order for each row of a CSV file with the header\n\n  " + strings.Join(header, ",") +
			"\n\ntotal being what the row's quantity costs altogether, in decimal units of the currency. Bad rows are reported with line and reason\n" +
			"on standard error, the others are imported, and the exit status is 1. FILE may be - for standard input.",
		Example: "  shop import services/shop/testdata/orders-sample.csv",
		RunE: func(c *cobra.Command, args []string) error {
			return im.command(c.Context(), args[0], c.InOrStdin(), c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	c.Flags().StringVar(&im.url, "url", "http://127.0.0.1:8088", "where the orders service listens")
	c.Flags().IntVar(&im.concurrency, "concurrency", 32, "orders on their way at once, 1 to 1024")
	c.Flags().DurationVar(&im.patience, "retry-for", 10*time.Second, "how long to go on while the service does not answer or is not available")
	c.Flags().StringVar(&im.currency, "currency", "USD", "currency of the totals, ISO 4217")
	return c
}

type importer struct {
	url         string
	concurrency int
	currency    string
	patience    time.Duration

	client *http.Client
	digits int // decimal places of the currency
	stderr io.Writer

	placed, repeated, failed atomic.Int64
	mu                       sync.Mutex // of stderr
	bar                      *progress.Tracker
}

// A row is one line of the file.
type row struct {
	line   int
	fields []string
}

func (im *importer) command(ctx context.Context, path string, stdin io.Reader, stdout, stderr io.Writer) error {
	if err := im.check(); err != nil {
		return err
	}
	im.stderr = stderr
	in, size, err := open(path, stdin)
	if err != nil {
		return err
	}
	defer in.Close()
	stop := im.showProgress(size)
	began := time.Now()
	err = im.run(ctx, &counted{in, im})
	stop()
	placed, repeated, failed := im.placed.Load(), im.repeated.Load(), im.failed.Load()
	took := time.Since(began)
	fmt.Fprintf(stdout, "%d orders placed, %d were there already, %d rows not imported, %.1fs, %.0f rows/s\n",
		placed, repeated, failed, took.Seconds(), float64(placed+repeated+failed)/took.Seconds())
	if err != nil {
		return err
	}
	if failed > 0 {
		return errRows.Because("%d of %d", failed, placed+repeated+failed).WithFix("mend the rows named above and run the import again: what is there already is left alone")
	}
	return ctx.Err()
}

func (im *importer) check() error {
	u, err := url.Parse(im.url)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return service.ErrUsage.Because("--url %q is not a URL like http://127.0.0.1:8088", im.url)
	}
	im.url = strings.TrimRight(im.url, "/")
	if im.concurrency < 1 || im.concurrency > 1024 {
		return service.ErrUsage.Because("--concurrency %d is not 1 to 1024", im.concurrency)
	}
	unit, err := currency.ParseISO(im.currency)
	if err != nil || unit.String() != im.currency {
		return service.ErrUsage.Because("--currency %q is no currency of ISO 4217, e.g. USD", im.currency)
	}
	im.digits, _ = currency.Standard.Rounding(unit)
	im.client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: im.concurrency, MaxConnsPerHost: im.concurrency}}
	return nil
}

func open(path string, stdin io.Reader) (io.ReadCloser, int64, error) {
	if path == "-" {
		return io.NopCloser(stdin), 0, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, errFile.Wrap(err)
	}
	info, err := f.Stat()
	if err != nil || info.IsDir() {
		f.Close()
		return nil, 0, errFile.Because("%s is not a file", path)
	}
	return f, info.Size(), nil
}

// showProgress draws a bar of the bytes read, on a terminal only.
func (im *importer) showProgress(size int64) (stop func()) {
	f, ok := im.stderr.(*os.File)
	if !ok || size == 0 || !isatty.IsTerminal(f.Fd()) || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return func() {}
	}
	w := progress.NewWriter()
	w.SetOutputWriter(f)
	w.SetUpdateFrequency(100 * time.Millisecond)
	w.SetAutoStop(true)
	w.Style().Visibility.Value = true
	im.bar = &progress.Tracker{Message: "importing", Total: size, Units: progress.UnitsBytes}
	w.AppendTracker(im.bar)
	done := make(chan struct{})
	go func() { w.Render(); close(done) }()
	return func() {
		im.bar.MarkAsDone()
		<-done
	}
}

// counted moves the bar as the file is read.
type counted struct {
	io.Reader
	im *importer
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if c.im.bar != nil {
		c.im.bar.Increment(int64(n))
	}
	return n, err
}

func (im *importer) run(ctx context.Context, in io.Reader) error {
	rows := make(chan row)
	g, ctx := errgroup.WithContext(ctx)
	for range im.concurrency {
		g.Go(func() error {
			for r := range rows {
				if err := im.place(ctx, r); err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(rows)
		return im.read(ctx, in, rows)
	})
	return g.Wait()
}

// maxLine is the longest line of a file.
const maxLine = 64 << 10

// read sends the rows of the file, one a line: a quote that nobody closes costs its own row only. A row that is not CSV is reported and
// left out.
func (im *importer) read(ctx context.Context, in io.Reader, rows chan<- row) error {
	fix := "the first line must be " + strings.Join(header, ",")
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	number := 0
	for lines.Scan() {
		number++
		text := strings.TrimSuffix(lines.Text(), "\r")
		if number == 1 {
			text = strings.TrimPrefix(text, "\ufeff")
		}
		if strings.TrimSpace(text) == "" {
			if number == 1 {
				return errFile.Because("its first line is empty").WithFix("%s", fix)
			}
			continue
		}
		parser := csv.NewReader(strings.NewReader(text))
		parser.FieldsPerRecord = len(header)
		fields, err := parser.Read()
		if number == 1 {
			if err != nil || !slices.Equal(fields, header) {
				return errFile.Because("its first line is %.120s", text).WithFix("%s", fix)
			}
			continue
		}
		if err != nil {
			var bad *csv.ParseError
			if errors.As(err, &bad) {
				err = bad.Err
			}
			if errors.Is(err, csv.ErrFieldCount) {
				err = fmt.Errorf("it has %d fields, not %d", len(fields), len(header))
			}
			im.fail(number, err)
			continue
		}
		select {
		case rows <- row{number, fields}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return errFile.Because("line %d is longer than %d bytes", number+1, maxLine)
	case err != nil:
		return errFile.Wrap(err)
	case number == 0:
		return errFile.Because("it is empty").WithFix("%s", fix)
	}
	return nil
}

func (im *importer) fail(line int, why error) {
	im.failed.Add(1)
	im.mu.Lock()
	defer im.mu.Unlock()
	fmt.Fprintf(im.stderr, "line %d: %v\n", line, why)
}

// errGone ends the import: the service cannot be reached, so the rest would fail the same way.
var errGone = fault.New(fault.Unavailable, "service_unreachable", "the orders service cannot be reached")

// place places the order of one row; only an error that concerns all rows is returned.
func (im *importer) place(ctx context.Context, r row) error {
	id, body, err := im.order(r.fields)
	if err != nil {
		im.fail(r.line, err)
		return nil
	}
	pause, until := 50*time.Millisecond, time.Now().Add(im.patience)
	for {
		again, err := im.post(ctx, id, body)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !again:
			im.fail(r.line, err)
			return nil
		case time.Now().After(until):
			return errGone.Because("line %d: %v", r.line, err).WithFix("start it, or name it with --url; then run the import again: nothing is imported twice")
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause = min(2*pause, 2*time.Second)
	}
}

// order turns the fields of a row into an order id and the body of its command.
func (im *importer) order(f []string) (id string, body []byte, err error) {
	at, err := time.Parse(time.RFC3339, f[2])
	if err != nil {
		return "", nil, fmt.Errorf("ordered_at %q is not a time like 1997-01-01T12:00:00Z", f[2])
	}
	quantity, err := strconv.ParseInt(f[4], 10, 64)
	if err != nil {
		return "", nil, fmt.Errorf("quantity %q is not a whole number", f[4])
	}
	amount, err := minorUnits(f[5], im.digits)
	if err != nil {
		return "", nil, err
	}
	if f[0] == "" {
		return "", nil, errors.New("order_id is empty")
	}
	type line struct {
		SKU      string `json:"sku"`
		Quantity int64  `json:"quantity"`
		Amount   int64  `json:"amount"`
	}
	body, err = json.Marshal(struct {
		CustomerID string    `json:"customer_id"`
		Currency   string    `json:"currency"`
		OrderedAt  time.Time `json:"ordered_at"`
		Lines      []line    `json:"lines"`
	}{f[1], im.currency, at, []line{{f[3], quantity, amount}}})
	return f[0], body, err
}

// minorUnits reads a decimal amount exactly: no float ever touches money.
func minorUnits(s string, digits int) (int64, error) {
	whole, part, _ := strings.Cut(s, ".")
	bad := fmt.Errorf("total %q is not an amount with at most %d decimals", s, digits)
	if strings.TrimPrefix(whole, "-") == "" || len(part) > digits || (strings.HasSuffix(s, ".")) {
		return 0, bad
	}
	for _, r := range strings.TrimPrefix(whole, "-") + part {
		if r < '0' || r > '9' {
			return 0, bad
		}
	}
	n, err := strconv.ParseInt(whole+part+strings.Repeat("0", digits-len(part)), 10, 64)
	if err != nil || n == math.MinInt64 {
		return 0, fmt.Errorf("total %q does not fit in 64 bits", s)
	}
	return n, nil
}

// commandID derives the command id from the order id. A header holds printable ASCII of a limited length: an id that is otherwise, or
// long, is hashed.
func commandID(order string) string {
	plain := len(order) <= 128
	for _, r := range order {
		plain = plain && r > ' ' && r < 0x7f && r != '"' && r != '\\'
	}
	if plain {
		return "import:" + order
	}
	sum := sha256.Sum256([]byte(order))
	return "import:sha256:" + hex.EncodeToString(sum[:])
}

// post sends one command; again says whether the same may succeed later.
func (im *importer) post(ctx context.Context, id string, body []byte) (again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, im.url+"/v1/orders/"+url.PathEscape(id)+"/place", bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", `"`+commandID(id)+`"`)
	resp, err := im.client.Do(req)
	if err != nil {
		return true, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return true, err
	}
	if resp.StatusCode == http.StatusOK {
		if resp.Header.Get("Idempotent-Replayed") == "true" {
			im.repeated.Add(1)
		} else {
			im.placed.Add(1)
		}
		return false, nil
	}
	var problem struct {
		Title, Detail, Code string
		Retryable           bool
		Errors              []struct{ Pointer, Detail string }
	}
	if json.Unmarshal(text, &problem) != nil || problem.Code == "" {
		return resp.StatusCode >= 500, fmt.Errorf("status %d from %s", resp.StatusCode, im.url)
	}
	why := problem.Title
	if problem.Detail != "" {
		why += ": " + problem.Detail
	}
	for _, e := range problem.Errors {
		why += "; " + e.Pointer + " " + e.Detail
	}
	return problem.Retryable, fmt.Errorf("%s [%s]", why, problem.Code)
}
