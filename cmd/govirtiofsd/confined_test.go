package main

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// readFile reads a file of the share as a guest does.
func readFile(t *testing.T, c *frontend.Client, node uint64) string {
	t.Helper()
	fh, err := c.Open(node, unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.Read(node, fh, 0, 4096)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A regular file can be the share: it is the root node.
func TestIntegrationSharedFile(t *testing.T) {
	for _, box := range []string{"namespace", "none"} {
		t.Run(box, func(t *testing.T) {
			dir := tempDir(t)
			if err := os.WriteFile(dir+"/file", []byte("data"), 0o644); err != nil {
				t.Fatal(err)
			}
			d := startDaemon(t, nil, "--socket-path", dir+"/s", "--shared-dir", dir+"/file", "--sandbox="+box)
			d.waitLine(waitingLine)
			c := connect(t, dir+"/s")
			if a, err := c.Getattr(1); err != nil || a.Mode&unix.S_IFMT != unix.S_IFREG {
				t.Errorf("root node: mode %o, %v", a.Mode, err)
			}
			if got := readFile(t, c, 1); got != "data" {
				t.Errorf("got %q", got)
			}
			c.Close()
			d.wantStatus(exitOK)
		})
	}
}

// serveOne serves a file of a directory to one front-end.
func serveOne(t *testing.T, setup func(*exec.Cmd), args ...string) {
	t.Helper()
	dir := tempDir(t)
	if err := os.WriteFile(dir+"/file", []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t, setup, append([]string{"--socket-path", dir + "/s", "--shared-dir", dir}, args...)...)
	d.waitLine(waitingLine)
	c := connect(t, dir+"/s")
	entry, err := c.Lookup(1, "file")
	if err != nil {
		t.Fatal(err)
	}
	if got := readFile(t, c, entry.NodeID); got != "data" {
		t.Errorf("got %q", got)
	}
	if _, err := c.Create(1, "made", unix.O_RDWR, 0o644); err != nil {
		t.Errorf("create: %v", err)
	}
	c.Close()
	d.wantStatus(exitOK)
	wantNoFiles(t, dir+"/s")
}

// Root of a user namespace (mkosi, LXD, systemd-vmspawn) can have every sandbox.
func TestIntegrationUserNamespace(t *testing.T) {
	guest.NeedRoot(t)
	for _, box := range sandboxes() {
		t.Run(box, func(t *testing.T) {
			serveOne(t, func(cmd *exec.Cmd) {
				ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids,
					Credential: &syscall.Credential{}}
			}, "--sandbox="+box)
		})
	}
}

// withoutSysAdmin runs a command as root without CAP_SYS_ADMIN.
func withoutSysAdmin(cmd *exec.Cmd) {
	cmd.Path, cmd.Args = "/usr/bin/setpriv", append([]string{"setpriv", "--bounding-set=-sys_admin"}, cmd.Args...)
	cmd.Args[2] = program
}

func TestIntegrationNoSysAdmin(t *testing.T) {
	guest.NeedRoot(t)
	for _, box := range []string{"chroot", "none"} {
		t.Run(box, func(t *testing.T) { serveOne(t, withoutSysAdmin, "--sandbox="+box) })
	}
	t.Run("namespace", func(t *testing.T) {
		dir := tempDir(t)
		d := startDaemon(t, withoutSysAdmin, "--socket-path", dir+"/s", "--shared-dir", dir)
		d.wantStatus(exitStart)
		if said := strings.Join(d.said, "\n"); !strings.Contains(said, "--sandbox=chroot") {
			t.Errorf("no way out in:\n%s", said)
		}
		wantNoFiles(t, dir+"/s")
	})
}

// RUST_LOG=error of a starter that waits for nothing but the socket, and all three
// standard files closed.
func TestIntegrationClosedStdio(t *testing.T) {
	dir := tempDir(t)
	cmd := command(t, func(c *exec.Cmd) {
		c.Path, c.Args = "/bin/sh", append([]string{"sh", "-c", `exec "$0" "$@" <&- >&- 2>&-`}, c.Args...)
	}, "--socket-path", dir+"/s", "--shared-dir", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFile(t, dir+"/s")
	connect(t, dir+"/s").Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	wantNoFiles(t, dir+"/s")
}
