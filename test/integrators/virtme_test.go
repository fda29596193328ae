package integrators

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestIntegrationVirtme has virtme-ng boot a kernel with the host's root directory as
// its root file system, shared by our daemon, the first virtiofsd on PATH.
func TestIntegrationVirtme(t *testing.T) {
	need(t, "/usr/bin/python3", "qemu-system-x86_64", "file", "ip")
	guest.Need(t, guest.QEMU11)
	tree := guest.NeedTree(t, "virtme")
	root, err := guest.Root()
	if err != nil {
		t.Fatal(err)
	}
	// virtme-ng hides /tmp, /run and parts of /var in the guest. The repository may be there.
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(home, ".govirtiofs-virtme-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(dir+"/file", []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	script := fmt.Sprintf("cat %s/file; grep ' / ' /proc/mounts; ls /usr/bin | wc -l", dir)
	cmd := exec.CommandContext(ctx, "/usr/bin/python3", tree+"/usr/bin/virtme-run", "--verbose", "--show-boot-console", "--disable-kvm",
		"--kimg", filepath.Join(root, ".cache/guests", guest.QEMU11.String(), "vmlinux"), "--mods", "none", "--memory", "512M", "--script-sh", script)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+tree+"/usr/lib/python3/dist-packages", "PATH="+filepath.Dir(program)+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	// virtme-ng returns the script's status only with a virtio serial port, which is
	// not built into the kernel.
	out, err := cmd.CombinedOutput()
	console := string(out)
	for _, want := range []string{
		"Client connected, servicing requests", content[:len(content)-1], "ROOTFS / virtiofs", "script returned {0}", "Client disconnected, shutting down",
	} {
		if !strings.Contains(console, want) {
			t.Errorf("no %q (%v) in:\n%s", want, err, console)
			break
		}
	}
	entries, err := os.ReadDir("/usr/bin")
	if err != nil || !strings.Contains(console, fmt.Sprintf("\n%d\r", len(entries))) {
		t.Errorf("the guest does not see %d files in /usr/bin", len(entries))
	}
	if left := daemons(t); len(left) > 0 {
		t.Errorf("daemons are left: %v", left)
	}
}
