package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// inode is the number of what is at path, 0 if there is nothing.
func inode(path string) uint64 {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return 0
	}
	return st.Ino
}

// bound makes a socket of another program at path; listen says whether it listens.
func bound(t *testing.T, kind int, path string, listen bool) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	}
	if err == nil && listen {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestEndpointInUse: the socket of another program is neither taken nor disturbed,
// whatever its kind.
func TestEndpointInUse(t *testing.T) {
	for name, s := range map[string]struct {
		kind   int
		listen bool
	}{
		"listening": {unix.SOCK_STREAM, true}, "about to listen": {unix.SOCK_STREAM, false},
		"datagrams": {unix.SOCK_DGRAM, false}, "packets": {unix.SOCK_SEQPACKET, true},
	} {
		path := filepath.Join(tempDir(t), "s")
		fd := bound(t, s.kind, path, s.listen)
		was := inode(path)
		_, err := openEndpoint(atPath(path), &passed{})
		if !errors.Is(err, errInUse) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v", name, err)
		}
		if inode(path) != was {
			t.Errorf("%s: the socket is gone", name)
		}
		if left, _ := filepath.Glob(path + "?*"); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
		if s.listen {
			if c, _, err := unix.Accept(fd); err == nil {
				t.Errorf("%s: the program got a connection", name)
				_ = unix.Close(c)
			}
		}
		_ = unix.Close(fd)
		// Now it is what a program left that is gone.
		e, err := openEndpoint(atPath(path), &passed{})
		if err != nil {
			t.Errorf("%s, afterwards: %v", name, err)
			continue
		}
		e.remove()
	}
}

// TestEndpointAtOnce: of daemons that start at the same time one gets the socket.
func TestEndpointAtOnce(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	for range 20 {
		var wg sync.WaitGroup
		got := make([]*endpoint, 8)
		errs := make([]error, len(got))
		for i := range got {
			wg.Go(func() { got[i], errs[i] = openEndpoint(atPath(path), &passed{}) })
		}
		wg.Wait()
		won := 0
		for i, e := range got {
			if errs[i] != nil && !strings.Contains(errs[i].Error(), "is locked") {
				t.Errorf("a loser says: %v", errs[i])
			}
			if e == nil {
				continue
			}
			won++
			if !e.socket.isThere() || !e.pid.isThere() {
				t.Error("the winner has not got its files")
			}
		}
		if won != 1 {
			t.Fatalf("%d daemons have the socket", won)
		}
		for _, e := range got {
			if e != nil {
				e.remove()
			}
		}
		wantNoFiles(t, path)
	}
}

// TestEndpointReplaced: what others have put in place of our files stays. Their inodes
// could have our numbers, since nobody else uses our files any more.
func TestEndpointReplaced(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	e, err := openEndpoint(atPath(path), &passed{})
	if err != nil {
		t.Fatal(err)
	}
	ours := inode(path)
	e.file.Close() // as with a front-end connected
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	fd := bound(t, unix.SOCK_STREAM, path, true)
	defer unix.Close(fd)
	if inode(path) == ours {
		t.Error("the number was given to another file")
	}
	if err := errors.Join(os.Remove(path+".pid"), os.WriteFile(path+".pid", []byte("1\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	e.remove()
	if inode(path) == 0 || inode(path+".pid") == 0 {
		t.Error("somebody else's file was removed")
	}
}

// TestEntryMove: a file that appeared in the meantime is not replaced.
func TestEntryMove(t *testing.T) {
	dir := tempDir(t)
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := errors.Join(os.WriteFile(a, nil, 0o600), os.WriteFile(b, []byte("precious"), 0o600)); err != nil {
		t.Fatal(err)
	}
	e, err := findEntry(a)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.move("b"); !errors.Is(err, unix.EEXIST) {
		t.Errorf("move: %v", err)
	}
	if err := e.move("c"); err != nil {
		t.Errorf("move: %v", err)
	}
	e.remove()
	if left, _ := filepath.Glob(dir + "/*"); len(left) != 1 || left[0] != b {
		t.Errorf("left: %v", left)
	}
}

// TestEndpointTemporaryName: a socket for which the daemon's own name is taken is made
// all the same, and the other's stays.
func TestEndpointTemporaryName(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	fd := bound(t, unix.SOCK_STREAM, path+".new", true)
	defer unix.Close(fd)
	was := inode(path + ".new")
	e, err := openEndpoint(atPath(path), &passed{})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("unix", path); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	e.remove()
	if inode(path+".new") != was || inode(path) != 0 {
		t.Error("the wrong socket was removed")
	}
}

// TestEndpointOrphaned: the process of a daemon that was killed may have the socket for a
// while.
func TestEndpointOrphaned(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	fd := bound(t, unix.SOCK_STREAM, path, true)
	if err := os.WriteFile(path+".pid", []byte("999999999\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := removeStale(path); !errors.Is(err, errInUse) {
		t.Errorf("got %v", err)
	}
	opened := make(chan error)
	go func() {
		e, err := openEndpoint(atPath(path), &passed{})
		if err == nil {
			e.remove()
		}
		opened <- err
	}()
	_ = unix.Close(fd)
	if err := <-opened; err != nil {
		t.Error(err)
	}
}

// TestIntegrationTakeOver: a daemon that was killed leaves its files, which the next one
// takes over at once, although a front-end is still connected.
func TestIntegrationTakeOver(t *testing.T) {
	for _, box := range sandboxes() {
		for _, sig := range []unix.Signal{unix.SIGKILL, unix.SIGABRT, unix.SIGSEGV} {
			t.Run(box+"/"+unix.SignalName(sig), func(t *testing.T) {
				dir := tempDir(t)
				args := []string{"--socket-path", dir + "/s", "--shared-dir", dir, "--sandbox=" + box, "--keep-listening"}
				noCore := func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "GOTRACEBACK=none") }
				d := startDaemon(t, noCore, args...)
				d.waitLine(waitingLine)
				c := connect(t, dir+"/s")
				defer c.Close()
				_ = d.cmd.Process.Signal(sig)
				<-d.ended
				next := startDaemon(t, noCore, args...)
				next.waitLine(waitingLine)
				connect(t, dir+"/s").Close()
				if b, _ := os.ReadFile(dir + "/s.pid"); string(b) != fmt.Sprintln(next.cmd.Process.Pid) {
					t.Errorf("pid file has %q", b)
				}
				_ = next.cmd.Process.Signal(unix.SIGTERM)
				next.wantStatus(exitOK)
				wantNoFiles(t, dir+"/s")
			})
		}
	}
}

// TestIntegrationQuit: SIGQUIT has the daemon print its stacks, as any Go program, and
// leave nothing behind.
func TestIntegrationQuit(t *testing.T) {
	for _, box := range sandboxes() {
		t.Run(box, func(t *testing.T) {
			dir := tempDir(t)
			d := startDaemon(t, nil, "--socket-path", dir+"/s", "--shared-dir", dir, "--sandbox="+box)
			d.waitLine(waitingLine)
			c := connect(t, dir+"/s")
			defer c.Close()
			_ = d.cmd.Process.Signal(unix.SIGQUIT)
			d.waitLine("SIGQUIT: quit")
			d.waitLine("virtiofs.(*worker).run")
			d.wantStatus(2)
			wantNoFiles(t, dir+"/s")
		})
	}
}
