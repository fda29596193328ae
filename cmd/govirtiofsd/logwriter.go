package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// maxLogLine is how much of a message is written to a pipe at once: as much as the kernel
// writes whole or not at all (pipe(7), PIPE_BUF).
const maxLogLine = 4096

// steadyWriter writes lines to a descriptor and never waits for its reader: a message
// that does not fit is dropped and counted. The buffer is the kernel's, 64 KiB for a
// pipe.
type steadyWriter struct {
	mu      sync.Mutex
	put     func([]byte) error // EAGAIN: there is no room
	notice  func(n int) []byte // the line that n messages were dropped
	dropped int
}

// Write writes a line, after one that says how many were dropped, if any. It returns no
// error: the log would write that to standard error, and wait there.
func (w *steadyWriter) Write(line []byte) (int, error) {
	if len(line) == 0 {
		return 0, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dropped > 0 {
		if w.put(w.notice(w.dropped)) != nil {
			w.dropped++
			return len(line), nil
		}
		w.dropped = 0
	}
	// If the reader is gone for good, dropped lines need not be counted.
	if err := w.put(line); errors.Is(err, unix.EAGAIN) {
		w.dropped++
	}
	return len(line), nil
}

func droppedMessage(n int) string {
	return fmt.Sprintf("%d messages were dropped here: their reader was too slow", n)
}

// steadily returns how to write to f without waiting. Whether writing waits is a property
// that f's description shares with other processes, so it is left as it is.
func steadily(f *os.File) func([]byte) error {
	fd := -1
	if raw, err := f.SyscallConn(); err == nil { // Fd could change the description
		_ = raw.Control(func(n uintptr) { fd = int(n) })
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return directly(fd)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return func(b []byte) error {
			return whole(b, func(b []byte) (int, error) {
				return unix.SendmsgN(fd, b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			})
		}
	case unix.S_IFIFO, unix.S_IFCHR:
		// Another description of the same pipe or terminal, which does not wait.
		own, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err == nil {
			return directly(own)
		}
		return afterPoll(fd) // another process shares it
	}
	return directly(fd) // a regular file, which does not wait
}

func directly(fd int) func([]byte) error {
	return func(b []byte) error {
		return whole(b, func(b []byte) (int, error) { return unix.Write(fd, b) })
	}
}

// afterPoll asks before each write whether there is room. With several writers that can be
// wrong; it is for descriptors that can't be opened anew.
func afterPoll(fd int) func([]byte) error {
	return func(b []byte) error {
		return whole(b, func(b []byte) (int, error) {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
			if n, err := unix.Ppoll(p, &unix.Timespec{}, nil); err != nil || n == 0 {
				return 0, unix.EAGAIN
			}
			return unix.Write(fd, b)
		})
	}
}

// whole writes b in parts. When there is room for the first part only, the rest is lost,
// and a new line begins with what comes next.
func whole(b []byte, write func([]byte) (int, error)) error {
	for first := true; len(b) > 0; first = false {
		part := b[:min(len(b), maxLogLine)]
		n, err := write(part)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil && !first:
			return nil
		case err != nil:
			return err
		case n <= 0:
			return io.ErrShortWrite
		}
		b = b[n:]
	}
	return nil
}
