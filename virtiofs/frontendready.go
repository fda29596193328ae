package virtiofs

import (
	"sync"
	"time"
)

// frontendReady says when the front-end may be sent requests: while the device's queues run.
// Until then they wait.
//
// QEMU 11.1 has two reasons. It answers requests from its main loop, which may be
// stopping us. And any request that it reads while the device is stopped crashes it at
// once: its handlers look for the window in dev->vdev, which is NULL then.
//
// A front-end that stops a device stops all its queues, one right after the other. So
// requests are held back from the first of them on. A front-end may also stop one queue for good
// (VIRTIO_F_RING_RESET): then they continue after a pause, as other queues run.
type frontendReady struct {
	mu    sync.Mutex
	ready bool
	pass  chan struct{} // closed when ready; nil if no goroutine waits
	pause *time.Timer   // sets ready; nil when nothing will
}

// stopPause is how long requests are held back after a queue has stopped while others run.
// QEMU sends the next GET_VRING_BASE as soon as it has the answer to the one before.
const stopPause = 2 * time.Second

// stopping says that a queue is about to be stopped.
func (f *frontendReady) stopping() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopTimer()
	f.ready = false
}

// stopped says that a queue has stopped while so many others run.
func (f *frontendReady) stopped(running int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopTimer(); running == 0 {
		return
	}
	var pause *time.Timer
	pause = time.AfterFunc(stopPause, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.pause == pause { // nothing has happened since
			f.set()
		}
	})
	f.pause = pause
}

// started says that a queue runs.
func (f *frontendReady) started() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set()
}

// set lets requests go. mu is held.
func (f *frontendReady) set() {
	f.stopTimer()
	f.ready = true
	if f.pass != nil {
		close(f.pass)
		f.pass = nil
	}
}

// stopTimer ends a pause. mu is held.
func (f *frontendReady) stopTimer() {
	if f.pause != nil {
		f.pause.Stop()
		f.pause = nil
	}
}

// wait returns when the front-end may be sent a request, or end is closed.
func (f *frontendReady) wait(end <-chan struct{}) {
	for {
		f.mu.Lock()
		if f.ready {
			f.mu.Unlock()
			return
		}
		if f.pass == nil {
			f.pass = make(chan struct{})
		}
		pass := f.pass
		f.mu.Unlock()
		select {
		case <-pass:
		case <-end:
			return
		}
	}
}
