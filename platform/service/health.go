package service

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/fault"
)

// ErrUnhealthy is returned by the command health for a process that does not answer or is not ready.
var ErrUnhealthy = fault.New(fault.Unavailable, "unhealthy", "the process is not ready")

// healthAnswer is as much of an answer as is read: a problem document is far shorter.
const healthAnswer = 64 << 10

// healthCommand returns the command that asks a process whether it is ready: for container images, which have no shell and no curl.
func healthCommand(app string) *cobra.Command {
	patience := 3 * time.Second
	c := &cobra.Command{
		Use: "health [URL]", Short: "Ask a running process whether it is ready; the exit status tells", Args: cobra.MaximumNArgs(1),
		Long:    "Ask a running process for /readyz. The exit status is 0 if it is ready and 1 if it is not, which is then explained in one line.",
		Example: fmt.Sprintf("  %[1]s health\n  %[1]s health http://127.0.0.1:8081", app),
		RunE: func(c *cobra.Command, args []string) error {
			at := "http://127.0.0.1:8088"
			if len(args) > 0 {
				at = args[0]
			}
			u, err := url.Parse(at)
			if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
				return ErrUsage.Because("%q is not a URL like http://127.0.0.1:8088", at)
			}
			if patience <= 0 {
				return ErrUsage.Because("--timeout %s is not a time to wait", patience)
			}
			ctx, cancel := context.WithTimeout(c.Context(), patience)
			defer cancel()
			if err := health(ctx, u.JoinPath("readyz").String()); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), "ready")
			return nil
		},
	}
	c.Flags().DurationVar(&patience, "timeout", patience, "how long to wait for an answer")
	return c
}

// health returns nil if a GET of the URL is answered 200, and ErrUnhealthy with the reason otherwise.
func health(ctx context.Context, at string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return ErrUsage.Wrap(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ErrUnhealthy.Because("%s does not answer", at).Wrap(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, healthAnswer))
	if err != nil {
		return ErrUnhealthy.Because("%s answers %s", at, resp.Status).Wrap(err)
	}
	var problem struct{ Detail string }
	if json.Unmarshal(text, &problem) == nil && problem.Detail != "" {
		return ErrUnhealthy.Because("%s", strings.TrimSpace(problem.Detail))
	}
	return ErrUnhealthy.Because("%s answers %s", at, resp.Status)
}
