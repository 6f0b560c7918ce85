#!/usr/bin/env bash
# Lets the official clients drive the schema registry: test-registry-clients.sh. Needs Go, Python 3.11, Node 20 and npm; installs
# confluent-kafka, @confluentinc/schemaregistry and @kafkajs/confluent-schema-registry into deploy/ci/run, which git ignores. srclient and
# franz-go's sr are among the tests' own libraries.
#
# Confluent's Java serializers are not among them: they are not in Maven Central but only in Confluent's repository.
set -euo pipefail
cd "$(dirname "$0")/../.."
(($# == 0)) || { echo "usage: $0" >&2; exit 2; }
venv=$PWD/deploy/ci/run/venv
node=$PWD/deploy/ci/run/node
requirements=deploy/ci/clients/requirements.txt
package=deploy/ci/registry-clients/package.json
for tool in go node npm; do command -v "$tool" >/dev/null || { echo "$tool is needed" >&2; exit 1; }; done
# Settings of whoever runs this are not the tests'.
for name in $(compgen -e MILLRACE_ || true); do unset "$name"; done
say() { printf -- '-- %s (%ss)\n' "$1" "$SECONDS"; }

say "Python client"
if ! cmp -s "$requirements" "$venv/.installed"; then
  rm -rf "$venv"
  "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/pip" install -q --disable-pip-version-check -r "$requirements"
  cp "$requirements" "$venv/.installed"
fi
say "JavaScript clients"
if ! cmp -s "$package" "$node/.installed"; then
  rm -rf "$node"
  mkdir -p "$node"
  cp "$package" "$node/"
  npm install --prefix "$node" --no-audit --no-fund --ignore-scripts --loglevel=error
  cp "$package" "$node/.installed"
fi

say "the registry's conformance suites"
MILLRACE_TEST_PYTHON=$venv/bin/python MILLRACE_TEST_NODE=$node \
  go test -count=1 -timeout 10m -v -run '^(TestPythonClient|TestJavaScriptClients|TestFranzClient|TestFranzClientRest|TestSrclient)$' ./platform/registry |
  grep -vE '^=== '
say "all clients agree"
