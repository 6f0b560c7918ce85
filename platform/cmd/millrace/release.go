package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/contract"
)

func releaseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "release DIR…", Short: "Keep what changed in each folder as a released version: its schema, a payload, what that is read as", Args: cobra.MinimumNArgs(1),
		Long: "Keep every .avsc of each folder that differs from its last released version below history/, with a sample payload and the events that it is read as.\n" +
			"A test of the folder, estest.History, then proves for ever that the payload can be read. What is there already never changes.",
		Example: "  millrace contract release schemas/orders/v1",
		RunE: func(c *cobra.Command, args []string) error {
			for _, dir := range args {
				files, err := contract.PlanRelease(dir)
				if err != nil {
					return err
				}
				for _, name := range slices.Sorted(maps.Keys(files)) {
					path := filepath.Join(dir, filepath.FromSlash(name))
					if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
						return err
					}
					if err := os.WriteFile(path, files[name], 0o644); err != nil {
						return err
					}
					fmt.Fprintln(c.OutOrStdout(), path)
				}
			}
			return nil
		},
	}
}
