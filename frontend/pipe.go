package frontend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

// Source makes the requests of a Pipe and takes their replies, both on the Pipe's
// thread.
type Source interface {
	// Next writes a request: Slot.SetShape, the header's Opcode and NodeID, and the
	// arguments. False leaves the slot idle for the rest of the run.
	Next(s *Slot) bool
	// Done is told of a finished request. An error ends the run.
	Done(s *Slot) error
}

// pipeSlot is what a Pipe knows of a slot.
type pipeSlot struct {
	shape   Shape
	shaped  bool
	busy    bool
	written uint32
	sent    int64
	bufs    []Buf
}

// Pipe drives one queue from one thread with several requests under way. It costs
// little: chains are built once, requests are offered and taken in batches with at
// most one kick a batch, and nothing is allocated. While a Pipe is open no Client may
// use its queue.
//
// It behaves as a Linux guest does: it asks for a call when nothing is finished, and
// sleeps until it comes.
type Pipe struct {
	// Now is the time of the batch that Source.Done is called for, in nanoseconds of a
	// clock that Slot.Sent uses as well.
	Now int64
	// Spin is how long to poll the used ring before sleeping.
	Spin time.Duration
	// Timeout is how long a request may take; 0 is 30 s.
	Timeout time.Duration
	// Kicks and Calls count notifications of all runs, Sleeps how often the thread slept.
	// Several calls may end one sleep, or come when it is awake.
	Kicks, Calls, Sleeps uint64

	q        *Queue
	slots    []*Slot
	heads    []*Slot // by descriptor
	epoll    int
	began    time.Time
	unique   uint64
	busy     int
	failed   error // the first of Source.Done in this run
	avail    uint16
	kicked   uint16
	lastUsed uint16
	eventIdx bool
	reaper   bool // the queue had one before
	events   [2]unix.EpollEvent
}

// ErrGone is the error of a run whose back-end has closed the connection.
var ErrGone = errors.New("the back-end has closed the connection")

// ErrBroken is the error of a back-end that breaks the rules of the ring.
var ErrBroken = errors.New("the back-end returned a chain that it does not have")

// NewPipe takes over a queue. It waits for a Client's requests on it.
func (q *Queue) NewPipe(depth int) (*Pipe, error) {
	if depth < 1 || depth > len(q.Slots) {
		return nil, fmt.Errorf("depth %d: the queue has room for 1 to %d requests", depth, len(q.Slots))
	}
	p := &Pipe{q: q, epoll: -1, heads: make([]*Slot, q.size), began: time.Now(), Timeout: timeout,
		eventIdx: q.f.Features&vu.FeatureEventIdx != 0}
	if q.lost {
		return nil, errors.New("an earlier Pipe has left requests under way")
	}
	for range q.Slots {
		<-q.free
	}
	p.reaper = q.stopReaper()
	p.slots = q.Slots[:depth]
	for _, s := range p.slots {
		s.pipe = pipeSlot{}
		p.heads[s.head] = s
	}
	q.mu.Lock()
	p.avail, p.kicked, p.lastUsed = q.avail, q.kicked, q.lastUsed
	q.mu.Unlock()
	if err := p.watch(); err != nil {
		p.Close()
		return nil, err
	}
	p.takeCalls() // those of the Client's requests
	return p, nil
}

// takeCalls empties the call eventfd, which has counted the device's calls: nothing
// reads it during a run.
func (p *Pipe) takeCalls() uint64 {
	fds := []unix.PollFd{{Fd: int32(p.q.call), Events: unix.POLLIN}}
	if n, _ := unix.Poll(fds, 0); n != 1 {
		return 0
	}
	var b [8]byte
	if n, err := unix.Read(p.q.call, b[:]); err != nil || n != len(b) {
		return 0
	}
	return binary.NativeEndian.Uint64(b[:])
}

// watch makes the epoll set: calls, and the end of the connection. The back-end may
// have made the eventfd non-blocking, so a read can't be used to sleep. With an
// edge trigger the eventfd need not be read.
func (p *Pipe) watch() (err error) {
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	call := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: 0}
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, p.q.call, &call); err != nil {
		return err
	}
	raw, err := p.q.f.sock.Load().SyscallConn()
	if err != nil {
		return err
	}
	gone := unix.EpollEvent{Events: unix.EPOLLRDHUP, Fd: 1}
	if cerr := raw.Control(func(fd uintptr) { err = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, int(fd), &gone) }); cerr != nil {
		return cerr
	}
	return err
}

// Close gives the queue back. Requests that a failed run has left are lost, and with
// them the queue.
func (p *Pipe) Close() {
	q := p.q
	if p.epoll >= 0 {
		_ = unix.Close(p.epoll)
	}
	q.mu.Lock()
	q.avail, q.kicked, q.lastUsed = p.avail, p.kicked, p.lastUsed
	q.mu.Unlock()
	for _, s := range q.Slots {
		if s.pipe.busy {
			q.lost = true // the device may write in it at any time
		} else {
			q.free <- s
		}
	}
	if p.reaper {
		q.startReaper()
	}
}

// Run sends what src makes until it makes no more and all replies are there. After an
// error of src it sends nothing more, but takes what is under way.
// It locks the goroutine to its thread meanwhile.
func (p *Pipe) Run(src Source) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if p.busy > 0 {
		return fmt.Errorf("%d requests of an earlier run are lost", p.busy)
	}
	p.Now = p.clock()
	defer func() { p.Calls += p.takeCalls() }()
	for _, s := range p.slots {
		p.next(src, s)
	}
	p.notify()
	for p.busy > 0 {
		n, err := p.reap(src)
		if err != nil {
			return err
		}
		if n > 0 {
			p.notify()
		} else if err := p.wait(); err != nil {
			return err
		}
	}
	err := p.failed
	p.failed = nil
	return err
}

func (p *Pipe) clock() int64 { return int64(time.Since(p.began)) }

// next offers a slot's next request, if there is one.
func (p *Pipe) next(src Source, s *Slot) {
	if p.failed != nil || !src.Next(s) {
		return
	}
	p.unique += 2
	s.Header().Unique = p.unique
	s.pipe.busy, s.pipe.sent = true, p.Now
	p.busy++
	mem, q := p.q.f.mem, p.q
	*at[uint16](mem, q.availAt+4+2*int(p.avail&(q.size-1))) = s.head
	p.avail++
	// The device may see the request from here on; the kick follows with the batch.
	atomic.StoreUint32(at[uint32](mem, q.availAt), p.availWord(!p.eventIdx))
}

// availWord is the available ring's flags and index.
func (p *Pipe) availWord(quiet bool) uint32 {
	w := uint32(p.avail) << 16
	if quiet {
		w |= availNoInterrupt
	}
	return w
}

const (
	availNoInterrupt = 1 // VRING_AVAIL_F_NO_INTERRUPT
	usedNoNotify     = 1 // VRING_USED_F_NO_NOTIFY
)

// notify kicks for what was offered since the last time, if the device wants that.
func (p *Pipe) notify() {
	old, now := p.kicked, p.avail
	if old == now {
		return
	}
	p.kicked = now
	mem, q := p.q.f.mem, p.q
	if p.eventIdx {
		event := uint16(atomic.LoadUint32(at[uint32](mem, q.usedAt+4+8*int(q.size))))
		if now-event-1 >= now-old {
			return
		}
	} else if atomic.LoadUint32(at[uint32](mem, q.usedAt))&usedNoNotify != 0 {
		return
	}
	p.Kicks++
	q.ring(q.kick)
}

func (p *Pipe) usedIndex() uint16 {
	return uint16(atomic.LoadUint32(at[uint32](p.q.f.mem, p.q.usedAt)) >> 16)
}

// reap takes what is finished and puts new requests in the place.
func (p *Pipe) reap(src Source) (n int, err error) {
	end := p.usedIndex()
	if end == p.lastUsed {
		return 0, nil
	}
	p.Now = p.clock()
	for p.lastUsed != end {
		id, written := p.q.Used(p.lastUsed)
		if id >= uint32(p.q.size) || p.heads[id] == nil || !p.heads[id].pipe.busy {
			return n, ErrBroken
		}
		s := p.heads[id]
		p.lastUsed++
		n++
		s.pipe.busy, s.pipe.written = false, written
		p.busy--
		if err := src.Done(s); err != nil && p.failed == nil {
			p.failed = err
		}
		p.next(src, s)
	}
	return n, nil
}

// wait spins and sleeps until something is finished.
func (p *Pipe) wait() error {
	if p.Spin > 0 {
		for end := p.clock() + int64(p.Spin); p.clock() < end; {
			for range 32 {
				if p.usedIndex() != p.lastUsed {
					return nil
				}
			}
		}
	}
	mem, q := p.q.f.mem, p.q
	if p.eventIdx {
		// The other half of the word, next to used_event, is unused. The store must
		// come before the load of the index, which it does, because both are atomic.
		atomic.StoreUint32(at[uint32](mem, q.availAt+4+2*int(q.size)), uint32(p.lastUsed))
	} else {
		atomic.StoreUint32(at[uint32](mem, q.availAt), p.availWord(false))
	}
	for begin := int64(0); p.usedIndex() == p.lastUsed; {
		if err := p.sleep(&begin); err != nil {
			return err
		}
	}
	if !p.eventIdx {
		atomic.StoreUint32(at[uint32](mem, q.availAt), p.availWord(true))
	}
	return nil
}

// sleep waits for a call; begin is when waiting began, or 0.
func (p *Pipe) sleep(begin *int64) error {
	p.Sleeps++
	n, err := unix.EpollWait(p.epoll, p.events[:], min(1000, int(p.Timeout.Milliseconds())+1))
	if err != nil && err != unix.EINTR {
		return err
	}
	for _, e := range p.events[:max(n, 0)] {
		if e.Fd == 1 {
			return ErrGone
		}
	}
	if n == 0 {
		now := p.clock()
		if *begin == 0 {
			*begin = now
		}
		if now-*begin > int64(p.Timeout) {
			return ErrTimeout
		}
	}
	return nil
}

// Written is how many bytes the device says it has written of a Pipe's request.
func (s *Slot) Written() int { return int(s.pipe.written) }

// Sent is when a Pipe has offered the request, on the clock of Pipe.Now.
func (s *Slot) Sent() int64 { return s.pipe.sent }

// Index is the slot's number, less than the Pipe's depth.
func (s *Slot) Index() int { return s.index }

// Err checks the reply of a Pipe's request and returns the device's errno.
func (s *Slot) Err() error {
	if s.pipe.shape.Reply < 0 {
		return nil
	}
	h, _, _ := fp.View[fp.OutHeader](s.In)
	switch {
	case s.pipe.written < outHeaderLen:
		return fmt.Errorf("reply of %d bytes", s.pipe.written)
	case h.Unique != s.Header().Unique:
		return fmt.Errorf("reply to request %d instead of %d", h.Unique, s.Header().Unique)
	case h.Error != 0:
		return unix.Errno(-h.Error)
	case h.Len != s.pipe.written:
		return fmt.Errorf("header says %d bytes, device says %d", h.Len, s.pipe.written)
	}
	return nil
}
