package fstest

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

func flock(e *env) {
	e.write("f", "")
	a, b := e.open("f", unix.O_RDONLY, 0), e.open("f", unix.O_RDONLY, 0)
	e.has("flock", unix.Flock(a, unix.LOCK_SH|unix.LOCK_NB))
	e.want("second shared lock", unix.Flock(b, unix.LOCK_SH|unix.LOCK_NB), 0)
	e.want("exclusive lock beside a shared one", unix.Flock(b, unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
	e.must(unix.Flock(a, unix.LOCK_UN))
	e.want("exclusive lock", unix.Flock(b, unix.LOCK_EX|unix.LOCK_NB), 0)
	e.want("shared lock beside an exclusive one", unix.Flock(a, unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
	done := make(chan error, 1)
	go func() { done <- unix.Flock(a, unix.LOCK_EX) }()
	select {
	case err := <-done:
		e.Errorf("did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
		e.must(unix.Flock(b, unix.LOCK_UN))
		e.want("lock after a wait", <-done, 0)
	}
	// The lock belongs to the open file, not to one descriptor of it.
	d := e.dup(a)
	e.must(unix.Close(d))
	e.want("lock after the close of a duplicate", unix.Flock(b, unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
	if e.host != "" {
		e.hostLock(func(fd int) error { return unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB) })
	}
}

// hostLock reports whether the host sees a lock: that depends on how the share is
// served.
func (e *env) hostLock(try func(fd int) error) {
	e.Helper()
	fd, err := unix.Open(e.host+"/f", unix.O_RDWR|unix.O_CLOEXEC, 0)
	e.must(err)
	defer unix.Close(fd)
	if err := try(fd); err == nil {
		e.Log("the host does not see the lock: locks are the guest's own")
	}
}

func ofdLocks(e *env) {
	e.write("f", "0123456789")
	a, b := e.open("f", unix.O_RDWR, 0), e.open("f", unix.O_RDWR, 0)
	set := func(fd int, typ int16, start, length int64) error {
		return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: typ, Start: start, Len: length})
	}
	e.has("OFD locks", set(a, unix.F_WRLCK, 0, 5))
	e.want("overlap", set(b, unix.F_WRLCK, 4, 2), unix.EAGAIN)
	e.want("beside", set(b, unix.F_WRLCK, 5, 0), 0)
	e.want("again", set(a, unix.F_RDLCK, 0, 5), 0)
	e.want("shared", set(b, unix.F_RDLCK, 0, 5), 0)
	lk := unix.Flock_t{Type: unix.F_WRLCK, Start: 0, Len: 100}
	e.must(unix.FcntlFlock(uintptr(a), unix.F_OFD_GETLK, &lk))
	if lk.Type == unix.F_UNLCK {
		e.Error("the other's lock is not seen")
	}
	e.must(set(b, unix.F_UNLCK, 0, 0))
	e.want("all", set(a, unix.F_WRLCK, 0, 0), 0)
	e.must(unix.Close(e.dup(b)))
	e.want("still all", set(b, unix.F_WRLCK, 100, 1), unix.EAGAIN)
	ro := e.open("f", unix.O_RDONLY, 0)
	e.want("write lock of a file opened for reading", set(ro, unix.F_WRLCK, 0, 1), unix.EBADF)
}

// posixLocks takes locks in two processes.
func posixLocks(e *env) {
	e.write("f", "0123456789")
	fd := e.open("f", unix.O_RDWR, 0)
	set := func(typ int16, start, length int64) error {
		return unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: typ, Start: start, Len: length})
	}
	e.has("locks", set(unix.F_WRLCK, 0, 5))
	p := e.process("f")
	conflict := unix.EAGAIN.Error()
	answer := func(what, got, want string) {
		e.Helper()
		if got != want {
			e.Errorf("%s: the other process got %q, want %q", what, got, want)
		}
	}
	answer("overlap", p.fcntl(unix.F_SETLK, unix.F_WRLCK, 4, 2), conflict)
	answer("question", p.fcntl(unix.F_GETLK, unix.F_WRLCK, 0, 0), fmt.Sprintf("ok %d 0 5", unix.F_WRLCK))
	answer("beside", p.fcntl(unix.F_SETLK, unix.F_WRLCK, 5, 0), fmt.Sprintf("ok %d 5 0", unix.F_WRLCK))
	e.want("overlap with the other process", set(unix.F_RDLCK, 9, 1), unix.EAGAIN)
	e.want("again", set(unix.F_WRLCK, 0, 5), 0)
	e.want("split", set(unix.F_UNLCK, 2, 1), 0)
	answer("in the gap", p.fcntl(unix.F_SETLK, unix.F_WRLCK, 2, 1), fmt.Sprintf("ok %d 2 1", unix.F_WRLCK))
	answer("beside the gap", p.fcntl(unix.F_SETLK, unix.F_WRLCK, 3, 1), conflict)
	// Closing any descriptor of the file ends this process's locks.
	other := e.open("f", unix.O_RDONLY, 0)
	e.must(unix.Close(other))
	answer("after a close", p.fcntl(unix.F_SETLK, unix.F_WRLCK, 0, 0), fmt.Sprintf("ok %d 0 0", unix.F_WRLCK))
	e.want("all are the other's", set(unix.F_RDLCK, 0, 1), unix.EAGAIN)
	p.end()
	e.want("the other process has ended", set(unix.F_WRLCK, 0, 0), 0)
}

// lockWait waits for a lock of another process, and has another process wait.
func lockWait(e *env) {
	e.write("f", "")
	fd := e.open("f", unix.O_RDWR, 0)
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	e.has("locks", unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &lk))
	p := e.process("f")
	p.send(unix.F_SETLKW, unix.F_WRLCK, 0, 0)
	answer := make(chan string, 1)
	go func() { answer <- p.answer() }()
	select {
	case got := <-answer:
		e.Fatalf("did not wait: %s", got)
	case <-time.After(100 * time.Millisecond):
	}
	lk.Type = unix.F_UNLCK
	e.must(unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &lk))
	if got := <-answer; got[:2] != "ok" {
		e.Errorf("the waiting process got %q", got)
	}
	lk.Type = unix.F_WRLCK
	e.want("while the other has it", unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &lk), unix.EAGAIN)
	done := make(chan error, 1)
	go func() { done <- unix.FcntlFlock(uintptr(fd), unix.F_SETLKW, &lk) }()
	time.Sleep(50 * time.Millisecond)
	p.end()
	select {
	case err := <-done:
		e.want("lock after a wait", err, 0)
	case <-time.After(60 * time.Second):
		e.Error("the end of a process did not free its lock")
	}
}
