package guest_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// kinds are all kinds, the quickest first.
var kinds = []guest.Kind{guest.UML, guest.QEMU72, guest.QEMU11}

// backend runs a back-end on a new directory and returns its socket and the directory.
func backend(t *testing.T) (socket, dir string) {
	t.Helper()
	dir = filepath.Join(guest.TempDir(t), "share")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return backendOn(t, dir), dir
}

// backendOn runs a back-end on dir with the tag fs until the end of the test. The
// back-end is the program in the environment variable GOVIRTIOFSD, or the Rust
// virtiofsd. It returns the socket.
func backendOn(t *testing.T, dir string) string {
	t.Helper()
	program := os.Getenv("GOVIRTIOFSD")
	if program == "" {
		program = guest.Peer(t, guest.RustPeer)
	}
	socket := filepath.Join(guest.TempDir(t), "sock")
	var log bytes.Buffer
	cmd := exec.Command(program, "--socket-path="+socket, "--shared-dir="+dir,
		"--sandbox=none", "--seccomp=none", "--tag=fs")
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("back-end: %s", log.String())
		}
	})
	return socket
}

// forEach runs a test for every kind that is set up.
func forEach(t *testing.T, test func(*testing.T, guest.Kind)) {
	for _, kind := range kinds {
		t.Run(kind.String(), func(t *testing.T) {
			if testing.Short() && kind != guest.UML {
				t.Skip("slow")
			}
			guest.Need(t, kind)
			test(t, kind)
		})
	}
}

// run runs a guest with one share and fails the test if that does not work.
func run(t *testing.T, kind guest.Kind, o guest.Options) guest.Result {
	t.Helper()
	result, err := guest.Run(t.Context(), kind, o)
	if err != nil {
		t.Fatalf("%v\n%s", err, result.Console)
	}
	t.Logf("%v: status %d after %.1f s\n%s", kind, result.Status, result.Duration.Seconds(), result.Output)
	return result
}

// put writes a file of the host.
func put(t *testing.T, path, contents string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(contents), 0o644); err != nil {
		t.Fatal(err)
	}
}

// wantFile fails the test unless a file of the host has these contents.
func wantFile(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s holds %q, want %q (%v)", filepath.Base(path), got, want, err)
	}
}

func TestReadWriteStatus(t *testing.T) {
	forEach(t, func(t *testing.T, kind guest.Kind) {
		socket, dir := backend(t)
		put(t, filepath.Join(dir, "in"), "from the host\n")
		program := filepath.Join(filepath.Dir(dir), "program")
		put(t, program, "#!/bin/sh\necho \"program says $1\"\n")
		if err := os.Chmod(program, 0o755); err != nil {
			t.Fatal(err)
		}
		results := guest.TempDir(t)
		result := run(t, kind, guest.Options{
			Shares:  []guest.Share{{Tag: "fs", Socket: socket}},
			HostDir: results,
			Files:   map[string]string{program: "/run/bin/program"},
			Script: `
				cat /mnt/fs/in
				echo "it's from $(uname -r)" >/mnt/fs/out
				mkdir /run/host/d
				echo result >/run/host/d/f
				/run/bin/program hello
				grep ' virtiofs ' /proc/mounts
				exit 7`,
		})
		if result.Status != 7 {
			t.Errorf("status is %d, want 7", result.Status)
		}
		if !strings.HasPrefix(result.Output, "from the host\nprogram says hello\nfs /mnt/fs virtiofs rw") {
			t.Errorf("output is %q", result.Output)
		}
		wantFile(t, filepath.Join(results, "d/f"), "result\n")
		if out, _ := os.ReadFile(filepath.Join(dir, "out")); !strings.HasPrefix(string(out), "it's from ") {
			t.Errorf("the guest wrote %q", out)
		}
	})
}

func TestTimeout(t *testing.T) {
	forEach(t, func(t *testing.T, kind guest.Kind) {
		socket, _ := backend(t)
		const timeout = 4 * time.Second
		begin := time.Now()
		vm, err := guest.Start(t.Context(), kind, guest.Options{
			Shares:  []guest.Share{{Tag: "fs", Socket: socket}},
			Script:  "sleep 1000",
			Timeout: timeout,
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := vm.Wait(); !errors.Is(err, guest.ErrTimeout) {
			t.Errorf("error is %v", err)
		}
		if d := time.Since(begin); d < timeout || d > timeout+5*time.Minute { // a busy machine starts it late
			t.Errorf("the guest ended after %v", d)
		}
		wantGone(t, vm.PID())
	})
}

// wantGone fails the test if a process of a guest's process group is left. A dead
// helper stays there until the machine's init process has reaped it.
func wantGone(t *testing.T, pid int) {
	t.Helper()
	for range 5000 {
		if err := syscall.Kill(-pid, 0); errors.Is(err, syscall.ESRCH) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("the guest %d left processes", pid)
}

func TestKill(t *testing.T) {
	guest.Need(t, guest.UML)
	socket, _ := backend(t)
	vm, err := guest.Start(t.Context(), guest.UML, guest.Options{
		Shares: []guest.Share{{Tag: "fs", Socket: socket}},
		Script: "echo here; sleep 1000",
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.WaitOutput(t.Context(), "here"); err != nil {
		t.Error(err)
	}
	begin := time.Now()
	vm.Kill()
	t.Logf("ended in %v", time.Since(begin))
	if _, err := vm.Wait(); !errors.Is(err, guest.ErrNoStatus) || !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	wantGone(t, vm.PID())
}

// TestLeftProcess runs a script that leaves a process on the share.
func TestLeftProcess(t *testing.T) {
	forEach(t, func(t *testing.T, kind guest.Kind) {
		socket, _ := backend(t)
		result := run(t, kind, guest.Options{
			Shares: []guest.Share{{Tag: "fs", Socket: socket}},
			Script: "cd /mnt/fs; sleep 1000 >f & exit 4",
		})
		if result.Status != 4 || strings.Contains(result.Console, "cannot unmount") {
			t.Errorf("status is %d\n%s", result.Status, result.Console)
		}
	})
}

func TestMountFails(t *testing.T) {
	guest.Need(t, guest.UML)
	socket, _ := backend(t)
	_, err := guest.Run(t.Context(), guest.UML, guest.Options{
		Shares: []guest.Share{{Tag: "other", Socket: socket}},
	})
	if !errors.Is(err, guest.ErrMount) {
		t.Errorf("error is %v", err)
	}
}

func TestReboot(t *testing.T) {
	for _, kind := range []guest.Kind{guest.QEMU72, guest.QEMU11} {
		t.Run(kind.String(), func(t *testing.T) {
			if testing.Short() {
				t.Skip("slow")
			}
			guest.Need(t, kind)
			socket, dir := backend(t)
			result := run(t, kind, guest.Options{
				Shares:  []guest.Share{{Tag: "fs", Socket: socket}},
				Reboots: true,
				Script: `
					echo boot >>/mnt/fs/boots
					sync
					[ "$(wc -l </mnt/fs/boots)" = 3 ] || $BUSYBOX reboot -f
					exit 3`,
			})
			if result.Status != 3 {
				t.Errorf("status is %d", result.Status)
			}
			wantFile(t, filepath.Join(dir, "boots"), "boot\nboot\nboot\n")
		})
	}
}

// TestTwoGuests runs two guests on one directory, each of which waits for the other.
func TestTwoGuests(t *testing.T) {
	guest.Need(t, guest.UML)
	socket, dir := backend(t)
	sockets := map[string]string{"a": socket, "b": backendOn(t, dir)}
	other := map[string]string{"a": "b", "b": "a"}
	for name, socket := range sockets {
		vm, err := guest.Start(t.Context(), guest.UML, guest.Options{
			Shares: []guest.Share{{Tag: "fs", Socket: socket}},
			Script: "touch /mnt/fs/" + name + "; until [ -e /mnt/fs/" + other[name] + " ]; do sleep 0.1; done",
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if result, err := vm.Wait(); err != nil || result.Status != 0 {
				t.Errorf("guest %s: %v, status %d", name, err, result.Status)
			}
		}()
	}
}

// TestRootShare runs a script with the share as its root.
func TestRootShare(t *testing.T) {
	forEach(t, func(t *testing.T, kind guest.Kind) {
		socket, dir := backend(t)
		for _, d := range []string{"bin", "dev", "mnt", "proc", "run", "sys", "tmp"} {
			if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		busybox := filepath.Join(cacheDir(t), kind.String(), "busybox")
		for _, command := range []string{"sh", "cat"} {
			copyProgram(t, busybox, filepath.Join(dir, "bin", command))
		}
		results := guest.TempDir(t)
		result := run(t, kind, guest.Options{
			Shares:    []guest.Share{{Tag: "fs", Socket: socket}},
			RootShare: "fs",
			HostDir:   results,
			Files:     map[string]string{busybox: "/run/busybox"},
			Script:    "echo yes >/here; cat /here >/run/host/result; exec /run/busybox [ -d /proc/self ]",
		})
		if result.Status != 0 {
			t.Errorf("status is %d", result.Status)
		}
		wantFile(t, filepath.Join(dir, "here"), "yes\n")
		wantFile(t, filepath.Join(results, "result"), "yes\n")
	})
}

// cacheDir returns the directory of the parts that are set up.
func cacheDir(t *testing.T) string {
	t.Helper()
	root, err := guest.Root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, ".cache/guests")
}

// copyProgram copies an executable file.
func copyProgram(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestSharedMemoryDevice uses the device that can have a shared memory window. If
// the back-end has no window, the guest works without one.
func TestSharedMemoryDevice(t *testing.T) {
	if testing.Short() {
		t.Skip("slow")
	}
	guest.Need(t, guest.QEMU11)
	socket, dir := backend(t)
	put(t, filepath.Join(dir, "in"), "from the host\n")
	result := run(t, guest.QEMU11, guest.Options{
		Shares: []guest.Share{{Tag: "fs", Socket: socket}},
		DAX:    true,
		Script: "cat /mnt/fs/in; dmesg | grep virtiofs",
	})
	if !strings.HasPrefix(result.Output, "from the host\n") {
		t.Errorf("output is %q", result.Output)
	}
}
