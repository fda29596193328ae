// Package integrators starts the daemon as the programs do that use virtiofsd: with
// their arguments, descriptors, working directory, environment and user. It waits
// for the daemon as they do, and ends it as they do. Each row of the table mounts
// the share once.
//
// libvirt_test.go and virtme_test.go run the programs themselves.
package integrators

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/spawn"
)

// program is the daemon under the name that most of them look for, in a directory
// that every user can reach.
var program string

func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 4)
	os.Exit(daemontest.Main(m, "/var/tmp", "virtiofsd", &program))
}

// place is where one daemon runs.
type place struct {
	dir    string // everybody may write
	share  string // has "file"
	socket string
}

const content = "what the host has written\n"

func newPlace(t *testing.T) place {
	t.Helper()
	dir := guest.TempDir(t)
	p := place{dir, filepath.Join(dir, "share"), filepath.Join(dir, "sock")}
	if err := errors.Join(os.Chmod(dir, 0o777), os.Mkdir(p.share, 0o755), os.Chmod(p.share, 0o777),
		os.WriteFile(filepath.Join(p.share, "file"), []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
	return p
}

// args fills the place into an argument list: D is the share, S the socket.
func (p place) args(list string) []string {
	args := strings.Fields(list)
	for i, a := range args {
		before, value, cut := strings.Cut(a, "=")
		switch {
		case a == "D" || a == "S":
			args[i] = p.value(a)
		case cut && (value == "D" || value == "S"):
			args[i] = before + "=" + p.value(value)
		case cut && strings.HasPrefix(value, "D,"): // -o source=D,...
			args[i] = before + "=" + p.share + value[1:]
		}
	}
	return args
}

func (p place) value(s string) string {
	if s == "D" {
		return p.share
	}
	return p.socket
}

// listen makes the socket that the starter passes on.
func (p place) listen(t *testing.T) *os.File {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.socket})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// process is a daemon that was started.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	log   *log
	ended chan struct{}
}

// log keeps standard error.
type log struct {
	mu    sync.Mutex
	text  strings.Builder
	eof   chan struct{} // closed when no process has the pipe open for writing
	wrote chan struct{} // has something after each write
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *log) follow(r *os.File) {
	defer close(l.eof)
	defer r.Close()
	b := make([]byte, 4096)
	for {
		n, err := r.Read(b)
		l.mu.Lock()
		l.text.Write(b[:n])
		l.mu.Unlock()
		select {
		case l.wrote <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// start starts the daemon; standard error is a pipe that is read all the time.
func start(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, log: &log{eof: make(chan struct{}), wrote: make(chan struct{}, 1)}, ended: make(chan struct{})}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = w
	if cmd.Stdout == nil {
		cmd.Stdout = w
	}
	// The daemon ends also when the test is killed.
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if cmd.SysProcAttr.Pdeathsig == 0 {
		cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	}
	err = spawn.Start(cmd)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	go p.log.follow(r)
	go func() { _ = cmd.Wait(); close(p.ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.ended
		if t.Failed() {
			t.Logf("%s\n%s", cmd.Args, p.log)
		}
	})
	return p
}

const patience = 60 * time.Second

// waitLine waits for a line on standard error, as Kata's runtime does.
func (p *process) waitLine(text string) {
	p.t.Helper()
	deadline := time.After(patience)
	for !strings.Contains(p.log.String(), text) {
		select {
		case <-p.log.wrote:
		case <-p.ended:
			p.t.Fatalf("ended without %q", text)
		case <-deadline:
			p.t.Fatalf("no %q", text)
		}
	}
}

// waitFile waits for a file, as the programs do that gave the daemon a path. Most of them
// wait for 10 s, libvirt for 3. A start takes milliseconds, and longer only on a busy
// machine.
func (p *process) waitFile(path string) {
	p.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Lstat(path); err == nil {
			return
		}
	}
	p.t.Fatalf("no %s after %v", path, patience)
}

// wantEnd waits for the end of the process and of its child, and for its status; -1 is
// any.
func (p *process) wantEnd(status int) {
	p.t.Helper()
	for _, end := range []chan struct{}{p.ended, p.log.eof} {
		select {
		case <-end:
		case <-time.After(patience):
			p.t.Fatal("does not end")
		}
	}
	if got := p.cmd.ProcessState.ExitCode(); status >= 0 && got != status {
		p.t.Errorf("exit status %d, want %d", got, status)
	}
}

// mount makes the first requests of a guest: INIT, a LOOKUP and a READ.
func mount(t *testing.T, socket string, writable bool) *frontend.Client {
	t.Helper()
	f, err := frontend.Dial(socket, frontend.Options{QueueSize: 1024})
	if err != nil {
		t.Fatal(err)
	}
	c := frontend.NewClient(f)
	if err := c.Handshake(frontend.AllFlags); err != nil {
		t.Fatalf("INIT: %v", err)
	}
	e, err := c.Lookup(1, "file")
	if err != nil {
		t.Fatalf("LOOKUP: %v", err)
	}
	fh, err := c.Open(e.NodeID, unix.O_RDONLY)
	if err != nil {
		t.Fatalf("OPEN: %v", err)
	}
	b, err := c.Read(e.NodeID, fh, 0, 4096)
	if err != nil || string(b) != content {
		t.Fatalf("READ: %q, %v", b, err)
	}
	_, err = c.Create(1, "made", unix.O_RDWR, 0o644)
	if writable != (err == nil) {
		t.Errorf("CREATE: %v", err)
	}
	return c
}

// as runs a command as another user.
func as(uid uint32) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
}

// asRootOf runs a command as root of a new user namespace.
func asRootOf(ids syscall.SysProcIDMap) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: []syscall.SysProcIDMap{ids}, GidMappings: []syscall.SysProcIDMap{ids},
		Credential: &syscall.Credential{}}
}
