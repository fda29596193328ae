package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Namespace is a sandbox in which the share is the whole file system, no other process is
// visible and there is no network. It needs two processes: the first one calls Start, the
// second one calls Enter with the same value.
type Namespace struct {
	// UIDs and GIDs are the maps of the user namespace, which only a caller other than
	// root gets. Empty maps are the own id only.
	UIDs, GIDs []IDMap
	// ReadOnly makes the share read-only for the kernel, too.
	ReadOnly bool
	// Program is what Start runs, a path as a new process of this one sees it. "" is this program.
	Program string
}

// ErrRootIDMap is Start's error if root gives maps. Root gets no user namespace, because in one
// it could not act as any user and could not open files by file handle.
var ErrRootIDMap = errors.New("id maps are for callers other than root")

// namespaces are the namespaces that every caller gets.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// syncEnv carries the number of the pipe on which the new process waits for its
// id maps.
const syncEnv = "GOVIRTIOFSD_SYNC_FD"

// Start runs the program once more in new namespaces, with the same arguments and
// standard files, env added to the environment, and files as descriptors 3 and up.
// The new process gets SIGTERM when the thread ends that has started it. In a Go program a thread
// ends when a goroutine ends that is locked to it, or the process.
func (n *Namespace) Start(env []string, files []*os.File) (*exec.Cmd, error) {
	cmd := exec.Command(cmp.Or(n.Program, "/proc/self/exe"))
	cmd.Args = os.Args
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), env...)
	cmd.ExtraFiles = append(cmd.ExtraFiles, files...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Pdeathsig: unix.SIGTERM}
	// The child does not need descriptors that the parent of this process has left open.
	// Linux before 5.11 can't close them here; they remain open then.
	_ = unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	if os.Geteuid() == 0 {
		if len(n.UIDs)+len(n.GIDs) > 0 {
			return nil, ErrRootIDMap
		}
		err := startError(cmd.Start())
		if err != nil {
			return nil, err
		}
		return cmd, nil
	}
	if err := n.startUnprivileged(cmd); err != nil {
		return nil, err
	}
	return cmd, nil
}

// startUnprivileged starts cmd in a user namespace as well.
func (n *Namespace) startUnprivileged(cmd *exec.Cmd) error {
	uid, gid := os.Geteuid(), os.Getegid()
	uids, gids := n.maps()
	attr := cmd.SysProcAttr
	attr.Cloneflags |= unix.CLONE_NEWUSER
	// If the user is not root, only ambient capabilities survive exec.
	for _, v := range append(DefaultCapabilities(), cap.DAC_READ_SEARCH, cap.SETPCAP, cap.SYS_ADMIN) {
		attr.AmbientCaps = append(attr.AmbientCaps, uintptr(v))
	}
	if isOwn(uids, uid) && isOwn(gids, gid) {
		attr.UidMappings, attr.GidMappings = sysMaps(uids), sysMaps(gids)
		return startError(cmd.Start())
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer w.Close()
	cmd.ExtraFiles = append(cmd.ExtraFiles, r)
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", syncEnv, 2+len(cmd.ExtraFiles)))
	err = cmd.Start()
	r.Close()
	if err != nil {
		return startError(err)
	}
	pid := cmd.Process.Pid
	if err := errors.Join(runIDMap("newuidmap", pid, uids), runIDMap("newgidmap", pid, gids)); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return err
	}
	_, err = w.Write([]byte{1})
	return err
}

// maps returns the id maps, or the default for empty ones.
func (n *Namespace) maps() (uids, gids []IDMap) {
	uids, gids = n.UIDs, n.GIDs
	if len(uids) == 0 {
		uids = own(os.Geteuid())
	}
	if len(gids) == 0 {
		gids = own(os.Getegid())
	}
	return uids, gids
}

func startError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("make namespaces: %w", notPermitted(err))
}

// Enter makes the share the root directory of the process that Start has started, and removes
// every other mount. So the process must have opened other files that it needs by name before.
func (n *Namespace) Enter(share string) (View, error) {
	return n.EnterAll([]Share{{Path: share, ReadOnly: n.ReadOnly}})
}

// EnterAll is Enter for several shares, at least one. The root is then a read-only directory with a
// mount for each of them and nothing else. They can be read-only each for itself, or all by
// n.ReadOnly.
func (n *Namespace) EnterAll(shares []Share) (View, error) {
	if err := n.becomeRoot(); err != nil {
		return View{}, err
	}
	// Mounts that the host makes in the share later still appear here. Mounts of this
	// process do not appear on the host.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return View{}, fmt.Errorf("make mounts private: %w", notPermitted(err))
	}
	// The change of ids has cleared the parent-death signal that Start has set.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0); err != nil {
		return View{}, fmt.Errorf("set parent death signal: %w", err)
	}
	for _, s := range shares {
		if err := CheckShare(s.Path); err != nil {
			return View{}, err
		}
	}
	proc, err := openProc()
	if err != nil {
		return View{}, err
	}
	v := View{Root: -1, Proc: proc, Tasks: openTasks()}
	if len(shares) == 1 {
		v.Root, err = n.pivot(shares[0])
	} else {
		err = n.pivotAll(shares, &v)
	}
	if err != nil {
		v.Close()
		return View{}, err
	}
	return v, nil
}

// becomeRoot waits for the id maps of a user namespace, if Start sets them later. It then
// changes to the ids 0 if they are mapped.
func (n *Namespace) becomeRoot() error {
	s, ok := os.LookupEnv(syncEnv)
	if !ok {
		return nil
	}
	var fd int
	if _, err := fmt.Sscan(s, &fd); err != nil {
		return fmt.Errorf("%s: %w", syncEnv, err)
	}
	var b [1]byte
	count, err := unix.Read(fd, b[:])
	_ = unix.Close(fd)
	if err != nil || count == 0 {
		return errors.New("no id maps were set")
	}
	uids, gids := n.maps()
	if has(gids, 0) {
		if err := syscall.Setresgid(0, 0, 0); err != nil {
			return fmt.Errorf("setresgid: %w", err)
		}
	}
	if has(uids, 0) {
		if err := syscall.Setresuid(0, 0, 0); err != nil {
			return fmt.Errorf("setresuid: %w", err)
		}
	}
	return nil
}

// pivot makes a copy of the share's mounts the root, and returns the share. If the share is a
// file, its mount is attached nowhere, and the root is an empty directory.
func (n *Namespace) pivot(share Share) (fd int, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make %s the root directory: %w", share.Path, notPermitted(err))
		}
	}()
	tree, err := n.cloneShare(share)
	if err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(tree)
		}
	}()
	isDir, err := isDirectory(tree)
	if err != nil {
		return -1, err
	}
	if isDir {
		return tree, changeRoot(tree)
	}
	empty, err := emptyDir(unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return -1, err
	}
	defer unix.Close(empty)
	return tree, changeRoot(empty)
}

func isDirectory(fd int) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, err
}

// pivotAll makes a directory the root in which copies of the shares' mounts are, and returns the shares
// in v. The shares are mounted there, and not only open, so that mounts which the host makes
// later appear in them.
func (n *Namespace) pivotAll(shares []Share, v *View) error {
	var trees []int
	for _, s := range shares {
		tree, err := n.cloneShare(s)
		if err != nil {
			return fmt.Errorf("copy the mounts of %s: %w", s.Path, notPermitted(err))
		}
		if trees = append(trees, tree); len(trees) == 1 {
			v.Root = tree
		} else {
			v.More = append(v.More, tree)
		}
	}
	root, err := emptyDir(0)
	if err != nil {
		return notPermitted(err)
	}
	defer unix.Close(root)
	for i, tree := range trees {
		if err := makeMountPoint(root, strconv.Itoa(i), tree); err != nil {
			return fmt.Errorf("make a mount point for %s: %w", shares[i].Path, err)
		}
	}
	if err := changeRoot(root); err != nil {
		return fmt.Errorf("make a root directory for the shares: %w", notPermitted(err))
	}
	for i, tree := range trees {
		if err := unix.MoveMount(tree, "", root, strconv.Itoa(i), unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("mount %s: move_mount: %w", shares[i].Path, notPermitted(err))
		}
	}
	const flags = unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC
	if err := unix.Mount("", "/", "", flags, ""); err != nil {
		return fmt.Errorf("make the root directory read-only: %w", notPermitted(err))
	}
	return nil
}

// makeMountPoint makes what a tree can be mounted on: a directory or a file, as its own root is.
func makeMountPoint(dir int, name string, tree int) error {
	isDir, err := isDirectory(tree)
	if err != nil {
		return err
	}
	if isDir {
		return unix.Mkdirat(dir, name, 0o700)
	}
	return unix.Mknodat(dir, name, unix.S_IFREG|0o600, 0)
}

// cloneShare copies the mounts at and below share and restricts them: the daemon never follows
// a symbolic link, opens a device or runs a program there.
func (n *Namespace) cloneShare(share Share) (int, error) {
	path, err := filepath.EvalSymlinks(share.Path)
	if err != nil {
		return -1, err
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open_tree: %w", err)
	}
	attrs := []uint64{unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID, unix.MOUNT_ATTR_NOSYMFOLLOW}
	if n.ReadOnly || share.ReadOnly {
		attrs = append(attrs, unix.MOUNT_ATTR_RDONLY)
	}
	for _, a := range attrs {
		err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: a})
		// Linux before 5.12 has no such call, Linux before 5.14 no NOSYMFOLLOW. The
		// restrictions are a second defence: the daemon itself follows no link and, if
		// read-only, writes nothing.
		if err != nil && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) {
			_ = unix.Close(tree)
			return -1, fmt.Errorf("mount_setattr %#x: %w", a, err)
		}
	}
	return tree, nil
}

// emptyDir makes a file system with nothing in it; attr has further attributes of its mount.
func emptyDir(attr int) (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("fsconfig: %w", err)
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC,
		attr|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
}

// changeRoot mounts tree over the root directory, makes it the root and unmounts the old
// root.
func changeRoot(tree int) error {
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	if err := unix.Fchdir(tree); err != nil {
		return fmt.Errorf("fchdir: %w", err)
	}
	err := unix.PivotRoot(".", ".")
	if errors.Is(err, unix.EINVAL) {
		// The old root is the initial ramfs, which can't be moved. Only a process with
		// CAP_SYS_CHROOT or a descriptor of the old root can leave the mount that
		// covers it.
		if err := unix.Chroot("."); err != nil {
			return fmt.Errorf("chroot: %w", err)
		}
		return unix.Chdir("/")
	}
	if err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	// The old root is mounted over the new one now, and "." is still the old one.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	return unix.Chdir("/")
}
