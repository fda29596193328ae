#!/bin/sh
# Shows a share in a real virtual machine: starts govirtiofsd on a new directory and
# QEMU with a small Linux guest, which reads and writes there. On a terminal the
# guest's shell comes then; "exit" ends both. Nothing is installed. The first run downloads
# about 100 MB of Debian packages (QEMU 7.2 and Linux 6.1), and says so before.
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
cat >"$run/script" <<'EOF'
echo "== in the guest: $(uname -sr), the share is on /mnt/demo"
mount | grep virtiofs
ls -la /mnt/demo
[ ! -e /mnt/demo/hello ] || cat /mnt/demo/hello
echo "This file was written in the guest." >/mnt/demo/from-guest
EOF
echo "The guest has $share on /mnt/demo. It starts in about 10 seconds."
interactive=
[ ! -t 0 ] || interactive=--interactive
"$root/test/guest/run.sh" qemu72 --socket "$run/socket" --tag demo --script "$run/script" $interactive
echo "== on the host: $share"
ls -la "$share"
cat "$share/from-guest"
