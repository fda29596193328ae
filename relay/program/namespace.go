package program

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// enterNamespace sets up the mounts of init's namespaces. What is mounted on hidden is taken away. proc says that it has to have
// a /proc of its own.
func enterNamespace(hidden []string, proc bool) error {
	// What the host mounts later appears here, not the other way round.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, dir := range hidden {
		_ = unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) // EINVAL in a user namespace
	}
	// The program sees the processes of its namespace only. Where parts of /proc are covered, as in a container, the kernel
	// refuses that, and the old one stays: the processes there are out of its reach, but visible.
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil && proc {
		return fmt.Errorf("mount a /proc in which the program finds the process that asks: %w", err)
	}
	return provideDevice()
}

const deviceName = "fuse"

// deviceOpens reports whether a program can open /dev/fuse. It opens it before it mounts; the socket takes the place of
// what it has opened, so it can be anything.
func deviceOpens() error {
	fd, err := unix.Open("/dev/"+deviceName, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	return err
}

// provideDevice makes /dev/fuse something that opens.
func provideDevice() error {
	switch err := deviceOpens(); {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT):
		err = newDev()
		if err == nil {
			err = deviceOpens()
		}
		if err != nil {
			return fmt.Errorf("/dev/fuse is missing, and can't be replaced: %w", err)
		}
		return nil
	default:
		if err := unix.Mount("/dev/null", "/dev/"+deviceName, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("/dev/fuse can't be opened, and can't be replaced: %w", err)
		}
		return nil
	}
}

// newDev mounts a directory over /dev that has the same things in it, and fuse.
func newDev() error {
	const tmp = "/tmp" // covered in this namespace for a moment only
	if err := unix.Mount("dev", tmp, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755,size=64k"); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	entries, err := os.ReadDir("/dev")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := copyEntry(filepath.Join("/dev", e.Name()), filepath.Join(tmp, e.Name()), e.Type()); err != nil {
			return err
		}
	}
	if err := bindOver("/dev/null", filepath.Join(tmp, deviceName), false); err != nil {
		return err
	}
	if err := unix.Mount(tmp, "/dev", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move mount: %w", err)
	}
	return nil
}

// copyEntry makes something of /dev appear at another place.
func copyEntry(from, to string, kind os.FileMode) error {
	if kind&os.ModeSymlink != 0 {
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	return bindOver(from, to, kind.IsDir())
}

// bindOver makes a file or directory at to, and mounts from on it.
func bindOver(from, to string, dir bool) error {
	if dir {
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
	} else if err := os.WriteFile(to, nil, 0o644); err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", from, err)
	}
	return nil
}
