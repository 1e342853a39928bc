#!/usr/bin/env bash
# test.sh runs every test with the race detector, then says what was skipped
# and why. Under CI=true a skipped test is a failure.
set -uo pipefail

out=$(mktemp)
trap 'rm -f "$out"' EXIT
go test -race -timeout 15m -v ./... >"$out" 2>&1
code=$?
grep -E '^(ok|FAIL|panic:|---? FAIL)|^\s+--- FAIL' "$out" | grep -v 'no test files'
if [ $code -ne 0 ]; then
	echo "---- the whole output of what failed:"
	awk '/^=== RUN/ { next } { print }' "$out" | tail -n 400
	exit $code
fi
passed=$(grep -cE '^\s*--- PASS' "$out")
skipped=$(grep -cE '^\s*--- SKIP' "$out")
if [ "$skipped" -gt 0 ]; then
	echo "---- skipped, and why:"
	grep -E -A1 '^\s*--- SKIP' "$out"
	if [ "${CI:-}" = true ]; then
		echo "in CI nothing may be skipped"
		exit 1
	fi
fi
echo "$passed passed, 0 failed, $skipped skipped"
