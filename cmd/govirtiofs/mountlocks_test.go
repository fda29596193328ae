package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestMountLocks has more programs wait for a lock on the host than there are requests.
// Half of these wait, and can be interrupted; the others are refused; files can be used.
func TestMountLocks(t *testing.T) {
	guest.NeedFUSE(t)
	source, target := t.TempDir(), t.TempDir()
	socket, _ := backend(t, program(t, "govirtiofsd"), source, "--locks=host")
	const requests, programs = 16, 40
	mountTool(t, socket, target, "--requests=16")
	path := filepath.Join(source, "f")
	host, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	if err := unix.Flock(int(host.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, programs)
	for range programs {
		f, err := os.OpenFile(filepath.Join(target, "f"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer f.Close()
			ended <- unix.Flock(int(f.Fd()), unix.LOCK_SH)
		}()
	}
	wait := func(n int, want error) {
		t.Helper()
		for range n {
			select {
			case err := <-ended:
				if !errors.Is(err, want) {
					t.Errorf("flock: %v, want %v", err, want)
				}
			case <-time.After(60 * time.Second):
				t.Fatal("the share is frozen")
			}
		}
	}
	wait(programs-requests/2, unix.ENOLCK)
	if err := os.WriteFile(filepath.Join(target, "g"), []byte("x"), 0o644); err != nil {
		t.Error("a file while locks wait:", err)
	}
	if err := unix.Flock(int(host.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	wait(requests/2, nil)

	// A time-out, and SIGKILL, end a wait: INTERRUPT is carried.
	flock, err := exec.LookPath("flock")
	if err != nil {
		t.Skip("no flock(1)")
	}
	if err := unix.Flock(int(host.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := exec.Command(flock, "-w", "1", filepath.Join(target, "f"), "true").Run(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("flock -w 1: %v, want exit status 1", err)
	}
}
