package sandbox

import (
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Launcher starts processes that are to give up privileges soon. [SetCapabilities] takes a system call for each capability
// that leaves the bounding set, some 30, and a Go program has to make each of them on all its threads, one
// after the other. On a busy machine each of them waits for the slowest thread. The Launcher has a thread of its own, which makes
// these calls once, and from which the processes inherit the result.
//
// The thread stays until this process ends, so a parent-death signal (prctl(2)) is that of this process.
type Launcher struct {
	keep []cap.Value
	once sync.Once
	work chan func()
}

// NewLauncher makes a Launcher for processes that keep these capabilities. It has no thread before the first Do.
func NewLauncher(keep []cap.Value) *Launcher {
	return &Launcher{keep: slices.Clone(keep), work: make(chan func())}
}

// Do calls f on the thread. A process that f starts by [os/exec], as the same user and in the same user namespace, has the
// capabilities that it would have had, but all others than those that it keeps are out of its bounding set, and in its
// inheritable set instead. SetCapabilities takes them away there.
//
// Without privilege, and for other users than root, Do only calls f.
func (l *Launcher) Do(f func()) {
	if unix.Geteuid() != 0 {
		f()
		return
	}
	l.once.Do(func() { go l.run() })
	done := make(chan struct{})
	l.work <- func() {
		defer close(done)
		f()
	}
	<-done
}

// run is the thread. It never ends.
func (l *Launcher) run() {
	runtime.LockOSThread()
	if inherit() == nil { // otherwise the processes do it for themselves
		for v := range cap.MaxBits() {
			if !slices.Contains(l.keep, v) {
				_ = unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(v), 0, 0, 0)
			}
		}
	}
	for f := range l.work {
		f()
	}
}

// inherit adds this thread's permitted capabilities to its inheritable ones: root's programs have both these and those of the
// bounding set (capabilities(7)). It is for this thread only, so it does not use package cap.
func inherit() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	for i := range data {
		data[i].Inheritable |= data[i].Permitted
	}
	return unix.Capset(&header, &data[0])
}
