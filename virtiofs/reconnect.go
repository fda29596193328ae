package virtiofs

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/ledger"
	"github.com/govirtiofs/govirtiofs/vhostuser"
)

// absentees is what a device knows of a guest whose front-end has gone while the guest's
// requests were served: the guest keeps its session for a while. A front-end that comes back
// with the guest's memory continues. Any other front-end ends the session when it starts a queue.
type absentees struct {
	mu   sync.Mutex // guards the following, and is held while the session is ended
	left *vhostuser.Left
	back chan struct{} // closed when left is decided

	mapped bool // the last connection has ended with files mapped; belongs to Serve's goroutine
}

// unknownWait is the longest wait for a guest if the kernel can't report whether its VMM lives
// (before Linux 6.5). A killed VMM has given up its memory, but the daemon still holds it.
const unknownWait = 2 * time.Second

// lookForPeer is how often the device checks whether the VMM still runs.
const lookForPeer = 100 * time.Millisecond

// waiting returns what the last connection has left.
func (a *absentees) waiting() *vhostuser.Left {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.left
}

// Connected implements vhostuser.Device.
func (d *Device) Connected(same bool) {
	a := &d.absent
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.left == nil { // there was no guest, or the wait for it is over
		return
	}
	close(a.back)
	a.left, a.back = nil, nil
	if !same {
		d.endSession()
	}
}

// endSession ends the session of a guest that has gone, and forgets its requests. No queue runs.
func (d *Device) endSession() {
	d.handler.Disconnected()
	d.opts.Recovery.forgetRequests()
}

// Waits reports whether the session of a guest waits for its front-end.
func (d *Device) Waits() bool { return d.absent.waiting() != nil }

// depart is called when a connection has ended. peer is the process of the front-end, or -1,
// and the callee's.
func (d *Device) depart(ctx context.Context, left *vhostuser.Left, peer int) {
	a := &d.absent
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case left != nil && left == a.left: // a process has connected and started nothing
		closePeer(peer)
	case left == nil || d.opts.Reconnect == 0 || a.mapped || ctx.Err() != nil:
		left.Drop()
		d.endSession()
		closePeer(peer)
	default:
		wait := d.opts.Reconnect
		if peer < 0 {
			wait = min(wait, unknownWait)
		}
		d.wait(left, peer, wait)
	}
}

// wait keeps the session of a guest until its front-end comes back or the time is over. absent.mu is held.
func (d *Device) wait(left *vhostuser.Left, peer int, wait time.Duration) {
	a := &d.absent
	a.left, a.back = left, make(chan struct{})
	go d.await(left, a.back, peer, wait)
}

// inheritWait continues the wait that another process has begun; left is nil if the connection is lost. It is
// called before a queue starts.
func (d *Device) inheritWait(left *vhostuser.Left) {
	a := &d.absent
	a.mu.Lock()
	defer a.mu.Unlock()
	if left == nil || d.opts.Reconnect == 0 {
		left.Drop()
		d.endSession()
		return
	}
	d.stopped = true // an INIT is accepted, see Resume
	// Its VMM is not known any more.
	d.wait(left, -1, d.opts.Reconnect)
}

// ResumeWait continues a wait for a front-end: another process lost the connection, began the wait and then died.
// It reports whether there was such a wait. If not, the session that the Handler has taken over ends. It is
// called before Serve, in place of Resume.
func (d *Device) ResumeWait(left vhostuser.Inherited) bool {
	r := d.opts.Recovery
	if r != nil {
		area, err := r.Ledger.Area(ledger.AreaConn)
		if err == nil {
			left.Notes = area.Load()
			var l *vhostuser.Left
			if l, err = vhostuser.ResumeLeft(left, len(d.workers), r.Keeper); l != nil {
				d.opts.Log.Info(fmt.Sprintf("The session of a guest whose front-end has gone waits %v for it", d.opts.Reconnect))
				d.inheritWait(l)
				return d.opts.Reconnect > 0
			}
		}
		if err != nil {
			d.opts.Log.Warn("The session of a guest whose front-end has gone has ended", "error", err)
		}
	}
	d.endSession()
	return false
}

// await ends the session of a guest when its front-end has not come back in time, or when the front-end's process
// has ended.
func (d *Device) await(left *vhostuser.Left, back <-chan struct{}, peer int, wait time.Duration) {
	end := time.Now().Add(wait)
	defer closePeer(peer)
	tick := time.NewTicker(lookForPeer)
	defer tick.Stop()
	for said := false; !exited(peer) && time.Now().Before(end); {
		select {
		case <-back:
			return
		case <-tick.C:
		}
		if !said && !exited(peer) { // the process of most front-ends ends at once: there is no wait to report
			d.opts.Log.Info(fmt.Sprintf("The front-end has gone while the guest uses the share: its session waits %v for it", wait))
			said = true
		}
	}
	a := &d.absent
	a.mu.Lock()
	defer a.mu.Unlock()
	if left.Drop() {
		a.left, a.back = nil, nil
		d.endSession()
		if exited(peer) {
			d.opts.Log.Info("The front-end's process has ended: the guest's session has ended")
		} else {
			d.opts.Log.Info("The front-end has not come back: the guest's session has ended")
		}
	}
}

// peerOf is a descriptor of the process that has connected, or -1 if the kernel gives none.
// If the VMM has passed the connection on, it is another process than the VMM.
func peerOf(conn *net.UnixConn) (pidfd int) {
	pidfd = -1
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1
	}
	_ = raw.Control(func(fd uintptr) {
		if got, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD); err == nil {
			pidfd = got
		}
	})
	return pidfd
}

// exited reports whether the process has ended; -1 never has.
func exited(pidfd int) bool {
	if pidfd < 0 {
		return false
	}
	p := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0
}

func closePeer(pidfd int) {
	if pidfd >= 0 {
		_ = unix.Close(pidfd)
	}
}
