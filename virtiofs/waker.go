package virtiofs

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// bell is what a worker sleeps on: the queue's kick eventfd and an eventfd of
// our own, in one edge-triggered epoll set.
//
// The kick eventfd is never read. Each write to it is a new edge, so sleeping
// costs one system call, like a blocking read would, and the descriptor works
// whether the front-end opened it blocking or not: the flag belongs to the
// description that we share with the front-end, which counts on its own setting.
// An eventfd of our own, because a front-end that takes its rings back may read
// the kick eventfd and so swallow a wake-up of ours.
type bell struct {
	epoll  int
	wake   int
	events [2]unix.EpollEvent
}

// newBell makes a bell; kick stays the caller's, and may be -1.
func newBell(kick int) (b *bell, err error) {
	b = &bell{epoll: -1, wake: -1}
	defer func() {
		if err != nil {
			b.close()
			b = nil
		}
	}()
	if b.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return b, fmt.Errorf("epoll_create1: %w", err)
	}
	if b.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return b, fmt.Errorf("eventfd: %w", err)
	}
	for _, fd := range [...]int{kick, b.wake} {
		if fd < 0 {
			continue
		}
		ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd)}
		if err = unix.EpollCtl(b.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
			return b, fmt.Errorf("epoll_ctl: %w", err)
		}
	}
	return b, nil
}

// wait returns after a kick, a ring of the bell, timeout milliseconds (-1: no
// limit), or for no reason at all.
func (b *bell) wait(timeout int) { _, _ = unix.EpollWait(b.epoll, b.events[:], timeout) }

// ring wakes the worker, now or when it next sleeps.
func (b *bell) ring() {
	one := [8]byte{1}
	_, _ = unix.Write(b.wake, one[:])
}

func (b *bell) close() {
	for _, fd := range [...]int{b.epoll, b.wake} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}
