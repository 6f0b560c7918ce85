// Millrace operates any Millrace cluster and works with event contracts.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/service"
)

func main() {
	os.Exit(service.Execute(root(), os.Args[1:], os.Stderr))
}

func root() *cobra.Command {
	help := func(c *cobra.Command, _ []string) error { return c.Help() }
	root := &cobra.Command{Use: "millrace", Short: "Operate Millrace: event sourcing and CQRS on Kafka", Args: cobra.NoArgs, RunE: help}
	contracts := &cobra.Command{Use: "contract", Short: "Work with event contracts", Args: cobra.NoArgs, RunE: help}
	contracts.AddCommand(&cobra.Command{
		Use: "generate DIR…", Short: "Write the Go code of the .avsc files of each folder beside them", Args: cobra.MinimumNArgs(1),
		Example: "  millrace contract generate schemas/orders/v1",
		RunE: func(c *cobra.Command, args []string) error {
			for _, dir := range args {
				if err := generate(c, dir); err != nil {
					return err
				}
			}
			return nil
		},
	})
	contracts.AddCommand(releaseCommand(), lintCommand(), breakingCommand(), registerCommand(), diffCommand(), showCommand(), catalogueCommand())
	root.AddCommand(contracts, auditCommand(), viewCommand(), dlqCommand(), &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, Run: func(c *cobra.Command, _ []string) {
		fmt.Fprintln(c.OutOrStdout(), "millrace", service.Version)
	}})
	return root
}

// generate writes the files that differ and names them.
func generate(c *cobra.Command, dir string) error {
	files, err := contract.Generate(dir)
	if err != nil {
		return err
	}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		path := filepath.Join(dir, name)
		if old, err := os.ReadFile(path); err == nil && string(old) == string(files[name]) {
			continue
		}
		if err := os.WriteFile(path, files[name], 0o644); err != nil {
			return err
		}
		fmt.Fprintln(c.OutOrStdout(), path)
	}
	return nil
}
