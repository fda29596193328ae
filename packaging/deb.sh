#!/bin/sh
# Makes a Debian package of programs that are built already.
#
# Usage: packaging/deb.sh VERSION ARCH OUTPUT.deb
#
# PROGRAMS and TOOLS are as for install.sh; the rest is in deb-common.sh.
. "$(dirname "$0")/deb-common.sh"

ZSH=/usr/share/zsh/vendor-completions "$root/packaging/install.sh" "$tree" /usr /usr/libexec
docs=$tree/usr/share/doc/govirtiofs
rm "$docs/LICENSE" "$tree/usr/bin/govirtiofsd"
ln -s ../libexec/govirtiofsd "$tree/usr/bin/govirtiofsd"
mv "$docs/CHANGELOG.md" "$docs/changelog"
# Debian has them under other names.
sed -i -e 's|(CHANGELOG.md)|(changelog.gz)|g' -e 's|(LICENSE)|(copyright)|g' "$docs"/*.md
gzip -9n "$docs/changelog" "$tree"/usr/share/man/man1/*.1
describe govirtiofs "Programs of Go without C libraries, for hosts of any distribution."
control govirtiofs "Recommends: uidmap" "Suggests: qemu-system, libvirt-daemon-driver-qemu" <<END
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
build
