#!/bin/sh
# Prepare real guests for the tests and the demo: setup.sh [uml|qemu72|qemu11|peers|all]...
#
#   uml     Debian sid's User-Mode Linux kernel: a real FUSE client that starts in a second
#   qemu72  Debian 12's QEMU 7.2 and kernel 6.1
#   qemu11  Debian sid's QEMU 11.1 and kernel 7.2, run with sid's own C library
#   peers   the Rust and C virtiofsd, to compare with
#
# Everything is kept in .cache/guests, outside of the system, except Debian 12 packages
# that the scripts themselves need. Packages come from the mirror that this machine is
# set up with. It needs root, and is safe to run twice at the same time.
set -eu

top=$(cd "$(dirname "$0")/../.." && pwd)
cache=$top/.cache/guests
mkdir -p "$cache"
say() { echo "guest setup: $*" >&2; }
die() { say "$*"; exit 1; }

exec 9>"$cache/lock"
command -v flock >/dev/null && flock 9

[ "$(uname -m)" = x86_64 ] || die "guests are set up on x86_64 only"

# need COMMAND PACKAGE: install a Debian 12 package if its command is missing.
need() {
	command -v "$1" >/dev/null 2>&1 && return
	[ "$(id -u)" = 0 ] || die "$1 is missing; install the package $2 or run this as root"
	say "installing $2"
	[ -e "$cache/apt-updated" ] || { apt-get update -qq; touch "$cache/apt-updated"; }
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null
}

# mirror: the archive URI of the machine's own configuration.
mirror() {
	uri=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null |
		sed -n -e 's/^URIs: *\([^ ]*\).*/\1/p' -e 's/^deb  *\(\[[^]]*\] \)\{0,1\}\([^ ]*\) .*/\2/p' |
		grep -v security | grep '/debian/*$' | head -n 1)
	[ -n "$uri" ] || die "no Debian mirror found in /etc/apt"
	echo "$uri"
}

# sid_apt ARGS: apt-get of a private configuration that knows sid only.
sid_apt() {
	d=$cache/sid-apt
	if [ ! -e "$d/ready" ]; then
		rm -rf "$d"
		mkdir -p "$d/state/lists/partial" "$d/cache/archives/partial"
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) sid main" >"$d/sources.list"
		: >"$d/status"
		say "reading the package lists of sid"
		sid_apt_raw "$d" update -qq >/dev/null
		touch "$d/ready"
	fi
	sid_apt_raw "$d" "$@"
}

sid_apt_raw() {
	d=$1
	shift
	apt-get -o Dir::State="$d/state" -o Dir::State::status="$d/status" -o Dir::Cache="$d/cache" \
		-o Dir::Etc::sourcelist="$d/sources.list" -o Dir::Etc::sourceparts=- \
		-o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=root "$@"
}

# unpack_sid DIR PACKAGE...: unpack packages of sid below DIR.
unpack_sid() {
	to=$1
	shift
	mkdir -p "$to" "$cache/debs"
	(cd "$cache/debs" && sid_apt download -qq "$@" >/dev/null)
	for p in "$@"; do
		dpkg-deb -x "$(ls -t "$cache/debs/${p}"_*.deb | head -n 1)" "$to"
	done
}

# unpack_closure DIR PACKAGE...: the same with all that they depend on.
unpack_closure() {
	to=$1
	shift
	mkdir -p "$to" "$cache/debs"
	(cd "$cache/debs" && sid_apt --print-uris -y -qq --no-install-recommends install "$@" |
		sed -n "s/^'\([^']*\)' \([^ ]*\) .*/\2/p" | sed 's/_.*//' | sort -u >"$to.packages")
	# shellcheck disable=SC2046
	unpack_sid "$to" $(cat "$to.packages")
}

done_with() { [ -e "$cache/$1/.done" ]; }

# begin and finish: a folder appears when it is complete.
begin() { rm -rf "$cache/$1.new" && mkdir -p "$cache/$1.new"; }
finish() { touch "$cache/$1.new/.done" && rm -rf "${cache:?}/$1" && mv "$cache/$1.new" "$cache/$1"; }

setup_uml() {
	need insmod kmod
	done_with uml && return
	need patchelf patchelf
	need xz xz-utils
	begin uml
	d=$cache/uml.new
	say "User-Mode Linux"
	unpack_sid "$d/root" user-mode-linux libc6
	uml=$(find "$d/root/usr/bin" -name 'linux*' -type f | head -n 1)
	cp "$uml" "$d/linux"
	lib=$(dirname "$(find "$d/root" -name libc.so.6 | head -n 1)")
	cp -rL "$lib" "$d/lib"
	patchelf --set-interpreter "$cache/uml/lib/ld-linux-x86-64.so.2" --set-rpath "$cache/uml/lib" "$d/linux"
	find "$d/root" \( -name 'fuse.ko*' -o -name 'virtiofs.ko*' \) -exec cp {} "$d/" \;
	for m in "$d"/*.ko.xz; do [ ! -e "$m" ] || xz -d "$m"; done
	[ -e "$d/virtiofs.ko" ] || die "the UML package has no virtiofs.ko"
	rm -rf "$d/root"
	finish uml
}

# vmlinux IMAGE FILE: the ELF kernel inside a compressed one.
vmlinux() {
	"$top/test/guest/extract-vmlinux.sh" "$1" >"$2"
}

# initramfs DIR MODULES: busybox and the modules that the kernel has not built in.
initramfs() {
	d=$1
	mkdir -p "$d/initrd/bin" "$d/initrd/modules" "$d/initrd/proc" "$d/initrd/sys" "$d/initrd/dev" "$d/initrd/mnt" "$d/initrd/tmp" "$d/initrd/run"
	cp "$(command -v busybox)" "$d/initrd/bin/busybox"
	ln -sf busybox "$d/initrd/bin/sh"
	cp "$top/test/guest/init.sh" "$d/initrd/init"
	chmod +x "$d/initrd/init"
}

# kernel_modules ROOT DEST: modules needed to mount virtiofs, in load order.
kernel_modules() {
	: >"$2/order"
	for m in virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci fuse virtiofs; do
		f=$(find "$1" -name "$m.ko*" | head -n 1)
		[ -n "$f" ] || continue
		cp "$f" "$2/"
		case $f in *.xz) xz -d -f "$2/$m.ko.xz" ;; *.zst) zstd -q -d --rm -f "$2/$m.ko.zst" ;; esac
		echo "$m" >>"$2/order"
	done
}

need_static_busybox() {
	need cpio cpio
	need zstd zstd
	need xz xz-utils
	if ! busybox 2>/dev/null | head -n 1 | grep -q BusyBox || ldd "$(command -v busybox)" >/dev/null 2>&1; then
		need busybox-static-missing busybox-static 2>/dev/null || true
	fi
	command -v busybox >/dev/null || die "busybox is missing; install the package busybox-static"
}

setup_qemu72() {
	need qemu-system-x86_64 qemu-system-x86
	done_with qemu72 && return
	need_static_busybox
	begin qemu72
	d=$cache/qemu72.new
	say "kernel 6.1 of Debian 12"
	[ -e "$cache/apt-updated" ] || { apt-get update -qq; touch "$cache/apt-updated"; }
	image=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-6[^ ]*cloud-amd64\).*/\1/p' | head -n 1)
	[ -n "$image" ] || die "Debian 12's cloud kernel was not found"
	(cd "$d" && apt-get download -qq -o APT::Sandbox::User=root "$image" >/dev/null && dpkg-deb -x ./*.deb root)
	vmlinux "$(ls "$d"/root/boot/vmlinuz-*)" "$d/vmlinux"
	initramfs "$d"
	kernel_modules "$d/root" "$d/initrd/modules"
	rm -rf "$d/root" "$d"/*.deb
	finish qemu72
}

setup_qemu11() {
	done_with qemu11 && return
	need_static_busybox
	begin qemu11
	d=$cache/qemu11.new
	say "QEMU 11 of sid"
	unpack_closure "$d/root" qemu-system-x86
	say "kernel of sid"
	image=$(cd "$cache" && sid_apt --print-uris -y -qq --no-install-recommends install linux-image-cloud-amd64 |
		sed -n "s/^'[^']*' \(linux-\(image\|binary\)-[0-9][^_]*cloud-amd64\)_.*/\1/p")
	[ -n "$image" ] || die "sid's cloud kernel was not found"
	# shellcheck disable=SC2086
	unpack_sid "$d/kernel" $image
	k=$(find "$d/kernel" -name 'vmlinuz-*' -type f | head -n 1)
	[ -n "$k" ] || die "no kernel in $image"
	vmlinux "$k" "$d/vmlinux"
	initramfs "$d"
	kernel_modules "$d/kernel" "$d/initrd/modules"
	rm -rf "$d/kernel"
	cat >"$d/qemu" <<-EOF
		#!/bin/sh
		r=$cache/qemu11/root
		exec "\$r/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" --library-path "\$r/usr/lib/x86_64-linux-gnu:\$r/lib/x86_64-linux-gnu" "\$r/usr/bin/qemu-system-x86_64" -L "\$r/usr/share/qemu" -L "\$r/usr/share/seabios" "\$@"
	EOF
	chmod +x "$d/qemu"
	finish qemu11
}

setup_peers() {
	done_with peers && return
	begin peers
	d=$cache/peers.new
	say "virtiofsd of sid, and the C one of Debian 12"
	unpack_closure "$d/root" virtiofsd
	(cd "$d" && apt-get download -qq -o APT::Sandbox::User=root qemu-system-common >/dev/null && dpkg-deb -x ./qemu-system-common*.deb c && rm -f ./*.deb)
	need qemu-system-x86_64 qemu-system-x86 # brings the libraries of the C one
	mkdir -p "$d/bin"
	cat >"$d/bin/virtiofsd-rust" <<-EOF
		#!/bin/sh
		r=$cache/peers/root
		exec "\$r/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" --library-path "\$r/usr/lib/x86_64-linux-gnu" "\$r/usr/libexec/virtiofsd" "\$@"
	EOF
	printf '#!/bin/sh\nexec "%s/peers/c/usr/lib/qemu/virtiofsd" "$@"\n' "$cache" >"$d/bin/virtiofsd-c"
	chmod +x "$d"/bin/*
	finish peers
}

[ $# -gt 0 ] || set -- all
for what; do
	case $what in
	uml | qemu72 | qemu11 | peers) "setup_$what" ;;
	all) setup_uml && setup_qemu72 && setup_qemu11 && setup_peers ;;
	*) die "usage: setup.sh [uml|qemu72|qemu11|peers|all]..." ;;
	esac
done
