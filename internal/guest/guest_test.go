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

// backend runs a back-end on a new directory with the tag fs until the end of the
// test: the program in the environment variable GOVIRTIOFSD, or the Rust virtiofsd.
// It returns the socket and the directory.
func backend(t *testing.T) (socket, dir string) {
	t.Helper()
	program := os.Getenv("GOVIRTIOFSD")
	if program == "" {
		program = guest.Peer(t, guest.RustPeer)
	}
	top := guest.TempDir(t)
	socket, dir = filepath.Join(top, "sock"), filepath.Join(top, "share")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
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
	return socket, dir
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
		if d := time.Since(begin); d < timeout || d > timeout+30*time.Second {
			t.Errorf("the guest ended after %v", d)
		}
		wantGone(t, vm.PID())
	})
}

// wantGone fails the test if the process group of a guest keeps a process. A dead
// helper is there until the init process of the machine has noticed.
func wantGone(t *testing.T, pid int) {
	t.Helper()
	for range 500 {
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
