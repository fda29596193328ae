#!/bin/sh
# Installs the programs that test/integrators runs with the daemon: libvirt and QEMU,
# and what virtme-ng needs. It needs root and Debian 12. No service is started: the
# tests run their own libvirtd, which keeps all that it writes to itself.
set -eu

# need FILE PACKAGE
missing=
need() { [ -e "$1" ] || missing="$missing $2"; }

need /usr/sbin/libvirtd libvirt-daemon
need /usr/bin/virsh libvirt-clients
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
exec "$(dirname "$0")/../guest/setup.sh" virtme qemu72 qemu11
