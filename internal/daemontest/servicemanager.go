package daemontest

import (
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ServiceManager keeps descriptors as systemd does, from the messages at its socket.
type ServiceManager struct {
	Address string     // of its socket
	Pause   sync.Mutex // held: it reads nothing

	t     *testing.T
	conn  *net.UnixConn
	ended chan struct{}

	mu   sync.Mutex // guards the following
	kept map[string]int
}

// NewServiceManager makes one whose socket is at path.
func NewServiceManager(t *testing.T, path string) *ServiceManager {
	t.Helper()
	m := &ServiceManager{t: t, Address: path, kept: map[string]int{}, ended: make(chan struct{})}
	var err error
	if m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(m.ended)
		for m.take() == nil {
			m.Pause.Lock()
			m.Pause.Unlock() //nolint:staticcheck // it waits
		}
	}()
	t.Cleanup(func() {
		_ = m.conn.Close()
		<-m.ended
		for _, fd := range m.kept {
			_ = unix.Close(fd)
		}
	})
	return m
}

// take takes a message.
func (m *ServiceManager) take() error {
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
	}
	if fd >= 0 { // that of BARRIER=1
		_ = unix.Close(fd)
	}
	return nil
}

// Keep puts a descriptor into the store.
func (m *ServiceManager) Keep(name string, fd int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept[name] = fd
}

// Names are those of what is kept, in their order.
func (m *ServiceManager) Names() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(m.kept)), " ")
}

// Until waits until is is true.
func (m *ServiceManager) Until(what string, is func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("never: %s; stored: %s", what, m.Names())
		}
	}
}

// Pass has a command start as a service: with the sockets that the service has, and with what is kept. Call
// done when the command was started.
func (m *ServiceManager) Pass(cmd *exec.Cmd, sockets ...*os.File) (done func()) {
	m.t.Helper()
	files := slices.Clone(sockets)
	var names []string
	for range sockets {
		names = append(names, "govirtiofsd@x.socket")
	}
	m.mu.Lock()
	for name, fd := range m.kept {
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			m.t.Error(err)
			continue
		}
		files, names = append(files, os.NewFile(uintptr(own), name)), append(names, name)
	}
	m.mu.Unlock()
	cmd.ExtraFiles = files
	cmd.Env = append(cmd.Environ(), "NOTIFY_SOCKET="+m.Address, "FDSTORE=4096")
	listen := ""
	if len(files) > 0 {
		listen = fmt.Sprintf("LISTEN_PID=$$ LISTEN_FDS=%d LISTEN_FDNAMES=%s ", len(files), strings.Join(names, ":"))
	}
	cmd.Args = append([]string{"sh", "-c", listen + `exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	return func() {
		for _, f := range files[len(sockets):] {
			_ = f.Close()
		}
	}
}
