#!/bin/sh
# Installs the FUSE programs of test/relay, and what they are tried with. It needs root and Debian 12, and says before what it
# installs. Services among them (openssh-server, lxcfs, glusterd) are neither started nor enabled.
set -eu

. "$(dirname "$0")/../guest/apt.sh"

apt_need sshfs sshfs
apt_need ssh-keygen openssh-client
apt_need /usr/sbin/sshd openssh-server
apt_need squashfuse squashfuse
apt_need mksquashfs squashfs-tools
apt_need bindfs bindfs
apt_need mergerfs mergerfs
apt_need unionfs-fuse unionfs-fuse
apt_need fuse-zip fuse-zip
apt_need zip zip
apt_need unzip unzip
apt_need archivemount archivemount
apt_need /sbin/mke2fs e2fsprogs
apt_need fuse2fs fuse2fs
apt_need ntfs-3g ntfs-3g
apt_need rclone rclone
apt_need gocryptfs gocryptfs
apt_need encfs encfs
apt_need fuse-overlayfs fuse-overlayfs
apt_need nbdfuse libnbd-bin
apt_need nbdkit nbdkit
apt_need lxcfs lxcfs
apt_need /usr/sbin/mount.davfs davfs2
apt_need s3fs s3fs
apt_need /usr/sbin/glusterfs glusterfs-client
apt_need /usr/sbin/glusterfsd glusterfs-server
[ -n "$apt_missing" ] || exit 0

# invoke-rc.d(8) starts nothing while this says no.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	trap 'rm -f $policy' EXIT
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
fi
installed=$apt_missing
apt_install
if command -v systemctl >/dev/null; then
	case $installed in *openssh-server*) systemctl -q disable ssh.service || true ;; esac
	case $installed in *glusterfs-server*) systemctl -q disable glusterd.service || true ;; esac
	case $installed in *lxcfs*) systemctl -q disable lxcfs.service || true ;; esac
fi
