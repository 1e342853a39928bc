#!/usr/bin/env bash
# test.sh runs every test: all packages with the race detector, and beside them
# those on a real Postfix, which mostly wait, several at a time, each in a namespace
# of its own; then the pages in a real Chromium. At the end it says what was
# skipped and why. Under CI=true a skipped test is a failure.
#
# A test on a real Postfix that ran out of patience is run once more, alone, and
# named: on a busy machine a queue may sleep too long. Mail that leaked, came twice
# or was changed is never forgiven.
set -uo pipefail

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
mkdir "$out/bed" "$out/log"
mapfile -t unit < <(go list ./... | grep -vE '/internal/lab(/e2e)?$')

# The pages are visited by themselves: the race detector makes that slow, and has nothing to see.
pages='^Test(Looks|Browser)'
mapfile -t paged < <(grep -rlE --include='*_test.go' 'func Test(Looks|Browser)' . | xargs -n 1 dirname | sort -u)
slow='^Test(Attacks|Adversary|TLSThatVanishes|Torture|Destinations)$' # these first
BEDS=${BEDS:-4}

export POSTSEAL_BIN=$out/postseal
go build -tags crashpoints -o "$POSTSEAL_BIN" ./cmd/postseal || exit 1
for p in lab lab/e2e; do
	go test -c -o "$out/$(basename $p).test" ./internal/$p || exit 1
done

# bed runs one test of a package below internal in a namespace of its own.
bed() {
	local log=$out/bed/$(basename "$1").$2
	(cd "internal/$1" && "$out/$(basename "$1").test" -test.v -test.timeout 10m -test.run "^$2\$") >"$log" 2>&1 ||
		grep -q '^--- FAIL' "$log" || echo "--- FAIL: $2 (it ended without a word: see its output)" >>"$log"
}
export -f bed
export out

# The names come from the binary; it runs no test for that.
names() { "$out/$(basename "$1").test" -test.list . | grep ^Test | sed "s|^|$1 |"; }
all=$(names lab/e2e; names lab)
{
	printf '%s\n' "$all" | while read -r p n; do [[ $n =~ $slow ]] && echo "$p $n"; done
	printf '%s\n' "$all" | while read -r p n; do [[ $n =~ $slow ]] || echo "$p $n"; done
} | xargs -P "$BEDS" -L 1 bash -c 'bed "$0" "$1"' &
go test -race -timeout 18m -v -skip "$pages" "${unit[@]}" >"$out/log/unit" 2>&1
code=$?
go test -timeout 10m -v -run "$pages" "${paged[@]}" >"$out/log/pages" 2>&1 || code=1
wait $!

cat "$out"/bed/* >"$out/log/bed"
if grep -q '^--- FAIL' "$out/log/bed"; then
	if grep -qE 'LEAK|times, want|want once|not the message|was changed|DATA RACE|panic:' "$out/log/bed"; then
		code=1
	else
		for log in $(grep -l '^--- FAIL' "$out"/bed/*); do
			test=$(basename "$log")
			pkg=lab/e2e
			[ "${test%%.*}" = lab ] && pkg=lab
			echo "once more, alone: ${test#*.}. It said:"
			grep -E '^\s*--- FAIL|_test.go:[0-9]+:' "$log" | head -n 20
			mv "$log" "$out/log/first-$test"
			bed "$pkg" "${test#*.}"
			if grep -q '^--- FAIL' "$log"; then
				code=1
			else
				rm "$out/log/first-$test"
			fi
		done
		cat "$out"/bed/* >"$out/log/bed"
	fi
fi

grep -hE '^(ok|FAIL|panic:|--- FAIL)|^\s+--- FAIL' "$out"/log/* | grep -v 'no test files'
if [ $code -ne 0 ]; then
	for part in "$out"/log/*; do
		if grep -qE '^(FAIL|panic:|--- FAIL)' "$part"; then
			echo "---- what $(basename "$part") said, to the end:"
			grep -vE '^=== (RUN|PAUSE|CONT)' "$part" | grep -vE '^\s*--- PASS' | tail -n 300
		fi
	done
	exit $code
fi
passed=$(cat "$out"/log/* | grep -cE '^\s*--- PASS')
skipped=$(cat "$out"/log/* | grep -cE '^\s*--- SKIP')
if [ "$skipped" -gt 0 ]; then
	echo "---- skipped, and why:"
	grep -hE -B2 '^\s*--- SKIP' "$out"/log/*
	if [ "${CI:-}" = true ]; then
		echo "in CI nothing may be skipped"
		exit 1
	fi
fi
echo "$passed passed, 0 failed, $skipped skipped"
