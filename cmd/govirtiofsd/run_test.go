package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// program is the daemon as it is shipped: built without cgo, which the race detector
// needs.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("/tmp", "govirtiofsd")
	if err == nil {
		program = filepath.Join(dir, "govirtiofsd")
		err = errors.Join(os.Chmod(dir, 0o755), guest.Build("-o", program, "./cmd/govirtiofsd"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build the daemon:", err)
		os.Exit(1)
	}
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
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
	deadline := time.After(20 * time.Second)
	for {
		select {
		case line, ok := <-d.lines:
			if !ok {
				d.t.Fatalf("ended without %q:\n%s", text, strings.Join(d.said, "\n"))
			}
			d.said = append(d.said, line)
			if strings.Contains(line, text) {
				return
			}
		case <-deadline:
			d.t.Fatalf("no %q:\n%s", text, strings.Join(d.said, "\n"))
		}
	}
}

// status waits for the daemon's end.
func (d *daemon) status() int {
	d.t.Helper()
	select {
	case <-d.ended:
	case <-time.After(20 * time.Second):
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

func TestIntegrationSignals(t *testing.T) {
	for _, box := range sandboxes() {
		for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP} {
			t.Run(box+"/"+unix.SignalName(sig), func(t *testing.T) {
				dir := tempDir(t)
				d := startDaemon(t, nil, "--socket-path", dir+"/s", "--shared-dir", dir, "--sandbox="+box)
				d.waitLine(waitingLine)
				if err := d.cmd.Process.Signal(sig); err != nil {
					t.Fatal(err)
				}
				d.wantStatus(exitOK)
				wantNoFiles(t, dir+"/s")
			})
		}
	}
}

// A signal ends the daemon while a front-end is connected, too.
func TestIntegrationSignalConnected(t *testing.T) {
	for _, box := range sandboxes() {
		t.Run(box, func(t *testing.T) {
			dir := tempDir(t)
			d := startDaemon(t, nil, "--socket-path", dir+"/s", "--shared-dir", dir, "--sandbox="+box)
			d.waitLine(waitingLine)
			c := connect(t, dir+"/s")
			defer c.Close()
			_ = d.cmd.Process.Signal(unix.SIGTERM)
			d.wantStatus(exitOK)
			wantNoFiles(t, dir+"/s")
		})
	}
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

func TestIntegrationDisconnect(t *testing.T) {
	for _, box := range sandboxes() {
		t.Run(box, func(t *testing.T) {
			dir := tempDir(t)
			d := startDaemon(t, nil, "--socket-path", dir+"/s", "--shared-dir", dir, "--sandbox="+box)
			d.waitLine(waitingLine)
			c := connect(t, dir+"/s")
			d.waitLine(connectedLine)
			if _, err := net.Dial("unix", dir+"/s"); err == nil {
				t.Error("a second front-end could connect")
			}
			c.Close()
			d.waitLine(goneLine)
			d.wantStatus(exitOK)
			wantNoFiles(t, dir+"/s")
		})
	}
}

func TestIntegrationKeepListening(t *testing.T) {
	for _, box := range sandboxes() {
		t.Run(box, func(t *testing.T) {
			dir := tempDir(t)
			d := startDaemon(t, nil, "--socket-path", dir+"/s", "--shared-dir", dir, "--sandbox="+box, "--keep-listening")
			for range 3 {
				d.waitLine(waitingLine)
				c := connect(t, dir+"/s")
				if _, err := c.Getattr(1); err != nil {
					t.Error(err)
				}
				c.Close()
			}
			// A front-end that talks nonsense is dropped.
			d.waitLine(waitingLine)
			nc, err := net.Dial("unix", dir+"/s")
			if err != nil {
				t.Fatal(err)
			}
			_, _ = nc.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
			d.waitLine(waitingLine)
			nc.Close()
			_ = d.cmd.Process.Signal(unix.SIGTERM)
			d.wantStatus(exitOK)
			wantNoFiles(t, dir+"/s")
		})
	}
}

func TestIntegrationFD(t *testing.T) {
	for _, box := range sandboxes() {
		t.Run(box+"/listening", func(t *testing.T) {
			dir := tempDir(t)
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/s"})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			file, err := l.File()
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			d := startDaemon(t, func(cmd *exec.Cmd) { cmd.ExtraFiles = []*os.File{file} }, "--fd=3", "--shared-dir", dir, "--sandbox="+box)
			d.waitLine(waitingLine)
			connect(t, dir+"/s").Close()
			d.wantStatus(exitOK)
			if _, err := os.Lstat(dir + "/s"); err != nil {
				t.Error("the daemon removed a socket that is not its own")
			}
		})
		t.Run(box+"/connected", func(t *testing.T) {
			dir := tempDir(t)
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			theirs, ours := os.NewFile(uintptr(pair[0]), "theirs"), os.NewFile(uintptr(pair[1]), "ours")
			d := startDaemon(t, func(cmd *exec.Cmd) { cmd.ExtraFiles = []*os.File{theirs} }, "--fd", "3", "--shared-dir", dir, "--sandbox="+box)
			theirs.Close()
			nc, err := net.FileConn(ours)
			ours.Close()
			if err != nil {
				t.Fatal(err)
			}
			f, err := frontend.New(nc.(*net.UnixConn), frontend.Options{})
			if err != nil {
				t.Fatal(err)
			}
			handshake(t, f).Close()
			d.wantStatus(exitOK)
		})
	}
}

// The sandboxed process does not outlive the one that its starter knows.
func TestIntegrationKilled(t *testing.T) {
	dir := tempDir(t)
	d := startDaemon(t, nil, "--socket-path", dir+"/s", "--shared-dir", dir)
	d.waitLine(waitingLine)
	c := connect(t, dir+"/s")
	defer c.Close()
	_ = d.cmd.Process.Kill()
	<-d.ended
	// The pipe of standard error ends with the last process.
	deadline := time.After(30 * time.Second)
	for {
		select {
		case _, ok := <-d.lines:
			if !ok {
				return
			}
		case <-deadline:
			t.Fatal("the sandboxed process is still there")
		}
	}
}

func TestIntegrationStartFailures(t *testing.T) {
	dir := tempDir(t)
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, says string
		args       []string
	}{
		{"no share", "no such file", []string{"--shared-dir", dir + "/nosuch", "--socket-path", dir + "/s"}},
		{"share is a fifo", "neither a directory nor a regular file", []string{"--shared-dir", dir + "/fifo", "--socket-path", dir + "/s"}},
		{"no folder for socket", "no such file", []string{"--shared-dir", dir, "--socket-path", dir + "/nosuch/s"}},
		{"descriptor", "not open", []string{"--shared-dir", dir, "--fd=77"}},
		{"few files", "limit of open files", []string{"--shared-dir", dir, "--socket-path", dir + "/s", "--rlimit-nofile=100"}},
		{"no file handles", "has no file handles", []string{"--shared-dir", "/proc", "--socket-path", dir + "/s", "--sandbox=none", "--inode-file-handles=mandatory"}},
		{"chroot to file", "not a directory", []string{"--shared-dir", "/proc/self/exe", "--socket-path", dir + "/s", "--sandbox=chroot"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := startDaemon(t, nil, test.args...)
			d.wantStatus(exitStart)
			if said := strings.Join(d.said, "\n"); !strings.Contains(said, test.says) {
				t.Errorf("want %q in:\n%s", test.says, said)
			}
			wantNoFiles(t, dir+"/s")
		})
	}
}

// Where namespaces are forbidden the daemon says what else there is, and does not
// choose it.
func TestIntegrationNoNamespaces(t *testing.T) {
	guest.NeedRoot(t)
	dir := tempDir(t)
	if err := os.Mkdir(dir+"/private", 0o700); err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t, func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}, "--socket-path", dir+"/s", "--shared-dir", dir, "--sandbox=chroot")
	d.wantStatus(exitStart)
	if said := strings.Join(d.said, "\n"); !strings.Contains(said, "--sandbox=none") {
		t.Errorf("no way out in:\n%s", said)
	}
}

// A user without privileges, in the directory to share, with nothing on standard
// input.
func TestIntegrationUnprivileged(t *testing.T) {
	guest.NeedRoot(t)
	for _, box := range []string{"namespace", "none"} {
		t.Run(box, func(t *testing.T) {
			dir := tempDir(t)
			d := startDaemon(t, func(cmd *exec.Cmd) {
				cmd.Dir = dir
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			}, "--socket-path=s", "--shared-dir=.", "--sandbox="+box)
			d.waitLine(waitingLine)
			c := connect(t, dir+"/s")
			if _, err := c.Create(1, "made", unix.O_RDWR, 0o644); err != nil {
				t.Error(err)
			}
			c.Close()
			d.wantStatus(exitOK)
			if fi, err := os.Stat(dir + "/made"); err != nil || fi.Sys().(*syscall.Stat_t).Uid != 65534 {
				t.Errorf("%v, %v", fi, err)
			}
			wantNoFiles(t, dir+"/s")
		})
	}
}

// Options that close standard input, as systemd's tools do.
func TestIntegrationClosedStdin(t *testing.T) {
	dir := tempDir(t)
	d := startDaemon(t, func(c *exec.Cmd) {
		c.Path, c.Args = "/bin/sh", append([]string{"sh", "-c", `exec "$0" "$@" <&-`}, c.Args...)
	}, "--socket-path", dir+"/s", "--shared-dir", dir)
	d.waitLine(waitingLine)
	connect(t, dir+"/s").Close()
	d.wantStatus(exitOK)
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

func TestIntegrationRustLog(t *testing.T) {
	dir := tempDir(t)
	d := startDaemon(t, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "RUST_LOG=ERROR") },
		"--socket-path", dir+"/s", "--shared-dir", dir, "--sandbox=none", "--seccomp=none")
	waitFile(t, dir+"/s")
	c := connect(t, dir+"/s")
	c.Close()
	d.wantStatus(exitOK)
	if len(d.said) > 0 {
		t.Errorf("said %q", d.said)
	}
}

// exercise does a bit of everything, to see that no layer of the sandbox is in the
// way. Errors that only say that the file system can't do something are fine.
func exercise(c *frontend.Client, readOnly bool) error {
	var errs []error
	step := func(what string, err error) {
		var errno syscall.Errno
		if err == nil || errors.As(err, &errno) && (errno == unix.ENOSYS || errno == unix.EOPNOTSUPP || errno == unix.ENODATA || errno == unix.ENOTTY) {
			return
		}
		errs = append(errs, fmt.Errorf("%s: %w", what, err))
	}
	if readOnly {
		_, err := c.Mkdir(1, "d", 0o755)
		if !errors.Is(err, unix.EROFS) {
			step("mkdir", fmt.Errorf("got %v", err))
		}
		return errors.Join(errs...)
	}
	dir, err := c.Mkdir(1, "d", 0o755)
	step("mkdir", err)
	c.UID, c.GID = 1000, 1000
	f, err := c.Create(1, "f", unix.O_RDWR, 0o644)
	c.UID, c.GID = 0, 0
	step("create", err)
	node, fh := f.Entry.NodeID, f.Open.Fh
	_, err = c.Write(node, fh, 0, []byte("some data"))
	step("write", err)
	data, err := c.Read(node, fh, 0, 100)
	step("read", err)
	if string(data) != "some data" {
		step("read", fmt.Errorf("got %q", data))
	}
	step("fallocate", c.Fallocate(node, fh, 0, 1<<16, 0))
	step("flush", c.Flush(node, fh, 1))
	step("fsync", c.Fsync(node, fh))
	_, err = c.Lseek(node, fh, 0, unix.SEEK_DATA)
	step("lseek", err)
	_, err = c.Symlink(1, "l", "f")
	step("symlink", err)
	_, err = c.Link(node, dir.NodeID, "other")
	step("link", err)
	_, err = c.Mknod(1, "fifo", unix.S_IFIFO|0o600, 0)
	step("mknod", err)
	step("setxattr", c.Setxattr(node, "user.a", []byte("1"), false))
	_, err = c.Getxattr(node, "user.a", 10)
	step("getxattr", err)
	_, err = c.Listxattr(node, 100)
	step("listxattr", err)
	_, err = c.Ioctl(node, fh, unix.FS_IOC_GETFLAGS, nil, 8)
	step("ioctl", err)
	_, err = c.ReadAll(1, true)
	step("readdirplus", err)
	_, err = c.ReadAll(1, false)
	step("readdir", err)
	_, err = c.Statfs(1)
	step("statfs", err)
	step("rename", c.Rename(1, "f", dir.NodeID, "g", 0))
	step("unlink", c.Unlink(dir.NodeID, "g"))
	step("unlink", c.Unlink(dir.NodeID, "other"))
	step("rmdir", c.Rmdir(1, "d"))
	step("release", c.Release(node, fh))
	step("forget", c.Forget(node, 1))
	return errors.Join(errs...)
}

// Every sandbox with every filter lets the daemon work. A system call that is
// missing on the filter's list kills the daemon here.
func TestIntegrationServe(t *testing.T) {
	for _, box := range sandboxes() {
		for _, filter := range []string{"kill", "none"} {
			for _, more := range []string{"", "--readonly", "--xattr --locks=host --killpriv-v2 --writeback --cache=always"} {
				t.Run(box+"/"+filter+"/"+more, func(t *testing.T) {
					dir := tempDir(t)
					if err := os.Mkdir(dir+"/share", 0o755); err != nil {
						t.Fatal(err)
					}
					args := append([]string{"--socket-path", dir + "/s", "--shared-dir", dir + "/share", "--sandbox", box, "--seccomp", filter}, strings.Fields(more)...)
					d := startDaemon(t, nil, args...)
					d.waitLine(waitingLine)
					c := connect(t, dir+"/s")
					if err := exercise(c, more == "--readonly"); err != nil {
						t.Error(err)
					}
					c.Close()
					d.wantStatus(exitOK)
				})
			}
		}
	}
}
