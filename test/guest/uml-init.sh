#!/bin/sh
# The first program of a User-Mode Linux guest. Its root is the host's, read-only. The
# environment, from the kernel's command line, says what to do:
#   gf_modules  folder with fuse.ko and virtiofs.ko     gf_shares  tags, with commas
#   gf_script   script to run                           gf_result  file for its status
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
for d in /tmp /run /mnt; do mount -t tmpfs tmpfs $d; done
insmod "$gf_modules/fuse.ko" && insmod "$gf_modules/virtiofs.ko"
status=0
for tag in $(echo "$gf_shares" | tr , ' '); do
	mkdir -p "/mnt/$tag"
	mount -t virtiofs "$tag" "/mnt/$tag" || status=99
done
if [ $status = 0 ]; then
	sh "$gf_script"
	status=$?
else
	echo "init: mount failed"
fi
mount -t hostfs -o "$gf_result" none /run
echo "status $status" >/run/status
umount /mnt/* 2>/dev/null
poweroff -n -f 2>/dev/null
