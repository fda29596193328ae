#!/bin/sh
# extract-vmlinux.sh IMAGE: write the ELF kernel inside a compressed image to standard
# output. QEMU starts an ELF kernel through PVH, without firmware.
set -eu
image=$1
tmp=$(mktemp)
trap 'rm -f "$tmp"' EXIT

try() { # try MAGIC COMMAND...: decompress at each place where the magic bytes stand
	magic=$1
	shift
	for at in $(LC_ALL=C grep -aboP "$magic" "$image" | cut -d: -f1); do
		tail -c "+$((at + 1))" "$image" | "$@" >"$tmp" 2>/dev/null || true
		if [ "$(head -c 4 "$tmp" | od -An -tx1 | tr -d ' \n')" = 7f454c46 ]; then
			cat "$tmp"
			exit 0
		fi
	done
}
try '\xfd7zXZ\x00' xz -dc
try '\x28\xb5\x2f\xfd' zstd -dc
try '\x1f\x8b\x08' gzip -dc
try '\x02\x21\x4c\x18' lz4 -dc
echo "extract-vmlinux: no kernel found in $image" >&2
exit 1
