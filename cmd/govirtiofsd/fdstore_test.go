package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// newServiceManager makes a service manager for a test.
func newServiceManager(t *testing.T) *daemontest.ServiceManager {
	t.Helper()
	return daemontest.NewServiceManager(t, filepath.Join(tempDir(t), "notify"))
}

// startService starts the daemon as a service whose socket is listener, with what is kept.
func startService(t *testing.T, m *daemontest.ServiceManager, listener *os.File, args ...string) *daemon {
	t.Helper()
	done := func() {}
	defer func() { done() }()
	return startDaemon(t, func(cmd *exec.Cmd) { done = m.Pass(cmd, listener) }, args...)
}

// TestFDStore: messages for a service manager, also for one that does not read.
func TestFDStore(t *testing.T) {
	m := newServiceManager(t)
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: m.Address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv(storeEnv, "16")
	s := openStore(&notifier{to: conn})
	if s == nil || os.Getenv(storeEnv) != "" || openStore(&notifier{to: conn}) != nil {
		t.Fatal("the store is not what the environment says")
	}
	if err := errors.Join(s.Put("kick-1-0", 0), s.Put("kick-2-0", 1), s.Remove("kick-1-0")); err != nil {
		t.Fatal(err)
	}
	s.Settled()
	if got := m.Names(); got != "kick-2-0" {
		t.Errorf("stored when it is settled: %s", got)
	}
	m.Pause.Lock()
	n := 0
	for err = nil; err == nil && n < 1<<20; n++ {
		err = s.Remove("kick-9-0")
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Errorf("after %d messages that nobody reads: %v", n, err)
	}
	m.Pause.Unlock()
	for err = unix.EAGAIN; errors.Is(err, unix.EAGAIN); s.Wait() {
		err = s.Put("kick-3-0", 0)
	}
	s.Settled()
	if got := m.Names(); got != "kick-2-0 kick-3-0" || err != nil {
		t.Errorf("stored in the end: %s, %v", got, err)
	}
}

// TestTakePassed tells sockets of the unit from what was stored.
func TestTakePassed(t *testing.T) {
	t.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid()))
	t.Setenv("LISTEN_FDS", "0")
	t.Setenv("LISTEN_FDNAMES", "")
	if p := takePassed(isStored); len(p.sockets)+len(p.stored) != 0 || os.Getenv("LISTEN_PID") != "" {
		t.Errorf("%+v", p)
	}
	for name, want := range map[string]bool{
		"ledger": true, "connection-0-0": true, "region-3-0": true, "node-18446744073709551615-0": true,
		"listener-0-0": false, "govirtiofsd@x.socket": false, "connection": false, "unknown": false, "": false,
	} {
		if got := isStored(name); got != want {
			t.Errorf("%q: %t", name, got)
		}
	}
}

// TestIntegrationStored: a daemon with a store that has nothing of use starts as always, and leaves
// nothing behind.
func TestIntegrationStored(t *testing.T) {
	m := newServiceManager(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tempDir(t) + "/s", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	listener, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, stored := range []string{"", "ledger", "ledger connection-0-0 kick-0-0", "region-1-0"} {
		for name := range strings.FieldsSeq(stored) {
			fd, err := unix.MemfdCreate("not a ledger", unix.MFD_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			m.Keep(name, fd)
		}
		d := startService(t, m, listener, "--shared-dir="+tempDir(t))
		d.waitLine(waitingLine)
		c := connect(t, l.Addr().String())
		if err := exercise(c, false); err != nil {
			t.Error(err)
		}
		c.Close()
		d.wantStatus(exitOK)
		m.Until("nothing is stored", func() bool { return m.Names() == "" })
	}
}

// TestIntegrationRestarted restarts a daemon that has a store, as "systemctl restart" does, while a
// guest changes things that can't be changed twice. It notices nothing.
func TestIntegrationRestarted(t *testing.T) {
	guest.NeedRoot(t)
	const restarts = 10
	for _, box := range sandboxes() {
		t.Run(box, func(t *testing.T) {
			m := newServiceManager(t)
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tempDir(t) + "/s", Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			listener, err := l.File()
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			share := tempDir(t)
			args := []string{"--sandbox=" + box, "--shared-dir=" + share}
			d := startService(t, m, listener, args...)
			d.waitLine(waitingLine)
			c := connect(t, l.Addr().String())
			load := startLoad(t, c, share)
			load.run(t, restarts, func() {
				_ = d.cmd.Process.Signal(unix.SIGTERM)
				d.wantStatus(exitOK)
				d = startService(t, m, listener, args...)
			})
			load.end()
			c.Close()
			d.wantStatus(exitOK)
			m.Until("nothing is stored", func() bool { return m.Names() == "" })
		})
	}
}
