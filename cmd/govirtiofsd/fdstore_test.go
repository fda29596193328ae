package main

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// serviceManager keeps descriptors as systemd does, from the messages at its socket.
type serviceManager struct {
	t       *testing.T
	address string
	conn    *net.UnixConn
	ended   chan struct{}

	mu    sync.Mutex
	kept  map[string]int
	said  []string
	pause sync.Mutex // held: it reads nothing
}

func newServiceManager(t *testing.T) *serviceManager {
	t.Helper()
	m := &serviceManager{t: t, address: filepath.Join(tempDir(t), "notify"), kept: map[string]int{}, ended: make(chan struct{})}
	var err error
	if m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.address, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(m.ended)
		for m.take() == nil {
			m.pause.Lock()
			m.pause.Unlock() //nolint:staticcheck // it waits
		}
	}()
	t.Cleanup(func() {
		m.conn.Close()
		<-m.ended
		for _, fd := range m.kept {
			_ = unix.Close(fd)
		}
	})
	return m
}

// take takes a message.
func (m *serviceManager) take() error {
	b, oob := make([]byte, 1024), make([]byte, 1024)
	n, oobn, _, _, err := m.conn.ReadMsgUnix(b, oob)
	if err != nil {
		return err
	}
	fd := -1
	if all, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(all) == 1 {
		if fds, err := unix.ParseUnixRights(&all[0]); err == nil && len(fds) == 1 {
			fd = fds[0]
		}
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(b[:n])) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		fields[key] = value
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	name := fields["FDNAME"]
	switch {
	case fields["FDSTORE"] == "1" && fd >= 0 && fields["FDPOLL"] == "0":
		if old, twice := m.kept[name]; twice {
			m.t.Errorf("%s is stored twice", name)
			_ = unix.Close(old)
		}
		m.kept[name], fd = fd, -1
	case fields["FDSTOREREMOVE"] == "1":
		if old, ok := m.kept[name]; ok {
			_ = unix.Close(old)
		}
		delete(m.kept, name)
	default:
		m.said = append(m.said, strings.TrimSpace(string(b[:n])))
	}
	if fd >= 0 { // that of BARRIER=1
		_ = unix.Close(fd)
	}
	return nil
}

func (m *serviceManager) names() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(m.kept)), " ")
}

func (m *serviceManager) until(what string, is func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("never: %s; stored: %s", what, m.names())
		}
	}
}

// start starts the daemon as a service whose socket is listener, with what is kept.
func (m *serviceManager) start(listener *os.File, args ...string) *daemon {
	m.t.Helper()
	files, names := []*os.File{listener}, []string{"govirtiofsd@x.socket"}
	m.mu.Lock()
	for name, fd := range m.kept {
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			m.t.Fatal(err)
		}
		f := os.NewFile(uintptr(own), name)
		defer f.Close()
		files, names = append(files, f), append(names, name)
	}
	m.mu.Unlock()
	return startDaemon(m.t, func(cmd *exec.Cmd) {
		cmd.ExtraFiles = files
		cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.address, storeEnv+"=4096")
		cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c",
			fmt.Sprintf(`LISTEN_PID=$$ LISTEN_FDS=%d LISTEN_FDNAMES=%s exec "$0" "$@"`, len(files), strings.Join(names, ":"))}, cmd.Args...)
	}, args...)
}

// TestFDStore: messages for a service manager, also for one that does not read.
func TestFDStore(t *testing.T) {
	m := newServiceManager(t)
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: m.address, Net: "unixgram"})
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
	if got := m.names(); got != "kick-2-0" {
		t.Errorf("stored when it is settled: %s", got)
	}
	m.pause.Lock()
	n := 0
	for err = nil; err == nil && n < 1<<20; n++ {
		err = s.Remove("kick-9-0")
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Errorf("after %d messages that nobody reads: %v", n, err)
	}
	m.pause.Unlock()
	for err = unix.EAGAIN; errors.Is(err, unix.EAGAIN); s.Wait() {
		err = s.Put("kick-3-0", 0)
	}
	s.Settled()
	if got := m.names(); got != "kick-2-0 kick-3-0" || err != nil {
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
			m.mu.Lock()
			m.kept[name] = fd
			m.mu.Unlock()
		}
		d := m.start(listener, "--shared-dir="+tempDir(t))
		d.waitLine(waitingLine)
		c := connect(t, l.Addr().String())
		if err := exercise(c, false); err != nil {
			t.Error(err)
		}
		c.Close()
		d.wantStatus(exitOK)
		m.until("nothing is stored", func() bool { return m.names() == "" })
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
			d := m.start(listener, args...)
			d.waitLine(waitingLine)
			c := connect(t, l.Addr().String())
			load := startLoad(t, c, share)
			load.run(t, restarts, func() {
				_ = d.cmd.Process.Signal(unix.SIGTERM)
				d.wantStatus(exitOK)
				d = m.start(listener, args...)
			})
			load.end()
			c.Close()
			d.wantStatus(exitOK)
			m.until("nothing is stored", func() bool { return m.names() == "" })
		})
	}
}
