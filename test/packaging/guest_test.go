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
			for _, name := range []string{"./usr/bin/govirtiofs-guest\n", "./usr/sbin/mount.govirtiofs -> ../bin/govirtiofs-guest\n", "./usr/lib/systemd/system/govirtiofs-watch@.service\n", "./usr/share/man/man8/govirtiofs-guest.8.gz\n",
				"./usr/share/initramfs-tools/hooks/govirtiofs\n", "./usr/share/initramfs-tools/scripts/govirtiofs\n"} {
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

// TestInitramfsHook: the hook puts program, modules and token into an initramfs, if it is told to by its file.
// The functions of initramfs-tools are replaced by others that say how they are called.
func TestInitramfsHook(t *testing.T) {
	dir := t.TempDir()
	functions := "copy_exec() { echo exec $*; }\ncopy_file() { echo file $*; }\nmanual_add_modules() { echo modules $*; }\n"
	hook, err := os.ReadFile(filepath.Join("..", "..", "packaging/initramfs/hook"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("/usr/share/initramfs-tools", dir, "/etc/govirtiofs", dir).Replace(string(hook))
	for name, content := range map[string]string{"hook-functions": functions, "hook": text} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) string {
		t.Helper()
		return sh(t, nil, "sh", append([]string{"-eu", filepath.Join(dir, "hook")}, args...)...)
	}
	if said := run() + run("prereqs"); said != "" {
		t.Errorf("without its file the hook does %q", said)
	}
	for _, name := range []string{"initramfs", "token"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	said := run()
	for _, want := range []string{"exec /usr/bin/govirtiofs-guest\n", "file token " + dir + "/token\n", "modules fuse vmw_vsock_virtio_transport\n", "UMASK=0077"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in %q", want, said)
		}
	}
}
