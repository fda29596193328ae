package stretch

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// mountFuse makes a FUSE mount that is attached nowhere. It returns the mount's /dev/fuse and
// a descriptor of its root. The mount exists as long as this descriptor is open.
func mountFuse() (dev, root int, err error) {
	dev, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, -1, fmt.Errorf("/dev/fuse: %w", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(dev)
		}
	}()
	fs, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, -1, fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(fs)
	for _, o := range [][2]string{
		{"source", "govirtiofsd"}, {"fd", strconv.Itoa(dev)}, {"rootmode", "40000"}, {"user_id", "0"}, {"group_id", "0"},
	} {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return -1, -1, fmt.Errorf("fsconfig %s: %w", o[0], err)
		}
	}
	// The VMM may run as any user.
	if err := unix.FsconfigSetFlag(fs, "allow_other"); err != nil {
		return -1, -1, fmt.Errorf("fsconfig allow_other: %w", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, -1, fmt.Errorf("fsconfig create: %w", err)
	}
	root, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return -1, -1, fmt.Errorf("fsmount: %w", err)
	}
	return dev, root, nil
}
