package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// The namespace sandbox is two processes, because a process with threads can't move
// into a new process or user namespace: the parent starts itself again in new
// namespaces, waits, and ends with the child's status. The child moves the share to
// the root of its mount namespace and unmounts everything else.

// childEnv marks the child; its value is the absolute path of the share.
const childEnv = "GOVIRTIOFSD_SANDBOX_SHARE"

// firstFile is the number of the first descriptor that RunChild passes on.
const firstFile = 3

// InChild reports whether this process is the child that RunChild started.
func InChild() bool { return os.Getenv(childEnv) != "" }

// RunChild starts this program again in new namespaces with the same arguments, and
// waits for it. files become descriptors 3 and up in the child. A signal to the
// parent ends the child; its exit status is returned as an *ExitError.
func RunChild(ctx context.Context, share string, files []*os.File) error {
	abs, err := filepath.Abs(share)
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), childEnv+"="+abs)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = files
	cmd.SysProcAttr = namespaces()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("--sandbox=namespace: %w; where namespaces are not allowed use --sandbox=chroot or --sandbox=none", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	status := exit.ExitCode()
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		status = 128 + int(ws.Signal())
	}
	return &ExitError{Status: status}
}

// namespaces are those of the child. Without privileges it gets a user namespace, in
// which our own user is root and owns nothing else.
func namespaces() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGTERM,
	}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// Root is where the share is once the process is shut in: the root directory, or
// the file of this name in it.
func Root(share string) string {
	abs := os.Getenv(childEnv)
	if abs == "" {
		abs = share
	}
	if st, err := os.Stat("/" + filepath.Base(abs)); err == nil && st.Mode().IsRegular() && rootIsFile {
		return "/" + filepath.Base(abs)
	}
	return "/"
}

// rootIsFile says that the share is a single file and the root its directory.
var rootIsFile bool

// Enter completes the namespace sandbox in the child: it makes the share the root,
// and keeps one descriptor of the new process namespace's /proc, which is not visible
// any more. It returns the descriptors that were passed on.
func Enter() ([]*os.File, error) {
	share := os.Getenv(childEnv)
	dir, err := shareDir(share)
	if err != nil {
		return nil, err
	}
	// Nothing that is mounted here goes back to the host; what the host mounts within
	// the share still appears.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, fmt.Errorf("sandbox: make mounts private: %w", err)
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return nil, fmt.Errorf("sandbox: bind mount of %s: %w", dir, err)
	}
	if err := mountProc(); err != nil {
		return nil, err
	}
	if err := pivot(dir); err != nil {
		return nil, err
	}
	f := os.NewFile(firstFile, "front-end socket")
	unix.CloseOnExec(firstFile)
	return []*os.File{f}, nil
}

// shareDir is the directory that becomes the root.
func shareDir(share string) (string, error) {
	st, err := os.Stat(share)
	if err != nil {
		return "", fmt.Errorf("shared directory: %w", err)
	}
	if !st.IsDir() {
		rootIsFile = true
		return filepath.Dir(share), nil
	}
	return share, nil
}

// procFD is /proc/self/fd of the new process namespace.
var procFD = -1

// mountProc opens /proc/self/fd of the new process namespace. It is mounted over the
// old /proc, which goes with the old root.
func mountProc() error {
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("sandbox: mount /proc: %w", err)
	}
	fd, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("sandbox: open /proc/self/fd: %w", err)
	}
	procFD = fd
	return nil
}

// ProcFD is an O_PATH descriptor of /proc/self/fd, in and out of the sandbox.
func ProcFD() (int, error) {
	if procFD >= 0 {
		return procFD, nil
	}
	fd, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open /proc/self/fd: %w; is /proc mounted?", err)
	}
	return fd, nil
}

// pivot makes dir the root and unmounts what was there before (pivot_root(2), the
// way without a directory for the old root).
func pivot(dir string) error {
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("sandbox: chdir to %s: %w", dir, err)
	}
	old, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(old)
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("sandbox: pivot_root to %s: %w", dir, err)
	}
	if err := unix.Fchdir(old); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("sandbox: unmount the old root: %w", err)
	}
	return unix.Chdir("/")
}

// EnterChroot makes the share, or the directory of a shared file, the root.
func EnterChroot(share string) error {
	dir, err := shareDir(share)
	if err != nil {
		return err
	}
	if err := unix.Chroot(dir); err != nil {
		return fmt.Errorf("--sandbox=chroot: %w; without privileges use --sandbox=namespace", err)
	}
	return unix.Chdir("/")
}
