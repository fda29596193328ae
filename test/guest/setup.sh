#!/bin/sh
# Prepares the guests and peers of the integration tests under .cache/guests/.
#
# Usage: test/guest/setup.sh [uml|qemu72|qemu11|vsock|arm64|arm64-16k|fio|peers|virtme|libvirt9|libvirt12|diod|all]...
#
#   uml     User-Mode Linux 7.2 of Debian sid: a virtio-fs client with no VMM
#   vsock   kernel modules for vsock in uml and qemu72, and vhost-device-vsock of sid
#   qemu72  QEMU 7.2 and kernel 6.1 of Debian 12
#   qemu11  QEMU 11.1 and kernel 7.2 of Debian sid (DAX, several queues)
#   arm64   QEMU 11.1 for arm64, kernel 7.2 and a small root of Debian sid; not part of "all"
#   arm64-16k
#           the same kernel with pages of 16 KiB, for the QEMU of arm64; not part of "all"
#   fio     fio of Debian 12 with its libraries, for guests that have busybox only
#   peers   other back-ends to compare with: virtiofsd in Rust and in C
#   libvirt9, libvirt12
#           libvirt and QEMU of Debian 12 and of sid, as directories to chroot to
#   diod    diod of Debian 12, a 9p server, and the modules for 9p in uml, to compare with; not part of "all"
#   virtme  virtme-ng of Debian sid, which runs with the machine's own python3
#
# Nothing is installed on the machine. Packages are downloaded from the mirror
# that the machine's own apt is configured with, by an apt that keeps its state
# in the cache, and are unpacked there. So it neither needs nor takes a lock of the
# machine's apt. A program then runs on the machine with the C library of its own
# suite, to which patchelf points it.
#
# "all" downloads about 430 MB and takes 1.3 GB of disk and a few minutes; how much a
# run needs is printed before it starts.
#
# A part that is ready is left alone, so a second run takes no time. Each part is
# made in a temporary directory and renamed, and one run at a time works on the
# cache: an interrupted or a concurrent run does no harm.
set -eu

# Raise the number when the contents of a part change, to have it made again.
layout=1

root=$(cd "$(dirname "$0")/../.." && pwd -P)
# The cache may be a link to that of another clone: the parts hold its real path.
mkdir -p "$root/.cache/guests"
cache=$(cd "$root/.cache/guests" && pwd -P)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

say() { printf 'guest setup: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

usage() {
	echo "usage: $0 [uml|qemu72|qemu11|vsock|arm64|arm64-16k|fio|peers|virtme|libvirt9|libvirt12|diod|all]..." >&2
	exit 2
}

# stamp PART prints what the stamp of a finished part holds. The path is in it
# because patched programs hold it too: a moved repository needs new ones.
stamp() { printf 'layout %s at %s\n' "$layout" "$cache/$1"; }

ready() { [ -f "$cache/$1.ok" ] && [ "$(cat "$cache/$1.ok")" = "$(stamp "$1")" ]; }

# check_path refuses directories whose path can't be written into what is made there:
# search paths of libraries, options of QEMU and of kernels.
check_path() {
	case $1 in
	*[!-A-Za-z0-9_./+@%~]*) die "the path $1 has characters that guests can't use (blanks, commas, colons, quotes...): clone the repository to another directory" ;;
	esac
}

check_machine() {
	[ "$(uname -m)" = x86_64 ] || die "the guests need an x86-64 machine"
	for tool in apt-get dpkg-deb flock od; do
		command -v "$tool" >/dev/null || die "$tool is missing: this needs Debian 12 or a system with its apt"
	done
	[ -f "$keyring" ] || die "$keyring is missing: apt-get install debian-archive-keyring"
}

# mirror prints the URI of the Debian archive that this machine's apt uses: the
# first source that is neither an update nor a security suite.
mirror() {
	apt-get update --print-uris 2>/dev/null |
		sed -n "s|^'\(.*\)/dists/[a-z]*/InRelease'.*|\1|p" |
		grep -v security | head -n 1
}

# cost PART prints the megabytes that a part downloads and those that it takes on disk.
cost() {
	case $1 in
	tools) echo 6 22 ;;
	uml) echo 40 41 ;;
	vsock) echo 75 6 ;;
	qemu72) echo 70 226 ;;
	qemu11) echo 80 248 ;;
	arm64) echo 92 1000 ;;
	arm64-16k) echo 105 150 ;;
	fio) echo 60 82 ;;
	peers) echo 34 123 ;;
	libvirt9) echo 62 238 ;;
	libvirt12) echo 56 228 ;;
	virtme) echo 1 1 ;;
	diod) echo 42 6 ;;
	esac
}

# announce PART... says what will be downloaded, from where and how large, and ends if
# there is no room for it.
announce() {
	download=20 disk=45 # the package lists of two suites
	for p in "$@"; do
		# shellcheck disable=SC2046 # two numbers
		set -- $(cost "$p")
		download=$((download + $1)) disk=$((disk + $2))
	done
	uri=$(mirror)
	[ -n "$uri" ] || die "no Debian archive in this machine's apt configuration"
	say "to be made:$missing"
	say "this downloads about $download MB of Debian packages from $uri, which this machine's apt uses,"
	say "and takes about $disk MB in $cache. It takes some minutes, and nothing is installed."
	free=$(df -Pk "$cache" | awk 'NR == 2 { print int($4 / 1024) }')
	[ "$free" -ge $((disk + 300)) ] || die "only $free MB are free there, and $((disk + 300)) MB are needed: make room, or make .cache/guests a link to a larger file system"
}

# The architecture of packages, if it is not this machine's.
arch=

# private_apt SUITE ARG... runs apt-get on SUITE only, with its state in the cache
# and no package known as installed.
private_apt() {
	apt_dir=$cache/apt/$1${arch:+-$arch}
	shift
	apt-get -qq \
		-o Dir::Etc::sourcelist="$apt_dir/sources.list" \
		-o Dir::Etc::sourceparts="$apt_dir/empty" \
		-o Dir::State="$apt_dir" \
		-o Dir::State::lists="$apt_dir/lists" \
		-o Dir::State::status="$apt_dir/status" \
		-o Dir::Cache="$apt_dir/cache" \
		-o Acquire::Check-Valid-Until=false \
		-o Acquire::Languages=none \
		-o Acquire::Retries=3 \
		-o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
		-o APT::Sandbox::User=root \
		-o APT::Architecture="${arch:-amd64}" \
		-o APT::Architectures="${arch:-amd64}" \
		"$@"
}

updated=
# update SUITE reads the package lists of SUITE, once per run.
update() {
	name=$1${arch:+-$arch}
	case " $updated " in *" $name "*) return ;; esac
	uri=$(mirror)
	[ -n "$uri" ] || die "no Debian archive in this machine's apt configuration"
	say "reading the package lists of $name"
	mkdir -p "$cache/apt/$name/lists/partial" "$cache/apt/$name/cache/archives/partial" "$cache/apt/$name/empty"
	: >"$cache/apt/$name/status"
	echo "deb [arch=${arch:-amd64} signed-by=$keyring] $uri $1 main" >"$cache/apt/$name/sources.list"
	private_apt "$1" update || die "apt-get update failed for $name"
	updated="$updated $name"
}

# closure SUITE PACKAGE... prints PACKAGEs and all that they depend on.
closure() {
	suite=$1
	shift
	private_apt "$suite" install -y --no-install-recommends --print-uris "$@" |
		sed -n "s/^'[^']*' \([^_]*\)_.*/\1/p"
}

# unpack SUITE DIR PACKAGE... unpacks exactly these packages into DIR.
unpack() {
	suite=$1 dir=$2
	shift 2
	[ $# -gt 0 ] || die "no package found in $suite"
	mkdir -p "$dir" "$tmp/debs"
	say "downloading $# packages of $suite for $part"
	(cd "$tmp/debs" && private_apt "$suite" download "$@") || die "download from $suite failed"
	for deb in "$tmp"/debs/*.deb; do
		dpkg-deb -x "$deb" "$dir"
	done
	rm -rf "$tmp/debs"
}

# unpack_all SUITE DIR PACKAGE... unpacks packages and all that they depend on.
unpack_all() {
	all_suite=$1 all_dir=$2
	shift 2
	update "$all_suite"
	list=$(closure "$all_suite" "$@") || die "$*: not installable from $all_suite"
	# shellcheck disable=SC2086 # a list of package names
	unpack "$all_suite" "$all_dir" $list
}

# loader DIR prints the path below DIR of the dynamic loader that is unpacked there.
loader() {
	for l in lib/x86_64-linux-gnu usr/lib/x86_64-linux-gnu; do
		if [ -f "$1/$l/ld-linux-x86-64.so.2" ]; then
			echo "$l/ld-linux-x86-64.so.2"
			return
		fi
	done
	die "no C library in $1"
}

# tool NAME ARG... runs a program of the tools part.
tool() {
	name=$1
	shift
	t=$cache/tools
	"$t/$(loader "$t")" --library-path "$t/lib/x86_64-linux-gnu:$t/usr/lib/x86_64-linux-gnu" "$t/usr/bin/$name" "$@"
}

# patch FILE TREE FINAL makes FILE run with the libraries of TREE, which will be
# at FINAL when the part is done.
patch() {
	tool patchelf --set-interpreter "$3/$(loader "$2")" --force-rpath \
		--set-rpath "$3/lib/x86_64-linux-gnu:$3/usr/lib/x86_64-linux-gnu" "$1" ||
		die "cannot patch $1"
}

# number FILE OFFSET LENGTH prints an unsigned little-endian number.
number() { od -An -t "u$3" -j "$2" -N "$3" "$1" | tr -d ' '; }

# extract_kernel BZIMAGE VMLINUX unpacks the ELF kernel, which QEMU starts
# directly (PVH): the emulated processor need not decompress it at each boot.
# The header fields are setup_sects, payload_offset and payload_length of the
# Linux boot protocol. The payload ends with its unpacked size in 4 bytes, which
# the decompressors would take for garbage.
extract_kernel() {
	start=$((($(number "$1" 497 1) + 1) * 512 + $(number "$1" 584 4)))
	length=$(($(number "$1" 588 4) - 4))
	tail -c +$((start + 1)) "$1" | head -c "$length" >"$tmp/payload"
	case $(od -An -t x1 -N 4 "$tmp/payload" | tr -d ' ') in
	28b52ffd) tool zstd -qdcf "$tmp/payload" >"$2" ;;
	02214c18) tool lz4 -qdcf "$tmp/payload" >"$2" ;;
	fd377a58) tool xz -dcf "$tmp/payload" >"$2" ;;
	*) die "$1: unknown compression" ;;
	esac
	rm -f "$tmp/payload"
	[ "$(od -An -t x1 -N 4 "$2" | tr -d ' ')" = 7f454c46 ] || die "$1 holds no ELF kernel"
}

# copy_modules FROM TO NAME... copies the modules that exist below FROM, unpacked,
# to TO. One that is missing is built into the kernel.
copy_modules() {
	from=$1 to=$2
	shift 2
	mkdir -p "$to"
	for module in "$@"; do
		file=$(find "$from" -name "$module.ko*" | head -n 1)
		case $file in
		'') ;;
		*.xz) tool xz -dc "$file" >"$to/$module.ko" ;;
		*.zst) tool zstd -qdc "$file" >"$to/$module.ko" ;;
		*) cp "$file" "$to/$module.ko" ;;
		esac
	done
}

# copy_busybox puts the static busybox into the part: the first program of a guest
# uses it, since a machine may have no insmod and a QEMU guest has nothing else.
copy_busybox() {
	cp "$(find "$cache/tools" -path '*bin/busybox' | head -n 1)" "$tmp/out/busybox"
}

# make_tools: programs that this script needs and that a machine may lack.
make_tools() {
	unpack_all bookworm "$tmp/out" patchelf xz-utils zstd lz4 busybox-static
}

make_uml() {
	unpack_all sid "$tmp/out/tree" user-mode-linux
	cp "$tmp/out/tree/usr/bin/linux.uml" "$tmp/out/linux.uml"
	patch "$tmp/out/linux.uml" "$tmp/out/tree" "$cache/uml/tree"
	copy_modules "$tmp/out/tree/usr/lib/uml" "$tmp/out/modules" fuse virtiofs
	copy_busybox
	rm -rf "$tmp/out/tree/usr/lib/uml" "$tmp/out/tree/usr/lib/debug"
}

# make_vsock: the modules for AF_VSOCK of the kernels of uml and qemu72, and another device to compare
# ours with.
make_vsock() {
	modules='vsock vmw_vsock_virtio_transport_common vmw_vsock_virtio_transport vsock_loopback'
	unpack_all sid "$tmp/uml" user-mode-linux
	# shellcheck disable=SC2086 # a list of names
	copy_modules "$tmp/uml/usr/lib/uml" "$tmp/out/uml" $modules
	kernel=$(closure bookworm linux-image-cloud-amd64 | grep -E '^linux-(image|binary|modules)-[0-9]') ||
		die "no kernel package in bookworm"
	# shellcheck disable=SC2086 # lists of names
	unpack bookworm "$tmp/kernel" $kernel
	# shellcheck disable=SC2086
	copy_modules "$tmp/kernel" "$tmp/out/qemu72" $modules
	unpack_all sid "$tmp/out/tree" vhost-device-vsock
	patch "$tmp/out/tree/usr/bin/vhost-device-vsock" "$tmp/out/tree" "$cache/vsock/tree"
	rm -rf "$tmp/uml"
}

make_diod() {
	unpack_all sid "$tmp/uml" user-mode-linux
	copy_modules "$tmp/uml/usr/lib/uml" "$tmp/out/uml" netfs 9pnet 9pnet_fd 9p
	unpack_all bookworm "$tmp/out/tree" diod
	patch "$tmp/out/tree/usr/sbin/diod" "$tmp/out/tree" "$cache/diod/tree"
	rm -rf "$tmp/uml"
}

# make_qemu PART SUITE: QEMU and a guest kernel of SUITE.
make_qemu() {
	out=$tmp/out
	unpack_all "$2" "$out/tree" qemu-system-x86
	patch "$out/tree/usr/bin/qemu-system-x86_64" "$out/tree" "$cache/$1/tree"
	kernel=$(closure "$2" linux-image-cloud-amd64 | grep -E '^linux-(image|binary|modules)-[0-9]') ||
		die "no kernel package in $2"
	# shellcheck disable=SC2086 # a list of package names
	unpack "$2" "$tmp/kernel" $kernel
	bzimage=$(find "$tmp/kernel" -name 'vmlinuz*' | head -n 1)
	[ -n "$bzimage" ] || die "no kernel image in: $kernel"
	say "unpacking the kernel of $(echo "$kernel" | grep cloud | head -n 1)"
	extract_kernel "$bzimage" "$out/vmlinux"
	# Several modules of one kernel depend on each other: this is their order.
	copy_modules "$tmp/kernel" "$out/modules" virtio virtio_ring \
		virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci fuse virtiofs
	copy_busybox
}

# make_arm64: QEMU for arm64, a kernel, and a disk with a small Debian for tests.
make_arm64() {
	out=$tmp/out
	unpack_all sid "$out/tree" qemu-system-arm e2fsprogs
	patch "$out/tree/usr/bin/qemu-system-aarch64" "$out/tree" "$cache/arm64/tree"
	arch=arm64
	for d in bin sbin lib; do
		mkdir -p "$tmp/debian/usr/$d"
		ln -s "usr/$d" "$tmp/debian/$d"
	done
	unpack_all sid "$tmp/debian" bash coreutils sed mount passwd uidmap fuse3
	# Scripts of the packages, which would have done this, are not run.
	chmod u+s "$tmp/debian/usr/bin/fusermount3"
	ln -sf bash "$tmp/debian/usr/bin/sh"
	cp "$tmp/debian/usr/share/base-passwd/passwd.master" "$tmp/debian/etc/passwd"
	cp "$tmp/debian/usr/share/base-passwd/group.master" "$tmp/debian/etc/group"
	arch=
	# With the loader named, as what patch would leave runs from its final place only.
	"$out/tree/$(loader "$out/tree")" --library-path "$out/tree/usr/lib/x86_64-linux-gnu" \
		"$out/tree/usr/sbin/mke2fs" -q -t ext4 -d "$tmp/debian" "$out/disk" 4G || die "mke2fs fails"
	rm -rf "$tmp/debian"
	arm64_kernel linux-image-cloud-arm64
}

make_arm64_16k() { arm64_kernel linux-image-arm64-16k; }

# arm64_kernel PACKAGE puts a kernel of arm64 with its modules and busybox into the part.
# It is the image that the packages have: not compressed, and QEMU starts it.
arm64_kernel() {
	arch=arm64
	update sid
	kernel=$(closure sid "$1" | grep -E '^linux-(image|binary|modules)-[0-9]') || die "no kernel package in sid"
	# shellcheck disable=SC2086 # a list of package names
	unpack sid "$tmp/kernel" $kernel busybox-static
	arch=
	cp "$(find "$tmp/kernel" -name 'vmlinuz*' | head -n 1)" "$tmp/out/vmlinux"
	# The magic number of an image of arm64.
	[ "$(od -An -t x1 -j 56 -N 4 "$tmp/out/vmlinux" | tr -d ' ')" = 41524d64 ] || die "$1 holds no kernel image"
	copy_modules "$tmp/kernel" "$tmp/out/modules" virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev \
		virtio_pci virtio_blk crc16 mbcache jbd2 ext4 fuse virtiofs overlay
	cp "$(find "$tmp/kernel" -path '*bin/busybox' | head -n 1)" "$tmp/out/busybox"
}

# make_fio puts fio, the loader and all libraries into one directory: to serve it to a
# guest is all that it takes to run fio there ("ld.so --library-path DIR DIR/fio"). The
# package wants python for its other programs.
make_fio() {
	update bookworm
	list=$(closure bookworm fio | grep -E '^(fio|lib.*|zlib.*)$') || die "fio is not installable from bookworm"
	# shellcheck disable=SC2086 # a list of package names
	unpack bookworm "$tmp/fio" $list
	l=$tmp/fio/lib/x86_64-linux-gnu
	u=$tmp/fio/usr/lib/x86_64-linux-gnu
	mkdir -p "$tmp/out/tree"
	"$l/ld-linux-x86-64.so.2" --library-path "$l:$u:$u/ceph" --list "$tmp/fio/usr/bin/fio" |
		sed -n "s|.* => \\($tmp/fio/[^ ]*\\) .*|\\1|p" >"$tmp/list"
	while read -r file; do
		cp "$file" "$tmp/out/tree/"
	done <"$tmp/list"
	cp "$l/ld-linux-x86-64.so.2" "$tmp/out/tree/ld.so"
	cp "$tmp/fio/usr/bin/fio" "$tmp/out/tree/"
	rm -rf "$tmp/fio"
}

make_peers() {
	unpack_all sid "$tmp/out/rust" virtiofsd
	unpack_all bookworm "$tmp/out/c" qemu-system-common
	rust=$(find "$tmp/out/rust" -name virtiofsd -type f -perm -u+x | head -n 1)
	c=$tmp/out/c/usr/lib/qemu/virtiofsd
	patch "$rust" "$tmp/out/rust" "$cache/peers/rust"
	patch "$c" "$tmp/out/c" "$cache/peers/c"
	# Links, so that a test which starts a peer knows its process.
	mkdir -p "$cache/bin"
	ln -sfn "../peers/${rust#"$tmp/out/"}" "$cache/bin/virtiofsd-rust"
	ln -sfn "../peers/c/usr/lib/qemu/virtiofsd" "$cache/bin/virtiofsd-c"
}

# make_libvirt PART SUITE: libvirt and QEMU of SUITE. virsh is for use outside.
make_libvirt() {
	# What base-files would have; the other directories are mounted over.
	for d in bin sbin lib lib64; do
		mkdir -p "$tmp/out/tree/usr/$d"
		ln -s "usr/$d" "$tmp/out/tree/$d"
	done
	for d in dev etc proc run sys tmp var/cache var/lib var/log var/tmp; do
		mkdir -p "$tmp/out/tree/$d"
	done
	unpack_all "$2" "$tmp/out/tree" libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86
	patch "$tmp/out/tree/usr/bin/virsh" "$tmp/out/tree" "$cache/$1/tree"
}

make_virtme() {
	update sid
	unpack sid "$tmp/out/tree" virtme-ng
}

# make_part PART makes a part if it is not there, in $tmp/out, and puts it in place.
make_part() {
	part=$1
	if ready "$part"; then
		say "$part is ready"
		return
	fi
	mkdir -p "$tmp/out"
	case $part in
	tools) make_tools ;;
	uml) make_uml ;;
	vsock) make_vsock ;;
	qemu72) make_qemu qemu72 bookworm ;;
	qemu11) make_qemu qemu11 sid ;;
	arm64) make_arm64 ;;
	arm64-16k) make_arm64_16k ;;
	fio) make_fio ;;
	peers) make_peers ;;
	virtme) make_virtme ;;
	diod) make_diod ;;
	libvirt9) make_libvirt libvirt9 bookworm ;;
	libvirt12) make_libvirt libvirt12 sid ;;
	esac
	rm -f "$cache/$part.ok"
	rm -rf "${cache:?}/$part" "$tmp/kernel"
	mv "$tmp/out" "$cache/$part"
	check_part "$part"
	stamp "$part" >"$tmp/ok"
	mv "$tmp/ok" "$cache/$part.ok"
	say "$part is made"
}

# check_part PART runs the programs of a part that was just put in place.
check_part() {
	case $1 in
	uml) say "uml: kernel $("$cache/uml/linux.uml" --version | tail -n 1)" ;;
	vsock) say "vsock: $("$cache/vsock/tree/usr/bin/vhost-device-vsock" --version)" ;;
	fio) say "fio: $("$cache/fio/tree/ld.so" --library-path "$cache/fio/tree" "$cache/fio/tree/fio" --version)" ;;
	libvirt*) say "$1: $("$cache/$1/tree/usr/bin/virsh" --version)" ;;
	arm64) say "$1: $("$cache/arm64/tree/usr/bin/qemu-system-aarch64" --version | head -n 1)" ;;
	qemu*) say "$1: $("$cache/$1/tree/usr/bin/qemu-system-x86_64" --version | head -n 1)" ;;
	peers)
		say "peers: $("$cache/bin/virtiofsd-rust" --version)"
		say "peers: $("$cache/bin/virtiofsd-c" --version 2>&1 | head -n 1)"
		;;
	esac
}

parts=
[ $# -gt 0 ] || set -- all
for arg in "$@"; do
	case $arg in
	uml | qemu72 | qemu11 | vsock | arm64 | arm64-16k | fio | peers | virtme | libvirt9 | libvirt12 | diod) parts="$parts $arg" ;;
	all) parts="uml qemu72 qemu11 vsock fio peers virtme libvirt9 libvirt12" ;;
	*) usage ;;
	esac
done

missing=
for p in $parts; do
	ready "$p" || missing="$missing $p"
done
if [ -z "$missing" ]; then
	say "ready:$parts"
	exit 0
fi

check_machine
check_path "$cache"
exec 9>"$cache/lock"
if ! flock -n 9; then
	say "waiting for another run"
	flock 9
	# It may have made all that was missing.
	missing=
	for p in $parts; do
		ready "$p" || missing="$missing $p"
	done
fi
ready tools || missing=" tools$missing"
# shellcheck disable=SC2086 # a list of parts
[ -z "$missing" ] || announce $missing
rm -rf "$cache"/tmp.*
tmp=$(mktemp -d "$cache/tmp.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
for p in $missing; do
	make_part "$p"
done
say "ready:$parts"
