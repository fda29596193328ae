package server

import (
	"sync"

	"golang.org/x/sys/unix"
)

// Parked is a request that a method has prepared for another process, which will answer it; see Request.Park. All methods may be
// called from any goroutine.
type Parked interface {
	// Start passes the request on, without waiting. It is false when that is not possible now: the method is then called again with
	// leave to wait. After true r.Resume is called once, when there is an answer or there will be none, even before Start has
	// returned.
	Start(r Resumer) bool
	// Interrupt says that the client does not need the answer any more. It is called after Start, and not after Resume. The answer
	// is waited for all the same.
	Interrupt()
	// Drop frees the Parked. It is the last call, and it comes once for each.
	Drop()
}

// Resumer is what a Parked is started with.
type Resumer interface {
	// Resume finishes the request on the calling goroutine, which holds no lock that a method or Drop takes.
	Resume(f *Finisher)
}

// Park is what a method returns when another process has to answer, and no goroutine shall wait for that: return r.Park(p). It may be called
// only when MayWait is not set. The method has changed nothing. Once p has been started and resumed, the method is called again with the same
// arguments, without leave to wait, and Parked returns p: the method answers with what it finds there, or
// returns WouldBlockInGo to be called once more without it.
func (r *Request) Park(p Parked) unix.Errno {
	r.parked = p
	return wouldBlockParked
}

// Parked is what an earlier call of the method has parked, when that was resumed. Otherwise it is nil.
func (r *Request) Parked() Parked {
	if r.pending == nil {
		return nil
	}
	return r.parked
}

// wouldBlockParked is WouldBlock for a request that was parked.
const wouldBlockParked = unix.Errno(4099)

// Finisher is what a goroutine needs to finish requests that were parked, one at a time. The zero value is ready for use.
type Finisher struct{ thread *thread }

// of is the Finisher's thread for requests of s.
func (f *Finisher) of(s *Server) *thread {
	if f.thread == nil || f.thread.server != s || f.thread.Broken() {
		f.thread = newWaiter(s)
	}
	return f.thread
}

// parking is the part of a pending that may be parked, or canceled.
type parking struct {
	parked Parked // nil is not, or not any more

	mu       sync.Mutex // guards the following; Parked.Interrupt is called with it
	state    parkState
	over     bool          // canceled
	canceled chan struct{} // closed then; nil until somebody wants it
}

type parkState int8

const (
	parkStarting parkState = iota
	parkStarted            // Interrupt may be called
	parkOver
)

// startParked is Start for a request that is parked; false if it has to go another way.
func (d *pending) startParked() bool {
	if !d.server.users.enter() {
		d.dropParked()
		return false
	}
	if !d.parking.parked.Start(d) {
		d.server.leaveFS()
		d.dropParked()
		return false
	}
	d.parking.mu.Lock()
	defer d.parking.mu.Unlock()
	if d.parking.state == parkOver {
		return true
	}
	d.parking.state = parkStarted
	if d.parking.over { // before it was started
		d.parking.parked.Interrupt()
	}
	return true
}

// endWait tells those who wait for the request that it is canceled. It is called once.
func (d *pending) endWait() {
	k := &d.parking
	k.mu.Lock()
	defer k.mu.Unlock()
	k.over = true
	if k.canceled != nil {
		close(k.canceled)
	}
	if k.state == parkStarted {
		k.parked.Interrupt()
	}
}

// canceled is a channel that is closed when the request is canceled.
func (d *pending) canceled() <-chan struct{} {
	k := &d.parking
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.canceled == nil {
		k.canceled = make(chan struct{})
		if k.over {
			close(k.canceled)
		}
	}
	return k.canceled
}

func (d *pending) dropParked() {
	if d.parking.parked != nil {
		d.parking.parked.Drop()
		d.parking.parked = nil
	}
}

// Resume implements Resumer.
func (d *pending) Resume(f *Finisher) {
	d.parking.mu.Lock()
	d.parking.state = parkOver
	d.parking.mu.Unlock()
	t := f.of(d.server)
	r := d.attempt(t, false, func() (uint32, unix.Errno) { return d.again(t) })
	t.letGo()
	d.dropParked()
	if waits(r.Errno) { // there was no answer, and the method waits for another
		d.server.runners.serve(d)
		return
	}
	d.server.waiting.remove(d)
	d.done(r)
	if d.server.users.leave() {
		go d.server.closeFS() // that may wait for answers, which the calling goroutine gets
	}
}
