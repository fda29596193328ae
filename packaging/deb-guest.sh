#!/bin/sh
# Makes the Debian package for guests of a program that is built already.
#
# Usage: packaging/deb-guest.sh VERSION ARCH OUTPUT.deb
#
# PROGRAMS is as for install-guest.sh; the rest is as for deb.sh.
set -eu
umask 022

root=$(cd "$(dirname "$0")/.." && pwd -P)
version=$(printf %s "$1" | sed 's/-/~/g') arch=$2 out=$3
maintainer=${DEB_MAINTAINER:-govirtiofs project <govirtiofs@users.noreply.github.com>}
: "${SOURCE_DATE_EPOCH:=$(date +%s)}"
export SOURCE_DATE_EPOCH
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"

"$root/packaging/install-guest.sh" "$tree" /usr
ln -sf ../bin/govirtiofs-guest "$tree/usr/sbin/mount.govirtiofs"
gzip -9n "$tree"/usr/share/man/man8/*.8
docs=$tree/usr/share/doc/govirtiofs-guest
mkdir -p "$docs" "$tree/usr/share/lintian/overrides" "$tree/DEBIAN"
gzip -9nc "$root/CHANGELOG.md" >"$docs/changelog.gz"
printf 'govirtiofs-guest (%s) unstable; urgency=medium\n\n  * See changelog.gz.\n\n -- %s  %s\n' \
	"$version" "$maintainer" "$(date -Ru -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$docs/changelog.Debian.gz"
cat >"$docs/copyright" <<END
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: govirtiofs

Files: *
Copyright: 2026 the govirtiofs authors
License: Apache-2.0
 On Debian systems the text of the Apache License 2.0 is in
 /usr/share/common-licenses/Apache-2.0.
END
cat >"$tree/usr/share/lintian/overrides/govirtiofs-guest" <<END
# A program of Go without C libraries, for guests of any distribution.
govirtiofs-guest: statically-linked-binary
END
cat >"$tree/DEBIAN/control" <<END
Package: govirtiofs-guest
Version: $version
Architecture: $arch
Maintainer: $maintainer
Installed-Size: $(du -sk --apparent-size --exclude=DEBIAN "$tree" | cut -f1)
Section: admin
Priority: optional
Homepage: https://github.com/govirtiofs/govirtiofs
Description: mount shares of the host in virtual machines over vsock
 govirtiofs-guest mounts directories that govirtiofsd shares on the host, in
 virtual machines that have vsock and no virtio-fs device, such as those of
 Firecracker.
END
(cd "$tree" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"
find "$tree" -newermt "@$SOURCE_DATE_EPOCH" -print0 | xargs -0r touch -hd "@$SOURCE_DATE_EPOCH"
dpkg-deb --root-owner-group --uniform-compression -Z"${DEB_COMPRESSION:-xz}" --build "$tree" "$out" >/dev/null
