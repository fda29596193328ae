package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/daemontest"
)

// wholeFile is a lock of all bytes.
var wholeFile = fp.FileLock{Type: unix.F_WRLCK, End: math.MaxInt64}

// hostLocks reports whether the host can lock a file.
func hostLocks(t *testing.T, path string) bool {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
	return err == nil
}

// lockFile opens and locks the file f of a share.
func lockFile(c *frontend.Client) (node, fh uint64, err error) {
	e, err := c.Lookup(fp.RootID, "f")
	if err == nil {
		fh, err = c.Open(e.NodeID, unix.O_RDWR)
	}
	if err == nil {
		err = c.Lock(e.NodeID, fh, 7, wholeFile, 0, false)
	}
	return e.NodeID, fh, err
}

// TestReconnect: with --keep-listening a guest whose VMM loses its connection and connects again
// goes on with its open files and locks, and one that comes without them gets nothing of them. All
// layers of the sandbox are on.
func TestReconnect(t *testing.T) {
	for _, box := range sandboxes() {
		t.Run(box, func(t *testing.T) {
			dir := tempDir(t)
			path := filepath.Join(dir, "f")
			if err := os.WriteFile(path, []byte("content"), 0o644); err != nil {
				t.Fatal(err)
			}
			socket := filepath.Join(tempDir(t), "s")
			d := startDaemon(t, nil, "--socket-path", socket, "--shared-dir", dir, "--sandbox="+box, "--keep-listening", "--locks=host")
			d.waitLine(waitingLine)
			f, err := frontend.Dial(socket, frontend.Options{Queues: 1, Inflight: true})
			if err != nil {
				t.Fatal(err)
			}
			c := handshake(t, f)
			node, fh, err := lockFile(c)
			if err != nil {
				t.Fatal(err)
			}
			for range 5 {
				f.Cut()
				conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
				if err != nil {
					t.Fatal(err)
				}
				if err := f.Reconnect(conn); err != nil {
					t.Fatal(err)
				}
				if b, err := c.Read(node, fh, 0, 100); err != nil || string(b) != "content" {
					t.Fatalf("%q, %v", b, err)
				}
				if hostLocks(t, path) {
					t.Fatal("the guest's lock is lost")
				}
			}
			f.Close()
			next := connect(t, socket)
			defer next.Close()
			if !hostLocks(t, path) {
				t.Error("a lock of the guest that has gone, while another one is served")
			}
			_ = d.cmd.Process.Signal(unix.SIGTERM)
			d.wantStatus(0)
		})
	}
}

// vmmSocket is set in the environment of a VMM: this program, which does nothing else.
const vmmSocket = "GOVIRTIOFSD_TEST_VMM"

// runVMM locks the file f of a share and waits for its end.
func runVMM(socket string) (status int) {
	f, err := frontend.Dial(socket, frontend.Options{})
	if err == nil {
		c := frontend.NewClient(f)
		if err = c.Handshake(frontend.AllFlags); err == nil {
			_, _, err = lockFile(c)
		}
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("locked")
	time.Sleep(time.Hour)
	return 0
}

// TestKilledVMM: when the VMM is killed its guest does not come back: its locks are not kept for
// as long as those of a guest whose VMM lives.
func TestKilledVMM(t *testing.T) {
	dir := tempDir(t)
	path := filepath.Join(dir, "f")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(tempDir(t), "s")
	d := startDaemon(t, nil, "--socket-path", socket, "--shared-dir", dir, "--keep-listening", "--locks=host")
	d.waitLine(waitingLine)
	vmm, out := startVMM(t, vmmSocket, socket)
	b := make([]byte, 200)
	if n, err := out.Read(b); err != nil || string(b[:n]) != "locked\n" {
		t.Fatalf("%q, %v", b[:n], err)
	}
	if hostLocks(t, path) {
		t.Fatal("the guest's lock does not exclude the host")
	}
	if err := vmm.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	d.waitLine("the guest's session has ended")
	if !hostLocks(t, path) {
		t.Error("the lock is still there")
	}
}

// startVMM starts a process of this program in the place of a VMM: role is the variable that says what it does. It ends
// with the test. out is what it says.
func startVMM(t *testing.T, role, socket string) (vmm *exec.Cmd, out io.Reader) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	vmm = exec.Command(self)
	vmm.Env = append(os.Environ(), role+"="+socket)
	if out, err = vmm.StdoutPipe(); err == nil {
		err = vmm.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = vmm.Process.Kill(); _ = vmm.Wait() })
	return vmm, out
}

// TestReconnectAfterAll: when the keeper is killed, too, a VMM that connects again finds a daemon that knows nothing
// of its guest. Each request is answered with an error, those that were under way, too: nobody waits for ever. The guest
// can then mount the share again.
func TestReconnectAfterAll(t *testing.T) {
	for name, opts := range map[string]frontend.Options{"in QEMU's order": {}, "cloud-hypervisor": {CloudHypervisor: true}} {
		t.Run(name, func(t *testing.T) {
			dir, socket := tempDir(t), filepath.Join(tempDir(t), "s")
			if err := os.WriteFile(filepath.Join(dir, "f"), []byte("content"), 0o644); err != nil {
				t.Fatal(err)
			}
			args := []string{"--socket-path", socket, "--shared-dir", dir, "--keep-listening", "--locks=host"}
			d := startDaemon(t, nil, args...)
			d.waitLine(waitingLine)
			f, err := frontend.Dial(socket, opts)
			if err != nil {
				t.Fatal(err)
			}
			c := handshake(t, f)
			node, fh, err := lockFile(c)
			if err != nil {
				t.Fatal(err)
			}
			waits := make(chan error)
			go func() { waits <- c.Lock(node, fh, 8, wholeFile, 0, true) }()
			if _, err := c.Getattr(fp.RootID); err != nil { // the queue has taken the request before this one
				t.Fatal(err)
			}
			killTree(t, d, f.Cut)
			again := startDaemon(t, nil, args...)
			again.waitLine(waitingLine)
			if err := comeBack(f, socket); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-waits:
				if !errors.Is(err, unix.EINVAL) {
					t.Errorf("the request that was under way: %v, want EINVAL", err)
				}
			case <-time.After(60 * time.Second):
				t.Fatal("the request that was under way has no answer")
			}
			if b, err := c.Read(node, fh, 0, 100); !errors.Is(err, unix.EINVAL) {
				t.Errorf("a read by what the last daemon knew: %q, %v, want EINVAL", b, err)
			}
			if err := c.Handshake(frontend.AllFlags); err != nil {
				t.Fatalf("the share can't be mounted again: %v", err)
			}
			if _, err := c.Lookup(fp.RootID, "f"); err != nil {
				t.Error(err)
			}
			c.Close()
			_ = again.cmd.Process.Signal(unix.SIGTERM)
			again.wantStatus(0)
		})
	}
}

// killTree kills a daemon with its keeper, which starts no other worker then. Between is called when the daemon can't do
// anything any more, and its connection has not ended yet.
func killTree(t *testing.T, d *daemon, between func()) {
	t.Helper()
	all := append(daemontest.Children(t, d.cmd.Process.Pid), d.cmd.Process.Pid)
	for _, sig := range []unix.Signal{unix.SIGSTOP, unix.SIGKILL} {
		for _, pid := range all {
			if err := unix.Kill(pid, sig); err != nil {
				t.Fatal(err)
			}
		}
		if sig == unix.SIGSTOP {
			between()
		}
	}
	d.status()
}
