package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestMentions has a row for each VMM and checks whether mentions finds that it uses
// DIR/run/vm.sock. Its working directory is DIR/run. DIR/link leads to DIR/run.
func TestMentions(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "run"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("run", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]bool{
		"qemu-system-x86_64 -chardev socket,id=c,path=DIR/run/vm.sock -device x":                                                     true,
		"qemu-system-x86_64 -chardev socket,id=c,path=DIR/run/vm.sock2":                                                              false,
		"qemu-system-x86_64 -chardev socket,id=c,path=/elsewhere/vm.sock":                                                            false,
		"qemu-system-x86_64 -chardev socket,id=c,path=DIR/run/vm.sock.old":                                                           false,
		"qemu-system-x86_64 -drive file=DIR/run/vm.sock,if=virtio":                                                                   false,
		"qemu-system-x86_64 -name DIR/run/vm.sock":                                                                                   false,
		"qemu-system-x86_64 -chardev socket,id=c,server=on,wait=off,path=vm.sock":                                                    true,
		"qemu-system-x86_64 -chardev socket,id=c,path=../link/vm.sock":                                                               true,
		"qemu-system-x86_64 -chardev socket,id=c,path=DIR/link/./vm.sock":                                                            true,
		"qemu-system-x86_64 -chardev socket,id=c,path=a,,path=vm.sock":                                                               false,
		"qemu-system-x86_64 -netdev stream,id=n,addr.type=unix,addr.path=vm.sock":                                                    true,
		`qemu-kvm -chardev {"id":"c","backend":{"type":"socket","data":{"addr":{"type":"unix","data":{"path":"DIR/run/vm.sock"}}}}}`: true,
		`qemu-kvm -chardev {"backend":"socket","id":"c","path":"DIR/run/vm.sock2"}`:                                                  false,
		"cloud-hypervisor --fs tag=a,socket=/other tag=b,socket=DIR/run/vm.sock --net tap=x":                                         true,
		"cloud-hypervisor --fs=tag=b,socket=vm.sock":                                                                                 true,
		"cloud-hypervisor --fs tag=b,socket=/x/vm.sock":                                                                              false,
		"crosvm run --vhost-user type=fs,socket=DIR/run/vm.sock":                                                                     true,
		"crosvm run --vhost-user=fs,socket=vm.sock":                                                                                  true,
		"crosvm run --vhost-user-fs vm.sock:tag":                                                                                     true,
		"crosvm run --vhost-user-fs=DIR/run/vm.sock2:tag":                                                                            false,
		"linux mem=1G virtio_uml.device=DIR/run/vm.sock:26":                                                                          true,
		"linux mem=1G virtio_uml.device=vm.sock:26:1":                                                                                true,
		"linux mem=1G virtio_uml.device=DIR/run/vm.sock2:26":                                                                         false,
		"less path=DIR/run/vm.sock":                                                                                                  false,
	} {
		cmdline := strings.ReplaceAll(strings.ReplaceAll(line, "DIR", dir), " ", "\x00") + "\x00"
		h := tree(t, map[string]string{"proc/12/cmdline": cmdline, "proc/12/cwd": "->" + filepath.Join(dir, "run")})
		for _, ours := range []string{"run/vm.sock", "link/vm.sock"} {
			if got := slices.Equal(h.mentions(filepath.Join(dir, ours)), []int{12}); got != want {
				t.Errorf("%s: %s: %v, want %v", ours, line, got, want)
			}
		}
	}
}

// TestMentionsRelative has a VMM that names its socket by a relative path. That is
// our socket only if it is in this process's directory.
func TestMentionsRelative(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	h := tree(t, map[string]string{
		"proc/12/cmdline": "qemu-system-x86_64\x00-chardev\x00socket,path=" + dir + "/vm.sock\x00",
		"proc/13/cmdline": "qemu-system-x86_64\x00-chardev\x00socket,path=/elsewhere/vm.sock\x00",
		"proc/14/cmdline": "qemu-system-x86_64\x00-chardev\x00socket,path=vm.sock\x00", // its directory is not known
		"proc/15/cmdline": "qemu-system-x86_64\x00-chardev\x00socket,path=vm.sock\x00",
		"proc/15/cwd":     "->" + dir,
	})
	if got := h.mentions("vm.sock"); !slices.Equal(got, []int{12, 15}) {
		t.Errorf("got %v, want 12 and 15", got)
	}
}

// TestProcessThatIsNot asks for a process that does not run, and has another one
// end between being found and being examined.
func TestProcessThatIsNot(t *testing.T) {
	h := tree(t, map[string]string{"proc/12/status": ""})
	got := h.vmms("", &Socket{Front: []int{12}}, []int{1 << 30})
	if len(got) != 1 || got[0].PID != 1<<30 || !errors.Is(got[0].Err, os.ErrNotExist) {
		t.Errorf("%+v", got)
	}
}
