package fusedev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// hint adds to an error of New what to do, where that is known.
func hint(err error, target string) error {
	var at *fs.PathError
	device := errors.As(err, &at) && at.Path == "/dev/fuse"
	do := ""
	switch {
	case device && errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		do = "load the module fuse (modprobe fuse), or give the container the device /dev/fuse"
	case device && errors.Is(err, fs.ErrPermission):
		do = "give the container the device /dev/fuse, and let it use it"
	case errors.Is(err, fs.ErrNotExist):
		do = "make the directory first"
	case errors.Is(err, unix.ENOTCONN):
		do = "the server of what is mounted there has died: umount " + target
	case errors.Is(err, unix.EPERM) && os.Geteuid() == 0:
		do = "root needs CAP_SYS_ADMIN to mount, which containers do not have unless it is given to them"
	default:
		return err
	}
	return fmt.Errorf("%w: %s", err, do)
}
