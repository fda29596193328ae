// Package fdkinds opens a descriptor of each kind that a process can send to another.
// Tests send them over a socket.
package fdkinds

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Kind is one kind of descriptor. FD is closed with the test.
type Kind struct {
	Name string
	FD   int
}

// Open opens one of each kind that this kernel lets the process have. No process reads from
// the other ends or writes to them.
func Open(t testing.TB) (kinds []Kind) {
	t.Helper()
	add := func(name string, fd int, err error) {
		if err != nil {
			t.Logf("%s: %v", name, err)
			return
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		kinds = append(kinds, Kind{name, fd})
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(name, path string, flags int) {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
		add(name, fd, err)
	}
	open("regular file", path, unix.O_RDWR)
	open("read-only file", path, unix.O_RDONLY)
	open("write-only file", path, unix.O_WRONLY)
	open("empty file", filepath.Join(dir, "empty"), unix.O_RDWR|unix.O_CREAT)
	open("path", path, unix.O_PATH)
	open("directory", dir, unix.O_RDONLY|unix.O_DIRECTORY)
	open("/dev/null", "/dev/null", unix.O_RDWR)
	open("/dev/zero", "/dev/zero", unix.O_RDWR)
	open("terminal", "/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY)
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err == nil {
		open("FIFO", filepath.Join(dir, "fifo"), unix.O_RDWR)
	}
	addPipes(add)
	addSockets(add)
	addAnonymous(add)
	return kinds
}

func addPipes(add func(string, int, error)) {
	var p [2]int
	err := unix.Pipe2(p[:], unix.O_CLOEXEC)
	add("pipe to read", p[0], err)
	add("pipe to write", p[1], err)
}

func addSockets(add func(string, int, error)) {
	for _, kind := range []struct {
		name string
		kind int
	}{{"stream socket", unix.SOCK_STREAM}, {"datagram socket", unix.SOCK_DGRAM}, {"packet socket", unix.SOCK_SEQPACKET}} {
		p, err := unix.Socketpair(unix.AF_UNIX, kind.kind|unix.SOCK_CLOEXEC, 0)
		add(kind.name, p[0], err)
		add(kind.name+"'s other end", p[1], err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	add("unconnected socket", fd, err)
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{}) // a name of the kernel's choice
	}
	if err == nil {
		err = unix.Listen(fd, 1)
	}
	add("listening socket", fd, err)
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	add("TCP socket", fd, err)
}

// addAnonymous adds the kinds without a file.
func addAnonymous(add func(string, int, error)) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	add("eventfd", fd, err)
	fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	add("non-blocking eventfd", fd, err)
	fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	add("epoll", fd, err)
	fd, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)
	add("timerfd", fd, err)
	fd, err = unix.Signalfd(-1, &unix.Sigset_t{}, unix.SFD_CLOEXEC)
	add("signalfd", fd, err)
	fd, err = unix.InotifyInit1(unix.IN_CLOEXEC)
	add("inotify", fd, err)
	fd, err = unix.PidfdOpen(os.Getpid(), 0)
	add("pidfd", fd, err)
	fd, err = unix.MemfdCreate("kind", unix.MFD_CLOEXEC)
	add("empty memfd", fd, err)
	fd, err = unix.MemfdCreate("kind", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err == nil {
		err = unix.Ftruncate(fd, 1<<20)
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW)
	}
	add("sealed memfd", fd, err)
}
