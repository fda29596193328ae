# What deb.sh and deb-guest.sh have in common. Both source it, with their arguments VERSION ARCH OUTPUT.deb.
#
# DEB_MAINTAINER is who the package names, DEB_COMPRESSION xz (the default) or what else dpkg-deb has.
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

# describe PACKAGE LINTIAN-COMMENT: changelog, copyright and lintian's overrides.
describe() {
	docs=$tree/usr/share/doc/$1
	mkdir -p "$docs" "$tree/usr/share/lintian/overrides" "$tree/DEBIAN"
	printf '%s (%s) unstable; urgency=medium\n\n  * See changelog.gz.\n\n -- %s  %s\n' \
		"$1" "$version" "$maintainer" "$(date -Ru -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$docs/changelog.Debian.gz"
	cat >"$docs/copyright" <<-END
		Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
		Upstream-Name: govirtiofs

		Files: *
		Copyright: 2026 the govirtiofs authors
		License: Apache-2.0
		 On Debian systems the text of the Apache License 2.0 is in
		 /usr/share/common-licenses/Apache-2.0.
	END
	printf '# %s\n%s: statically-linked-binary\n' "$2" "$1" >"$tree/usr/share/lintian/overrides/$1"
}

# control PACKAGE [FIELD]...: the control file. The description is on standard input.
control() {
	name=$1
	shift
	{
		cat <<-END
			Package: $name
			Version: $version
			Architecture: $arch
			Maintainer: $maintainer
			Installed-Size: $(du -sk --apparent-size --exclude=DEBIAN "$tree" | cut -f1)
		END
		[ $# = 0 ] || printf '%s\n' "$@"
		cat <<-END
			Section: admin
			Priority: optional
			Homepage: https://github.com/govirtiofs/govirtiofs
		END
		cat
	} >"$tree/DEBIAN/control"
}

# build makes the package of what is in the tree.
build() {
	(cd "$tree" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"
	find "$tree" -newermt "@$SOURCE_DATE_EPOCH" -print0 | xargs -0r touch -hd "@$SOURCE_DATE_EPOCH"
	dpkg-deb --root-owner-group --uniform-compression -Z"${DEB_COMPRESSION:-xz}" --build "$tree" "$out" >/dev/null
}
