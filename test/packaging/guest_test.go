package packaging

import (
	"debug/elf"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// maxGuestSize bounds the size of the guest's program: an initramfs keeps it in
// memory.
const maxGuestSize = 6 << 20

// TestGuest: the guest's program is small and static for both architectures, and mount(8) finds it.
func TestGuest(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		dir := t.TempDir()
		sh(t, []string{"GOARCH=" + arch}, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/", "./cmd/govirtiofs-guest")
		path := filepath.Join(dir, "govirtiofs-guest")
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.Size() > maxGuestSize {
			t.Errorf("%s: %d bytes, want %d at most", arch, st.Size(), maxGuestSize)
		}
		f, err := elf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP {
				t.Errorf("%s: not static", arch)
			}
		}
		_ = f.Close()
		if arch != runtime.GOARCH {
			continue
		}
		root := filepath.Join(t.TempDir(), "root")
		sh(t, []string{"PROGRAMS=" + dir}, "packaging/install-guest.sh", root, "/usr")
		if to, err := os.Readlink(filepath.Join(root, "usr/sbin/mount.govirtiofs")); err != nil || to != "/usr/bin/govirtiofs-guest" {
			t.Errorf("mount.govirtiofs leads to %q, %v", to, err)
		}
		if !has(t, "dpkg-deb") {
			continue
		}
		var debs [2]string
		for i := range debs {
			deb := filepath.Join(t.TempDir(), "g.deb")
			sh(t, []string{"PROGRAMS=" + dir, "DEB_COMPRESSION=gzip"}, "packaging/deb-guest.sh", "1.2.3-rc1", arch, deb)
			b, err := os.ReadFile(deb)
			if err != nil {
				t.Fatal(err)
			}
			debs[i] = string(b)
			list := sh(t, nil, "dpkg-deb", "-c", deb)
			for _, name := range []string{"./usr/bin/govirtiofs-guest\n", "./usr/sbin/mount.govirtiofs -> ../bin/govirtiofs-guest\n", "./usr/share/man/man8/govirtiofs-guest.8.gz\n"} {
				if !strings.Contains(list, name) {
					t.Errorf("the package has no %s:\n%s", name, list)
				}
			}
		}
		if debs[0] != debs[1] {
			t.Error("two packages of the same program differ")
		}
	}
}
