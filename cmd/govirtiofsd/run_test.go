package main

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

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
		{"no share", "no such file or directory: make the directory first (mkdir -p " + dir + "/nosuch)", []string{"--shared-dir", dir + "/nosuch", "--socket-path", dir + "/s"}},
		{"share is a fifo", "neither a directory nor a regular file", []string{"--shared-dir", dir + "/fifo", "--socket-path", dir + "/s"}},
		{"no folder for socket", "mkdir -p " + dir + "/nosuch", []string{"--shared-dir", dir, "--socket-path", dir + "/nosuch/s"}},
		{"no group for socket", "there is no group nosuch-group on this host",
			[]string{"--shared-dir", dir, "--socket-path", dir + "/s", "--socket-group=nosuch-group"}},
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
