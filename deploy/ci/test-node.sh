#!/usr/bin/env bash
# Lets the published AsyncAPI parser check the catalogue of events: test-node.sh. Needs Go, Node 20 and npm; installs the parser into
# deploy/ci/run, which git ignores.
set -euo pipefail
cd "$(dirname "$0")/../.."
(($# == 0)) || { echo "usage: $0" >&2; exit 2; }
node=$PWD/deploy/ci/run/asyncapi
package=deploy/ci/asyncapi/package.json
for tool in go node npm; do command -v "$tool" >/dev/null || { echo "$tool is needed" >&2; exit 1; }; done
if ! cmp -s "$package" "$node/.installed"; then
  rm -rf "$node"
  mkdir -p "$node"
  cp "$package" "$node/"
  npm install --prefix "$node" --no-audit --no-fund --ignore-scripts --loglevel=error
  cp "$package" "$node/.installed"
fi
MILLRACE_TEST_NODE=$node go test -count=1 -timeout 5m -v -run '^TestAsyncAPIParser$' ./platform/contract/catalogue
