package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/millrace/millrace/platform/command"
	"github.com/millrace/millrace/platform/es"
	ordersv1 "github.com/millrace/millrace/schemas/orders/v1"
)

// place has the fields of the orders service's command.
type place struct {
	CustomerID string     `json:"customer_id"`
	Currency   string     `json:"currency"`
	OrderedAt  *time.Time `json:"ordered_at,omitempty"`
	Lines      []struct {
		SKU      string `json:"sku"`
		Quantity int64  `json:"quantity"`
		Amount   int64  `json:"amount"`
	} `json:"lines"`
}

// newEcho returns the yardstick of the figures http and queries: Echo, the body decoded, a receipt answered, or a row, and nothing else done.
func newEcho() *echo.Echo {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.POST("/v1/orders/:id/place", func(c echo.Context) error {
		var p place
		if err := json.NewDecoder(c.Request().Body).Decode(&p); err != nil {
			return echo.NewHTTPError(http.StatusBadRequest)
		}
		return c.JSON(http.StatusOK, command.Receipt{
			ID: es.StreamID(c.Param("id")), Version: 1,
			Events:   []command.EventRef{{Type: "shop.orders.v1.OrderPlaced", ID: "00000000-0000-5000-8000-000000000000", Version: 1}},
			Position: es.Position{TopicPartition: es.TopicPartition{Topic: ordersv1.Topic}, Offset: 1},
		})
	})
	// A row of a view: bytes of the size that is asked for.
	row := []byte(strings.Repeat("r", 1<<20))
	e.GET("/v1/views/orders/:size", func(c echo.Context) error {
		n, err := strconv.Atoi(c.Param("size"))
		if err != nil || n < 0 || n > len(row) {
			return echo.NewHTTPError(http.StatusBadRequest)
		}
		return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, row[:n])
	})
	e.Server.Handler = e
	return e
}

// serveEcho serves it until ctx ends.
func serveEcho(ctx context.Context, addr string, stdout io.Writer) error {
	e := newEcho()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	e.Listener = l
	fmt.Fprintf(stdout, "http http://%s\nready to be measured\n", l.Addr())
	failed := make(chan error, 1)
	go func() { failed <- e.Start("") }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return e.Close()
	}
}

// echo starts serveEcho in a process of its own.
func (p *plan) echo(ctx context.Context) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return ready(ctx, exec.CommandContext(ctx, self, "-echo", "127.0.0.1:0")) //nolint:gosec // this program
}
