package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestVsockDevice: it makes its sockets, serves a VMM that comes and goes, and ends at SIGTERM as a daemon
// does. Nothing is left.
func TestVsockDevice(t *testing.T) {
	for _, keep := range []bool{false, true} {
		dir := t.TempDir()
		socket, uds := filepath.Join(dir, "device"), filepath.Join(dir, "v")
		args := []string{"vsock-device", "--socket-path", socket, "--uds-path", uds}
		if keep {
			args = append(args, "--keep-listening")
		}
		cmd := exec.Command(program(t, "govirtiofs"), args...)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			c, err := net.Dial("unix", socket)
			if err == nil {
				_ = c.Close() // a VMM that says nothing
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
		if keep {
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("keep %v: %v", keep, err)
		}
		for _, path := range []string{socket, uds} {
			if _, err := os.Lstat(path); err == nil {
				t.Errorf("%s is left", path)
			}
		}
	}
}
