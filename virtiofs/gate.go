package virtiofs

import "sync"

// gate is open while the device's queues run. Requests to the front-end wait for it.
//
// QEMU 11.1 has two reasons. It answers requests from its main loop, which may be
// stopping us. And a request that it reads while the device is stopped crashes it at
// once, whatever is asked for: its handlers look for the window in dev->vdev, which is
// NULL then.
type gate struct {
	mu   sync.Mutex
	open bool
	pass chan struct{} // what those who wait at a shut gate wait for; or nil
}

// set opens or shuts the gate.
func (g *gate) set(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open == open {
		return
	}
	g.open = open
	if open && g.pass != nil {
		close(g.pass)
		g.pass = nil
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
