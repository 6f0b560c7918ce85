// Package service ties the packages of the platform together into processes: an App with its roles becomes a binary that can run
// everything at once on an embedded Kafka (dev), or chosen roles against a real cluster (serve).
package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/registry"
	"github.com/millrace/millrace/platform/rest"
)

// Version is the release of the platform.
const Version = "0.1.0"

// An App is an application on Millrace: its roles, beside the schema registry that each has, and commands of its own.
type App struct {
	Name     string
	Short    string // one sentence for the help
	Roles    []Role
	Commands []*cobra.Command

	// Authenticate says who sends a request; nil = nobody is asked. It is called for each request but those for health and the OpenAPI
	// document, and for requests to the admin address, which is not for the public.
	Authenticate rest.Authenticator
	// Authorize says who may do what; nil = everybody may do everything. It is called for each of these requests, for each command of a
	// batch, and before anything is decided or read.
	Authorize rest.Authorizer
	// Trace is told of each piece of work; nil = nobody is. Traceparents are passed on without it, too.
	Trace Tracer
}

// Main runs the application with the arguments of the process and exits: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted.
func Main(a App) {
	os.Exit(Execute(a.command(), os.Args[1:], os.Stderr))
}

// ErrUsage is returned for a command line that is not understood; the exit status is 2.
var ErrUsage = fault.New(fault.Invalid, "usage", "the command line is not understood")

// ErrFindings is returned by a command that looks for faults and found some, which it has told; the exit status is 3.
var ErrFindings = fault.New(fault.Rejected, "findings", "there are findings")

// Execute runs a command tree under SIGINT and SIGTERM and returns the exit status. A second signal ends the process at once.
func Execute(root *cobra.Command, args []string, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	root.SetArgs(args)
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return ErrUsage.Wrap(err) })
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return 130
	}
	if e := fault.From(err); e == nil && (strings.HasPrefix(err.Error(), "unknown command") || strings.Contains(err.Error(), "arg(s)")) {
		err = ErrUsage.Wrap(err) // cobra's own words, which have no type
	}
	var silent interface{ Silent() bool }
	if !errors.As(err, &silent) {
		fmt.Fprintln(stderr, root.Name()+": "+fault.Line(err))
	}
	var condition interface{ ExitStatus() int }
	if errors.As(err, &condition) {
		return condition.ExitStatus()
	}
	if errors.Is(err, ErrFindings) {
		return 3
	}
	if errors.Is(err, ErrUsage) || errors.Is(err, ErrConfig) {
		return 2
	}
	return 1
}

func (a App) command() *cobra.Command {
	root := &cobra.Command{Use: a.Name, Short: a.Short, Version: Version, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	dev := &cobra.Command{
		Use: "dev", Short: "Run everything in one process: embedded Kafka, schema registry and all roles", Args: cobra.NoArgs,
		Example: fmt.Sprintf("  %[1]s dev\n  %[1]s dev --ephemeral --http-addr 127.0.0.1:0 --kafka-addr 127.0.0.1:0 --registry-addr 127.0.0.1:0 --admin-addr 127.0.0.1:0", a.Name),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := LoadConfig(c.Flags(), os.Environ())
			if err != nil {
				return err
			}
			return a.run(c.Context(), cfg, a.roles(), true, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	addFlags(dev.Flags())
	names := make([]string, 0, len(a.Roles)+1)
	for _, r := range a.roles() {
		names = append(names, r.role())
	}
	serve := &cobra.Command{
		Use: "serve ROLE…", Short: "Run roles against a Kafka cluster: " + strings.Join(names, ", "), ValidArgs: names,
		Example: fmt.Sprintf("  %[1]s serve registry\n  %[1]s serve %[2]s --kafka-brokers 127.0.0.1:9092", a.Name, names[0]),
		RunE: func(c *cobra.Command, args []string) error {
			roles, err := a.choose(args)
			if err != nil {
				return err
			}
			cfg, err := LoadConfig(c.Flags(), os.Environ())
			if err != nil {
				return err
			}
			return a.run(c.Context(), cfg, roles, false, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	addFlags(serve.Flags())
	contracts := &cobra.Command{Use: "contracts", Short: "Work with the event contracts of this application", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	register := &cobra.Command{
		Use: "register", Short: "Register every event contract of this application with the schema registry", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := LoadConfig(c.Flags(), os.Environ())
			if err != nil {
				return err
			}
			dial, err := cfg.registryClient(false)
			if err != nil {
				return err
			}
			client, err := registry.Dial(dial)
			if err != nil {
				return err
			}
			return registerAll(c.Context(), client, a.Roles, func(s contract.Subject, id int32) {
				fmt.Fprintf(c.OutOrStdout(), "%s\t%d\n", s.Name, id)
			})
		},
	}
	addFlags(register.Flags())
	contracts.AddCommand(register)
	version := &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, Run: func(c *cobra.Command, _ []string) {
		fmt.Fprintln(c.OutOrStdout(), a.Name, Version)
	}}
	root.AddCommand(dev, serve, contracts, registryCommand(), a.streamsCommand(), a.viewsCommand(), healthCommand(a.Name), version)
	root.AddCommand(a.Commands...)
	return root
}

// roles returns the application's roles and the registry.
func (a App) roles() []Role { return append(slices.Clone(a.Roles), registryRole{}) }

func (a App) choose(names []string) ([]Role, error) {
	var chosen []Role
	all := a.roles()
	known := make([]string, len(all))
	for i, r := range all {
		known[i] = r.role()
	}
	if len(names) == 0 {
		return nil, ErrUsage.Because("serve needs a role").WithFix("name one or more of %s", strings.Join(known, ", "))
	}
	for _, name := range names {
		i := slices.Index(known, name)
		if i < 0 {
			return nil, ErrUsage.Because("%q is not a role", name).WithFix("the roles are %s", strings.Join(known, ", "))
		}
		if slices.ContainsFunc(chosen, func(r Role) bool { return r.role() == name }) {
			return nil, ErrUsage.Because("%q is given twice", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// registerAll registers the contracts of the roles, each subject once.
func registerAll(ctx context.Context, c *registry.Client, roles []Role, done func(contract.Subject, int32)) error {
	seen := map[string]bool{}
	for _, r := range roles {
		for _, s := range r.contracts() {
			if seen[s.Name] {
				continue
			}
			seen[s.Name] = true
			id, err := c.Register(ctx, s)
			if err != nil {
				return err
			}
			if done != nil {
				done(s, id)
			}
		}
	}
	return nil
}

func newLogger(c Config, w io.Writer) *slog.Logger {
	level := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}[c.LogLevel]
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}
