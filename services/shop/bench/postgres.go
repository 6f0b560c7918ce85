package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// onMessageDB starts a fresh PostgreSQL with its default settings on a Unix socket, installs message-db in it, calls f with how to connect, and
// stops it and removes its data again, whatever happened. As root it runs it as another user: PostgreSQL refuses root.
func (p *plan) onMessageDB(ctx context.Context, f func(db *pgx.ConnConfig) error) (err error) {
	bin, err := postgresBin()
	if err != nil {
		return err
	}
	install := filepath.Join(p.messagedb, "database", "install.sh")
	if _, err := os.Stat(install); err != nil {
		return fmt.Errorf("message-db is not there, which npm fetches (see deploy/ci/bench.sh): %w", err)
	}
	who, err := notRoot()
	if err != nil {
		return err
	}
	// The path of a socket must be short, and the data on a disk like that of production.
	socket, err := os.MkdirTemp("", "millrace-pg-")
	if err != nil {
		return err
	}
	data := filepath.Join(p.dir, "postgres")
	defer func() { err = errors.Join(err, os.RemoveAll(socket), os.RemoveAll(data)) }()
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	if err := errors.Join(who.own(socket), who.own(data)); err != nil {
		return err
	}
	command := func(ctx context.Context, path string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, path, args...) //nolint:gosec // what this program starts it chooses
		cmd.Dir = socket
		cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + socket, "LC_ALL=C.UTF-8", "PGHOST=" + socket, "PGUSER=postgres", "DATABASE_NAME=message_store"}
		who.take(cmd)
		return cmd
	}
	if text, err := command(ctx, filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8").CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, text)
	}
	log, err := os.Create(filepath.Join(p.dir, "postgres.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	server := command(context.WithoutCancel(ctx), filepath.Join(bin, "postgres"), "-D", data, "-k", socket, "-c", "listen_addresses=")
	server.Stdout, server.Stderr = log, log
	if err := server.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	defer func() {
		_ = server.Process.Signal(os.Interrupt) // PostgreSQL's fast shutdown
		select {
		case <-ended: //nolint:errcheck // it was told to end
		case <-time.After(30 * time.Second):
			_ = server.Process.Kill()
			<-ended //nolint:errcheck // it was killed
		}
	}()
	db, err := pgx.ParseConfig("host=" + socket + " user=postgres dbname=postgres")
	if err != nil {
		return err
	}
	if err := connectable(ctx, db, ended, log.Name()); err != nil {
		return err
	}
	// It reads files below the project, which the other user may not be let into; so it comes from a copy.
	scripts := filepath.Join(socket, "message-db")
	if err := os.CopyFS(scripts, os.DirFS(p.messagedb)); err != nil {
		return err
	}
	if text, err := command(ctx, "bash", filepath.Join(scripts, "database", "install.sh")).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", install, err, text)
	}
	db.Database = "message_store"
	db.RuntimeParams["search_path"] = "message_store,public"
	return f(db)
}

// connectable waits until the server takes connections.
func connectable(ctx context.Context, db *pgx.ConnConfig, ended chan error, log string) error {
	deadline := time.After(30 * time.Second)
	for {
		c, err := pgx.ConnectConfig(ctx, db)
		if err == nil {
			return c.Close(ctx)
		}
		select {
		case err := <-ended:
			ended <- err
			return fmt.Errorf("postgres ended before it took connections, see %s: %w", log, errors.Join(err))
		case <-deadline:
			return fmt.Errorf("postgres takes no connections, see %s: %w", log, err)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// postgresBin returns the directory of PostgreSQL's programs: that of initdb on the PATH, or the newest of Debian's.
func postgresBin() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		path, err = filepath.EvalSymlinks(path)
		return filepath.Dir(path), err
	}
	const debian = "/usr/lib/postgresql/"
	found, err := filepath.Glob(debian + "*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", errors.Join(errors.New("PostgreSQL is not installed (apt-get install postgresql)"), err)
	}
	newest := slices.MaxFunc(found, func(a, b string) int { return version(a[len(debian):]) - version(b[len(debian):]) })
	return filepath.Dir(newest), nil
}

// version returns the number that a path begins with, 0 if it begins with none.
func version(path string) int {
	n, _ := strconv.Atoi(path[:max(0, slices.Index([]byte(path), '/'))])
	return n
}
