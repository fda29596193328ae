package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/internal/daemontest"
)

// program is the daemon as it is shipped: built without cgo, which the race detector
// needs.
var program string

func TestMain(m *testing.M) {
	if socket := os.Getenv(vmmSocket); socket != "" {
		os.Exit(runVMM(socket))
	}
	if socket := os.Getenv(vmmLoad); socket != "" {
		os.Exit(runLoad(socket))
	}
	os.Exit(daemontest.Main(m, "/tmp", "govirtiofsd", &program))
}

const (
	waitingLine   = "Waiting for vhost-user socket connection"
	connectedLine = "Client connected, servicing requests"
	goneLine      = "Client disconnected, shutting down"
)

// daemon is a running daemon.
type daemon struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string // of standard error; closed at its end
	said  []string
	ended chan error
}

// tempDir is a directory that other users can reach, and whose path is short.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "govirtiofsd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// command prepares a daemon; setup may change the command.
func command(t *testing.T, setup func(*exec.Cmd), args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = os.Environ()
	if setup != nil {
		setup(cmd)
	}
	return cmd
}

func startDaemon(t *testing.T, setup func(*exec.Cmd), args ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, cmd: command(t, setup, args...), lines: make(chan string, 100), ended: make(chan error, 1)}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	d.cmd.Stderr = w
	err = d.cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer r.Close()
		for s := bufio.NewScanner(r); s.Scan(); {
			d.lines <- s.Text()
		}
		close(d.lines)
	}()
	go func() { d.ended <- d.cmd.Wait() }()
	t.Cleanup(func() { _ = d.cmd.Process.Kill() })
	return d
}

// waitLine waits until the daemon has written a line with text in it.
func (d *daemon) waitLine(text string) {
	d.t.Helper()
	d.waitLines(text)
}

// waitLines waits until the daemon has said each of the texts, in any order.
func (d *daemon) waitLines(texts ...string) {
	d.t.Helper()
	missing := slices.Clone(texts)
	deadline := time.After(time.Minute)
	for len(missing) > 0 {
		select {
		case line, ok := <-d.lines:
			if !ok {
				d.t.Fatalf("ended without %q:\n%s", missing, strings.Join(d.said, "\n"))
			}
			d.said = append(d.said, line)
			missing = slices.DeleteFunc(missing, func(text string) bool { return strings.Contains(line, text) })
		case <-deadline:
			d.t.Fatalf("no %q:\n%s", missing, strings.Join(d.said, "\n"))
		}
	}
}

// status waits for the daemon's end.
func (d *daemon) status() int {
	d.t.Helper()
	select {
	case <-d.ended:
	case <-time.After(time.Minute):
		d.t.Fatalf("does not end:\n%s", strings.Join(d.said, "\n"))
	}
	for line := range d.lines {
		d.said = append(d.said, line)
	}
	if d.t.Failed() {
		d.t.Log(strings.Join(d.said, "\n"))
	}
	return d.cmd.ProcessState.ExitCode()
}

func (d *daemon) wantStatus(want int) {
	d.t.Helper()
	if got := d.status(); got != want {
		d.t.Errorf("exit status %d, want %d:\n%s", got, want, strings.Join(d.said, "\n"))
	}
}

func wantNoFiles(t *testing.T, socket string) {
	t.Helper()
	if left, _ := filepath.Glob(socket + "*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// sandboxes are those that the caller can have.
func sandboxes() []string {
	if os.Geteuid() == 0 {
		return []string{"namespace", "chroot", "none"}
	}
	return []string{"namespace", "none"}
}

// connect is a guest that has mounted the share.
func connect(t *testing.T, socket string) *frontend.Client {
	t.Helper()
	f, err := frontend.Dial(socket, frontend.Options{Queues: 3})
	if err != nil {
		t.Fatal(err)
	}
	return handshake(t, f)
}

func handshake(t *testing.T, f *frontend.Frontend) *frontend.Client {
	t.Helper()
	c := frontend.NewClient(f)
	if err := c.Handshake(frontend.AllFlags); err != nil {
		t.Fatal(err)
	}
	return c
}

// waitFile waits for a file like a starter that polls.
func waitFile(t *testing.T, path string) {
	t.Helper()
	for range 2000 {
		if _, err := os.Lstat(path); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s does not appear", path)
}
