#!/bin/sh
# Shows a share in a real virtual machine: starts govirtiofsd on a new directory and
# QEMU with a small Linux guest, whose shell is on this terminal. "exit" ends both.
#
# Usage: doc/demo.sh [DIRECTORY]      share DIRECTORY instead of a new one
set -eu

root=$(cd "$(dirname "$0")/.." && pwd -P)
run=$(mktemp -d /tmp/govirtiofs-demo.XXXXXX)
share=${1:-$run/share}
daemon=
finish() {
	[ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
	rm -rf "$run"
}
trap finish EXIT

mkdir -p "$share"
[ -n "${1:-}" ] || echo "This file is on the host, in $share." >"$share/hello"
"$root/test/guest/setup.sh" qemu72
"$root/bin/govirtiofsd" --socket-path "$run/socket" --shared-dir "$share" \
	--xattr --posix-acl=auto --log-level warn &
daemon=$!
while [ ! -S "$run/socket" ]; do
	kill -0 "$daemon" || exit 1
	sleep 0.1
done
echo "The guest has $share on /mnt/demo. Its shell comes in about 10 seconds."
"$root/test/guest/run.sh" qemu72 --socket "$run/socket" --tag demo --interactive
