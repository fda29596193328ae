package sandbox

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// LandlockOptions say which files the process may still use.
type LandlockOptions struct {
	// Share is the shared directory or file, an O_PATH descriptor. The caller keeps it.
	Share int
	// ReadOnly allows reading only.
	ReadOnly bool
	// More are further shares of the process.
	More []LandlockShare
	// Remove are directories in which the process will remove its own files, for example
	// its socket. The caller keeps these descriptors.
	Remove []int
	// Read are other directories whose files the process may read, as View.Tasks. The caller
	// keeps these descriptors.
	Read []int
}

// LandlockShare is one more share of a process.
type LandlockShare struct {
	Share    int // as that of LandlockOptions
	ReadOnly bool
}

// ErrNoLandlock says that the kernel has no Landlock, or that Landlock is not enabled.
var ErrNoLandlock = errors.New("the kernel has no Landlock")

// LandlockVersion returns the version of the kernel's interface, or 0 if it has none or the
// process may not use it.
func LandlockVersion() int {
	if landlockForbidden() {
		return 0
	}
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(v)
}

func landlockForbidden() bool {
	return endsProcess(unix.SYS_LANDLOCK_CREATE_RULESET, unix.SYS_LANDLOCK_ADD_RULE, unix.SYS_LANDLOCK_RESTRICT_SELF)
}

// Rights that Landlock can allow. EXECUTE and IOCTL_DEV are not among them: they are never
// allowed.
const (
	readAccess = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	fileAccess = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	dirAccess  = readAccess | fileAccess |
		unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
		unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO |
		unix.LANDLOCK_ACCESS_FS_MAKE_SYM | unix.LANDLOCK_ACCESS_FS_REFER
	allAccess = dirAccess | unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
)

// landlockRules is what a version of the interface can be told
// (Documentation/userspace-api/landlock.rst, Previous limitations).
func landlockRules(version, errata int) unix.LandlockRulesetAttr {
	a := unix.LandlockRulesetAttr{Handled_access_fs: allAccess}
	if version < 2 {
		// Moving between directories is always refused there: see Landlock.
		a.Handled_access_fs &^= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if version < 3 {
		a.Handled_access_fs &^= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if version >= 4 {
		a.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if version < 5 {
		a.Handled_access_fs &^= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if version >= 6 {
		a.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
		// Each thread has rules of its own. Before the fix, threads with separate rules
		// could not signal each other, and the Go scheduler needs these signals.
		const signalsBetweenThreads = 1 << (2 - 1)
		if errata&signalsBetweenThreads != 0 {
			a.Scoped |= unix.LANDLOCK_SCOPE_SIGNAL
		}
	}
	return a
}

// maxLayers is the maximum number of nested rulesets, also by programs that started this one
// (security/landlock/limits.h: LANDLOCK_MAX_NUM_LAYERS).
const maxLayers = 16

// minLandlock is the first version with which a share works. Before Linux 5.19 a process
// under Landlock could not move or link files from one directory to another.
const minLandlock = 2

// Landlock restricts every thread to the files of o. No other file can be opened, made, moved
// or removed, also not through an open descriptor of a directory. Mounts can't be changed.
// From Linux 6.7 on no TCP socket can be used, from 6.12 on no abstract unix socket. It sets
// no_new_privs.
//
// Landlock does not restrict changes of attributes, modes and owners, and does not restrict
// files that are open already.
//
// It returns ErrNoLandlock if the kernel has no Landlock with which a share works.
func Landlock(o LandlockOptions) error {
	if landlockForbidden() {
		return fmt.Errorf("%w that may be used: %w", ErrNoLandlock, errFilter)
	}
	version := LandlockVersion()
	if version < minLandlock {
		return ErrNoLandlock
	}
	errata, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_ERRATA)
	if errno != 0 { // Linux before 6.15 does not report errata
		errata = 0
	}
	attr := landlockRules(version, int(errata))
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return fmt.Errorf("landlock: create rules: %w", errno)
	}
	rules := int(fd)
	defer unix.Close(rules)
	if err := addRules(rules, attr.Handled_access_fs, o); err != nil {
		return err
	}
	if err := NoNewPrivileges(); err != nil {
		return err
	}
	return enforce(rules, version)
}

// addRules allows the files of o, with the rights that this version of the rules knows.
func addRules(rules int, known uint64, o LandlockOptions) error {
	for _, s := range append([]LandlockShare{{o.Share, o.ReadOnly}}, o.More...) {
		if err := addShare(rules, known, s); err != nil {
			return err
		}
	}
	for _, dir := range o.Read {
		if err := addRule(rules, dir, readAccess); err != nil {
			return err
		}
	}
	for _, dir := range o.Remove {
		if err := addRule(rules, dir, unix.LANDLOCK_ACCESS_FS_REMOVE_FILE); err != nil {
			return err
		}
	}
	return nil
}

// addShare allows the files of a share.
func addShare(rules int, known uint64, s LandlockShare) error {
	isDir, err := isDirectory(s.Share)
	if err != nil {
		return fmt.Errorf("landlock: share: %w", err)
	}
	access := uint64(dirAccess)
	if s.ReadOnly {
		access = readAccess
	}
	if !isDir {
		access &= fileAccess // for a file the other rights are an error
	}
	return addRule(rules, s.Share, access&known)
}

func addRule(rules, at int, access uint64) error {
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(at)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(rules), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if errno == unix.EBADFD { // neither in a file system that others could mount
		return fmt.Errorf("%w for this kind of file", ErrNoLandlock)
	}
	if errno != 0 {
		return fmt.Errorf("landlock: allow %#x: %w", access, os.NewSyscallError("landlock_add_rule", errno))
	}
	return nil
}

// enforce puts all threads under the rules. Since version 8 the kernel does so for all threads
// at once. Before, each thread has to do it for itself.
func enforce(rules, version int) error {
	const allThreads = 8
	var errno unix.Errno
	if version >= allThreads {
		_, _, errno = unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(rules), unix.LANDLOCK_RESTRICT_SELF_TSYNC, 0)
	} else {
		// Do not use package psx: with cgo it looks for the other threads in /proc, which
		// the first thread may no longer read.
		_, _, errno = syscall.AllThreadsSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(rules), 0, 0)
	}
	switch errno {
	case 0:
		return nil
	case unix.ENOTSUP:
		return fmt.Errorf("%w that a program with cgo could use", ErrNoLandlock)
	case unix.E2BIG:
		return fmt.Errorf("%w to spare: the process is under %d layers of rules already", ErrNoLandlock, maxLayers)
	}
	return fmt.Errorf("landlock: enforce rules: %w", errno)
}
