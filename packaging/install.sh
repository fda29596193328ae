#!/bin/sh
# Installs what "make build" has built.
#
# Usage: packaging/install.sh DESTDIR PREFIX LIBEXEC
#
# PROGRAMS (bin/) has the programs to install. If these are for another machine, TOOLS
# has the same programs for this one. ZSH is where zsh looks for completions.
set -eu
umask 022

root=$(cd "$(dirname "$0")/.." && pwd -P)
dest=$1 prefix=$2 libexec=$3
programs=${PROGRAMS:-$root/bin} tools=${TOOLS:-${PROGRAMS:-$root/bin}}
share=$dest$prefix/share
zsh=$dest${ZSH:-$prefix/share/zsh/site-functions}

put() { # put MODE FILE TO
	mkdir -p "$(dirname "$3")"
	install -m "$1" "$2" "$3"
}

write() { # write TO: standard input
	mkdir -p "$(dirname "$1")"
	cat >"$1"
}

put 755 "$programs/govirtiofsd" "$dest$libexec/govirtiofsd"
put 755 "$programs/govirtiofs" "$dest$prefix/bin/govirtiofs"
# VMM tools look for daemons in libexec; a user who starts it by hand, in PATH.
ln -sf "$libexec/govirtiofsd" "$dest$prefix/bin/govirtiofsd"

for page in "$root"/doc/*.1; do
	put 644 "$page" "$share/man/man1/$(basename "$page")"
done
for program in govirtiofs govirtiofsd; do
	script() { # script SHELL
		if [ "$program" = govirtiofs ]; then
			"$tools/govirtiofs" completion "$1"
		else
			"$tools/govirtiofsd" --completion "$1"
		fi
	}
	script bash | write "$share/bash-completion/completions/$program"
	script fish | write "$share/fish/vendor_completions.d/$program.fish"
	script zsh | write "$zsh/_$program"
done

units=$dest$prefix/lib/systemd/system
sed "s|@LIBEXEC@|$libexec|" "$root/packaging/systemd/govirtiofsd@.service.in" | write "$units/govirtiofsd@.service"
put 644 "$root/packaging/systemd/govirtiofsd@.socket" "$units/govirtiofsd@.socket"
mkdir -p "$dest/etc/govirtiofs"

docs=$share/doc/govirtiofs
for page in README.md SECURITY.md ARCHITECTURE.md CONTRIBUTING.md CHANGELOG.md LICENSE; do
	put 644 "$root/$page" "$docs/$page"
done
for page in "$root"/doc/*.md "$root"/doc/*.svg; do
	[ ! -e "$page" ] || put 644 "$page" "$docs/doc/$(basename "$page")"
done
put 644 "$root/packaging/systemd/example.conf" "$docs/examples/example.conf"
sed "s|/usr/bin/|$prefix/bin/|" "$root/packaging/systemd/govirtiofs-relay.example.service" | write "$docs/examples/govirtiofs-relay.example.service"

# libvirt, Lima and others find the daemon by this file. They look in /usr/share, and
# in /etc for what was not installed there.
json=$dest$prefix/share/qemu/vhost-user/50-govirtiofsd.json
[ "$prefix" = /usr ] || json=$dest/etc/qemu/vhost-user/50-govirtiofsd.json
"$tools/govirtiofsd" --print-capabilities |
	sed "s|\"type\": \"fs\",|\"description\": \"govirtiofs vhost-user-fs\",\n  \"type\": \"fs\",\n  \"binary\": \"$libexec/govirtiofsd\",|" |
	write "$json"
