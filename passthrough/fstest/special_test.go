package fstest_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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
	"immutable": func(c *passthrough.Config) { c.Immutable, c.MaxFDs = true, 200 },
}

// mountSpecial mounts such a share and returns it with the directory behind it.
func mountSpecial(t *testing.T, config string, prepare func(source string)) (source, target string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip(err)
	}
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
	defer func() { must(t, unix.Unmount(merged, 0)) }()
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
