package sandbox

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Chroot makes the shared directory the root directory of the process. It is for containers
// in which no namespaces can be made. A process that keeps CAP_SYS_CHROOT, or a descriptor of
// a directory outside, can leave the new root.
func Chroot(share string) (View, error) {
	v, err := open(share)
	if err != nil {
		return View{}, err
	}
	if err := chroot(v.Root); err != nil {
		v.Close()
		return View{}, fmt.Errorf("chroot to %s: %w", share, err)
	}
	return v, nil
}

// chroot changes the root of all threads: Go's threads share one fs_struct until
// one of them leaves it with unshare.
func chroot(dir int) error {
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return errors.New("not a directory")
	}
	if err := unix.Fchdir(dir); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return notPermitted(err)
	}
	return unix.Chdir("/")
}
