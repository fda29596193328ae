// Package differential runs virtiofsd 1.14, in Rust, and govirtiofsd with the same
// options on equal trees, sends both the same requests and compares the replies.
//
// Intended differences are in list_test.go, with the reason for each. Any other
// difference is a failure. A row of the list that is not met is a failure, too.
package differential

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/spawn"
)

// TestMain makes room for the client's goroutines, which sleep in system calls.
func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 4)
	os.Exit(m.Run())
}

// peer is one of the two programs.
type peer struct {
	name, program string
}

// peers are virtiofsd and ours.
func peers(t *testing.T) [2]peer {
	t.Helper()
	theirs := guest.Peer(t, guest.RustPeer)
	guest.NeedRoot(t)
	ours, err := buildDaemon()
	if err != nil {
		t.Fatal(err)
	}
	return [2]peer{{"virtiofsd", theirs}, {"govirtiofsd", ours}}
}

// buildDaemon builds the daemon as it is shipped, once, in a directory outside of
// the repository.
var buildDaemon = sync.OnceValues(func() (string, error) {
	root, err := guest.Root()
	if err != nil {
		return "", err
	}
	out := filepath.Join(root, ".cache", "test-bin", "differential-govirtiofsd")
	return out, guest.Build("-o", out, "./cmd/govirtiofsd")
})

// daemon is a running peer with a client.
type daemon struct {
	*frontend.Client
	t       *testing.T
	peer    peer
	options []string
	dir     string // shared
	cmd     *exec.Cmd
	log     *lockedLog
	ended   chan struct{} // closed when the process has ended
}

// lockedLog keeps what a process has written.
type lockedLog struct {
	mu    sync.Mutex
	lines []string
	ready chan struct{} // closed when the daemon says that front-ends can connect
	panic chan struct{} // closed when a thread panics: the process may live on and answer nothing
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// follow reads lines until the end.
func (l *lockedLog) follow(f *os.File) {
	defer f.Close()
	panicked := false
	for s := bufio.NewScanner(f); s.Scan(); {
		l.mu.Lock()
		l.lines = append(l.lines, s.Text())
		l.mu.Unlock()
		if strings.Contains(s.Text(), "Waiting for vhost-user socket connection") {
			close(l.ready)
		}
		if strings.Contains(s.Text(), "panicked at") && !panicked {
			panicked = true
			close(l.panic)
		}
	}
}

// errEnded is the error of a process that has ended before it could be used.
var errEnded = errors.New("ended")

// launch starts a peer. It returns when the peer says that it waits for a
// front-end, or still runs after patience.
func launch(t *testing.T, p peer, patience time.Duration, args ...string) (*daemon, error) {
	t.Helper()
	d := &daemon{t: t, peer: p, log: &lockedLog{ready: make(chan struct{}), panic: make(chan struct{})}, ended: make(chan struct{})}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	d.cmd = exec.Command(p.program, args...)
	d.cmd.Stderr = w
	d.cmd.Env = []string{"PATH=" + os.Getenv("PATH")} // no RUST_LOG
	// The daemon ends also when the test is killed.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	err = spawn.Start(d.cmd)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	followed := make(chan struct{})
	go func() { d.log.follow(r); close(followed) }()
	go func() { _ = d.cmd.Wait(); close(d.ended) }()
	t.Cleanup(d.kill)
	select {
	case <-d.log.ready:
		return d, nil
	case <-d.ended:
		<-followed
		return d, errEnded
	case <-time.After(patience):
		return d, nil
	}
}

// kill ends the process with its sandboxed child.
func (d *daemon) kill() {
	_ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL)
	<-d.ended
}

var sockets atomic.Int32

// serve starts a peer on dir with a client that is not yet in a session.
func serve(t *testing.T, p peer, dir string, options []string) *daemon {
	t.Helper()
	// A new name each time: the lock of the last name is held until the old daemon is
	// gone.
	socket := filepath.Join(filepath.Dir(dir), fmt.Sprintf("sock%d", sockets.Add(1)))
	d, err := launch(t, p, 60*time.Second, append([]string{"--shared-dir", dir, "--socket-path", socket}, options...)...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", p.name, options, err, d.log)
	}
	d.dir, d.options = dir, options
	f, err := frontend.Dial(socket, frontend.Options{})
	if err != nil {
		t.Fatalf("%s: %v\n%s", p.name, err, d.log)
	}
	d.Client = frontend.NewClient(f)
	return d
}

// session is serve with the session of a guest that supports every feature.
func session(t *testing.T, p peer, dir string, options []string) *daemon {
	t.Helper()
	d := serve(t, p, dir, options)
	if err := d.Handshake(frontend.AllFlags); err != nil {
		t.Fatalf("%s: INIT: %v\n%s", p.name, err, d.log)
	}
	return d
}

// stop disconnects. Both daemons then end by themselves.
func (d *daemon) stop() {
	d.Close()
	select {
	case <-d.ended:
	case <-time.After(60 * time.Second):
		d.t.Errorf("%s does not end:\n%s", d.peer.name, d.log)
		d.kill()
	}
}

// bytesOf is the wire image of a struct.
func bytesOf[T fp.Body](v T) []byte { return append([]byte(nil), fp.Bytes(&v)...) }
