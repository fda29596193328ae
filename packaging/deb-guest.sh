#!/bin/sh
# Makes the Debian package for guests of a program that is built already.
#
# Usage: packaging/deb-guest.sh VERSION ARCH OUTPUT.deb
#
# PROGRAMS is as for install-guest.sh; the rest is in deb-common.sh.
. "$(dirname "$0")/deb-common.sh"

"$root/packaging/install-guest.sh" "$tree" /usr
ln -sf ../bin/govirtiofs-guest "$tree/usr/sbin/mount.govirtiofs"
gzip -9n "$tree"/usr/share/man/man8/*.8
describe govirtiofs-guest "A program of Go without C libraries, for guests of any distribution."
gzip -9nc "$root/CHANGELOG.md" >"$docs/changelog.gz"
control govirtiofs-guest <<END
Description: mount shares of the host in virtual machines over vsock
 govirtiofs-guest mounts directories that govirtiofsd shares on the host, in
 virtual machines that have vsock and no virtio-fs device, such as those of
 Firecracker.
END
build
