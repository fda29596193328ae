package main

import (
	"errors"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// socketsPassed reports whether a service manager has opened the socket for this
// very process (sd_listen_fds(3)). It leaves the descriptors alone.
func socketsPassed() bool {
	return os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) && os.Getenv("LISTEN_FDS") != ""
}

// notifier tells a service manager the state of the daemon (sd_notify(3)). A
// nil notifier does nothing.
//
// It connects once, at the start: a process that serves by itself has no socket to connect to in
// its sandbox, which is why this is not go-systemd's SdNotify.
type notifier struct {
	to       *net.UnixConn
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
		log.WithError(err).Warn("Can't report to the service manager that the daemon is ready")
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

// send sends a message with a descriptor, or without (-1). It does not wait.
func (n *notifier) send(state string, fd int) error {
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	raw, err := n.to.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Control(func(to uintptr) {
		_, sendErr = unix.SendmsgN(int(to), []byte(state), rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	})
	return errors.Join(err, sendErr)
}

// poll waits until send may succeed.
func (n *notifier) poll(limit time.Duration) error {
	raw, err := n.to.SyscallConn()
	if err != nil {
		return err
	}
	var pollErr error
	err = raw.Control(func(to uintptr) {
		_, pollErr = unix.Poll([]unix.PollFd{{Fd: int32(to), Events: unix.POLLOUT}}, int(limit.Milliseconds()))
	})
	return errors.Join(err, pollErr)
}

// tell ignores errors: the daemon also serves without a service manager.
func (n *notifier) tell(state string) {
	_, _ = n.to.Write([]byte(state))
}
