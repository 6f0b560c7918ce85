package service

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/registry"
)

// registryClient returns how the schema registry is reached. Every process may keep what it learns but one that is the registry.
func (c Config) registryClient(keep bool) (registry.ClientConfig, error) {
	cfg := registry.ClientConfig{URLs: c.RegistryURL, Username: c.RegistryUser, Password: c.RegistryPassword, Token: c.RegistryToken}
	if keep {
		cfg.Cache = filepath.Join(c.DataDir, "registry.jsonl")
	}
	if c.RegistryCA != "" {
		text, err := os.ReadFile(c.RegistryCA)
		if err != nil {
			return cfg, ErrConfig.Because("registry.ca").Wrap(err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(text) {
			return cfg, ErrConfig.Because("registry.ca: %s holds no certificate in PEM form", c.RegistryCA)
		}
		cfg.TLS = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return cfg, nil
}

// registryAuth returns who may use the registry of this process, nil for everybody.
func (c Config) registryAuth() (*registry.Auth, error) {
	if c.RegistryAuthFile != "" {
		return registry.LoadAuth(c.RegistryAuthFile, c.RegistryAuthReads)
	}
	if c.RegistryAuthReads {
		return nil, ErrConfig.Because("registry.auth.reads without registry.auth.file").WithFix("name the file of users and keys with --registry-auth-file")
	}
	return nil, nil
}

// registryTLS returns what the registry of this process serves HTTPS with, nil for HTTP.
func (c Config) registryTLS(logger *slog.Logger) (*tls.Config, error) {
	switch {
	case c.RegistryTLSCert == "" && c.RegistryTLSKey == "":
		return nil, nil
	case c.RegistryTLSCert == "" || c.RegistryTLSKey == "":
		return nil, ErrConfig.Because("one of registry.tls.cert and registry.tls.key without the other").WithFix("name both files, with --registry-tls-cert and --registry-tls-key")
	}
	cert, err := registry.LoadCertificate(c.RegistryTLSCert, c.RegistryTLSKey, logger)
	if err != nil {
		return nil, err
	}
	return cert.Config(), nil
}

// registryCommand makes what the registry's file of credentials holds.
func registryCommand() *cobra.Command {
	root := &cobra.Command{Use: "registry", Short: "Make credentials for the schema registry", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	scope, valid := string(registry.ScopeWrite), time.Duration(0)
	key := &cobra.Command{
		Use: "new-key", Short: "Make an API key: prints it once, and the entry for the file of registry.auth.file", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s := registry.Scope(scope)
			if s != registry.ScopeRead && s != registry.ScopeWrite {
				return ErrUsage.Because("--scope is read or write, not %s", scope)
			}
			var expires time.Time
			if valid > 0 {
				expires = time.Now().Add(valid)
			}
			text, entry := registry.NewKey(s, expires)
			fmt.Fprintf(c.OutOrStdout(), "%s\n\nkeys:\n%s", text, entry)
			return nil
		},
	}
	key.Flags().StringVar(&scope, "scope", scope, "read or write")
	key.Flags().DurationVar(&valid, "valid", 0, "how long it holds, e.g. 2160h; 0 = for ever")
	password := &cobra.Command{
		Use: "hash-password", Short: "Read a password from standard input and print what the file of registry.auth.file keeps of it", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			line, err := bufio.NewReader(c.InOrStdin()).ReadString('\n')
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if line = strings.TrimRight(line, "\r\n"); line == "" {
				return ErrUsage.Because("there is no password on standard input")
			}
			fmt.Fprintln(c.OutOrStdout(), registry.HashPassword(line))
			return nil
		},
	}
	root.AddCommand(key, password)
	return root
}
