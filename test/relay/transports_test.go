package relay_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestIntegrationKeepListening: one relay serves one guest after the other, of two VMMs, on the same program: each finds what
// the one before has written.
func TestIntegrationKeepListening(t *testing.T) {
	guest.NeedRoot(t)
	needPrograms(t, "bindfs")
	b := newBench(t, users[0])
	b.mkdir("src")
	r := b.relay([]string{"--socket-path", b.path("sock"), "--tag", "data", "--keep-listening"}, "bindfs", b.path("src"), "{mount}")
	r.until("socket", func() bool { return unix.Access(b.path("sock"), unix.F_OK) == nil })
	for i, kind := range []guest.Kind{guest.UML, guest.QEMU72, guest.UML} {
		guest.Need(t, kind)
		script := fmt.Sprintf("cd /mnt/data && [ $(ls | wc -l) = %d ] && echo %s >guest%d && mkdir dir%[3]d && mv guest%[3]d dir%[3]d/file && "+
			"sync && cat dir*/file && echo done", i, kind, i)
		result, err := guest.Run(t.Context(), kind, guest.Options{Mem: 256, Timeout: 3 * time.Minute, Script: script,
			Shares: []guest.Share{{Tag: "data", Socket: b.path("sock")}}})
		if err != nil {
			t.Fatalf("%s: %v\n%s\n%s", kind, err, tail(result.Console), tail(r.out.String()))
		}
		got, err := os.ReadFile(filepath.Join(b.path("src"), fmt.Sprintf("dir%d", i), "file"))
		if !strings.Contains(result.Output, "done") || string(got) != kind.String()+"\n" {
			t.Fatalf("%s says %q; the host has %q, %v\n%s", kind, result.Output, got, err, tail(r.out.String()))
		}
	}
	r.stop()
	if left, _ := filepath.Glob(b.path("sock*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestIntegrationVsock: a guest mounts the program's file system over the Unix socket that a VMM joins to its vsock device,
// and again after it has unmounted.
func TestIntegrationVsock(t *testing.T) {
	guest.NeedFUSE(t)
	guest.NeedRoot(t)
	needPrograms(t, "bindfs")
	b := newBench(t, users[0])
	b.mkdir("src")
	b.mkdir("mnt")
	b.write("token", "a secret of some length\n", 0o600)
	r := b.relay([]string{"--vsock-uds", b.path("v"), "--vsock-token", b.path("token"), "--tag", "data"}, "bindfs", b.path("src"), "{mount}")
	r.until("socket", func() bool { return unix.Access(b.path("v_1024"), unix.F_OK) == nil })
	for i := range 2 {
		script := fmt.Sprintf("set -e; mount --make-rprivate /; cd %s; %s mount -o token=token unix:v_1024 mnt; "+
			"[ $(ls mnt | wc -l) = %d ]; head -c 3000000 /dev/urandom >in; cp in mnt/new; mv mnt/new mnt/file%[3]d; cmp in mnt/file%[3]d; umount mnt; cmp in src/file%[3]d",
			b.dir, guestProgram(), i)
		cmd := exec.Command("sh", "-c", script)
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("mount %d: %v\n%s\n%s", i, err, out, tail(r.out.String()))
		}
	}
	r.stop()
	if left, _ := filepath.Glob(b.path("v_*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func guestProgram() string { return filepath.Join(filepath.Dir(govirtiofs), "govirtiofs-guest") }
