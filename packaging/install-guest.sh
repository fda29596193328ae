#!/bin/sh
# Installs in a guest what it needs of govirtiofs.
#
# Usage: packaging/install-guest.sh DESTDIR PREFIX
#
# PROGRAMS (bin/) has the program. SBIN is where mount(8) looks for helpers: /sbin, which on most systems
# is a link to /usr/sbin.
set -eu
umask 022

root=$(cd "$(dirname "$0")/.." && pwd -P)
dest=$1 prefix=$2
programs=${PROGRAMS:-$root/bin} sbin=$dest${SBIN:-/usr/sbin}
install -D -m 755 "$programs/govirtiofs-guest" "$dest$prefix/bin/govirtiofs-guest"
install -D -m 644 "$root/doc/govirtiofs-guest.8" "$dest$prefix/share/man/man8/govirtiofs-guest.8"
install -D -m 644 "$root/packaging/systemd/govirtiofs-watch@.service" "$dest$prefix/lib/systemd/system/govirtiofs-watch@.service"
sed -i "s|/usr/bin/|$prefix/bin/|" "$dest$prefix/lib/systemd/system/govirtiofs-watch@.service"
mkdir -p "$sbin"
ln -sf "$prefix/bin/govirtiofs-guest" "$sbin/mount.govirtiofs"
tools=$dest$prefix/share/initramfs-tools
install -D -m 755 "$root/packaging/initramfs/hook" "$tools/hooks/govirtiofs"
install -D -m 644 "$root/packaging/initramfs/script" "$tools/scripts/govirtiofs"
