package fstest_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/mounttest"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/passthrough/xattrmap"
)

// special are shares on which the suite can't run as a whole.
var special = map[string]func(*passthrough.Config){
	"overlay": func(c *passthrough.Config) { c.XattrMap, _ = xattrmap.Preset("overlayfs") },
	"labels":  func(c *passthrough.Config) { c.XattrMap, _ = xattrmap.Preset("selinux-user") },
	"separate": func(c *passthrough.Config) {
		c.XattrMap, _ = xattrmap.Preset("separate")
		c.KillprivV2 = true
	},
	"acl":       func(c *passthrough.Config) { c.PosixACL = passthrough.Always },
	"immutable": func(c *passthrough.Config) { c.Immutable, c.MaxFDs = true, 200 },
}

// mountSpecial mounts such a share and returns it with the directory behind it.
func mountSpecial(t *testing.T, config string, prepare func(source string)) (source, target string) {
	t.Helper()
	guest.NeedFUSE(t)
	source, target = t.TempDir(), t.TempDir()
	if prepare != nil {
		prepare(source)
	}
	mount(t, config, source, target)
	return source, target
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// hostXattr is the value of an attribute, or its error.
func hostXattr(path, name string) string {
	v := make([]byte, 256)
	n, err := unix.Lgetxattr(path, name, v)
	if err != nil {
		return err.Error()
	}
	return string(v[:n])
}

// TestOverlayUpper has the upper directory of an overlay in a share whose daemon could
// do without privileges for it: what it notes down is in user.* on the host.
func TestOverlayUpper(t *testing.T) {
	lower := t.TempDir()
	must(t, os.MkdirAll(lower+"/dir/sub", 0o755), os.WriteFile(lower+"/a", []byte("a"), 0o644),
		os.WriteFile(lower+"/b", nil, 0o644), os.WriteFile(lower+"/dir/c", nil, 0o644))
	source, target := mountSpecial(t, "overlay", func(source string) {
		must(t, os.Mkdir(source+"/upper", 0o755), os.Mkdir(source+"/work", 0o755))
	})
	merged := t.TempDir()
	opts := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, target, target)
	if err := unix.Mount("overlay", merged, "overlay", 0, opts); err != nil {
		t.Skipf("overlay: %v", err)
	}
	defer func() { must(t, mounttest.Unmount(merged)) }()
	must(t, os.WriteFile(merged+"/a", []byte("changed"), 0o644), os.Remove(merged+"/b"),
		os.RemoveAll(merged+"/dir"), os.Mkdir(merged+"/dir", 0o755), os.WriteFile(merged+"/dir/new", nil, 0o644))
	list, err := os.ReadDir(merged + "/dir")
	if err != nil || len(list) != 1 || list[0].Name() != "new" {
		t.Errorf("made anew: %v, %v", list, err)
	}
	if got := hostXattr(source+"/upper/dir", "user.virtiofs.trusted.overlay.opaque"); got != "y" {
		t.Errorf("opaque on the host: %q", got)
	}
	if got := hostXattr(source+"/upper/dir", "trusted.overlay.opaque"); got != unix.ENODATA.Error() {
		t.Errorf("the host's own: %q", got)
	}
	if st, err := os.Lstat(source + "/upper/b"); err != nil || st.Mode()&os.ModeCharDevice == 0 {
		t.Errorf("whiteout: %v, %v", st, err)
	}
	if b, err := os.ReadFile(source + "/upper/a"); string(b) != "changed" || err != nil {
		t.Errorf("copied up: %q, %v", b, err)
	}
}

// TestLabelsApart: labels of the guest are not the host's, and a link is made without.
func TestLabelsApart(t *testing.T) {
	source, target := mountSpecial(t, "labels", nil)
	must(t, os.WriteFile(target+"/f", nil, 0o644), os.Symlink("f", target+"/link"))
	if err := unix.Setxattr(target+"/f", "security.selinux", []byte("label"), 0); err != nil {
		t.Skip(err) // the kernel's own security module does not let us
	}
	if got := hostXattr(source+"/f", "user.virtiofs.security.selinux"); got != "label" {
		t.Errorf("on the host: %q", got)
	}
	if err := unix.Lsetxattr(target+"/link", "security.selinux", []byte("label"), 0); err != unix.EOPNOTSUPP {
		t.Errorf("label of a link: %v", err)
	}
	if err := unix.Setxattr(target+"/f", "user.virtiofs.security.selinux", nil, 0); err != unix.EPERM {
		t.Errorf("the host's name: %v", err)
	}
}

// TestCapabilitiesApart: a write takes capabilities away that the host's kernel does not
// know, as it does with those that it knows.
func TestCapabilitiesApart(t *testing.T) {
	source, target := mountSpecial(t, "separate", nil)
	const attr = "user.virtiofs.security.capability"
	caps := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // cap_net_bind_service+ep
	for what, change := range map[string]func(string) error{
		"write": func(p string) error {
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("x")
			return errors.Join(err, f.Close())
		},
		"truncate": func(p string) error { return os.Truncate(p, 1) },
		"rewrite":  func(p string) error { return os.WriteFile(p, []byte("y"), 0o755) },
		"chown":    func(p string) error { return os.Chown(p, 1, 1) },
	} {
		name := filepath.Join("/", what)
		must(t, os.WriteFile(target+name, []byte("content"), 0o755))
		if err := unix.Setxattr(target+name, "security.capability", caps, 0); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got := hostXattr(source+name, attr); got != string(caps) {
			t.Fatalf("%s: on the host: %q", what, got)
		}
		must(t, change(target+name))
		if got := hostXattr(source+name, attr); got != unix.ENODATA.Error() {
			t.Errorf("%s leaves capabilities: %q", what, got)
		}
		if got := hostXattr(target+name, "security.capability"); got != unix.ENODATA.Error() {
			t.Errorf("%s leaves capabilities for the guest: %q", what, got)
		}
	}
}

// TestImmutableShare reads more files than there are descriptors, without opening one,
// and sees nothing of what becomes of them.
func TestImmutableShare(t *testing.T) {
	const files = 400
	source, target := mountSpecial(t, "immutable", func(source string) {
		for i := range files {
			must(t, os.WriteFile(fmt.Sprintf("%s/f%03d", source, i), []byte(fmt.Sprint("content ", i)), 0o644))
		}
		must(t, os.Symlink("f000", source+"/link"))
	})
	names := func() (names []string) {
		list, err := os.ReadDir(target)
		must(t, err)
		for _, e := range list {
			names = append(names, e.Name())
		}
		return names
	}
	first := names()
	if len(first) != files+1 || !slices.IsSorted(first) {
		t.Errorf("%d names", len(first))
	}
	for range 2 {
		for i := range files {
			if b, err := os.ReadFile(fmt.Sprintf("%s/f%03d", target, i)); err != nil || string(b) != fmt.Sprint("content ", i) {
				t.Fatalf("%d: %q, %v", i, b, err)
			}
		}
		if l, err := os.Readlink(target + "/link"); l != "f000" || err != nil {
			t.Errorf("link: %q, %v", l, err)
		}
	}
	if _, err := os.Stat(target + "/none"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := os.WriteFile(target+"/new", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("new file: %v", err)
	}
	// All of that is kept: nothing is asked again.
	must(t, os.Remove(source+"/link"), os.Symlink("f001", source+"/link"), os.WriteFile(source+"/none", nil, 0o644),
		os.Remove(source+"/f000"))
	if l, err := os.Readlink(target + "/link"); l != "f000" || err != nil {
		t.Errorf("link: %q, %v", l, err)
	}
	if _, err := os.Stat(target + "/none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing name was asked for again: %v", err)
	}
	if b, err := os.ReadFile(target + "/f000"); string(b) != "content 0" || err != nil {
		t.Errorf("a file that was read before: %q, %v", b, err)
	}
	if again := names(); strings.Join(again, " ") != strings.Join(first, " ") {
		t.Errorf("the listing has changed: %d names", len(again))
	}
}

// accessList is an ACL: what the owner, user 4712, the group, the mask and others may.
func accessList(owner, user, group, mask, other uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2) // POSIX_ACL_XATTR_VERSION
	for _, e := range [][3]uint32{{1, owner, 1<<32 - 1}, {2, user, 4712}, {4, group, 1<<32 - 1}, {0x10, mask, 1<<32 - 1}, {0x20, other, 1<<32 - 1}} {
		b = binary.LittleEndian.AppendUint32(b, e[0]|e[1]<<16)
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

// TestACLs has access control lists set, applied, changed by chmod and inherited.
func TestACLs(t *testing.T) {
	_, target := mountSpecial(t, "acl", func(source string) {
		must(t, os.Chmod(source, 0o755), os.Chmod(filepath.Dir(source), 0o755)) // for other users
	})
	const access, inherited = "system.posix_acl_access", "system.posix_acl_default"
	mode := func(name string) os.FileMode {
		st, err := os.Stat(target + name)
		must(t, err)
		return st.Mode().Perm()
	}
	list := func(name, attr string) string {
		v := make([]byte, 200)
		n, err := unix.Getxattr(target+name, attr, v)
		if err != nil {
			return err.Error()
		}
		return string(v[:n])
	}
	must(t, os.WriteFile(target+"/f", []byte("x"), 0o600))
	if err := unix.Setxattr(target+"/f", access, accessList(6, 6, 0, 4, 0), 0); err != nil {
		t.Skip(err)
	}
	// The mask is what the group's bits show.
	if m := mode("/f"); m != 0o640 {
		t.Errorf("mode %o with a list", m)
	}
	as := func(uid int, f func() error) error {
		result := make(chan error)
		go func() {
			runtime.LockOSThread() // not unlocked: the thread ends here
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
				result <- errno
				return
			}
			result <- f()
		}()
		return <-result
	}
	read := func() error { _, err := os.ReadFile(target + "/f"); return err }
	write := func() error { return os.WriteFile(target+"/f", nil, 0) }
	if err := as(4712, read); err != nil {
		t.Errorf("read by a user in the list: %v", err)
	}
	if err := as(4713, read); !errors.Is(err, unix.EACCES) {
		t.Errorf("read by another user: %v", err)
	}
	if err := as(4712, write); !errors.Is(err, unix.EACCES) {
		t.Errorf("write past the mask: %v", err)
	}
	must(t, os.Chmod(target+"/f", 0o660))
	if got, want := list("/f", access), string(accessList(6, 6, 0, 6, 0)); got != want {
		t.Errorf("list after chmod: %x, want %x", got, want)
	}
	if err := as(4712, write); err != nil {
		t.Errorf("write after chmod: %v", err)
	}

	must(t, os.Mkdir(target+"/d", 0o755), unix.Setxattr(target+"/d", inherited, accessList(7, 7, 5, 7, 0), 0))
	old := unix.Umask(0o077) // which a default list replaces
	err := errors.Join(os.WriteFile(target+"/d/f", nil, 0o664), os.Mkdir(target+"/d/d", 0o775), os.WriteFile(target+"/plain", nil, 0o664))
	unix.Umask(old)
	must(t, err)
	if got, want := list("/d/f", access), string(accessList(6, 7, 5, 6, 0)); got != want || mode("/d/f") != 0o660 {
		t.Errorf("inherited: %x, want %x; mode %o", got, want, mode("/d/f"))
	}
	if got, want := list("/d/d", inherited), string(accessList(7, 7, 5, 7, 0)); got != want || mode("/d/d") != 0o770 {
		t.Errorf("inherited by a directory: %x, want %x; mode %o", got, want, mode("/d/d"))
	}
	if m := mode("/plain"); m != 0o600 {
		t.Errorf("mode %o where there is no list", m)
	}

	// Who is not in the file's group loses its set-group-ID bit with a new list.
	must(t, os.WriteFile(target+"/g", nil, 0o755), os.Chown(target+"/g", 4712, 4714), os.Chmod(target+"/g", 0o755|os.ModeSetgid))
	must(t, as(4712, func() error { return unix.Setxattr(target+"/g", access, accessList(7, 5, 5, 5, 5), 0) }))
	if st, err := os.Stat(target + "/g"); err != nil || st.Mode()&os.ModeSetgid != 0 {
		t.Errorf("set-group-ID: %v, %v", st.Mode(), err)
	}
}
