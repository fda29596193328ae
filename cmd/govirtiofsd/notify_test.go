package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// manager is a service manager's notification socket.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

func newManager(t *testing.T, address string) *manager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	// systemd believes its own child only, which the credentials of a message show.
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	if err != nil {
		t.Fatal(err)
	}
	return &manager{t, conn}
}

// want waits for a message of the daemon's first process.
func (m *manager) want(state string, pid int) {
	m.t.Helper()
	b, oob := make([]byte, 256), make([]byte, 256)
	_ = m.conn.SetReadDeadline(time.Now().Add(60 * time.Second))
	n, oobn, _, _, err := m.conn.ReadMsgUnix(b, oob)
	if err != nil || string(b[:n]) != state {
		m.t.Fatalf("got %q, %v, want %s", b[:n], err, state)
	}
	from := -1
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err == nil && len(messages) == 1 {
		if cred, err := unix.ParseUnixCredentials(&messages[0]); err == nil {
			from = int(cred.Pid)
		}
	}
	if from != pid {
		m.t.Errorf("%s is from process %d, want %d", state, from, pid)
	}
}

func TestIntegrationNotify(t *testing.T) {
	for _, box := range sandboxes() {
		t.Run(box, func(t *testing.T) {
			dir := tempDir(t)
			m := newManager(t, dir+"/notify")
			d := startDaemon(t, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+dir+"/notify") },
				"--socket-path", dir+"/s", "--shared-dir", dir, "--sandbox="+box)
			m.want("READY=1", d.cmd.Process.Pid)
			c := connect(t, dir+"/s")
			_ = d.cmd.Process.Signal(unix.SIGTERM)
			m.want("STOPPING=1", d.cmd.Process.Pid)
			d.wantStatus(exitOK)
			c.Close()
		})
	}
}

// The end of a front-end ends the daemon; an abstract address has no path to look
// for in the sandbox.
func TestIntegrationNotifyAbstract(t *testing.T) {
	dir := tempDir(t)
	address := fmt.Sprintf("@govirtiofsd-test-%d", os.Getpid())
	m := newManager(t, address)
	d := startDaemon(t, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+address) },
		"--socket-path", dir+"/s", "--shared-dir", dir)
	m.want("READY=1", d.cmd.Process.Pid)
	connect(t, dir+"/s").Close()
	m.want("STOPPING=1", d.cmd.Process.Pid)
	d.wantStatus(exitOK)
}

// A daemon that can't start is not ready, and a notification socket that is gone
// keeps nobody from working.
func TestIntegrationNotifyNobody(t *testing.T) {
	dir := tempDir(t)
	d := startDaemon(t, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+dir+"/nosuch") },
		"--socket-path", dir+"/s", "--shared-dir", dir)
	d.waitLine("service manager")
	d.waitLine(waitingLine)
	connect(t, dir+"/s").Close()
	d.wantStatus(exitOK)
}

// activate starts a daemon as systemd does for a socket unit: the variables name the
// process that they are for.
func activate(t *testing.T, files []*os.File, args ...string) *daemon {
	t.Helper()
	return startDaemon(t, func(cmd *exec.Cmd) {
		cmd.ExtraFiles = files
		cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c",
			fmt.Sprintf(`LISTEN_PID=$$ LISTEN_FDS=%d LISTEN_FDNAMES=share exec "$0" "$@"`, len(files))}, cmd.Args...)
	}, args...)
}

func TestIntegrationSocketActivation(t *testing.T) {
	for _, box := range sandboxes() {
		t.Run(box, func(t *testing.T) {
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
			// The socket stays, and the next front-end has the next daemon started.
			for range 2 {
				d := activate(t, []*os.File{file}, "--shared-dir", dir, "--sandbox="+box)
				connect(t, dir+"/s").Close()
				d.wantStatus(exitOK)
			}
		})
	}
}

func TestIntegrationSocketActivationErrors(t *testing.T) {
	dir := tempDir(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, test := range []struct {
		files  []*os.File
		args   string
		status int
		says   string
	}{
		{[]*os.File{null}, "", exitStart, "not a socket"},
		{[]*os.File{null, null}, "", exitStart, "want one for each daemon"},
		{[]*os.File{null}, "--socket-group=daemon", exitUsage, "SocketGroup="},
	} {
		d := activate(t, test.files, append([]string{"--shared-dir", dir}, strings.Fields(test.args)...)...)
		d.wantStatus(test.status)
		if said := strings.Join(d.said, "\n"); !strings.Contains(said, test.says) {
			t.Errorf("want %q in:\n%s", test.says, said)
		}
	}
}
