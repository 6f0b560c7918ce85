package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/contract/gate"
	"github.com/millrace/millrace/platform/registry"
	"github.com/millrace/millrace/platform/service"
)

// registryFlags adds how the schema registry is reached: the settings of a service, by the same flags, variables and file.
func registryFlags(c *cobra.Command) {
	f := c.Flags()
	f.String("registry-url", "http://127.0.0.1:8081", "URLs of the schema registry, comma separated (MILLRACE_REGISTRY_URL)")
	f.String("registry-username", "", "user name for the schema registry (MILLRACE_REGISTRY_USERNAME); the password is MILLRACE_REGISTRY_PASSWORD, an API key MILLRACE_REGISTRY_TOKEN, or each with _FILE the file that holds it")
	f.String("registry-ca", "", "file with the certificates, PEM, of who vouches for the schema registry; default: the system's (MILLRACE_REGISTRY_CA)")
	f.String("config", "", "YAML file with settings; default: ./millrace.yaml if there is one (MILLRACE_CONFIG)")
}

// dial returns a client for the registry of the settings, at other URLs than theirs if any are given.
func dial(c *cobra.Command, urls string) (*registry.Client, error) {
	settings, err := service.LoadConfig(c.Flags(), os.Environ())
	if err != nil {
		return nil, err
	}
	cfg := registry.ClientConfig{URLs: settings.RegistryURL, Username: settings.RegistryUser, Password: settings.RegistryPassword, Token: settings.RegistryToken,
		Setting: "--registry-url or MILLRACE_REGISTRY_URL"}
	if urls != "" {
		cfg.URLs, cfg.Setting = strings.Split(urls, ","), "the URL of the registry"
	}
	if settings.RegistryCA != "" {
		text, err := os.ReadFile(settings.RegistryCA)
		if err != nil {
			return nil, service.ErrConfig.Because("registry.ca").Wrap(err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(text) {
			return nil, service.ErrConfig.Because("registry.ca: %s holds no certificate in PEM form", settings.RegistryCA)
		}
		cfg.TLS = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return registry.Dial(cfg)
}

// oldInRegistry reads all versions of the subjects of the folder's topic, and what the registry has of the versions that the folder pins. Types of
// another version of the contract, v1 beside v2 on one topic, belong to that one's folder.
func oldInRegistry(c *cobra.Command, d gate.Folder, at string) (gate.Old, error) {
	ctx := c.Context()
	old := gate.Old{Topic: d.Settings.Topic, Versions: map[string][]gate.Version{}, Where: at}
	client, err := dial(c, at)
	if err != nil {
		return old, err
	}
	subjects, err := client.Subjects(ctx, d.Settings.Topic+"-")
	if err != nil {
		return old, err
	}
	for _, subject := range subjects {
		name := strings.TrimPrefix(subject, d.Settings.Topic+"-")
		switch {
		case strings.HasPrefix(name, "millrace.v1."):
			continue // the platform's own records in the topic
		case name == "value":
			old.ByTopic = true
			continue
		case otherVersion(d, name):
			continue
		}
		versions, err := client.Versions(ctx, subject)
		if err != nil {
			return old, err
		}
		for _, v := range versions {
			whole, err := client.SchemaByID(ctx, v.ID) // with what it refers to
			if err != nil {
				return old, fmt.Errorf("%s version %d: %w", subject, v.Version, err)
			}
			if subject == contract.KeySubject(d.Settings.Topic) {
				old.Key = &whole // the last one counts
				continue
			}
			s, err := contract.Parse(whole)
			if err != nil {
				return old, fmt.Errorf("%s version %d: %w", subject, v.Version, err)
			}
			old.Versions[name] = append(old.Versions[name], gate.Version{Label: fmt.Sprint("v", v.Version), Schema: s})
		}
	}
	if old.Key == nil && len(old.Versions) > 0 {
		old.Key = new(string) // there are events, and nobody has registered a schema for their keys
	}
	old.Pins, err = pinsInRegistry(ctx, client, d.Pinned.Pins)
	return old, err
}

// otherVersion reports whether the namespace of a type differs from that of a folder's types in its number only: org.things.v1, org.things.v2.
func otherVersion(d gate.Folder, name string) bool {
	split := func(full string) (context, version string) {
		namespace := full[:max(strings.LastIndexByte(full, '.'), 0)]
		dot := max(strings.LastIndexByte(namespace, '.'), 0)
		return namespace[:dot], namespace[dot:]
	}
	context, version := split(name)
	for _, f := range d.Files {
		if c, v := split(f.Schema.Name()); c == context && v != version && strings.HasPrefix(version, ".v") && context != "" {
			return true
		}
	}
	return false
}

// pinsInRegistry returns what the registry has under pinned versions.
func pinsInRegistry(ctx context.Context, client *registry.Client, pins []contract.Reference) ([]gate.Pin, error) {
	var found []gate.Pin
	for _, pin := range pins {
		versions, err := client.Versions(ctx, pin.Subject)
		if err != nil && !errors.Is(err, contract.ErrUnregistered) {
			return nil, err
		}
		is := gate.Pin{Reference: pin}
		for _, v := range versions {
			if v.Version == pin.Version {
				is.Text = v.Text
			}
		}
		found = append(found, is)
	}
	return found, nil
}

func registerCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "register FILE|DIR…", Short: "Register schemas with the schema registry, as a delivery pipeline does after a merge", Args: cobra.MinimumNArgs(1),
		Long: "Register each .avsc of folders, under the topic that contracts.yaml beside it names, and print its subject and id. What is registered already stays as it is.\n" +
			"A schema that refers to types of other subjects is registered whole; the versions that contracts.yaml pins must be in the registry, with the texts in references/.",
		Example: "  millrace contract register schemas/orders/v1 --registry-url http://127.0.0.1:8081",
		RunE: func(c *cobra.Command, args []string) error {
			client, err := dial(c, "")
			if err != nil {
				return err
			}
			for _, arg := range args {
				if err := register(c, client, arg); err != nil {
					return err
				}
			}
			return nil
		},
	}
	registryFlags(c)
	return c
}

// register registers what one argument names.
func register(c *cobra.Command, client *registry.Client, arg string) error {
	files, err := schemaFiles(arg)
	if err != nil {
		return err
	}
	dir := filepath.Dir(files[0])
	settings, err := contract.ReadSettings(dir)
	if err != nil {
		return err
	}
	references, err := referencesOf(dir, settings)
	if err != nil {
		return err
	}
	there, err := pinsInRegistry(c.Context(), client, references.Pins)
	if err != nil {
		return err
	}
	for i, pin := range there {
		if !gate.SameText(pin.Text, references.Texts[i]) {
			return errAgainst.Because("references/%s.avsc is not what the registry has as %s", pin.Name, pin).
				WithFix("copy the text of a registered version, and pin that version in contracts.yaml")
		}
	}
	subjects := make([]contract.Subject, 0, len(files)+1)
	if settings.Key != "" && dir == filepath.Clean(arg) {
		subjects = append(subjects, contract.Subject{Name: contract.KeySubject(settings.Topic), Schema: settings.Key})
	}
	for _, f := range files {
		s, err := parseFile(f, references)
		if err != nil {
			return err
		}
		subjects = append(subjects, contract.Subject{Name: contract.SubjectName(settings.Topic, s.Name()), Schema: s.Text()})
	}
	for _, s := range subjects {
		id, err := client.Register(c.Context(), s)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		fmt.Fprintf(c.OutOrStdout(), "%s\t%d\n", s.Name, id)
	}
	return nil
}

// referencesOf reads what the settings of a folder pin.
func referencesOf(dir string, settings contract.Settings) (contract.References, error) {
	references, err := contract.ReadReferences(os.DirFS(dir), settings)
	if err == nil {
		err = references.Err()
	}
	return references, err
}
