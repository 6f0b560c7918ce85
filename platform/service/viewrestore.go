package service

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/store"
)

// viewsCommand returns the commands for the stores of views.
func (a App) viewsCommand() *cobra.Command {
	views := &cobra.Command{Use: "views", Short: "Work with the stores of views of this application", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	var view, file string
	var dev bool
	names := sortedKeys(a.restorable())
	restore := &cobra.Command{
		Use: "restore", Short: "Begin a view with a backup; the process that uses it must be stopped", Args: cobra.NoArgs,
		Long: "Make a build of a view from a backup that millrace view backup wrote, and have it answer queries from the next start on, which reads the\n" +
			"log on from the positions of the backup. The backup is verified first, and must be of the view and of a version of it that this program has.\n" +
			"The build that answered before stays: millrace view rollback goes back to it, millrace view drop removes it. Neither Kafka nor the registry\n" +
			"is needed. If this is interrupted, nothing has changed.",
		Example: fmt.Sprintf("  %[1]s views restore --view %[2]s --file %[2]s.backup\n  %[1]s views restore --view %[2]s --file %[2]s.backup --dev", a.Name, strings.Join(names[:min(1, len(names))], "")),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := LoadConfig(c.Flags(), os.Environ())
			if err != nil {
				return err
			}
			return a.restore(c.Context(), cfg, view, file, dev, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	addFlags(restore.Flags())
	restore.Flags().StringVar(&view, "view", "", "the view: "+strings.Join(names, ", "))
	restore.Flags().StringVar(&file, "file", "", "the backup")
	restore.Flags().BoolVar(&dev, "dev", false, fmt.Sprintf("the data is that of %s dev", a.Name))
	views.AddCommand(restore)
	return views
}

// A restorable is a view of which backups can be restored.
type restorable struct {
	dir   string // below the data directory
	forms []projection.Form
}

// restorable returns the application's views.
func (a App) restorable() map[string]restorable {
	all := map[string]restorable{}
	for _, r := range a.Roles {
		p, ok := r.(Projector)
		if !ok {
			continue
		}
		for _, v := range p.Views {
			all[v.name] = restorable{p.dir(), append(all[v.name].forms, v.form)}
		}
	}
	return all
}

// restore restores a view.
func (a App) restore(ctx context.Context, c Config, view, file string, dev bool, stdout, stderr io.Writer) error {
	all := a.restorable()
	to, ok := all[view]
	switch {
	case !ok:
		return ErrUsage.Because("%q is not a view", view).WithFix("name one with --view: %s", strings.Join(sortedKeys(all), ", "))
	case file == "":
		return ErrUsage.Because("--file is missing").WithFix("name a backup that millrace view backup wrote")
	case c.Ephemeral:
		return ErrUsage.Because("nothing is kept with --ephemeral, so there is nothing to restore into")
	}
	target := filepath.Join(c.DataDir, to.dir)
	switch devData := filepath.Join(c.DataDir, "dev"); {
	case dev:
		target = filepath.Join(devData, to.dir)
	case exists(devData) && !exists(target):
		// It would be restored where no process looks.
		return ErrUsage.Because("%s has the data of %s dev, and there is no %s", c.DataDir, a.Name, target).
			WithFix("use --dev; or, if it is for a process that has nothing yet, make the directory %s first", target)
	}
	began := time.Now()
	build, info, err := projection.RestoreView(ctx, target, file, to.forms, store.Options{MemTable: memTable, Logger: newLogger(c, stderr)})
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s: build %s has the %d rows of %s, and answers from the next start on (%.1f s)\nat %s\n",
		view, build, info.Rows, info.Created.Format(time.RFC3339), time.Since(began).Seconds(), info.Applied)
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
