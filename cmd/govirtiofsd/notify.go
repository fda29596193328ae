package main

import (
	"io"
	"net"
	"os"
	"strconv"
	"sync"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// socketsPassed reports whether a service manager has opened the socket for this
// very process (sd_listen_fds(3)). It leaves the descriptors alone.
func socketsPassed() bool {
	return os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) && os.Getenv("LISTEN_FDS") != ""
}

// notifier tells a service manager how far the daemon is (sd_notify(3)). A nil
// notifier tells nobody.
//
// It connects once, at the start: there is no socket to connect to in the sandbox,
// which is why this is not go-systemd's SdNotify.
type notifier struct {
	to       io.WriteCloser
	readied  sync.Once
	stopOnce sync.Once
}

// openNotifier connects to the service manager that the environment names, and takes
// it out of the environment.
func openNotifier(log *logrus.Logger) *notifier {
	const name = "NOTIFY_SOCKET"
	address := os.Getenv(name)
	_ = os.Unsetenv(name)
	if address == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		log.WithError(err).Warn("The service manager can't be told that the daemon is ready")
		return nil
	}
	return &notifier{to: conn}
}

// ready says that front-ends can connect.
func (n *notifier) ready() {
	if n != nil {
		n.readied.Do(func() { n.tell("READY=1") })
	}
}

// stopping says that the daemon is about to end.
func (n *notifier) stopping() {
	if n != nil {
		n.stopOnce.Do(func() { n.tell("STOPPING=1") })
	}
}

// tell is allowed to fail: the daemon serves as well when nobody listens.
func (n *notifier) tell(state string) {
	_, _ = n.to.Write([]byte(state))
}

// link connects the two processes. The sandboxed one says when it is ready. Service managers
// believe the process that they have started only, so it is that one that passes READY on; and
// of a process that a guest may have taken over it believes no more than this. In the other
// direction a byte, or the end of the link, says that the sandboxed process is to end.
type link struct {
	file *os.File
}

// newLink makes a link. child is the other end, for the sandboxed process.
func newLink() (l *link, child *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return &link{os.NewFile(uintptr(fds[0]), "link")}, os.NewFile(uintptr(fds[1]), "link of the sandboxed process"), nil
}

// adoptLink is the sandboxed process's end.
func adoptLink(fd int) *link {
	unix.CloseOnExec(fd)
	_ = unix.SetNonblock(fd, true) // whoever waits for it takes no thread then
	return &link{os.NewFile(uintptr(fd), "link")}
}

// ready says once whether the sandboxed process was ready before it ended. n hears of it.
func (l *link) ready(n *notifier) <-chan bool {
	ready := make(chan bool, 1)
	go func() {
		_, err := l.file.Read(make([]byte, 1))
		if err == nil {
			n.ready()
		}
		ready <- err == nil
	}()
	return ready
}

// end tells the sandboxed process to end.
func (l *link) end() { _, _ = l.file.Write([]byte{0}) }

// signalEnd puts a signal in signals when this process is to end.
func (l *link) signalEnd(signals chan<- os.Signal) {
	go func() {
		_, _ = l.file.Read(make([]byte, 1))
		signals <- unix.SIGTERM
	}()
}
