package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/share"
)

// Kata, virtme-ng and Proxmox have messages in the system log. In every sandbox they
// go on to get there.
func TestIntegrationSyslog(t *testing.T) {
	guest.NeedRoot(t)
	for _, box := range sandboxes() {
		t.Run(box, func(t *testing.T) {
			dir := tempDir(t)
			if err := errors.Join(os.Mkdir(dir+"/dev", 0o755), os.WriteFile(dir+"/dev/null", nil, 0o666)); err != nil {
				t.Fatal(err)
			}
			conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/dev/log", Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			d := startDaemon(t, func(cmd *exec.Cmd) {
				// A /dev that has the test's log in it.
				const script = `mount --bind /dev/null "$dev/null" && mount --rbind "$dev" /dev && exec "$0" "$@"`
				cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", script}, cmd.Args...)
				cmd.Env = append(cmd.Env, "dev="+dir+"/dev", "RUST_LOG=off")
				cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
			}, "--syslog", "--socket-path", dir+"/s", "--shared-dir", dir, "--sandbox="+box, "--socket=x")
			// Priorities of facility USER: warning, and then information.
			wantLog(t, conn, `^<12>\w{3} [ \d]\d [\d:]{8} govirtiofsd\[\d+\]: --socket is deprecated`)
			wantLog(t, conn, `^<14>.*: Waiting for vhost-user socket connection\.\.\.$`)
			c := connect(t, dir+"/s")
			wantLog(t, conn, `^<14>.*: Client connected, servicing requests$`)
			c.Close()
			wantLog(t, conn, `^<14>.*: Client disconnected, shutting down$`)
			d.wantStatus(exitOK)
			if len(d.said) > 0 {
				t.Errorf("on standard error: %s", strings.Join(d.said, "\n"))
			}
		})
	}
}

// wantLog waits for a message; others may come before it.
func wantLog(t *testing.T, conn *net.UnixConn, pattern string) {
	t.Helper()
	want := regexp.MustCompile(pattern)
	var got []string
	_ = conn.SetReadDeadline(time.Now().Add(60 * time.Second))
	for b := make([]byte, 4096); ; {
		n, err := conn.Read(b)
		if err != nil {
			t.Fatalf("no %s, but %q", pattern, got)
		}
		if want.Match(b[:n]) {
			return
		}
		got = append(got, string(b[:n]))
	}
}

// A machine without a system log gets its messages all the same.
func TestSyslogMissing(t *testing.T) {
	for _, path := range []string{"/dev/log", "/var/run/syslog", "/var/run/log"} {
		if fi, err := os.Stat(path); err == nil && fi.Mode().Type() == os.ModeSocket {
			t.Skip("this machine has a system log")
		}
	}
	o := &options{Config: share.Config{Messages: share.Messages{LogLevel: "info", Syslog: true}}}
	var b strings.Builder
	newLog(o, &b, nil).Info("hello")
	if !strings.Contains(b.String(), "INFO  govirtiofsd] hello\n") || len(o.Warnings) != 1 || strings.Contains(o.Warnings[0], "\n") {
		t.Errorf("got %q, warnings %q", b.String(), o.Warnings)
	}
}
