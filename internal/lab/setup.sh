#!/usr/bin/env bash
# setup.sh demo|test installs the Debian packages that the demo or the tests
# miss, and says which. It starts no service on this machine: Postfix is only
# ever run inside a network namespace, with a configuration of its own, and one
# that was installed before is left alone.
set -euo pipefail

want=(gcc libc6-dev postfix iproute2 procps)
if [ "${1:-demo}" = test ]; then
	want+=(postfix-lmdb postfix-cdb postfix-pcre chromium fonts-dejavu-core openssl systemd git)
fi
missing=()
for p in "${want[@]}"; do
	dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
done
if [ ${#missing[@]} -eq 0 ]; then
	exit 0
fi
if [ "$(id -u)" != 0 ]; then
	echo "setup: run this as root, or install: ${missing[*]}" >&2
	exit 1
fi
echo "setup: installing ${missing[*]} (no service is started)"

# policy-rc.d keeps maintainer scripts from starting anything (exit 101: not
# allowed). One that is there already is put back.
rc=/usr/sbin/policy-rc.d
saved=
if [ -e $rc ]; then
	saved=$(mktemp)
	cp -p $rc "$saved"
fi
restore() {
	if [ -n "$saved" ]; then mv "$saved" $rc; else rm -f $rc; fi
}
trap restore EXIT
printf '#!/bin/sh\nexit 101\n' >$rc
chmod 755 $rc

log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
for try in 1 2 3; do
	if apt-get update -qq >"$log" 2>&1 &&
		apt-get install -y -qq --no-install-recommends "${missing[@]}" >>"$log" 2>&1; then
		break
	fi
	if [ $try = 3 ]; then
		cat "$log" >&2
		exit 1
	fi
	sleep 5
done
rm -f "$log"

# A Postfix that came only for the tests must not come up at the next boot.
case " ${missing[*]} " in *" postfix "*)
	if command -v systemctl >/dev/null; then
		systemctl disable postfix >/dev/null 2>&1 || true
	fi
	;;
esac
