package spawn

import (
	"os"

	"golang.org/x/sys/unix"
)

// UntilEnded waits until p has ended, without a thread, so that p.Wait returns at once. It returns at once if the kernel
// does not support that (before Linux 5.3). Nobody else may have called p.Wait.
func UntilEnded(p *os.Process) {
	if fd, err := unix.PidfdOpen(p.Pid, 0); err == nil {
		untilReadable(fd)
	}
}

// untilReadable waits until the process of a pidfd has ended, and closes the pidfd. If it can't
// wait it returns at once.
func untilReadable(fd int) {
	unix.CloseOnExec(fd)
	if unix.SetNonblock(fd, true) != nil { // os.NewFile leaves waiting for others to a thread
		_ = unix.Close(fd)
		return
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || err != nil && err != unix.EINTR
	})
}
