package sandbox

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Mode says how the daemon's view of the file system is limited.
type Mode int

// The modes, strongest first.
const (
	ModeNamespace Mode = iota // the share is the only visible file system: see Namespace
	ModeChroot                // the share is the root directory: see Chroot
	ModeNone                  // see Open
)

// String returns the option's word for m.
func (m Mode) String() string {
	switch m {
	case ModeNamespace:
		return "namespace"
	case ModeChroot:
		return "chroot"
	case ModeNone:
		return "none"
	}
	return fmt.Sprintf("sandbox.Mode(%d)", int(m))
}

// Share is one of several shares of a process.
type Share struct {
	Path     string // a directory or a regular file
	ReadOnly bool   // for the kernel, too
}

// View has the O_PATH descriptors that a sandboxed file system needs, and what the process can
// still learn about itself. The caller owns them.
type View struct {
	Root int   // the shared directory, or the shared regular file
	More []int // the same of further shares; see Namespace.EnterAll and OpenAll
	Proc int   // /proc/self/fd
	// Tasks is /proc/self/task, to know what a thread waits for. Nothing can be written there,
	// and no link leads out of it. It is -1 if that can't be had.
	Tasks int
}

// Close closes the descriptors.
func (v View) Close() {
	_ = unix.Close(v.Root)
	for _, fd := range v.More {
		_ = unix.Close(fd)
	}
	_ = unix.Close(v.Proc)
	if v.Tasks >= 0 {
		_ = unix.Close(v.Tasks)
	}
}

// Open opens a share without limiting what the process can reach by name.
func Open(share string) (View, error) {
	v, err := open(share)
	if err == nil && v.Tasks < 0 { // it can reach all of /proc
		if fd, err := unix.Open(selfTask, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
			v.Tasks = fd
		}
	}
	return v, err
}

// OpenAll is Open for several shares.
func OpenAll(shares []Share) (View, error) {
	v, err := Open(shares[0].Path)
	if err != nil {
		return v, err
	}
	for _, s := range shares[1:] {
		fd, err := openShare(s.Path)
		if err != nil {
			v.Close()
			return View{}, err
		}
		v.More = append(v.More, fd)
	}
	return v, nil
}

// open is Open for a process that will not reach /proc.
func open(share string) (View, error) {
	root, err := openShare(share)
	if err != nil {
		return View{}, err
	}
	proc, err := openProc()
	if err != nil {
		_ = unix.Close(root)
		return View{}, err
	}
	return View{Root: root, Proc: proc, Tasks: openTasks()}, nil
}

// CheckShare tells whether a path can be shared: a directory or a regular file.
func CheckShare(share string) error {
	fi, err := os.Stat(share)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: make the directory first (mkdir -p %s), or give another path", err, share)
	}
	if err != nil {
		return err
	}
	if !fi.IsDir() && !fi.Mode().IsRegular() {
		return fmt.Errorf("%s is neither a directory nor a regular file", share)
	}
	if fi.IsDir() {
		// Without this check the error would come later, from the sandbox.
		if err := unix.Faccessat(unix.AT_FDCWD, share, unix.X_OK, unix.AT_EACCESS); err != nil {
			return fmt.Errorf("user %d may not enter the directory %s: %w", os.Geteuid(), share, err)
		}
	}
	return nil
}

// openShare opens the shared directory or file. The path may be a symbolic link, because the
// operator chooses it.
func openShare(share string) (int, error) {
	if err := CheckShare(share); err != nil {
		return -1, err
	}
	fd, err := unix.Open(share, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", share, err)
	}
	return fd, nil
}

// OpenNoAtime opens the shared directory root once more, for reading, on a mount of its own
// without access times. It takes CAP_SYS_ADMIN. Mounts below the share are not in it.
func OpenNoAtime(root int) (int, error) {
	if endsProcess(unix.SYS_OPEN_TREE) || endsProcess(unix.SYS_MOUNT_SETATTR) {
		return -1, unix.ENOSYS
	}
	tree, err := unix.OpenTree(root, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOATIME, Attr_clr: unix.MOUNT_ATTR__ATIME}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return -1, os.NewSyscallError("mount_setattr", err)
	}
	fd, err := unix.Openat(tree, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return fd, os.NewSyscallError("open", err)
}

const (
	selfFD   = "/proc/self/fd"
	selfTask = "/proc/self/task"
)

// openProc opens /proc/self/fd as a separate mount: ".." does not lead from it to the rest of
// /proc. Without the privilege to make a mount it opens the directory itself.
func openProc() (int, error) {
	fd, err := -1, error(unix.ENOSYS)
	if !endsProcess(unix.SYS_OPEN_TREE) {
		fd, err = unix.OpenTree(unix.AT_FDCWD, selfFD, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	}
	if err != nil {
		fd, err = unix.Open(selfFD, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return -1, fmt.Errorf("open %s (is /proc mounted?): %w", selfFD, err)
	}
	return fd, nil
}

// openTasks opens /proc/self/task as a separate mount in which nothing can be written and no link
// can be followed: those that lead to programs and directories of the host are there, too. It takes
// CAP_SYS_ADMIN and Linux 5.14.
func openTasks() int {
	if endsProcess(unix.SYS_OPEN_TREE, unix.SYS_MOUNT_SETATTR) {
		return -1
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, selfTask, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSYMFOLLOW |
		unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		_ = unix.Close(tree)
		return -1
	}
	return tree
}

// ErrNotPermitted says that the caller may not make this sandbox. The caller should tell the
// user which other sandboxes there are, and not choose one.
var ErrNotPermitted = errors.New("not permitted here")

// notPermitted marks err as ErrNotPermitted if the sandbox can't be made here, for any reason:
// no privilege, a container's system call filter, a limit of 0 user namespaces, a kernel
// without namespaces.
func notPermitted(err error) error {
	for _, e := range [...]error{unix.EPERM, unix.EACCES, unix.ENOSYS, unix.ENOSPC, unix.EUSERS, unix.EINVAL} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", ErrNotPermitted, err)
		}
	}
	return err
}
