#!/usr/bin/env bash
# Runs golangci-lint at the pinned version, built from source by the Go tool chain on first use and kept in its caches.
set -euo pipefail
version=v2.15.0
exec go run "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$version" "$@"
