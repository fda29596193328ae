#!/bin/sh
# Installs what virtme-ng needs for test/integrators, and prepares it and libvirt in
# .cache/guests/. It needs root and Debian 12, and says before what it installs.
set -eu

. "$(dirname "$0")/../guest/apt.sh"

apt_need /usr/bin/qemu-system-x86_64 qemu-system-x86
apt_need /usr/bin/python3 python3
apt_need /usr/lib/python3/dist-packages/argcomplete python3-argcomplete
apt_need /usr/lib/python3/dist-packages/requests python3-requests
apt_need /usr/bin/file file
apt_need /sbin/ip iproute2
apt_need /sbin/modprobe kmod
apt_install
exec "$(dirname "$0")/../guest/setup.sh" virtme libvirt9 libvirt12 qemu72 qemu11
