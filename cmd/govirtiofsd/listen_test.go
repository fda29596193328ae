package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/share"
)

func atPath(path string) *options {
	return &options{Config: share.Config{Connection: share.Connection{SocketPath: path, FD: -1}}}
}

func TestEndpointByPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	e, err := openEndpoint(atPath(path), &passed{})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{path: os.ModeSocket | 0o700, path + ".pid": 0o600} {
		if fi, err := os.Lstat(name); err != nil || fi.Mode() != want {
			t.Errorf("%s: got %v, %v, want %v", name, fi.Mode(), err, want)
		}
	}
	if b, _ := os.ReadFile(path + ".pid"); string(b) != fmt.Sprintln(os.Getpid()) {
		t.Errorf("pid file has %q", b)
	}
	if c, err := net.Dial("unix", path); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	// A second daemon does not take the socket away.
	if _, err := openEndpoint(atPath(path), &passed{}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d serves", os.Getpid())) {
		t.Errorf("second daemon: got %v", err)
	}
	e.remove()
	if left, _ := filepath.Glob(path + "*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// A daemon that was killed leaves its files, which the next one takes over.
func TestEndpointStale(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if err := os.WriteFile(path+".pid", []byte("999999999\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := openEndpoint(atPath(path), &passed{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.remove()
	if b, _ := os.ReadFile(path + ".pid"); string(b) != fmt.Sprintln(os.Getpid()) {
		t.Errorf("pid file has %q", b)
	}
}

// Nothing but a socket is removed, before or after.
func TestEndpointForeignFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := errors.Join(os.WriteFile(file, []byte("precious"), 0o600), os.Symlink(file, filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file", "link"} {
		if _, err := openEndpoint(atPath(filepath.Join(dir, name)), &passed{}); err == nil || !strings.Contains(err.Error(), "not a socket") {
			t.Errorf("%s: got %v", name, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, name+".pid")); err == nil {
			t.Errorf("%s: pid file left", name)
		}
	}
	if err := os.Symlink(file, filepath.Join(dir, "s.pid")); err != nil {
		t.Fatal(err)
	}
	if _, err := openEndpoint(atPath(filepath.Join(dir, "s")), &passed{}); err == nil {
		t.Error("pid file through a symbolic link")
	}
	if b, _ := os.ReadFile(file); string(b) != "precious" {
		t.Errorf("file has %q", b)
	}

	path := filepath.Join(dir, "mine")
	e, err := openEndpoint(atPath(path), &passed{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	e.remove()
	if _, err := os.Lstat(path); err != nil {
		t.Error("somebody else's file was removed")
	}
}

func TestEndpointGroup(t *testing.T) {
	dir := t.TempDir()
	o := atPath(filepath.Join(dir, "s"))
	o.SocketGroup = "no-such-group-here"
	if _, err := openEndpoint(o, &passed{}); err == nil || !strings.Contains(err.Error(), o.SocketGroup) {
		t.Errorf("got %v", err)
	}
	if left, _ := filepath.Glob(dir + "/*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	guest.NeedRoot(t)
	o.SocketGroup = "daemon"
	e, err := openEndpoint(o, &passed{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.remove()
	var st unix.Stat_t
	if err := unix.Lstat(o.SocketPath, &st); err != nil || st.Mode&0o777 != 0o770 || st.Gid == 0 {
		t.Errorf("mode %o, group %d, %v", st.Mode, st.Gid, err)
	}
}

func TestEndpointLongPath(t *testing.T) {
	o := atPath(filepath.Join(t.TempDir(), strings.Repeat("x", 120)))
	_, err := openEndpoint(o, &passed{})
	if err == nil || len(hints(err)) == 0 {
		t.Errorf("got %v, %q", err, hints(err))
	}
}

func TestEndpointByFD(t *testing.T) {
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	tcpFile, err := tcp.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer tcpFile.Close()
	for fd, says := range map[int]string{
		1 << 20: "not open", int(file.Fd()): "not a socket", int(tcpFile.Fd()): "not a unix stream socket",
	} {
		if _, err := adoptEndpoint(fd); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %s", err, says)
		}
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	e, err := adoptEndpoint(pair[0])
	if err != nil || !e.connected {
		t.Errorf("connected socket: got %+v, %v", e, err)
	}
	e.remove()
}

// TestAcceptLacking: a front-end that comes while there are no descriptors is served when
// there are.
func TestAcceptLacking(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	a := &acceptor{listener: l}
	defer a.close()
	c, err := net.Dial("unix", path) // its descriptor is there
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, firstHeader)); err != nil {
		t.Fatal(err)
	}
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	limit := func(n uint64) {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: was.Max}); err != nil {
			t.Fatal(err)
		}
	}
	limit(0)
	defer limit(was.Cur)
	var warned error
	conn, err := a.next(t.Context(), func(err error) { warned = err; limit(was.Cur) })
	if err != nil || !errors.Is(warned, unix.EMFILE) {
		t.Fatalf("next: %v, after %v", err, warned)
	}
	conn.Close()
}

// TestIntegrationUnreadLog: nobody reads the messages any more.
func TestIntegrationUnreadLog(t *testing.T) {
	for _, sandbox := range sandboxes() {
		socket := filepath.Join(tempDir(t), "s")
		cmd := command(t, nil, "--sandbox="+sandbox, "--shared-dir="+tempDir(t), "--socket-path="+socket)
		r, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := bufio.NewScanner(r)
		for said.Scan() && !strings.Contains(said.Text(), waitingLine) {
		}
		r.Close()
		connect(t, socket).Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("--sandbox=%s: %v", sandbox, err)
		}
		wantNoFiles(t, socket)
	}
}

// TestIntegrationReadinessProbe: connections without a message, by which some see whether the daemon is
// ready, end nothing and hold nothing up.
func TestIntegrationReadinessProbe(t *testing.T) {
	for _, box := range sandboxes() {
		for _, more := range []string{"", "--keep-listening"} {
			t.Run(box+more, func(t *testing.T) {
				socket := filepath.Join(tempDir(t), "s")
				args := []string{"--sandbox=" + box, "--shared-dir=" + tempDir(t), "--socket-path=" + socket}
				if more != "" {
					args = append(args, more)
				}
				d := startDaemon(t, nil, args...)
				d.waitLine(waitingLine)
				for i := range 50 {
					probe(t, socket, i%firstHeader) // nothing, or a part of a header
				}
				c := connect(t, socket)
				if more != "" {
					probe(t, socket, 0) // it waits until the front-end has gone
				}
				if _, err := c.Getattr(1); err != nil {
					t.Error(err)
				}
				c.Close()
				if more != "" {
					c := connect(t, socket)
					if _, err := c.Getattr(1); err != nil {
						t.Error(err)
					}
					c.Close()
				}
				if more == "" {
					d.wantStatus(exitOK)
				}
			})
		}
	}
}

// probe connects, sends so many bytes, and goes.
func probe(t *testing.T, socket string, bytes int) {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, bytes)); err != nil {
		t.Error(err)
	}
}

// TestSlowHeader: a header that comes in parts is waited for, and so is one that comes with the end.
func TestSlowHeader(t *testing.T) {
	for _, parts := range [][]int{{1, firstHeader - 1}, {5, 5, 2}, {firstHeader}, {4, 4}} {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		e, err := adoptEndpoint(pair[0])
		if err != nil {
			t.Fatal(err)
		}
		a, err := newAcceptor(e)
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan error, 1)
		go func() {
			c, err := a.next(t.Context(), nil)
			if err == nil {
				c.Close()
			}
			got <- err
		}()
		sum := 0
		for _, n := range parts {
			select {
			case err := <-got:
				t.Fatalf("%d of %v: %v", sum, parts, err)
			case <-time.After(10 * time.Millisecond):
			}
			if _, err := unix.Write(pair[1], make([]byte, n)); err != nil {
				t.Fatal(err)
			}
			sum += n
		}
		_ = unix.Close(pair[1])
		if err := <-got; (err == nil) != (sum == firstHeader) {
			t.Errorf("%v: %v", parts, err)
		}
	}
}

// TestProbedConnection: of one connection that ends without a message there is nothing
// left to serve.
func TestProbedConnection(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	e, err := adoptEndpoint(pair[0])
	if err != nil {
		t.Fatal(err)
	}
	a, err := newAcceptor(e)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(pair[1])
	if _, err := a.next(t.Context(), nil); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}
