# The first program of a guest. The package writes a line with the interpreter and
# these variables before it:
#
#   kind         uml or qemu
#   bb           the path of a static busybox
#   modules      directory of the kernel modules
#   shares       tags to mount, separated by blanks
#   options      mount options, or nothing
#   root         tag of the share to take as root, or nothing
#   script       the script to run, or nothing
#   interactive  not empty: a shell follows on the console
#   state        uml: host directory for the status
#   hostdir      uml: host directory to mount on /run/host; qemu: not empty if the
#                contents of /run/host go to a serial port at the end
#   ports        qemu: the serial ports for the status and for /run/host
#   links        uml: "HOSTFILE GUESTFILE" lines
#
# It reports one line: "status N" of the script, or "mount TAG".

export HOME=/tmp LC_ALL=C.UTF-8 TERM="${TERM:-linux}"
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

report() {
	if [ "$kind" = uml ]; then
		echo "$1" >/run/guest/status
	else
		echo "$1" >"/dev/${ports% *}"
	fi
}

# results sends /run/host through a serial port, which must not change line ends in the
# archive.
results() {
	[ "$kind" = qemu ] && [ -n "$hostdir" ] || return 0
	stty -F "/dev/${ports#* }" raw
	tar -c -f - -C /run/host . >"/dev/${ports#* }"
}

# unmount takes the shares down, the last mount first: the back-end sees a proper end.
unmount() {
	mounts=
	while read -r _ point _; do
		case $point in /mnt/*) mounts="$point $mounts" ;; esac
	done </proc/mounts
	for point in $mounts; do
		# A process that was killed keeps its directory until it is gone.
		for _ in 1 2 3 4 5 6 7 8 9; do
			$bb umount "$point" 2>/dev/null && continue 2
			$bb sleep 0.2
		done
		$bb umount "$point" || echo "init: cannot unmount $point"
	done
}

# finish REPORT ends the guest.
finish() {
	cd /
	# What the script left running would keep its share busy. This is the first
	# process, which the signal spares.
	kill -KILL -1 2>/dev/null
	results
	unmount
	report "$1"
	$bb sync
	$bb poweroff -n -f
	$bb sleep 60
}

start_uml() {
	"$bb" mount -t devtmpfs devtmpfs /dev 2>/dev/null
	# What is needed from the host may be in a directory that is hidden below. A bind
	# mount of the root, without what is mounted in it, still shows it.
	"$bb" mkdir /dev/.host
	"$bb" mount --bind / /dev/.host
	bb=/dev/.host$bb modules=/dev/.host$modules
	for d in /tmp /run /mnt; do $bb mount -t tmpfs tmpfs $d; done
	$bb mkdir -p /run/guest /run/host
	$bb mount -t hostfs -o "$state" none /run/guest
	[ -z "$hostdir" ] || $bb mount -t hostfs -o "$hostdir" none /run/host
	printf '%s' "$links" | while read -r from to; do
		$bb mkdir -p "${to%/*}"
		if [ -n "$root" ]; then $bb cp "/dev/.host$from" "$to"; else $bb ln -s "/dev/.host$from" "$to"; fi
	done
}

start_qemu() {
	$bb mkdir -p /sbin /usr/bin /usr/sbin /tmp /run/host /etc /root
	$bb --install -s /bin
	$bb mount -t devtmpfs devtmpfs /dev
}

# take_root mounts the root share on /mnt/.root with the kernel's file systems in it.
take_root() {
	$bb mkdir -p $root_dir
	$bb mount -t virtiofs ${options:+-o "$options"} "$root" $root_dir || finish "mount $root"
	for d in dev proc run sys; do $bb mount --rbind /$d $root_dir/$d; done
	for d in mnt tmp; do $bb mount -t tmpfs tmpfs $root_dir/$d; done
}

mount_shares() {
	for tag in $shares; do
		$bb mkdir -p "$prefix/mnt/$tag"
		$bb mount -t virtiofs ${options:+-o "$options"} "$tag" "$prefix/mnt/$tag" || finish "mount $tag"
	done
}

$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
"start_$kind"
export BUSYBOX="$bb"
$bb mkdir -p /dev/shm /dev/pts
$bb mount -t tmpfs tmpfs /dev/shm
$bb mount -t devpts devpts /dev/pts
for module in virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk crc16 mbcache jbd2 ext4 fuse virtiofs overlay; do
	[ ! -f "$modules/$module.ko" ] || $bb insmod "$modules/$module.ko"
done

prefix='' enter='' root_dir=/mnt/.root
if [ -n "$root" ]; then
	take_root
	prefix=$root_dir enter="$bb chroot $root_dir"
fi
mount_shares

status=0
# The kernel writes to the same console and would tear up the script's lines. What makes
# it end (an oops, a panic) it still writes; the rest follows if the script fails.
if [ -z "$interactive" ]; then
	$bb dmesg -n 1
	echo "@@ script"
fi
if [ -n "$script" ]; then
	# shellcheck disable=SC2086 # nothing or a command with its arguments
	$enter /bin/sh "$script" </dev/null
	status=$?
fi
if [ -z "$interactive" ]; then
	echo "@@ end"
	[ $status = 0 ] || $bb dmesg | $bb tail -n 40
else
	echo "The shares are below /mnt. 'exit' ends the guest."
	[ -z "$shares" ] || cd "/mnt/${shares%% *}" || cd /
	$bb setsid $bb cttyhack $bb sh
fi
finish "status $status"
