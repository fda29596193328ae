package integration

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

const (
	fiFreeze = 0xc0045877 // FIFREEZE
	fiThaw   = 0xc0045878 // FITHAW
)

// timeoutScript waits for the freeze, and makes a directory on the frozen disk.
const timeoutScript = `cd /mnt/fs; mkdir disk/before || echo WRONG
echo >ready; while [ ! -e frozen ]; do sleep 0.1; done
began=$(cut -d. -f1 /proc/uptime)
mkdir disk/after; echo "status $?"
ls; echo "after it: status $?"
echo "seconds $(($(cut -d. -f1 /proc/uptime) - began))"`

// TestIntegrationRequestTimeout: with --request-timeout a kernel from 6.14 on gives the mount up when a
// request takes longer. It takes up to a minute. UML's kernel is new enough, those of Debian 12 are not.
func TestIntegrationRequestTimeout(t *testing.T) {
	long(t)
	guest.Need(t, guest.UML)
	guest.NeedRoot(t)
	dir := guest.TempDir(t)
	disk, image := filepath.Join(dir, "disk"), filepath.Join(guest.TempDir(t), "image")
	for _, err := range []error{os.Mkdir(disk, 0o755), os.WriteFile(image, nil, 0o600), os.Truncate(image, 32<<20)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, disk}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			guest.Missing(t, string(out))
		}
	}
	root, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	thaw := func() { _ = unix.IoctlSetInt(int(root.Fd()), fiThaw, 0) }
	t.Cleanup(func() {
		thaw()
		root.Close()
		for range 200 { // until the daemon has ended
			if unix.Unmount(disk, 0) == nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		_ = unix.Unmount(disk, unix.MNT_DETACH)
	})
	d := start(t, dir, "--request-timeout=15")
	vm, err := guest.Start(context.Background(), guest.UML, guest.Options{Shares: []guest.Share{d.Share}, Timeout: 5 * time.Minute, Script: timeoutScript})
	if err != nil {
		t.Fatal(err)
	}
	k := newWorkerKiller(t, d, vm)
	defer vm.Kill()
	k.exists("ready")
	if err := unix.IoctlSetInt(int(root.Fd()), fiFreeze, 0); err != nil {
		t.Fatal(err)
	}
	k.put("frozen")
	k.until("the guest gives up", func() bool { return strings.Contains(vm.Output(), "seconds ") })
	thaw() // the guest does not end before its requests do
	r, err := vm.Wait()
	for _, want := range []string{"Software caused connection abort", "Transport endpoint is not connected"} {
		if err != nil || !strings.Contains(r.Output, want) || strings.Contains(r.Output, "WRONG") {
			t.Errorf("%q is missing: %v\n%s", want, err, tail(r.Output))
		}
	}
	t.Log(r.Output)
}
