package fstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// shift is what idmappedMount adds to ids, of which it maps idCount.
const (
	shift   = 10000
	idCount = 2000
)

// idmappedMount uses the directory through a mount that moves ids, and looks at what
// becomes of them without it.
func idmappedMount(e *env) {
	e.root()
	e.write("roots", "x")
	e.must(os.Mkdir(e.path("shared"), 0o755))
	e.must(unix.Chown(e.path("shared"), 5, 6))
	e.must(unix.Chmod(e.path("shared"), 0o2777))
	top := e.idmapped()
	owner := func(what string, dir int, name string, uid, gid uint32) {
		e.Helper()
		var st unix.Stat_t
		if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Uid != uid || st.Gid != gid {
			e.Errorf("%s: %s belongs to %d:%d (%v), want %d:%d", what, name, st.Uid, st.Gid, err, uid, gid)
		}
	}
	owner("through the mount", top, "roots", shift, shift)
	owner("through the mount", top, "shared", shift+5, shift+6)
	e.want("made by an id that the mount does not have", unix.Mkdirat(top, "shared/none", 0o755), unix.EOVERFLOW)
	e.asUser(shift+7, shift+8, func() {
		fd, err := unix.Openat(top, "shared/file", unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, 0o664)
		e.want("create", err, 0)
		_, err = unix.Write(fd, []byte("data"))
		e.want("write", err, 0)
		e.want("ftruncate", unix.Ftruncate(fd, 2), 0)
		e.want("close", unix.Close(fd), 0)
		e.want("mkdir", unix.Mkdirat(top, "shared/dir", 0o755), 0)
		e.want("symlink", unix.Symlinkat("x", top, "shared/link"), 0)
		e.want("mknod", unix.Mknodat(top, "shared/pipe", unix.S_IFIFO|0o644, 0), 0)
		e.want("hard link", unix.Linkat(top, "shared/file", top, "shared/hard", 0), 0)
		e.want("rename", unix.Renameat(top, "shared/hard", top, "shared/moved"), 0)
		e.want("chmod", unix.Fchmodat(top, "shared/file", 0o600, 0), 0)
		e.want("chmod of another's", unix.Fchmodat(top, "roots", 0o777, 0), unix.EPERM)
		_, err = unix.Openat(top, "roots", unix.O_RDWR|unix.O_CLOEXEC, 0)
		e.want("writing to another's", err, unix.EACCES)
		e.want("giving away", unix.Fchownat(top, "shared/file", shift, -1, 0), unix.EPERM)
	})
	for _, name := range []string{"file", "dir", "link", "pipe", "moved"} {
		// The group is the directory's, which has the set-group-ID bit.
		owner("through the mount", top, "shared/"+name, shift+7, shift+6)
		owner("without it", unix.AT_FDCWD, e.path("shared/"+name), 7, 6)
	}
	e.mode("shared/dir", 0o2755)
	e.want("chown", unix.Fchownat(top, "shared/file", shift+9, shift+10, 0), 0)
	owner("after chown, without the mount", unix.AT_FDCWD, e.path("shared/file"), 9, 10)
	e.want("chown to an id that the mount does not have", unix.Fchownat(top, "shared/file", 3, -1, 0), unix.EOVERFLOW)
	e.tmpfileThrough(top, owner)
}

// tmpfileThrough makes a file without a name where the file system can.
func (e *env) tmpfileThrough(top int, owner func(what string, dir int, name string, uid, gid uint32)) {
	e.Helper()
	e.asUser(shift+7, shift+8, func() {
		fd, err := unix.Openat(top, "shared", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if errors.Is(err, unix.EOPNOTSUPP) {
			return
		}
		e.want("tmpfile", err, 0)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Uid != shift+7 || st.Gid != shift+6 {
			e.Errorf("tmpfile: %d:%d, %v", st.Uid, st.Gid, err)
		}
		e.want("close", unix.Close(fd), 0)
	})
}

// idmapped returns a mount of the test's directory that adds shift to ids.
func (e *env) idmapped() int {
	e.Helper()
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: shift, Size: idCount}}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperEnv+"="+e.path("roots"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	in, err := cmd.StdinPipe()
	e.must(err)
	// The namespace's own root need not be able to do a thing but be there.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		e.Skipf("no user namespaces here: %v", err)
	}
	defer func() {
		_ = in.Close()
		_ = cmd.Wait()
	}()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	e.must(err)
	defer ns.Close()
	fd, err := unix.OpenTree(unix.AT_FDCWD, e.dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	e.has("open_tree", err)
	e.Cleanup(func() { _ = unix.Close(fd) })
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		e.Skipf("no idmapped mounts here: %v", err)
	}
	e.must(err)
	return fd
}
