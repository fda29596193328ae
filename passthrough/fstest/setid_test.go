package fstest_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/passthrough"
)

func init() {
	special["killpriv"] = func(c *passthrough.Config) { c.KillprivV2 = true }
	special["killpriv with never"] = func(c *passthrough.Config) { c.KillprivV2, c.Cache = true, passthrough.CacheNever }
	special["killpriv without idmap"] = func(c *passthrough.Config) { c.KillprivV2, c.AllowIdmap = true, false }
	special["plain"] = func(*passthrough.Config) {}
	special["plain with never"] = func(c *passthrough.Config) { c.Cache = passthrough.CacheNever }
	special["plain with writeback"] = func(c *passthrough.Config) { c.Writeback = true }
	special["plain without idmap"] = func(c *passthrough.Config) { c.AllowIdmap = false }
	special["killpriv with writeback"] = func(c *passthrough.Config) { c.KillprivV2, c.Writeback = true, true }
}

// caller is who changes a file that belongs to setIDOwner and setIDGroup.
type caller struct {
	uid, gid int
	groups   []uint32
}

const setIDOwner, setIDGroup, setIDOther = 1000, 2000, 3000

var callers = map[string]caller{
	"root":         {0, 0, nil},
	"owner":        {setIDOwner, setIDGroup, nil},
	"owner, apart": {setIDOwner, setIDOther, nil}, // is not in the file's group
	"member":       {1001, setIDGroup, nil},
	"added member": {1001, setIDOther, []uint32{setIDGroup}},
	"other":        {1002, setIDOther, nil},
}

// as runs f on a thread of its own as c.
func (c caller) as(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends here
		set := func(nr, a, b, c uintptr) error {
			if _, _, errno := unix.RawSyscall(nr, a, b, c); errno != 0 {
				return errno
			}
			return nil
		}
		var list [1]uint32
		copy(list[:], c.groups)
		err := errors.Join(setgroups(list[:len(c.groups)]),
			set(unix.SYS_SETRESGID, uintptr(c.gid), uintptr(c.gid), uintptr(c.gid)),
			set(unix.SYS_SETRESUID, uintptr(c.uid), uintptr(c.uid), uintptr(c.uid)))
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// withFile opens a file, does something with it and closes it.
func withFile(path string, flags int, f func(fd int) error) error {
	fd, err := unix.Open(path, flags, 0)
	if err != nil {
		return err
	}
	return errors.Join(f(fd), unix.Close(fd))
}

// setIDChanges are what may cost a file its set-ID bits and capabilities. The file has 10
// bytes, and a directory with a file "from" that everybody may read.
var setIDChanges = map[string]func(path string) error{
	"open, truncate": func(p string) error {
		return withFile(p, unix.O_WRONLY|unix.O_TRUNC, func(int) error { return nil })
	},
	"open, create, truncate": func(p string) error {
		return withFile(p, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, func(int) error { return nil })
	},
	"rewrite": func(p string) error {
		return withFile(p, unix.O_WRONLY|unix.O_TRUNC, func(fd int) error { _, err := unix.Write(fd, []byte("x")); return err })
	},
	"write": func(p string) error {
		return withFile(p, unix.O_WRONLY, func(fd int) error { _, err := unix.Write(fd, []byte("x")); return err })
	},
	"writes": func(p string) error {
		return withFile(p, unix.O_RDWR, func(fd int) error {
			_, err1 := unix.Pwrite(fd, []byte("x"), 0)
			_, err2 := unix.Pwrite(fd, []byte("y"), 5)
			return errors.Join(err1, err2)
		})
	},
	"truncate": func(p string) error { return unix.Truncate(p, 5) },
	"lengthen": func(p string) error { return unix.Truncate(p, 50) },
	"ftruncate": func(p string) error {
		return withFile(p, unix.O_RDWR, func(fd int) error { return unix.Ftruncate(fd, 5) })
	},
	"fallocate": func(p string) error {
		return withFile(p, unix.O_RDWR, func(fd int) error { return unix.Fallocate(fd, 0, 0, 100) })
	},
	"punch": func(p string) error {
		return withFile(p, unix.O_RDWR, func(fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 5)
		})
	},
	"copy_file_range": func(p string) error {
		return withFile(p, unix.O_WRONLY, func(fd int) error {
			return withFile(filepath.Dir(p)+"/from", unix.O_RDONLY, func(from int) error {
				_, err := unix.CopyFileRange(from, nil, fd, nil, 4, 0)
				return err
			})
		})
	},
	"chown to nobody":   func(p string) error { return unix.Lchown(p, -1, -1) },
	"chown to owner":    func(p string) error { return unix.Lchown(p, setIDOwner, -1) },
	"chgrp to the same": func(p string) error { return unix.Lchown(p, -1, setIDGroup) },
	"chgrp to another":  func(p string) error { return unix.Lchown(p, -1, setIDOther) },
	"chown":             func(p string) error { return unix.Lchown(p, 4000, 4000) },
	"fchown to nobody": func(p string) error {
		return withFile(p, unix.O_RDONLY, func(fd int) error { return unix.Fchown(fd, -1, -1) })
	},
	"chmod":               func(p string) error { return unix.Chmod(p, 0o6755) },
	"chmod without group": func(p string) error { return unix.Chmod(p, 0o2746) },
}

var fileCapability = []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // cap_net_bind_service+ep

// outcome is what a change did: its error, the mode and whether capabilities are left.
func outcome(t *testing.T, path string, mode uint32, capability bool, c caller, change func(string) error) string {
	t.Helper()
	// Not opened: the kernel sends RELEASE when it likes, and as long as somebody has the file
	// open for writing, chown(-1, -1) may clear the bits.
	must(t, unix.Mknod(path, unix.S_IFREG|0o644, 0), unix.Truncate(path, 10),
		unix.Chown(path, setIDOwner, setIDGroup), unix.Chmod(path, mode))
	if capability {
		must(t, unix.Setxattr(path, "security.capability", fileCapability, 0))
	}
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	err := c.as(func() error { return change(path) })
	must(t, unix.Lstat(path, &st))
	has := hostXattr(path, "security.capability") == string(fileCapability)
	must(t, os.Remove(path))
	return fmt.Sprintf("%v, mode %#o, capabilities %v", err, st.Mode&0o7777, has)
}

// TestSetID makes the same changes, as the same users, in a share and in a directory of the
// host's, and compares what becomes of set-ID bits and capabilities. The requests are those
// of the kernel that runs the test.
func TestSetID(t *testing.T) {
	guest.NeedFUSE(t)
	guest.NeedRoot(t)
	modes := map[string]uint32{"4755": 0o4755, "2755": 0o2755, "2744": 0o2744, "6777": 0o6777, "4777": 0o4777, "2777": 0o2777,
		"2766": 0o2766, "6766": 0o6766, "capability": 0o755, "capability, all": 0o777}
	for _, config := range []string{"plain", "plain with never", "plain with writeback", "plain without idmap",
		"killpriv", "killpriv with never", "killpriv with writeback", "killpriv without idmap", "ownership"} {
		t.Run(config, func(t *testing.T) {
			if testing.Short() && config != "plain" && config != "killpriv" {
				t.Skip("short")
			}
			source, target, native := t.TempDir(), t.TempDir(), t.TempDir()
			for dir := native; dir != "/"; dir = filepath.Dir(dir) {
				_ = os.Chmod(dir, 0o777) // the test's directories
				if filepath.Dir(dir) == os.TempDir() {
					break
				}
			}
			must(t, os.Chmod(source, 0o777), os.Chmod(filepath.Dir(target), 0o755), os.Chmod(filepath.Dir(source), 0o755))
			if config == "ownership" {
				must(t, os.Chown(source, ownershipUser, ownershipUser))
			}
			mount(t, config, source, target)
			for _, dir := range []string{native, target} {
				must(t, os.Chmod(dir, 0o777), os.WriteFile(dir+"/from", []byte("copied"), 0o644))
			}
			for what, change := range setIDChanges {
				for who, c := range callers {
					for name, mode := range modes {
						capability := mode&0o6000 == 0
						if capability && config == "ownership" {
							continue // it has no privilege for those
						}
						want := outcome(t, native+"/f", mode, capability, c, change)
						got := outcome(t, target+"/f", mode, capability, c, change)
						if got != want && !protocolKeeps(mode, c, got, want) && !kernelAsks(config, what, mode, got, want) {
							t.Errorf("%s by %s, %s: %s, want %s", what, who, name, got, want)
						}
					}
				}
			}
		})
	}
}

// protocolKeeps is the one difference: a set-group-ID bit without group execute, which means
// nothing since mandatory locking went, is kept for who is not in the file's group too. So
// says the protocol (FUSE_HANDLE_KILLPRIV_V2), and so does the guest's kernel where it
// leaves nothing to us (fs/fuse/dir.c: fuse_setattr).
func protocolKeeps(mode uint32, c caller, got, want string) bool {
	const sgid = unix.S_ISGID
	if mode&(sgid|unix.S_IXGRP) != sgid || c.uid == 0 || c.gid == setIDGroup || len(c.groups) > 0 {
		return false
	}
	if strings.HasPrefix(want, unix.EPERM.Error()) {
		// To clear the bit takes the owner, as whom chown(-1, -1) then fails. Where the bit is
		// kept there is nothing to do.
		return got == strings.Replace(want, unix.EPERM.Error(), "<nil>", 1)
	}
	var g, w uint32
	for s, to := range map[string]*uint32{got: &g, want: &w} {
		if _, err := fmt.Sscanf(s, "<nil>, mode %o", to); err != nil {
			return false
		}
	}
	return g == w|sgid && w&sgid == 0
}

// kernelAsks is for chown(-1, -1) with HANDLE_KILLPRIV_V2. The guest's kernel lets everybody
// do it, and with ALLOW_IDMAP it does not say who it was: the bits stay.
func kernelAsks(config, what string, mode uint32, got, want string) bool {
	if !strings.HasPrefix(config, "killpriv") || !strings.HasSuffix(what, "to nobody") {
		return false
	}
	refused := strings.HasPrefix(want, unix.EPERM.Error())
	if !refused && strings.HasSuffix(config, "without idmap") {
		return false
	}
	_, capabilities, _ := strings.Cut(want, "capabilities")
	return got == fmt.Sprintf("<nil>, mode %#o, capabilities%s", mode, capabilities)
}
