package main

import (
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/contract/catalogue"
	"github.com/millrace/millrace/platform/contract/gate"
	"github.com/millrace/millrace/platform/service"
)

func catalogueCommand() *cobra.Command {
	var out, title, processes string
	c := &cobra.Command{
		Use: "catalogue DIR -o OUT", Short: "Describe all events: an AsyncAPI 3.0 document, and a page for each", Args: cobra.ExactArgs(1),
		Long:    "Write asyncapi.json, index.md and a page per event of the schemas in and below DIR to the folder OUT. Who writes and reads them is asked of running processes.",
		Example: "  millrace contract catalogue schemas -o docs/events --processes http://127.0.0.1:9090",
		RunE: func(c *cobra.Command, args []string) error {
			if out == "" {
				return service.ErrUsage.Because("catalogue needs -o")
			}
			folders, err := gate.Read(os.DirFS(args[0]), shown(args[0]))
			if err != nil {
				return err
			}
			var parties []catalogue.Party
			for _, address := range strings.FieldsFunc(processes, func(r rune) bool { return r == ',' }) {
				u, err := url.Parse(address)
				if err != nil || u.Host == "" {
					return service.ErrUsage.Because("--processes %q is not a URL like http://127.0.0.1:9090", address)
				}
				answer, err := askReader(c.Context(), u.JoinPath("v1/contracts").String())
				if err != nil {
					return err
				}
				for _, role := range answer.Roles {
					for _, d := range folders {
						if slices.ContainsFunc(role.Contracts, func(k service.RoleContract) bool { return strings.HasPrefix(k.Subject, d.Settings.Topic+"-") }) {
							parties = append(parties, catalogue.Party{Role: role.Role, Topic: d.Settings.Topic, Writes: role.Writes})
						}
					}
				}
			}
			files, err := catalogue.Write(title, folders, parties)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(out, 0o755); err != nil {
				return err
			}
			for _, name := range slices.Sorted(maps.Keys(files)) {
				path := filepath.Join(out, name)
				if err := os.WriteFile(path, files[name], 0o644); err != nil {
					return err
				}
				fmt.Fprintln(c.OutOrStdout(), path)
			}
			return nil
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", "folder to write to")
	c.Flags().StringVar(&title, "title", "Millrace", "what the catalogue is of")
	c.Flags().StringVar(&processes, "processes", "", "addresses for metrics of running processes, comma separated")
	return c
}
