package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"
)

// listener is the daemon's socket and what it leaves in the file system.
type listener struct {
	file  *os.File
	path  string   // to remove; empty with --fd
	pid   *os.File // locked while the daemon lives
	inode uint64   // of the socket, so that a successor's is not removed
}

// listen makes the socket of --socket-path, or takes the one of --fd.
func listen(opts *options) (*listener, error) {
	if opts.fd >= 0 {
		unix.CloseOnExec(opts.fd)
		return &listener{file: os.NewFile(uintptr(opts.fd), "front-end socket")}, nil
	}
	l := &listener{path: opts.socketPath}
	if err := l.writePid(); err != nil {
		return nil, err
	}
	if err := l.bind(opts.socketGroup); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// writePid makes the file PATH.pid with our process number, locked for as long as we
// live. A second daemon on the same path is refused.
func (l *listener) writePid() error {
	path := l.path + ".pid"
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("pid file: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return fmt.Errorf("pid file %s is locked: another daemon serves %s", path, l.path)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("pid file: %w", err)
	}
	l.pid = f
	return nil
}

// bind makes the socket, for the owner only or for a group too. A socket that is
// there already is replaced; anything else is not ours to remove.
func (l *listener) bind(group string) error {
	if st, err := os.Lstat(l.path); err == nil {
		if st.Mode().Type() != fs.ModeSocket {
			return fmt.Errorf("%s is there and is not a socket; remove it or choose another --socket-path", l.path)
		}
		if err := os.Remove(l.path); err != nil {
			return fmt.Errorf("old socket: %w", err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	mask := 0o077
	if group != "" {
		mask = 0o007
	}
	old := unix.Umask(mask)
	sock, err := net.ListenUnix("unix", &net.UnixAddr{Name: l.path, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", l.path, err)
	}
	defer sock.Close()
	sock.SetUnlinkOnClose(false)
	if l.file, err = sock.File(); err != nil {
		return err
	}
	var st unix.Stat_t
	if unix.Lstat(l.path, &st) == nil {
		l.inode = st.Ino
	}
	if group == "" {
		return nil
	}
	gid, err := groupID(group)
	if err != nil {
		return err
	}
	if err := os.Chown(l.path, -1, gid); err != nil {
		return fmt.Errorf("--socket-group: %w", err)
	}
	return nil
}

func groupID(name string) (int, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("--socket-group: %w", err)
	}
	return strconv.Atoi(g.Gid)
}

// close removes the socket and the pid file, if they are still ours.
func (l *listener) close() {
	if l.path != "" {
		var st unix.Stat_t
		if unix.Lstat(l.path, &st) == nil && st.Ino == l.inode {
			_ = os.Remove(l.path)
		}
	}
	if l.pid != nil {
		_ = os.Remove(l.path + ".pid")
		_ = l.pid.Close()
	}
	if l.file != nil {
		_ = l.file.Close()
	}
}
