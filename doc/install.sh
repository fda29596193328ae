#!/bin/sh
# Installs what "make build" has built.
#
# Usage: doc/install.sh DESTDIR PREFIX LIBEXEC
set -eu

root=$(cd "$(dirname "$0")/.." && pwd -P)
dest=$1 prefix=$2 libexec=$3
install -D -m 755 "$root/bin/govirtiofsd" "$dest$libexec/govirtiofsd"
install -D -m 644 "$root/doc/govirtiofsd.1" "$dest$prefix/share/man/man1/govirtiofsd.1"
# libvirt, Lima and others find the program by this file.
json=$dest$prefix/share/qemu/vhost-user/50-govirtiofsd.json
mkdir -p "$(dirname "$json")"
"$root/bin/govirtiofsd" --print-capabilities |
	sed "s|\"type\": \"fs\",|\"description\": \"govirtiofs vhost-user-fs\",\n  \"type\": \"fs\",\n  \"binary\": \"$libexec/govirtiofsd\",|" >"$json"
