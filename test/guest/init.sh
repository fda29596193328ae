#!/bin/sh
# The first program of a QEMU guest. The kernel's command line says what to do:
#   shares=TAG,TAG   mount these on /mnt/TAG      mountopts=OPTIONS
#   script=TAG/PATH  run this script from a share; its status goes to the second serial
#                    port. Without a script there is a shell.
export PATH=/bin HOME=/tmp
/bin/busybox mkdir -p /sbin /usr/bin /usr/sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts && mount -t tmpfs shm /dev/shm
for m in $(cat /modules/order 2>/dev/null); do insmod "/modules/$m.ko" 2>/dev/null; done
for word in $(cat /proc/cmdline); do
	case $word in
	shares=*) shares=${word#shares=} ;;
	mountopts=*) opts=${word#mountopts=} ;;
	script=*) script=${word#script=} ;;
	esac
done
status=0
for tag in $(echo "$shares" | tr , ' '); do
	mkdir -p "/mnt/$tag"
	mount -t virtiofs ${opts:+-o "$opts"} "$tag" "/mnt/$tag" || status=99
done
if [ -n "$script" ]; then
	if [ $status = 0 ]; then
		sh "/mnt/$script"
		status=$?
	else
		echo "init: mount failed"
	fi
	echo "status $status" >/dev/ttyS1
else
	echo "The share is mounted on /mnt. 'exit' ends the guest."
	cd "/mnt/${shares%%,*}" && setsid cttyhack sh
fi
cd /
umount -a -r 2>/dev/null
sync
echo b >/proc/sysrq-trigger
sleep 10
