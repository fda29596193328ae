package virtiofs

import (
	"context"
	"fmt"
	"net"
	"slices"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/ledger"
	"github.com/govirtiofs/govirtiofs/vhostuser"
	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// Recovery is where a Device leaves what a successor of this process needs to go on with its
// front-end, should this one die. The Handler of the device leaves its part itself.
type Recovery struct {
	Ledger *ledger.Ledger
	Keeper vhostuser.Keeper
}

// forget forgets the rings of an earlier front-end.
func (r *Recovery) forget() error {
	if r == nil {
		return nil
	}
	return r.Ledger.ForgetQueues()
}

// forgetRequests forgets the requests of a guest that has gone. No ring may be in use.
func (r *Recovery) forgetRequests() {
	if r != nil {
		_ = r.Ledger.ForgetRequests() // it can't fail where requests were noted
	}
}

// newConn prepares to serve a front-end, and returns the areas with its numbers and with its back-end
// channel.
func (d *Device) newConn(conn *net.UnixConn) (c *vhostuser.Conn, notes, channel *ledger.Area, err error) {
	c = vhostuser.NewConn(conn, d, d.opts.Log)
	r := d.opts.Recovery
	if r == nil {
		return c, nil, nil, nil
	}
	if notes, err = r.Ledger.Area(ledger.AreaConn); err != nil {
		return nil, nil, nil, err
	}
	to := vhostuser.Recovery{Notes: notes, Keeper: r.Keeper}
	if d.opts.Window != nil {
		if channel, err = r.Ledger.Area(ledger.AreaChannel); err != nil {
			return nil, nil, nil, err
		}
		to.Channel = channel
	}
	c.Recover(to)
	return c, notes, channel, nil
}

// Inherited is what another process has left of its front-end.
type Inherited struct {
	// Inherited has the descriptors; Notes are the ledger's.
	vhostuser.Inherited
	// Fail has all requests under way answered EIO: processes have died when they took them over.
	Fail bool
	// Killed says that the last process was killed from outside, so its requests are not suspected of
	// its death.
	Killed bool
	// Goes is called when the connection and its rings continue, before requests are waited for;
	// it may be nil. Done is called when the requests that the other process has finished are in
	// the used rings.
	Goes, Done func()
}

// Resume is Serve for a front-end that another process has served, which has died: its rings go on
// where they were. The Handler has taken over the session before. Options.Recovery is what the
// other process had.
func (d *Device) Resume(ctx context.Context, conn *net.UnixConn, left Inherited) error {
	if !d.serving.CompareAndSwap(false, true) {
		_ = conn.Close()
		return ErrBusy
	}
	defer d.serving.Store(false)
	c, notes, channel, err := d.newConn(conn)
	if err != nil {
		_ = conn.Close()
		return err
	}
	done := func() {
		if left.Done != nil {
			left.Done()
		}
	}
	d.takeover = newTakeover(left.Fail, left.Killed, done, d.opts.Log)
	left.Channel = channel.Load()
	left.Inherited.Left = d.inheritWait
	if left.Notes = notes.Load(); vhostuser.Ended(left.Notes) { // no message of this connection was read, so no ring ran
		if err := d.opts.Recovery.forget(); err != nil {
			_ = conn.Close()
			return err
		}
	}
	// A ring that ran may start later, when its memory is there.
	defer func() { d.takeover = nil }()
	err = c.Resume(left.Inherited)
	if d.opts.Window != nil && !d.opts.Window.Attached() {
		d.opts.Window.Attach(nil) // there is no channel: nothing is mapped
	}
	d.takeover.sorted()
	// It is not known whether a queue was stopped before, so an INIT is accepted as a reboot.
	d.stopped = d.running() < len(d.workers)
	if err != nil {
		if !d.Waits() { // otherwise the session is not this front-end's
			d.handler.Disconnected()
		}
		return err
	}
	if left.Goes != nil {
		left.Goes()
	}
	return d.serve(ctx, c, conn)
}

// noteRing has a new worker note its requests, and begin with those that another process has left.
func (d *Device) noteRing(index int, v vhostuser.Vring, w *worker) error {
	if d.opts.Recovery == nil || v.Start == 0 {
		return nil
	}
	ring, err := d.opts.Recovery.Ledger.Queue(index, v.Queue.Size())
	if err != nil {
		return fmt.Errorf("note: %w", err)
	}
	w.cells.note(ring, &w.clock)
	w.cells.index, w.cells.interrupt = index, d.interrupt
	switch {
	case ring.Start() == v.Start:
	case v.Back != nil && goesOn(ring, v.Back):
		// The requests that were given up when the front-end went have their cells still.
		ring.GoOn(v.Start)
		if d.takeover == nil {
			d.takeover = newTakeover(false, true, func() {}, d.opts.Log)
		}
	default:
		ring.Begin(v.Start, v.Queue.Base())
		return nil
	}
	v.Queue.SetBase(ring.Resume())
	if d.takeover != nil {
		w.goOn(d.takeover)
	}
	return nil
}

// goesOn reports whether a ring's part of the ledger is at the place where the ring has stopped in an earlier connection:
// the requests under way are those that it has given up.
func goesOn(ring *ledger.Queue, at *virtqueue.Position) bool {
	if ring.Next() != at.Avail {
		return false
	}
	given := slices.Sorted(slices.Values(at.Heads)) // as Unfinished has them
	for head, cell := range ring.Unfinished {
		if cell.Phase() == fuse.PhaseDone || len(given) == 0 || given[0] != head {
			return false
		}
		given = given[1:]
	}
	return len(given) == 0
}
