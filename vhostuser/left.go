package vhostuser

import (
	"encoding/binary"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/fdstat"
	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// Left is what is left of a connection that has ended while its rings ran: where they have
// stopped, and what the guest's memory was. A front-end that connects next and brings the same
// memory has the same guest, which does not notice: see Conn.Follow.
//
// The memory must be in files without names, such as memfds. A process that sends such a file
// again has got its descriptor from the process that made it, or is that process. It can't open
// the file by accident, as the next VM can open a memory file by its name. The memory stays
// mapped until the decision: after a file is freed, another one could get the same inode number.
type Left struct {
	memory  *virtqueue.Memory
	rings   []leftRing
	decided atomic.Bool // set by Conn or Drop

	// For a successor of this process: the keeper holds the memory's files, see leftnotes.go.
	keeper  Keeper // nil is none
	regions []regionNotes
}

// leftRing is a ring that ran; size is 0 for others.
type leftRing struct {
	size     uint16
	addr     VringAddr
	position virtqueue.Position
}

// regionOrigin is what a region of memory is in its file. It is comparable, and only a region
// that has one can be recognized.
type regionOrigin struct {
	file   fileID
	offset uint64
}

// originOf looks where a region is from; nil if that proves nothing.
func originOf(fd int, offset uint64) any {
	info, err := fdstat.Stat(fd)
	if err != nil || info.Kind() != unix.S_IFREG || info.Links != 0 {
		return nil
	}
	return regionOrigin{fileID{info.Dev, info.Ino}, offset}
}

// Left is what the connection has left, or nil: Follow was not called, its rings were stopped, or
// what was in them is lost. If no ring was started, it is what Follow was given. It is called once, after Serve, and the
// caller gives it to another Conn's Follow, or calls Drop.
func (c *Conn) Left() *Left {
	l := c.left
	c.left = nil
	return l
}

// Follow gives the connection what an earlier one has left, or nil. It is called before Serve.
// Before the first ring starts, Device.Connected is told whether the guest is the same. If it
// is, each ring that ran continues where it has stopped, and SET_VRING_BASE is ignored:
// front-ends know less. QEMU sends the used index that it saw when it noticed the end, and
// cloud-hypervisor the driver's index.
//
// Only a connection for which Follow was called leaves anything itself.
func (c *Conn) Follow(l *Left) {
	c.left, c.follows = l, true
	for _, d := range l.descriptors() {
		c.recovery.last = max(c.recovery.last, d.Number)
	}
}

// Drop forgets what was left. It reports whether no connection had decided on it yet: then the
// guest is gone. It may be called from any goroutine.
func (l *Left) Drop() bool {
	if l == nil || !l.decide() {
		return false
	}
	l.memory.Release()
	for _, d := range l.descriptors() {
		l.keeper.Drop(d)
	}
	return true
}

// decide reports whether it was called for the first time.
func (l *Left) decide() bool { return l.decided.CompareAndSwap(false, true) }

// abandonQueues tells the queues that no front-end gets the requests that they
// end early.
func (c *Conn) abandonQueues() (ran []bool) {
	ran = make([]bool, len(c.rings))
	for i := range c.rings {
		if q := c.rings[i].queue; q != nil {
			q.Abandon()
			ran[i] = true
		}
	}
	return ran
}

// leave keeps what a next connection needs, when all rings have stopped. ran says which ran
// until the end.
func (c *Conn) leave(ran []bool) {
	if !c.met { // no ring was started: it was not for this front-end
		return
	}
	c.left = nil
	if !c.follows || !slices.Contains(ran, true) {
		return
	}
	l := &Left{rings: make([]leftRing, len(c.rings))}
	for i := range c.rings {
		if r := &c.rings[i]; ran[i] {
			if !r.whole {
				return
			}
			l.rings[i] = leftRing{size: r.size, addr: r.addr, position: r.stopped}
		}
	}
	if l.memory = c.space.Load(); l.memory == nil {
		return
	}
	if c.recovery.on {
		l.keeper, l.regions = c.recovery.Keeper, c.regionNotes(l.memory)
	}
	for _, r := range l.memory.Regions() {
		if r.Origin == nil {
			l.memory.Release()
			return
		}
	}
	c.left = l
}

// meet decides whether the guest is the one of the last connection. It does so when the first
// ring starts, or when the front-end first does something that the same guest's front-end does
// not do.
func (c *Conn) meet(begins bool) {
	if c.met {
		return
	}
	c.met = true
	l := c.left
	c.left = nil
	same := false
	if l != nil && l.decide() {
		_ = c.readShared(func() error {
			same = begins && c.recognize(l)
			return nil
		})
		l.memory.Release()
		c.recovery.drops = append(c.recovery.drops, l.descriptors()...) // when the notes do not name them any more
	}
	if same {
		c.resumed = l.rings
	}
	c.device.Connected(same)
}

// recognize reports whether l is of the same memory, with the rings in it as they were left.
func (c *Conn) recognize(l *Left) bool {
	memory := c.space.Load()
	if memory == nil {
		return false
	}
	defer memory.Release()
	same := func(a, b *virtqueue.Region) bool {
		return a.Origin != nil && a.Origin == b.Origin && a.GuestAddr == b.GuestAddr && a.UserAddr == b.UserAddr && len(a.Host) == len(b.Host)
	}
	if !slices.EqualFunc(memory.Regions(), l.memory.Regions(), same) {
		return false
	}
	for i := range l.rings {
		if r := &l.rings[i]; r.size != 0 && !r.unchanged(memory) {
			return false
		}
	}
	return true
}

// unchanged reports whether a ring is as the device has left it, but for what the driver has
// offered since. The driver may have reset the device, and made a new ring in the same place.
func (l *leftRing) unchanged(m *virtqueue.Memory) bool {
	used, avail := m.User(l.addr.Used+2, 2), m.User(l.addr.Avail+2, 2)
	return used != nil && avail != nil && binary.LittleEndian.Uint16(used) == l.position.Used &&
		binary.LittleEndian.Uint16(avail)-l.position.Avail <= l.size
}

// goesOn reports whether a ring that is to start is one that was left.
func (c *Conn) goesOn(r *ring, l *leftRing) bool {
	memory := c.space.Load()
	if memory == nil {
		return false
	}
	defer memory.Release()
	return r.size == l.size && r.addr.Desc == l.addr.Desc && r.addr.Avail == l.addr.Avail && r.addr.Used == l.addr.Used &&
		l.unchanged(memory)
}

// position is where a ring continues that this process has stopped, here or in the last
// connection. It is nil if SET_VRING_BASE or the in-flight area says it. back is true if the
// front-end was away.
func (c *Conn) position(index int) (p *virtqueue.Position, back bool) {
	r := &c.rings[index]
	switch {
	case r.known:
		return &virtqueue.Position{Avail: r.base}, false
	case index < len(c.resumed) && c.goesOn(r, &c.resumed[index]):
		return &c.resumed[index].position, true
	}
	return nil, false
}
