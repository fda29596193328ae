#!/bin/sh
# Makes everything that a release has, in dist/: for each architecture static programs,
# a tarball and Debian packages for hosts and guests, the guest's program by itself, and checksums over all.
#
# Usage: packaging/dist.sh [VERSION [ARCH...]]
#
# The same commit, version and Go give the same files, byte for byte. It needs Go, GNU
# tar and dpkg-deb.
set -eu
umask 022

root=$(cd "$(dirname "$0")/.." && pwd -P)
cd "$root"
version=${1:-}
[ $# = 0 ] || shift
[ -n "$version" ] || version=$(packaging/version.sh)
version=${version#v}
[ $# -gt 0 ] || set -- amd64 arm64
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct)}"
export SOURCE_DATE_EPOCH CGO_ENABLED=0
command -v dpkg-deb >/dev/null || { echo "dpkg-deb is needed for the Debian packages: install dpkg" >&2; exit 1; }

build() { # build ARCH DIRECTORY
	ldflags="-s -w -buildid= -X main.version=$version"
	GOOS=linux GOARCH=$1 go build -trimpath -buildvcs=false -pgo cmd/govirtiofsd/govirtiofsd.pgo -ldflags "$ldflags" -o "$2/" ./cmd/govirtiofsd ./cmd/govirtiofs ./cmd/govirtiofs-guest
}

rm -rf dist
mkdir -p dist
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
build "$(go env GOHOSTARCH)" "$work/tools"
TOOLS=$work/tools
export TOOLS

for arch; do
	name=govirtiofs-$version-linux-$arch
	PROGRAMS=$work/$arch
	export PROGRAMS
	build "$arch" "$PROGRAMS"
	packaging/install.sh "$work/$name" /usr/local /usr/local/libexec
	tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" \
		--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime -cf - "$name" | gzip -9n >"dist/$name.tar.gz"
	packaging/deb.sh "$version" "$arch" "dist/govirtiofs_$(printf %s "$version" | sed 's/-/~/g')_$arch.deb"
	packaging/deb-guest.sh "$version" "$arch" "dist/govirtiofs-guest_$(printf %s "$version" | sed 's/-/~/g')_$arch.deb"
	cp "$PROGRAMS/govirtiofs-guest" "dist/govirtiofs-guest-$version-linux-$arch"
done
cd dist
sha256sum -- * >SHA256SUMS
cat SHA256SUMS
