package vhostuser

import (
	"bytes"
	"errors"
	"fmt"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/fdstat"
	"github.com/govirtiofs/govirtiofs/internal/record"
	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// Inherited is what a process has left of a connection: what it has stored, and a way to take the
// descriptors that it had the Keeper hold. Take hands a descriptor over; false says that there is none.
// The process may have been taken over by its front-end, so all of it is checked like
// messages.
type Inherited struct {
	Notes, Channel []byte
	// Kept are the names of all descriptors of connections. The Keeper drops those that belong to
	// nothing.
	Kept []Descriptor
	Take func(Descriptor) (fd int, ok bool)
	// Left is called before a ring starts if an earlier connection's guest was waited for, see Conn.Follow, with what that
	// connection has left, or with nil if it is lost. A nil function drops it.
	Left func(*Left)
}

// Resume continues the connection that another process has left, up to the start of the rings
// that ran. Recover must come before it, with the same Notes and Keeper, and Serve after it.
// After an error nothing is left of the connection.
//
// A transfer of the device's state that was under way has failed: the front-end is told so when it
// asks.
func (c *Conn) Resume(left Inherited) error {
	if !c.recovery.on {
		return errors.New("vhostuser: Resume without Recover")
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	before, ended, err := readLeftOnly(left.Notes, len(c.rings))
	if len(left.Notes) == 0 || ended { // the process has not read a message yet
		if err == nil {
			err = c.resumeLeft(&before, &left)
		}
		for _, d := range left.Kept {
			if d.Kind != DescriptorSocket && (d.Kind != DescriptorRegion || !c.left.has(d.Number)) {
				c.recovery.drops = append(c.recovery.drops, d)
			}
		}
		return err
	}
	if err := c.resume(left); err != nil {
		c.teardown()
		return fmt.Errorf("vhostuser: go on with the connection: %w", err)
	}
	return nil
}

func (c *Conn) resume(left Inherited) error {
	n, err := readNotes(left.Notes, len(c.rings))
	if err != nil {
		return err
	}
	if extra := n.features &^ c.offeredFeatures(); extra != 0 {
		return fmt.Errorf("features %#x are not offered", extra)
	}
	if extra := n.protocol &^ c.offeredProtocol(); extra != 0 {
		return fmt.Errorf("protocol features %s are not offered", extra)
	}
	if err := c.device.Negotiated(n.features, n.protocol); err != nil {
		return err
	}
	c.features, c.protocol, c.status = n.features, n.protocol, n.status
	c.recovery.last, c.recovery.starts = n.last, n.starts
	regions := make(map[uint64]bool, len(n.regions))
	for i := range n.regions {
		regions[n.regions[i].number] = true
	}
	if err := c.resumeLeft(&n.left, &left); err != nil {
		return err
	}
	for i := range n.left.regions {
		regions[n.left.regions[i].number] = c.left != nil
	}
	for _, d := range left.Kept {
		if !n.names(d) && (d.Kind != DescriptorRegion || !regions[d.Number]) {
			c.recovery.drops = append(c.recovery.drops, d)
		}
	}
	if n.transfer == transferLoad {
		c.device.Reset() // it may have half of a state
	}
	for _, step := range []func(*notes, Inherited) error{c.resumeMemory, c.resumeAreas, c.resumeRings, c.resumeChannel, c.resumeAnswer} {
		if err := step(n, left); err != nil {
			return err
		}
	}
	c.recovery.resumed = true
	c.note()
	for i := range c.rings {
		if err := c.startRing(i); err != nil {
			c.log.Warn("vhost-user: a ring that ran does not run again yet", "error", err)
		}
	}
	return nil
}

// resumeLeft takes over what is left of an earlier connection. If the memory of a guest that was waited for is lost,
// the guest is not the same.
func (c *Conn) resumeLeft(n *leftNotes, left *Inherited) error {
	l, err := n.waiting(left, c.recovery.Keeper)
	if err != nil {
		c.log.Warn("vhost-user: a guest can't continue with this process", "error", err)
	}
	if n.state == leftWaits {
		if left.Left != nil {
			left.Left(l)
		} else {
			l.Drop()
			l = nil
		}
	}
	c.left = l
	if n.state == leftBack {
		c.resumed = n.rings
	}
	return nil
}

// take takes a descriptor that must be there.
func (l *Inherited) take(kind DescriptorKind, number uint64) (int, error) {
	fd, ok := l.Take(Descriptor{kind, number})
	if !ok {
		return -1, fmt.Errorf("descriptor %d of kind %d is lost", number, kind)
	}
	return fd, nil
}

// mapAgain maps the regions of a guest's memory, whose files are among what is left. The caller owns them;
// with an error there are none.
func mapAgain(notes []regionNotes, left *Inherited) (regions []*virtqueue.Region, err error) {
	defer func() {
		if err != nil {
			releaseRegions(regions)
			regions = nil
		}
	}()
	for i := range notes {
		r := &notes[i]
		fd, err := left.take(DescriptorRegion, r.number)
		if err != nil {
			return regions, err
		}
		region, err := mapRegion(&r.MemoryRegion, fd, true)
		if err != nil {
			return regions, fmt.Errorf("region at guest address %#x: %w", r.GuestAddr, err)
		}
		regions = append(regions, region)
	}
	return regions, nil
}

func releaseRegions(regions []*virtqueue.Region) {
	for _, r := range regions {
		r.Release()
	}
}

// resumeMemory maps the guest's memory again.
func (c *Conn) resumeMemory(n *notes, left Inherited) error {
	regions, err := mapAgain(n.regions, &left)
	if err != nil || len(regions) == 0 {
		return err
	}
	memory, err := virtqueue.NewMemory(regions)
	if err != nil {
		releaseRegions(regions)
		return err
	}
	for i, region := range regions {
		r := &n.regions[i]
		c.recovery.regions[region] = noted{number: r.number, offset: r.MmapOffset}
	}
	c.space.Store(memory)
	c.regions = regions
	return nil
}

// resumeAreas maps the dirty log and the in-flight area again.
func (c *Conn) resumeAreas(n *notes, left Inherited) error {
	if n.log.number != 0 {
		fd, err := left.take(DescriptorLog, n.log.number)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := c.dirty.open(fd, n.log.offset, n.log.size); err != nil {
			return fmt.Errorf("dirty log: %w", err)
		}
		c.recovery.log = n.log
	}
	if n.inflight.number == 0 {
		return nil
	}
	fd, err := left.take(DescriptorInflight, n.inflight.number)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	need, err := c.inflightNeed(&n.area)
	if err != nil {
		return fmt.Errorf("in-flight area: %w", err)
	}
	if n.inflight.size < need || n.inflight.offset%8 != 0 {
		return fmt.Errorf("in-flight area of %#x bytes at offset %#x, want %#x", n.inflight.size, n.inflight.offset, need)
	}
	area, err := mapFile(fd, n.inflight.offset, n.inflight.size)
	if err != nil {
		return fmt.Errorf("in-flight area: %w", err)
	}
	c.inflight = inflightArea{mapping: area, queues: int(n.area.NumQueues), size: n.area.QueueSize}
	c.recovery.inflight = n.inflight
	return nil
}

// resumeRings sets all rings up as they were. Those that ran start with startReady.
func (c *Conn) resumeRings(n *notes, left Inherited) error {
	for i := range n.rings {
		if err := c.resumeRing(i, &n.rings[i], left); err != nil {
			return fmt.Errorf("ring %d: %w", i, err)
		}
	}
	return nil
}

func (c *Conn) resumeRing(i int, n *ringNotes, left Inherited) error {
	r := &c.rings[i]
	if n.size != 0 && (int64(n.size) > int64(c.device.MaxQueueSize()) || n.size > virtqueue.MaxSize || n.size&(n.size-1) != 0) {
		return fmt.Errorf("size %d", n.size)
	}
	r.size, r.base, r.addr, r.hasAddr = n.size, n.base, n.addr, n.bits&ringHasAddr != 0
	r.addr.Index = uint32(i)
	r.enabled = n.bits&ringEnabled != 0
	r.start, r.ran = n.start, n.bits&ringRuns != 0
	if r.ran && (r.start == 0 || r.start > c.recovery.starts) {
		return fmt.Errorf("start %d of %d", r.start, c.recovery.starts)
	}
	eventFD := func(kind DescriptorKind, bit uint64) (fd int, ok bool, err error) {
		if n.bits&bit == 0 {
			return -1, false, nil
		}
		if fd, err = left.take(kind, uint64(i)); err != nil {
			return -1, false, err
		}
		if err = checkEventFD(fd); err != nil {
			fdstat.Close(fd)
			return -1, false, err
		}
		return fd, true, nil
	}
	if n.bits&ringPolled != 0 {
		r.hasKick = n.bits&ringHasKick != 0
	} else {
		fd, ok, err := eventFD(DescriptorKick, ringHasKick)
		if err != nil {
			return err
		}
		r.kick, r.hasKick = fd, ok
	}
	fd, ok, err := eventFD(DescriptorCall, ringHasCall)
	if err != nil {
		return err
	}
	r.call.Set(fd)
	r.hasCall = ok
	if fd, ok, err = eventFD(DescriptorErr, ringHasErr); err != nil {
		return err
	}
	r.err.Set(fd)
	r.hasErr = ok
	return nil
}

// resumeChannel opens the back-end channel again.
func (c *Conn) resumeChannel(n *notes, left Inherited) error {
	if n.channel == 0 {
		return nil
	}
	if extra := n.channelProtocol &^ c.offeredProtocol(); extra != 0 {
		return fmt.Errorf("back-end channel with protocol features %s, which are not offered", extra)
	}
	fd, err := left.take(DescriptorChannel, n.channel)
	if err != nil {
		return err
	}
	sock, err := OpenSocket(fd, ToFrontend)
	if err != nil {
		return fmt.Errorf("back-end channel: %w", err)
	}
	c.recovery.channel = n.channel
	ch := newChannel(sock, n.channelProtocol)
	if err := c.resumeJournal(ch, n, left); err != nil {
		ch.close()
		ch.journal.close()
		return fmt.Errorf("back-end channel: %w", err)
	}
	c.openChannel(ch)
	return nil
}

// resumeAnswer takes the message out of the socket that was served, and answers it, as far as the
// other process has not done it.
func (c *Conn) resumeAnswer(n *notes, left Inherited) error {
	a := &n.answer
	fd, err := left.take(DescriptorOutbox, n.box)
	if err != nil {
		return err
	}
	if c.recovery.answers, err = inheritOutbox(fd, n.boxSlots); err != nil {
		return err
	}
	c.recovery.box = n.box
	due := a.phase == answerServed
	if due {
		rest, err := c.sock.peeked()
		if err != nil {
			return err
		}
		if rest > HeaderSize+MaxBodySize {
			return fmt.Errorf("%d bytes of a message were not taken", rest)
		}
		if err := c.sock.takeNow(max(rest, 0)); err != nil && !disconnected(err) {
			return err
		}
	} else if a.phase == answerSending && a.reply != nil && a.fd == 0 && c.recovery.answers.takes(a.reply) {
		sent, err := c.recovery.answers.sent(HeaderSize + len(a.reply.Body))
		if err != nil {
			return err
		}
		due = !sent
	}
	if due {
		if a.fd != 0 {
			fd, err := left.take(DescriptorAnswer, a.fd)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			a.reply.FDs = []int{fd}
		}
		c.recovery.answer = *a
		if err := c.sendNoted(a.reply); err != nil && !disconnected(err) { // the next message is the end then
			return err
		}
	}
	c.drop(DescriptorAnswer, a.fd)
	c.recovery.answer = answering{phase: answerSending}
	return nil
}

// notes are the numbers that another process has left.
type notes struct {
	features, status          uint64
	protocol, channelProtocol ProtocolFeatures
	last                      uint64
	starts                    uint32
	regions                   []regionNotes
	rings                     []ringNotes
	log, inflight             noted
	area                      InflightDescription
	channel, outbox, transfer uint64
	box, boxSlots             uint64
	answer                    answering
	left                      leftNotes
}

type regionNotes struct {
	MemoryRegion
	number uint64
}

type ringNotes struct {
	bits  uint64
	size  uint16
	base  uint16
	start uint32
	addr  VringAddr
}

// names reports whether a descriptor other than a region's belongs to something.
func (n *notes) names(d Descriptor) bool {
	var bits uint64
	if d.Number < uint64(len(n.rings)) {
		bits = n.rings[d.Number].bits
	}
	switch d.Kind {
	case DescriptorSocket:
		return true
	case DescriptorKick:
		return bits&ringHasKick != 0 && bits&ringPolled == 0
	case DescriptorCall:
		return bits&ringHasCall != 0
	case DescriptorErr:
		return bits&ringHasErr != 0
	case DescriptorLog:
		return n.log.number == d.Number
	case DescriptorInflight:
		return n.inflight.number == d.Number
	case DescriptorChannel:
		return n.channel == d.Number
	case DescriptorOutbox:
		return n.outbox == d.Number || n.box == d.Number
	case DescriptorAnswer:
		return n.answer.fd == d.Number
	}
	return false
}

// readNotes decodes what numbers has made. The values that are compared with something of the
// device's, or with files, are the caller's to check.
func readNotes(b []byte, rings int) (*notes, error) {
	r := record.NewReader(bytes.NewReader(b), int64(len(b)))
	n := new(notes)
	switch v := r.Uint(); {
	case r.Err() != nil:
	case v == notesLost:
		return nil, errors.New("something of it could not be kept, see the log of the process that is gone")
	case v != notesVersion:
		return nil, fmt.Errorf("version %d, want %d", v, notesVersion)
	}
	n.features, n.protocol, n.status = r.Uint(), ProtocolFeatures(r.Uint()), r.Max(0xff)
	n.last, n.starts = r.Uint(), uint32(r.Max(1<<32-1))
	for range r.Max(maxRegions) {
		if r.Err() != nil {
			break
		}
		var g regionNotes
		g.number, g.MmapOffset, g.GuestAddr, g.UserAddr, g.Size = r.Uint(), r.Uint(), r.Uint(), r.Uint(), r.Uint()
		n.regions = append(n.regions, g)
	}
	if count := r.Uint(); r.Err() == nil && count != uint64(rings) {
		return nil, fmt.Errorf("%d rings, this device has %d", count, rings)
	}
	for range rings {
		n.rings = append(n.rings, readRing(r))
	}
	n.log.number, n.log.offset, n.log.size = r.Uint(), r.Uint(), r.Uint()
	n.inflight.number, n.inflight.offset, n.inflight.size = r.Uint(), r.Uint(), r.Uint()
	n.area.NumQueues, n.area.QueueSize = uint16(r.Max(0xffff)), uint16(r.Max(0xffff))
	n.channel, n.outbox, n.channelProtocol, n.transfer = r.Uint(), r.Uint(), ProtocolFeatures(r.Uint()), r.Max(transferLoad)
	a := &n.answer
	a.phase, a.fd = answerPhase(r.Max(uint64(answerSending))), r.Uint()
	n.box, n.boxSlots = r.Uint(), r.Uint()
	if r.Max(1) == 1 {
		a.reply = &Message{Direction: ToBackend, Number: uint32(r.Max(1<<32 - 1)), Flags: uint32(r.Max(1<<32 - 1)), Body: r.Bytes(MaxBodySize)}
	}
	n.left = readLeft(r, rings)
	if r.End(); r.Err() != nil {
		return nil, fmt.Errorf("numbers of the connection: %w", r.Err())
	}
	if a.fd != 0 && a.reply == nil {
		return nil, errors.New("a descriptor that belongs to no answer")
	}
	return n, nil
}

func readRing(r *record.Reader) (n ringNotes) {
	n.bits, n.size, n.base = r.Uint(), uint16(r.Max(virtqueue.MaxSize)), uint16(r.Max(0xffff))
	n.start = uint32(r.Max(1<<32 - 1))
	n.addr.Flags, n.addr.Desc, n.addr.Used = uint32(r.Max(1<<32-1)), r.Uint(), r.Uint()
	n.addr.Avail, n.addr.Log = r.Uint(), r.Uint()
	return n
}
