package virtiofs

import (
	"sync"
	"time"
)

// gate is open while the device's queues run. Requests to the front-end wait for it.
//
// QEMU 11.1 has two reasons. It answers requests from its main loop, which may be
// stopping us. And a request that it reads while the device is stopped crashes it at
// once, whatever is asked for: its handlers look for the window in dev->vdev, which is
// NULL then.
//
// A front-end that stops a device stops all its queues, one right after the other. So the
// gate is shut from the first of them on. A front-end may also stop one queue for good
// (VIRTIO_F_RING_RESET): then the gate opens again after a pause, as other queues run.
type gate struct {
	mu    sync.Mutex
	open  bool
	pass  chan struct{} // what those who wait at a shut gate wait for; or nil
	pause *time.Timer   // opens the gate; nil when nothing will
}

// gatePause is how long the gate stays shut after a queue has stopped while others run.
// QEMU sends the next GET_VRING_BASE as soon as it has the answer to the one before.
const gatePause = 2 * time.Second

// shut shuts the gate: a queue is about to be stopped.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopTimer()
	g.open = false
}

// stopped says that a queue has stopped while so many others run.
func (g *gate) stopped(running int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopTimer(); running == 0 {
		return
	}
	var pause *time.Timer
	pause = time.AfterFunc(gatePause, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.pause == pause { // nothing has happened since
			g.opened()
		}
	})
	g.pause = pause
}

// started opens the gate: a queue runs.
func (g *gate) started() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened()
}

// opened opens the gate. mu is held.
func (g *gate) opened() {
	g.stopTimer()
	g.open = true
	if g.pass != nil {
		close(g.pass)
		g.pass = nil
	}
}

// stopTimer ends a pause. mu is held.
func (g *gate) stopTimer() {
	if g.pause != nil {
		g.pause.Stop()
		g.pause = nil
	}
}

// wait returns when the gate is open, or end is closed.
func (g *gate) wait(end <-chan struct{}) {
	for {
		g.mu.Lock()
		if g.open {
			g.mu.Unlock()
			return
		}
		if g.pass == nil {
			g.pass = make(chan struct{})
		}
		pass := g.pass
		g.mu.Unlock()
		select {
		case <-pass:
		case <-end:
			return
		}
	}
}
