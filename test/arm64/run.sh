# Runs tests in a guest for arm64. What starts the guest lays out its files:
#
#   /repo         the repository, so that a test finds its testdata and its root
#   /tests        PACKAGE.test of each package, with "/" as "_"
#   /programs     programs, see the go of this directory
#   /run/list     lines "PACKAGE ARGUMENT..." to run in this order
#
# It writes lines "@@ end PACKAGE STATUS SECONDS" and "@@ ended PACKAGE" after each package.

# The disk, a Debian, becomes the root: tests want what a machine has. It takes the place of
# the first root, rather than being one to chroot to, where no user namespace can be made.
root=/scratch
mkdir $root
mount -t ext4 /dev/vda $root || exit 1
for d in dev proc sys run repo tests programs; do
	mkdir -p $root/$d
	mount --rbind /$d $root/$d
done
mkdir -p $root/usr/local/bin
ln -sf /proc/self/mounts $root/etc/mtab
cp "$BUSYBOX" /repo/test/arm64/go $root/usr/local/bin/
ip link set lo up
cd $root && mount --move . / || exit 1
exec chroot . /bin/bash /repo/test/arm64/tests.sh
