package virtiofs

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// waker is what a worker sleeps on and is woken with: the queue's kick eventfd and an
// eventfd of our own, in one edge-triggered epoll set.
//
// The kick eventfd is never read. Each write to it is a new edge, so sleeping
// costs one system call, like a blocking read would, and the descriptor works
// whether the front-end opened it blocking or not: the flag belongs to the
// description that we share with the front-end, which counts on its own setting.
// An eventfd of our own, because a front-end that takes its rings back may read
// the kick eventfd and so swallow a wake-up of ours.
type waker struct {
	epoll  int
	own    int // our eventfd
	events [2]unix.EpollEvent
}

// newWaker makes a waker; kick stays the caller's, and may be -1.
func newWaker(kick int) (w *waker, err error) {
	w = &waker{epoll: -1, own: -1}
	defer func() {
		if err != nil {
			w.close()
			w = nil
		}
	}()
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return w, fmt.Errorf("epoll_create1: %w", err)
	}
	if w.own, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return w, fmt.Errorf("eventfd: %w", err)
	}
	for _, fd := range [...]int{kick, w.own} {
		if fd < 0 {
			continue
		}
		ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd)}
		if err = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
			return w, fmt.Errorf("epoll_ctl: %w", err)
		}
	}
	return w, nil
}

// wait returns after a kick, a call of wake, timeout milliseconds (-1: no
// limit), or for no reason at all. It reports whether there was a kick.
func (w *waker) wait(timeout int) (kicked bool) {
	n, _ := unix.EpollWait(w.epoll, w.events[:], timeout)
	for i := range max(n, 0) {
		kicked = kicked || int(w.events[i].Fd) != w.own
	}
	return kicked
}

// wake wakes the worker, now or when it next sleeps.
func (w *waker) wake() {
	one := [8]byte{1}
	_, _ = unix.Write(w.own, one[:])
}

func (w *waker) close() {
	for _, fd := range [...]int{w.epoll, w.own} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}
