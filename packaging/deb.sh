#!/bin/sh
# Makes a Debian package of programs that are built already.
#
# Usage: packaging/deb.sh VERSION ARCH OUTPUT.deb
#
# PROGRAMS and TOOLS are as for install.sh. DEB_MAINTAINER is who the package names,
# DEB_COMPRESSION xz (the default) or what else dpkg-deb has.
# The same input and SOURCE_DATE_EPOCH give the same package.
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

ZSH=/usr/share/zsh/vendor-completions "$root/packaging/install.sh" "$tree" /usr /usr/libexec
docs=$tree/usr/share/doc/govirtiofs
rm "$docs/LICENSE" "$tree/usr/bin/govirtiofsd"
ln -s ../libexec/govirtiofsd "$tree/usr/bin/govirtiofsd"
mv "$docs/CHANGELOG.md" "$docs/changelog"
# Debian has them under other names.
sed -i -e 's|(CHANGELOG.md)|(changelog.gz)|g' -e 's|(LICENSE)|(copyright)|g' "$docs"/*.md
gzip -9n "$docs/changelog" "$tree"/usr/share/man/man1/*.1
printf 'govirtiofs (%s) unstable; urgency=medium\n\n  * See changelog.gz.\n\n -- %s  %s\n' \
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
mkdir -p "$tree/usr/share/lintian/overrides"
cat >"$tree/usr/share/lintian/overrides/govirtiofs" <<END
# Programs of Go without C libraries, for hosts of any distribution.
govirtiofs: statically-linked-binary
END

mkdir "$tree/DEBIAN"
cat >"$tree/DEBIAN/control" <<END
Package: govirtiofs
Version: $version
Architecture: $arch
Maintainer: $maintainer
Installed-Size: $(du -sk --apparent-size --exclude=DEBIAN "$tree" | cut -f1)
Recommends: uidmap
Suggests: qemu-system, libvirt-daemon-driver-qemu
Section: admin
Priority: optional
Homepage: https://github.com/govirtiofs/govirtiofs
Description: share directories with virtual machines over virtio-fs
 govirtiofsd is a vhost-user back-end for virtio-fs devices. QEMU,
 cloud-hypervisor, crosvm and User-Mode Linux connect to it, and a Linux guest
 mounts the share without a network. It takes the options of the Rust
 virtiofsd and can stand in for it.
 .
 govirtiofs has the tools that go with it, among them one that tells why a
 share does not work.
END
for script in postinst postrm; do
	cat >"$tree/DEBIAN/$script" <<'END'
#!/bin/sh
set -e
# The units have changed.
if [ -d /run/systemd/system ]; then
	systemctl --system daemon-reload >/dev/null || true
fi
END
	chmod 755 "$tree/DEBIAN/$script"
done
(cd "$tree" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"

find "$tree" -newermt "@$SOURCE_DATE_EPOCH" -print0 | xargs -0r touch -hd "@$SOURCE_DATE_EPOCH"
dpkg-deb --root-owner-group --uniform-compression -Z"${DEB_COMPRESSION:-xz}" --build "$tree" "$out" >/dev/null
