#!/usr/bin/env bash
# test.sh runs every test: all packages with the race detector, and beside them
# the end-to-end tests on a real Postfix, which mostly wait. Then it says what was
# skipped and why. Under CI=true a skipped test is a failure.
set -uo pipefail

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
e2e=./internal/lab/e2e
mapfile -t unit < <(go list ./... | grep -v '/internal/lab/e2e$')

go test -timeout 18m -v "$e2e" >"$out/e2e" 2>&1 &
go test -race -timeout 18m -v "${unit[@]}" >"$out/unit" 2>&1
code=$?
wait $! || code=1

grep -hE '^(ok|FAIL|panic:|--- FAIL)|^\s+--- FAIL' "$out"/* | grep -v 'no test files'
if [ $code -ne 0 ]; then
	for part in "$out"/*; do
		if grep -qE '^(FAIL|panic:|--- FAIL)' "$part"; then
			echo "---- what $(basename "$part") said, to the end:"
			grep -vE '^=== (RUN|PAUSE|CONT)' "$part" | grep -vE '^\s*--- PASS' | tail -n 300
		fi
	done
	exit $code
fi
passed=$(cat "$out"/* | grep -cE '^\s*--- PASS')
skipped=$(cat "$out"/* | grep -cE '^\s*--- SKIP')
if [ "$skipped" -gt 0 ]; then
	echo "---- skipped, and why:"
	grep -hE -B2 '^\s*--- SKIP' "$out"/*
	if [ "${CI:-}" = true ]; then
		echo "in CI nothing may be skipped"
		exit 1
	fi
fi
echo "$passed passed, 0 failed, $skipped skipped"
