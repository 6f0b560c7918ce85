package service

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/platform/registry"
)

func TestRegistrySettings(t *testing.T) {
	dir := t.TempDir()
	var out bytes.Buffer
	for _, args := range [][]string{{"new-key", "--scope", "read", "--valid", "1h"}, {"hash-password"}} {
		c := registryCommand()
		c.SetArgs(args)
		c.SetIn(strings.NewReader("secret\n"))
		c.SetOut(&out)
		if err := c.Execute(); err != nil {
			t.Fatal(err)
		}
	}
	key, rest, _ := strings.Cut(out.String(), "\n\n")
	entries, hash, _ := strings.Cut(rest, "pbkdf2")
	file := filepath.Join(dir, "auth.yaml")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(file, entries+"users:\n- name: ann\n  password: pbkdf2"+hash+"  scope: write\n")
	if !strings.HasPrefix(key, "millrace_") {
		t.Errorf("got %s", out.String())
	}

	c, err := load(t, "", []string{"MILLRACE_REGISTRY_TOKEN=" + key}, "--registry-auth-file", file, "--registry-auth-reads", "--data-dir", dir)
	if err != nil {
		t.Fatal(err)
	}
	if auth, err := c.registryAuth(); err != nil || auth == nil {
		t.Errorf("got %v, %v", auth, err)
	}
	client, err := c.registryClient(true)
	if err != nil || client.Token != key || client.Cache != filepath.Join(dir, "registry.jsonl") || client.TLS != nil {
		t.Errorf("got %+v, %v", client, err)
	}
	if client, err := c.registryClient(false); err != nil || client.Cache != "" {
		t.Errorf("got %+v, %v", client, err)
	}
	if auth, err := (Config{}).registryAuth(); auth != nil || err != nil {
		t.Errorf("without a file: got %v, %v", auth, err)
	}
	if _, err := (Config{RegistryAuthReads: true}).registryAuth(); !errors.Is(err, ErrConfig) {
		t.Errorf("reads without a file: got %v", err)
	}
	if secure, err := (Config{}).registryTLS(nil); secure != nil || err != nil {
		t.Errorf("without a certificate: got %v, %v", secure, err)
	}
	for _, c := range []Config{{RegistryTLSCert: file}, {RegistryTLSKey: file}} {
		if _, err := c.registryTLS(nil); !errors.Is(err, ErrConfig) {
			t.Errorf("one file without the other: got %v", err)
		}
	}
	if _, err := (Config{RegistryTLSCert: file, RegistryTLSKey: file}).registryTLS(nil); !errors.Is(err, registry.ErrCertificate) {
		t.Errorf("files that are none: got %v", err)
	}
	write(file, "users: []")
	if _, err := c.registryAuth(); !errors.Is(err, registry.ErrAuth) {
		t.Errorf("a file of nobody: got %v", err)
	}
	for name, text := range map[string]string{"none": "", "text.pem": "text"} {
		if text != "" {
			write(filepath.Join(dir, name), text)
		}
		if _, err := (Config{RegistryCA: filepath.Join(dir, name)}).registryClient(false); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
