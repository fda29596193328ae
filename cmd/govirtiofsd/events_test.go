package main

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/events/wire"
	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/share"
	"github.com/govirtiofs/govirtiofs/passthrough"
)

// TestEventsOff: without --events nothing stands between the server and the file system, and no system call
// more is allowed.
func TestEventsOff(t *testing.T) {
	o := &options{}
	o.Events = share.EventsNever
	inner := &passthrough.FS{}
	fs, err := o.withEvents(inner, nil, slog.Default())
	if err != nil || fs != any(inner) {
		t.Errorf("%T, %v", fs, err)
	}
	if calls := o.watchCalls(); calls != nil {
		t.Errorf("%v", calls)
	}
}

// TestIntegrationEventsConfined: the host's changes are told also by a daemon of a user without privileges, in each sandbox, and
// by one that a filter of the system calls keeps from fanotify, as those of systemd and of containers do.
func TestIntegrationEventsConfined(t *testing.T) {
	asNobody := func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	for _, test := range []struct {
		name, box, by string
		start         func(*exec.Cmd)
	}{
		{"root", "namespace", "fanotify", nil},
		{"user", "none", "fanotify", asNobody},
		{"user", "namespace", "fanotify", asNobody},
		{"EPERM", "none", "inotify", underFilter(t, "EPERM")},
		{"ENOSYS", "none", "inotify", underFilter(t, "ENOSYS")},
		{"kill", "none", "inotify", underFilter(t, "kill")},
		{"kill", "namespace", "inotify", underFilter(t, "kill,@mount")},
		{"kill", "chroot", "inotify", underFilter(t, "kill,@mount")},
	} {
		t.Run(test.name+"/"+test.box, func(t *testing.T) {
			guest.NeedRoot(t)
			dir := tempDir(t)
			if err := os.MkdirAll(dir+"/share/sub", 0o777); err != nil {
				t.Fatal(err)
			}
			d := startDaemon(t, test.start, "--socket-path", dir+"/s", "--shared-dir", dir+"/share", "--sandbox="+test.box, "--events=auto")
			d.waitLine(waitingLine)
			c := connect(t, dir+"/s")
			tell := beHelper(t, c)
			if _, err := c.Lookup(1, "sub"); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"one", "sub/two"} {
				if err := os.WriteFile(filepath.Join(dir, "share", name), nil, 0o666); err != nil {
					t.Fatal(err)
				}
				for r := tell(); r.Op != wire.Make || r.Path != name; r = tell() {
				}
			}
			c.Close()
			d.wantStatus(exitOK)
			if said := strings.Join(d.said, "\n"); !strings.Contains(said, "by="+test.by) && !strings.Contains(said, `by="`+test.by) {
				t.Errorf("not by %s:\n%s", test.by, said)
			}
		})
	}
}

// beHelper makes the client the guest's helper, which performs nothing. It returns what waits for the next record.
func beHelper(t *testing.T, c *frontend.Client) (next func() wire.Record) {
	t.Helper()
	control, err := c.Lookup(1, wire.Dir)
	if err != nil {
		t.Fatal(err)
	}
	file, err := c.Lookup(control.NodeID, wire.File)
	if err != nil {
		t.Fatal(err)
	}
	fh, err := c.Open(file.NodeID, unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	var done uint64
	var list []byte
	end := time.Now().Add(2 * time.Minute)
	next = func() (r wire.Record) {
		t.Helper()
		for len(list) == 0 { // an answer may be empty
			if time.Now().After(end) {
				t.Fatal("nothing is told")
			}
			if list, err = c.Read(file.NodeID, fh, done, 64<<10); err != nil {
				t.Fatal(err)
			}
		}
		if r, list, err = wire.Parse(list); err != nil {
			t.Fatal(err)
		}
		done = max(done, r.Seq)
		return r
	}
	if _, err := c.Lookup(control.NodeID, next().Path); !errors.Is(err, unix.ENOENT) {
		t.Fatal(err)
	}
	for next().Op != wire.Found {
	}
	return next
}
