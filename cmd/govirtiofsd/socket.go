package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// maxSocketPath is the longest path that a socket's address can hold, in bytes.
const maxSocketPath = 107

// errInUse says that a program has the socket open at a path.
var errInUse = errors.New("another program uses the socket that is there; end it or choose another path")

// bind makes a listening socket that its owner may connect to, and group if there
// is one. The path appears when the socket listens, because programs that start the
// daemon wait for the path and connect at once. bind never replaces a socket that
// another program uses.
//
// patience is how long a socket that is there may still be in use.
func bind(path, group string, patience time.Duration) (*os.File, *entry, error) {
	if err := clearStale(path, patience); err != nil {
		return nil, nil, err
	}
	tmp := path + ".new"
	if len(tmp) > maxSocketPath || clearStale(tmp, 0) != nil {
		tmp = path // the other name is a file of another program
	}
	f, err := listenAt(tmp)
	if err != nil {
		return nil, nil, fmt.Errorf("socket %s: %w", path, err)
	}
	e, err := findEntry(tmp)
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("socket %s: %w", path, err)
	}
	if group != "" {
		err = giveToGroup(tmp, group)
	}
	if err == nil && tmp != path {
		err = e.move(filepath.Base(path))
	}
	if err != nil {
		f.Close()
		e.remove()
		if errors.Is(err, unix.EEXIST) {
			err = errInUse
		}
		return nil, nil, fmt.Errorf("socket %s: %w", path, err)
	}
	return f, e, nil
}

// backlog is how many connections may wait to be accepted. The kernel lowers it to what the host
// allows, which package net reads from a file with 64 KiB of memory.
const backlog = 4096

func listenAt(path string) (*os.File, error) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		_ = unix.Close(fd)
		_ = unix.Unlink(path)
		return nil, os.NewSyscallError("listen", err)
	}
	return os.NewFile(uintptr(fd), "vhost-user socket"), nil
}

// stalePause is how long clearStale waits between two looks.
const stalePause = 20 * time.Millisecond

// clearStale removes the socket of a program that has ended. It removes no other kind of
// file, and no socket that is in use. It waits so long for the use to end.
func clearStale(path string, patience time.Duration) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(stalePause) {
		err := removeStale(path)
		if !errors.Is(err, errInUse) || !time.Now().Before(deadline) {
			return err
		}
	}
}

func removeStale(path string) error {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("socket: %w", err)
	case fi.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("socket %s: there is a file that is not a socket; remove it or choose another path", path)
	}
	e, err := findEntry(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	used, err := inUse(path)
	switch {
	case err != nil:
		err = fmt.Errorf("socket %s: can't find out whether a program uses it: %w; remove it or choose another path", path, err)
	case used:
		err = fmt.Errorf("socket %s: %w", path, errInUse)
	default:
		e.remove()
		return nil
	}
	e.close()
	return err
}

// inUse reports whether a process has the socket at path open. It connects with a
// datagram socket, which a stream socket refuses as the wrong type (EPROTOTYPE): the
// program that listens does not notice, where a real connection could end a daemon that
// serves one. ECONNREFUSED says that no process has the socket.
func inUse(path string) (bool, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	switch {
	case err == nil, errors.Is(err, unix.EPROTOTYPE):
		return true, nil
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOENT):
		return false, nil
	}
	return false, err
}

func giveToGroup(path, name string) error {
	g, err := user.LookupGroup(name)
	if errors.As(err, new(user.UnknownGroupError)) {
		return fmt.Errorf("there is no group %s on this host: make it (groupadd %s), or choose another --socket-group", name, name)
	}
	if err != nil {
		return fmt.Errorf("socket group: %w", err)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return fmt.Errorf("socket group %s: %w", name, err)
	}
	if err := os.Lchown(path, -1, gid); err != nil {
		return fmt.Errorf("socket group %s: %w", name, err)
	}
	return os.Chmod(path, 0o770)
}
