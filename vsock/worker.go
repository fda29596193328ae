package vsock

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/vhostuser"
	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// worker serves one running queue.
type worker struct {
	device   *Device
	vring    vhostuser.Vring
	epoll    int
	own      int // our eventfd
	chain    virtqueue.Chain
	stopping atomic.Bool
	broken   bool
	exited   chan struct{}
}

func newWorker(d *Device, v vhostuser.Vring) (w *worker, err error) {
	w = &worker{device: d, vring: v, epoll: -1, own: -1, exited: make(chan struct{})}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	if w.own, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	for _, fd := range [...]int{v.Kick, w.own} {
		if fd < 0 {
			continue
		}
		// Edges: the kick's counter is shared with the front-end and never read.
		ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd)}
		if err = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
			return nil, fmt.Errorf("epoll_ctl: %w", err)
		}
	}
	return w, nil
}

func (w *worker) close() {
	for _, fd := range [...]int{w.epoll, w.own} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// wake has the queue checked, now or when its goroutine next sleeps.
func (w *worker) wake() {
	one := [8]byte{1}
	_, _ = unix.Write(w.own, one[:])
}

// stop returns when the goroutine has ended.
func (w *worker) stop() {
	w.stopping.Store(true)
	w.vring.Call.Unblock()
	w.vring.Err.Unblock()
	w.wake()
	<-w.exited
	w.close()
}

// Pauses of a queue, in milliseconds.
const (
	pollInterval = 1   // without a kick eventfd
	gonePause    = 100 // without memory
)

// run has serve called for the queue whenever there may be something to do. serve reports whether it has
// left the ring as it is because there is nothing to put in it.
func (w *worker) run(serve func(*worker) (bool, error)) {
	defer close(w.exited)
	debug.SetPanicOnFault(true)
	var events [2]unix.EpollEvent
	for !w.stopping.Load() {
		timeout := -1
		switch err := w.batch(serve); {
		case errors.Is(err, errNoMemory):
			timeout = gonePause
		case err != nil && !w.broken:
			w.broken = true
			w.device.log.Error("vsock queue stopped; it serves again after the front-end has set it up anew", "error", err)
			w.vring.Err.Notify()
		case w.vring.Kick < 0:
			timeout = pollInterval
		}
		_, _ = unix.EpollWait(w.epoll, events[:], timeout)
	}
}

var errNoMemory = errors.New("no memory")

// batch serves what there is. A fault in guest memory costs the queue.
func (w *worker) batch(serve func(*worker) (bool, error)) (err error) {
	if w.broken {
		return nil
	}
	q := w.vring.Queue
	if q.Begin() != nil {
		return errNoMemory
	}
	defer q.End()
	defer func() {
		if r := recover(); r != nil {
			if !q.IsMemoryFault(r) {
				panic(r)
			}
			err = fmt.Errorf("guest memory: %v", r)
		}
	}()
	for !w.stopping.Load() {
		q.DisableKicks()
		idle, err := serve(w)
		if err != nil {
			return err
		}
		if q.Flush() {
			w.vring.Call.Notify()
		}
		if idle || !q.EnableKicks() {
			break
		}
	}
	return nil
}

// badChain gives a chain back that makes no sense.
func (w *worker) badChain(err error) {
	w.device.broken.Do(func() { w.device.log.Warn("vsock packet dropped", "error", err) })
	w.vring.Queue.Push(&w.chain, 0)
}

// lingerTime is how long a connection that has ended on one side may take to end on the other.
const lingerTime = 2 * time.Second
