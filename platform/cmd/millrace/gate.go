package main

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/contract/gate"
	"github.com/millrace/millrace/platform/service"
)

// A report writes findings and says whether they are in the way.
type report struct {
	format string
	strict bool
}

func (r *report) flags(c *cobra.Command) {
	c.Flags().StringVarP(&r.format, "output", "o", "text", "text: one finding a line; json: an array")
	c.Flags().BoolVar(&r.strict, "strict", false, "exit with status 3 on warnings, too")
}

func (r *report) write(w io.Writer, all []gate.Finding) error {
	switch r.format {
	case "text":
		for _, f := range all {
			fmt.Fprintln(w, f)
		}
	case "json":
		if all == nil {
			all = []gate.Finding{}
		}
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(all); err != nil {
			return err
		}
	default:
		return service.ErrUsage.Because("-o %s is neither text nor json", r.format)
	}
	errors := gate.Errors(all)
	if errors == 0 && (!r.strict || len(all) == 0) {
		return nil
	}
	return service.ErrFindings.Because("%d errors, %d warnings", errors, len(all)-errors).WithFix("millrace contract lint --explain RULE says what a rule is for")
}

func lintCommand() *cobra.Command {
	var r report
	var explain string
	c := &cobra.Command{
		Use: "lint DIR…", Short: "Find what is wrong with schemas, each looked at for itself",
		Long: "Find what is wrong with the schemas of every folder with a contracts.yaml in or below each DIR. The exit status is 0 without errors, 3 with.\n" +
			"The key allow of contracts.yaml lets findings pass: a list of {rule, subjects, pointer, reason}.",
		Example: "  millrace contract lint schemas\n  millrace contract lint --explain ENUM_NO_DEFAULT\n  millrace contract lint --explain all",
		RunE: func(c *cobra.Command, args []string) error {
			if explain != "" {
				return explainRule(c.OutOrStdout(), explain)
			}
			if len(args) == 0 {
				return service.ErrUsage.Because("lint needs a folder")
			}
			var folders []gate.Folder
			for _, dir := range args {
				read, err := gate.Read(os.DirFS(dir), shown(dir))
				if err != nil {
					return err
				}
				folders = append(folders, read...)
			}
			return r.write(c.OutOrStdout(), gate.Lint(folders))
		},
	}
	r.flags(c)
	c.Flags().StringVar(&explain, "explain", "", "say what a rule is for, or all rules in a line each")
	return c
}

func explainRule(w io.Writer, rule string) error {
	if rule == "all" {
		fmt.Fprint(w, gate.Rules())
		return nil
	}
	text := gate.Explain(rule)
	if text == "" {
		return service.ErrUsage.Because("there is no rule %s", rule).WithFix("--explain all lists them")
	}
	fmt.Fprintf(w, "%s: %s\n", rule, text)
	return nil
}

// shown is a folder as findings name it.
func shown(dir string) string { return filepath.ToSlash(filepath.Clean(dir)) }

func breakingCommand() *cobra.Command {
	var r report
	var against, level, explain, readers string
	var data int
	var seed uint64
	c := &cobra.Command{
		Use: "breaking DIR", Short: "Find what a change of schemas breaks for data and readers that are there", Args: cobra.MaximumNArgs(1),
		Long: "Compare the schemas in and below DIR with all versions of them that are there: below another folder, at a revision of git (with the released versions\n" +
			"in its history folders), or in a schema registry. Beyond the rules, random data of every version is read with every other through the real codec.\n" +
			"--against-data also reads records of the topic, --against-readers asks running processes what they read with (the address for metrics).\n" +
			"The exit status is 0 without errors, 3 with. Levels: SOURCE, WIRE_FULL_TRANSITIVE, WIRE_BACKWARD_TRANSITIVE, NONE; contracts.yaml sets them by subject.",
		Example: "  millrace contract breaking schemas --against git#branch=main\n  millrace contract breaking schemas --against registry+http://127.0.0.1:8081 --against-data 1000 --against-readers http://127.0.0.1:9090",
		RunE: func(c *cobra.Command, args []string) error {
			if explain != "" {
				return explainRule(c.OutOrStdout(), explain)
			}
			switch {
			case len(args) == 0:
				return service.ErrUsage.Because("breaking needs a folder")
			case against == "" && data == 0 && readers == "":
				return service.ErrUsage.Because("breaking needs --against, --against-data or --against-readers")
			}
			folders, err := gate.Read(os.DirFS(args[0]), shown(args[0]))
			if err != nil {
				return err
			}
			if seed == 0 {
				seed = rand.Uint64()
			}
			var all []gate.Finding
			if against != "" {
				found, err := compare(c, folders, args[0], against, level, seed)
				if err != nil {
					return err
				}
				all = append(all, found...)
			}
			if data > 0 {
				found, n, err := againstData(c, folders, data)
				if err != nil {
					return err
				}
				fmt.Fprintf(c.ErrOrStderr(), "%d stored records were read\n", n)
				all = append(all, found...)
			}
			if readers != "" {
				found, n, err := againstReaders(c.Context(), folders, strings.Split(readers, ","))
				if err != nil {
					return err
				}
				fmt.Fprintf(c.ErrOrStderr(), "%d schemas of running processes were tried\n", n)
				all = append(all, found...)
			}
			return r.write(c.OutOrStdout(), all)
		},
	}
	r.flags(c)
	f := c.Flags()
	f.StringVar(&against, "against", "", "what to compare with: a folder, git#branch=NAME, git#tag=NAME, git#ref=REVISION, or registry+URL")
	f.StringVar(&level, "level", "", "what changes must keep, instead of contracts.yaml; WIRE_ may be left out")
	f.IntVar(&data, "against-data", 0, "read so many records of the topic, taken evenly, with the new schemas")
	f.StringVar(&readers, "against-readers", "", "addresses for metrics of running processes, comma separated")
	f.String("kafka-brokers", "127.0.0.1:9092", "Kafka bootstrap servers for --against-data, comma separated (MILLRACE_KAFKA_BROKERS)")
	registryFlags(c)
	f.Uint64Var(&seed, "seed", 0, "of the random data; 0 = another each time")
	f.StringVar(&explain, "explain", "", "say what a rule is for, or all rules in a line each")
	return c
}

func showCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show FILE|DIR…", Short: "Show the fields of events in short", Args: cobra.MinimumNArgs(1),
		Example: "  millrace contract show schemas/orders/v1",
		RunE: func(c *cobra.Command, args []string) error {
			for _, arg := range args {
				files, err := schemaFiles(arg)
				if err != nil {
					return err
				}
				var references contract.References
				if dir := filepath.Dir(files[0]); exists(filepath.Join(dir, "contracts.yaml")) {
					settings, err := contract.ReadSettings(dir)
					if err == nil {
						references, err = referencesOf(dir, settings)
					}
					if err != nil {
						return err
					}
				}
				for _, f := range files {
					s, err := parseFile(f, references)
					if err != nil {
						return err
					}
					n := s.Shape()
					fmt.Fprintf(c.OutOrStdout(), "%s: %s\n", n.Name, n.Doc)
					for _, line := range gate.Describe(n) {
						fmt.Fprintln(c.OutOrStdout(), "  "+line)
					}
				}
			}
			return nil
		},
	}
}

func diffCommand() *cobra.Command {
	var against string
	c := &cobra.Command{
		Use: "diff DIR --against …", Short: "Show which fields of events changed", Args: cobra.ExactArgs(1),
		Example: "  millrace contract diff schemas --against git#branch=main",
		RunE: func(c *cobra.Command, args []string) error {
			if against == "" {
				return service.ErrUsage.Because("diff needs --against")
			}
			folders, err := gate.Read(os.DirFS(args[0]), shown(args[0]))
			if err != nil {
				return err
			}
			for _, d := range folders {
				old, err := oldOf(c, d, args[0], against)
				if err != nil {
					return err
				}
				for _, line := range gate.Diff(d, old) {
					fmt.Fprintln(c.OutOrStdout(), line)
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&against, "against", "", "what to compare with: a folder, git#branch=NAME, git#tag=NAME, git#ref=REVISION, or registry+URL")
	registryFlags(c)
	return c
}

// schemaFiles returns the .avsc files that an argument names.
func schemaFiles(arg string) ([]string, error) {
	info, err := os.Stat(arg)
	if err != nil {
		return nil, service.ErrUsage.Wrap(err)
	}
	if !info.IsDir() {
		return []string{arg}, nil
	}
	names, err := fs.Glob(os.DirFS(arg), "*.avsc")
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("%s has no .avsc files", arg)
	}
	if err != nil {
		return nil, service.ErrUsage.Wrap(err)
	}
	for i := range names {
		names[i] = filepath.Join(arg, names[i])
	}
	return names, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// parseFile reads a schema with what it refers to.
func parseFile(path string, references contract.References) (*contract.Schema, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s, _, err := references.Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}
