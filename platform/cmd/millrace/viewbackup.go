package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/service"
	"github.com/millrace/millrace/platform/store"
)

// errBackupFile is returned when a backup cannot be kept as a file.
var errBackupFile = fault.New(fault.Unavailable, "backup_file", "the backup cannot be kept")

func viewBackupCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "backup VIEW", Short: "Back up what a view shows: its rows with their positions", Args: cobra.ExactArgs(1),
		Long: "Write a backup of the build of a view that answers queries, while it goes on, to a file, and verify it by reading it again. The file is replaced\n" +
			"as a whole, once the backup is good. The application's command views restore begins a view with it.",
		Example: "  millrace view backup orders -o orders.backup\n  shop views restore --view orders --file orders.backup",
		RunE: func(c *cobra.Command, args []string) error {
			all, err := admins(c)
			switch {
			case err != nil:
				return err
			case len(all) > 1:
				return service.ErrUsage.Because("--admin-url: a backup is one instance's")
			case file == "":
				return service.ErrUsage.Because("-o is missing").WithFix("name the file to write: -o %s.backup", args[0])
			}
			began := time.Now()
			info, err := backup(c.Context(), all[0], args[0], file)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: %s rows of build %s, %s bytes, verified, in %s\nat %s\n", file, count(info.Rows), info.Build, count(info.Bytes), span(time.Since(began)), info.Applied)
			return nil
		},
	}
	c.Flags().StringVarP(&file, "output", "o", "", "the file to write")
	return c
}

// backup writes a backup of a view to a file.
func backup(ctx context.Context, i *instance, view, file string) (info projection.BackupInfo, err error) {
	resp, err := i.send(ctx, http.MethodGet, viewPath(view, "backup"), nil, nil, nil)
	if err != nil {
		return info, err
	}
	defer resp.Body.Close()
	tmp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return info, errBackupFile.Because("%s", file).Wrap(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	_, err = io.Copy(tmp, resp.Body)
	if err != nil {
		err = errAnswer.Because("%s: the backup was cut off", i.base).Wrap(err)
	}
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return info, err
	}
	if info, err = projection.VerifyBackup(ctx, tmp.Name()); err != nil {
		return info, err
	}
	if info.View != view {
		return info, errAnswer.Because("%s sent a backup of the view %s", i.base, info.View)
	}
	if err = os.Rename(tmp.Name(), file); err != nil {
		return info, errBackupFile.Because("%s", file).Wrap(err)
	}
	return info, nil
}

// A storeState is the store of a view as one instance has it.
type storeState struct {
	Instance string `json:"instance"`
	View     string `json:"view"`
	Build    string `json:"build"`
	store.Stats
}

func viewStoreCommand() *cobra.Command {
	var o output
	c := &cobra.Command{
		Use: "store VIEW", Short: "Say what the store of the build that answers queries takes, and in what state it is", Args: cobra.ExactArgs(1),
		Example: "  millrace view store orders",
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			s, err := spotOf(c, args[0])
			if err != nil {
				return err
			}
			var found []storeState
			err = everywhere(c, s.sites, func(p *site) error {
				a := storeState{Instance: p.base.String(), View: p.view}
				err := p.call(c.Context(), http.MethodGet, viewPath(p.view, "store"), nil, nil, &a)
				if err == nil {
					found = append(found, a)
				}
				return err
			})
			if len(found) > 0 {
				if e := writeStores(c, o, found); e != nil {
					return e
				}
			}
			return s.whole(err)
		},
	}
	o.flag(c)
	return c
}

func writeStores(c *cobra.Command, o output, all []storeState) error {
	if done, err := o.json(c.OutOrStdout(), map[string]any{"stores": all}); done {
		return err
	}
	w := c.OutOrStdout()
	for n, s := range all {
		if n > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s at %s: build %s\n", s.View, hostOf(s.Instance), s.Build)
		for _, line := range [][2]string{
			{"on the disk", size(s.Tables + s.Logs + s.Other)},
			{"tables", fmt.Sprintf("%s, %s of them overwritten or removed", size(s.Tables), size(s.Stale))},
			{"memtables", fmt.Sprintf("%d, with %s of logs", s.Memtables, size(s.Logs))},
			{"entries", count(s.Keys) + " in tables"},
			{"to compact", fmt.Sprintf("%d levels", s.Compactions)},
		} {
			fmt.Fprintf(w, "  %-13s %s\n", line[0], line[1])
		}
		if len(s.Levels) == 0 {
			continue
		}
		t := table{head: []string{">  LEVEL", ">TABLES", ">SIZE", ">TARGET", ">FULL"}}
		for _, l := range s.Levels {
			target := "-"
			if l.Target > 0 {
				target = size(l.Target)
			}
			t.add(strconv.Itoa(l.Number), strconv.Itoa(l.Tables), size(l.Bytes), target, fmt.Sprintf("%.0f %%", l.Score*100))
		}
		t.write(w)
	}
	return nil
}
