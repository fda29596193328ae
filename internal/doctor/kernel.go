package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/share"
	"github.com/govirtiofs/govirtiofs/sandbox"
)

// host reads files of /proc and /sys below root. Tests set root to a directory of
// their own.
type host struct{ root string }

// read returns a file's content without space around it, "" if it can't be read.
func (h host) read(path string) string {
	b, err := os.ReadFile(filepath.Join(h.root, path))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// readInt returns a file's number, missing if there is none.
func (h host) readInt(path string, missing int) int {
	n, err := strconv.Atoi(h.read(path))
	if err != nil {
		return missing
	}
	return n
}

// exists reports whether there is such a file.
func (h host) exists(path string) bool {
	_, err := os.Lstat(filepath.Join(h.root, path))
	return err == nil
}

// Kernel is what the host's kernel can do.
type Kernel struct {
	Release string
	// Missing are the features of kernelFeatures that the kernel does not have, or
	// that a container's system call filter keeps from us.
	Missing  []string
	Landlock int  // version of its interface, 0 is none
	Seccomp  bool // filters that kill the process
	SELinux  bool // enforcing
	AppArmor bool
}

// feature is a system call that the daemon uses if the kernel has it.
type feature struct {
	name, since string
	lost        string // what does not work without it
	fatal       bool   // for the namespace sandbox
	try         func() error
}

// kernelFeatures are tried with arguments that an existing call refuses.
var kernelFeatures = []feature{
	{"open_tree", "5.2", "the namespace sandbox", true, func() error {
		return call(unix.SYS_OPEN_TREE, ^uintptr(0), 0, ^uintptr(0))
	}},
	{"openat2", "5.6", "no feature is missing; kernels that old are hardly tested", false, func() error {
		return call(unix.SYS_OPENAT2, ^uintptr(0), 0, 0)
	}},
	{"statx mount ids", "5.8", "submounts of the same file system in a share can't be told apart", false, tryMountID},
	{"close_range", "5.11", "descriptors that were left open by a parent process stay open", false, func() error {
		return call(unix.SYS_CLOSE_RANGE, 2, 1, 0)
	}},
	{"mount_setattr", "5.12", "the share's mount is not nodev, nosuid and nosymfollow in the sandbox", false, func() error {
		return call(unix.SYS_MOUNT_SETATTR, ^uintptr(0), 0, 0)
	}},
}

// call makes a system call and returns its error.
func call(nr, a, b, c uintptr) error {
	if _, _, errno := unix.Syscall6(nr, a, b, c, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// tryMountID returns ENOSYS if the kernel's statx does not tell the mount.
func tryMountID() error {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, "/", 0, unix.STATX_MNT_ID, &st); err != nil {
		return err
	}
	if st.Mask&unix.STATX_MNT_ID == 0 {
		return unix.ENOSYS
	}
	return nil
}

// kernel looks at the host's kernel.
func (h host) kernel() Kernel {
	var u unix.Utsname
	_ = unix.Uname(&u)
	k := Kernel{Release: unix.ByteSliceToString(u.Release[:])}
	for _, f := range kernelFeatures {
		// EPERM comes from a container's filter: an existing call returns other
		// errors first.
		if err := f.try(); errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
			k.Missing = append(k.Missing, f.name)
		}
	}
	const version = 1 // LANDLOCK_CREATE_RULESET_VERSION
	if v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, version); errno == 0 {
		k.Landlock = int(v)
	}
	const killProcess = 2 // SECCOMP_GET_ACTION_AVAIL
	action := uint32(unix.SECCOMP_RET_KILL_PROCESS)
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, killProcess, 0, uintptr(unsafe.Pointer(&action)))
	k.Seccomp = errno == 0
	k.SELinux = h.readInt("sys/fs/selinux/enforce", 0) == 1
	k.AppArmor = h.read("sys/module/apparmor/parameters/enabled") == "Y"
	return k
}

// kernel judges the host's kernel.
func (r *Report) kernel(p *share.Config, k *Kernel) {
	r.ok("kernel", "Linux %s", k.Release)
	for _, f := range kernelFeatures {
		for _, m := range k.Missing {
			if m != f.name {
				continue
			}
			s := Warn
			if f.fatal && p.Sandbox == sandbox.ModeNamespace {
				s = Fail
			}
			r.add(s, "kernel.features", "use Linux "+f.since+" or later, or allow the call in the container's seccomp profile",
				"no %s; lost: %s", f.name, f.lost)
		}
	}
	if k.Landlock < 2 { // the first version does not let files be moved
		r.add(Warn, "kernel.landlock", "add landlock to the kernel's lsm= parameter (Linux 5.19 or later)",
			"no Landlock: the daemon is confined by one layer less")
	} else {
		r.ok("kernel.landlock", "Landlock, version %d of its interface", k.Landlock)
	}
	switch {
	case k.Seccomp:
		r.ok("kernel.seccomp", "system call filters work")
	case p.Seccomp == sandbox.FilterNone:
		r.add(Warn, "kernel.seccomp", "", "no system call filters, and none is asked for")
	default:
		r.add(Fail, "kernel.seccomp", "use a kernel with CONFIG_SECCOMP_FILTER, or give the daemon --seccomp=none",
			"no system call filters: the daemon does not start with --seccomp=%s", p.Seccomp)
	}
}

// before reports whether a kernel's release is older than major.minor. For a
// release that can't be parsed it returns false.
func before(release string, major, minor int) bool {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return false
	}
	a, err1 := strconv.Atoi(parts[0])
	b, err2 := strconv.Atoi(strings.TrimRightFunc(parts[1], func(c rune) bool { return c < '0' || c > '9' }))
	if err1 != nil || err2 != nil {
		return false
	}
	return a < major || a == major && b < minor
}
