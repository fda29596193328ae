#!/bin/sh
# Installs what virtme-ng needs for test/integrators, and prepares it and libvirt in
# .cache/guests/. It needs root and Debian 12.
set -eu

# need FILE PACKAGE
missing=
need() { [ -e "$1" ] || missing="$missing $2"; }

need /usr/bin/qemu-system-x86_64 qemu-system-x86
need /usr/bin/python3 python3
need /usr/lib/python3/dist-packages/argcomplete python3-argcomplete
need /usr/lib/python3/dist-packages/requests python3-requests
need /usr/bin/file file
need /sbin/ip iproute2
need /sbin/modprobe kmod

if [ -n "$missing" ]; then
	echo "integrators: installing$missing" >&2
	apt-get update -qq
	# shellcheck disable=SC2086 # a list of package names
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
exec "$(dirname "$0")/../guest/setup.sh" virtme libvirt9 libvirt12 qemu72 qemu11
