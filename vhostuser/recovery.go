package vhostuser

import (
	"bytes"
	"fmt"

	"github.com/govirtiofs/govirtiofs/internal/record"
	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// Recovery is where a Conn leaves what a successor of this process needs to continue with the
// connection, should this one die.
type Recovery struct {
	// Notes keeps the numbers of the connection, outside of the process. Each Store replaces what
	// was there as a whole. With nothing in it no message of a connection was served.
	Notes interface{ Store(b []byte) error }
	// Channel is the same for the requests to the front-end on the back-end channel. Nil has none of
	// them noted: then a device with shared memory can't be recovered.
	Channel interface{ Store(b []byte) error }
	// Keeper keeps the descriptors.
	Keeper Keeper
}

// Keeper is a process that holds copies of descriptors for a successor of this one.
type Keeper interface {
	// Keep stores a copy of fd under a name and replaces an older one. The caller keeps fd. When
	// Keep has returned nil, a successor gets the copy even if this process dies.
	Keep(d Descriptor, fd int) error
	// Drop closes what is held under a name, if anything.
	Drop(d Descriptor)
}

// Descriptor names a descriptor of a connection.
type Descriptor struct {
	Kind DescriptorKind
	// Number is that of the ring for DescriptorKick, DescriptorCall and DescriptorErr, 0 for
	// DescriptorSocket, and any other number for the rest.
	Number uint64
}

// DescriptorKind is what a descriptor is for.
type DescriptorKind uint8

// The kinds.
const (
	DescriptorSocket DescriptorKind = iota // the connection
	DescriptorRegion
	DescriptorKick
	DescriptorCall
	DescriptorErr
	DescriptorLog
	DescriptorInflight
	DescriptorChannel
	DescriptorAnswer // goes with an answer that is about to be sent
	DescriptorOutbox // memory that messages are sent from
)

// noted is a mapping of the front-end's as a successor has to make it again.
type noted struct {
	number       uint64 // of the descriptor
	offset, size uint64 // in the file
}

// recovery is a Recovery at work. Without one it does nothing.
type recovery struct {
	Recovery
	on       bool
	resumed  bool                        // the connection is another process's, so it is kept already
	last     uint64                      // number that was used for a descriptor
	starts   uint32                      // of rings; see Vring.Start
	regions  map[*virtqueue.Region]noted // those of Conn.regions
	log      noted                       // number 0: none
	inflight noted                       // the same
	channel  uint64                      // number of its descriptor; 0: none
	outbox   uint64                      // number of its outbox's descriptor; 0: none
	answers  outbox                      // of answers, and the number of its descriptor; 0: none
	box      uint64
	drops    []Descriptor // when the numbers do not name them any more
	answer   answering

	written bytes.Buffer // see numbers
	writer  *record.Writer
}

// answering is a message that was served, and its answer.
type answering struct {
	phase answerPhase
	reply *Message // nil: none
	fd    uint64   // number of the answer's descriptor; 0: none
}

// answerPhase is how far the answer to a message is. What can't be told from it is told by the
// socket: a message that was not taken out of it is still to be peeked at (SO_PEEK_OFF).
type answerPhase uint64

const (
	answerNone    answerPhase = iota
	answerServed              // the message was served; it may still be in the socket
	answerSending             // it was taken out, and the answer, if there is one, is being sent or was sent
)

// Recover has the connection be left to a successor of this process from now on. It comes before
// Serve and Resume.
func (c *Conn) Recover(r Recovery) {
	c.recovery = recovery{Recovery: r, on: true, regions: map[*virtqueue.Region]noted{}}
	c.sock.peek = true
}

// beginNotes begins to note a new connection.
func (c *Conn) beginNotes() {
	if !c.recovery.on || c.recovery.resumed {
		return
	}
	if err := c.sock.setPeeked(0); err != nil {
		c.sock.peek = false
		c.unrecoverable(err)
		return
	}
	raw, err := c.sock.SyscallConn()
	sock := -1
	if err == nil {
		err = raw.Control(func(fd uintptr) { sock = int(fd) })
	}
	if err != nil {
		c.unrecoverable(err)
		return
	}
	c.keep(DescriptorSocket, 0, sock) // it is open until teardown
	if c.recovery.answers, err = newOutbox(); err != nil {
		c.unrecoverable(err)
		return
	}
	c.recovery.box = c.keep(DescriptorOutbox, 0, c.recovery.answers.fd)
	c.note()
}

// keep has the keeper hold a descriptor; it stays the caller's. number is that of a ring, or 0 for a
// new one, which is returned. If the keeper can't, the connection can't be recovered any more.
func (c *Conn) keep(kind DescriptorKind, number uint64, fd int) uint64 {
	r := &c.recovery
	if !r.on {
		return 0
	}
	if number == 0 && !kind.ofRing() && kind != DescriptorSocket {
		r.last++
		number = r.last
	}
	if err := r.Keeper.Keep(Descriptor{kind, number}, fd); err != nil {
		c.unrecoverable(err)
	}
	return number
}

func (k DescriptorKind) ofRing() bool {
	return k == DescriptorKick || k == DescriptorCall || k == DescriptorErr
}

// drop has the keeper forget a descriptor when it is not among the numbers any more.
func (c *Conn) drop(kind DescriptorKind, number uint64) {
	r, d := &c.recovery, Descriptor{kind, number}
	switch {
	case r.Keeper == nil || number == 0 && !kind.ofRing():
	case r.on:
		r.drops = append(r.drops, d)
	default: // there are no numbers
		r.Keeper.Drop(d)
	}
}

// dropAll is drop for all descriptors but the socket, and what an earlier connection has left.
func (c *Conn) dropAll() {
	r := &c.recovery
	for i := range c.rings {
		for _, kind := range []DescriptorKind{DescriptorKick, DescriptorCall, DescriptorErr} {
			c.drop(kind, uint64(i))
		}
	}
	for _, region := range r.regions {
		if !c.left.has(region.number) {
			c.drop(DescriptorRegion, region.number)
		}
	}
	c.drop(DescriptorLog, r.log.number)
	c.drop(DescriptorInflight, r.inflight.number)
	c.drop(DescriptorChannel, r.channel)
	c.drop(DescriptorOutbox, r.outbox)
	c.drop(DescriptorOutbox, r.box)
	c.drop(DescriptorAnswer, r.answer.fd)
}

// unrecoverable ends noting. A successor can't continue with the connection, and the keeper holds nothing for one: a guest's
// memory is much.
func (c *Conn) unrecoverable(err error) {
	if !c.recovery.on {
		return
	}
	c.recovery.on = false
	c.log.Warn("vhost-user: if the daemon dies now, the guest's share can't be recovered", "error", err)
	_ = c.recovery.Notes.Store([]byte{notesLost})
	c.dropAll()
}

// note stores the numbers, and then drops what they do not name any more.
func (c *Conn) note() {
	r := &c.recovery
	if !r.on {
		return
	}
	if err := r.Notes.Store(c.numbers()); err != nil {
		c.unrecoverable(err)
		return
	}
	for _, d := range r.drops {
		r.Keeper.Drop(d)
	}
	r.drops = r.drops[:0]
}

// forget stores that there is no connection, and drops all descriptors.
func (c *Conn) forget() {
	r := &c.recovery
	defer r.answers.close()
	if r.Keeper == nil {
		return
	}
	_ = r.Notes.Store(c.notesOfLeft())
	if r.Channel != nil {
		_ = r.Channel.Store(nil)
	}
	r.on = false
	c.dropAll()
	for _, d := range append(r.drops, Descriptor{Kind: DescriptorSocket}) {
		r.Keeper.Drop(d)
	}
	r.Keeper = nil // the next connection may have the same numbers
}

// The first number of what note stores.
const (
	notesLost    = 0 // there is nothing more: the connection can't be recovered
	notesVersion = 3
	notesLeft    = 4 // the connection has ended: what it has left follows
)

// Bits of a ring's numbers.
const (
	ringHasAddr = 1 << iota
	ringHasKick
	ringPolled // hasKick, without a descriptor
	ringEnabled
	ringHasCall
	ringHasErr
	ringRuns
)

// numbers is what a successor needs in addition to descriptors. It is valid until
// the next call.
func (c *Conn) numbers() []byte {
	r := &c.recovery
	if r.writer == nil {
		r.writer = record.NewWriterSize(&r.written, 512)
	}
	w := r.writer
	r.written.Reset()
	w.Uint(notesVersion, c.features, uint64(c.protocol), c.status, r.last, uint64(r.starts))
	w.Uint(uint64(len(c.regions)))
	for _, region := range c.regions {
		n := r.regions[region]
		w.Uint(n.number, n.offset, region.GuestAddr, region.UserAddr, uint64(len(region.Host)))
	}
	w.Uint(uint64(len(c.rings)))
	for i := range c.rings {
		c.rings[i].numbers(w)
	}
	w.Uint(r.log.number, r.log.offset, r.log.size)
	w.Uint(r.inflight.number, r.inflight.offset, r.inflight.size, uint64(c.inflight.queues), uint64(c.inflight.size))
	w.Uint(r.channel, r.outbox, uint64(c.channelProtocol()), c.transfer.direction())
	a := &r.answer
	w.Uint(uint64(a.phase), a.fd, r.box, r.answers.slots)
	if a.reply == nil {
		w.Uint(0)
	} else {
		w.Uint(1, uint64(a.reply.Number), uint64(a.reply.Flags))
		w.Bytes(a.reply.Body)
	}
	c.leftNumbers(w)
	_ = w.Flush() // can't fail
	return r.written.Bytes()
}

// numbers writes those of a ring.
func (r *ring) numbers(w *record.Writer) {
	var bits uint64
	for _, b := range []struct {
		is  bool
		bit uint64
	}{
		{r.hasAddr, ringHasAddr}, {r.hasKick, ringHasKick}, {r.hasKick && r.kick < 0, ringPolled}, {r.enabled, ringEnabled},
		{r.hasCall, ringHasCall}, {r.hasErr, ringHasErr}, {r.queue != nil || r.ran, ringRuns},
	} {
		if b.is {
			bits |= b.bit
		}
	}
	w.Uint(bits, uint64(r.size), uint64(r.base), uint64(r.start))
	w.Uint(uint64(r.addr.Flags), r.addr.Desc, r.addr.Used, r.addr.Avail, r.addr.Log)
}

// answerNoted answers a message that was peeked at: the numbers first, then the message is taken out
// of the socket, then the answer is sent.
func (c *Conn) answerNoted(m *message, reply *Message) error {
	a := &c.recovery.answer
	c.drop(DescriptorAnswer, a.fd)
	*a = answering{phase: answerServed, reply: reply}
	if reply != nil && len(reply.FDs) > 0 {
		a.fd = c.keep(DescriptorAnswer, 0, reply.FDs[0])
	}
	c.note()
	if err := c.sock.take(HeaderSize + len(m.Body)); err != nil {
		return err
	}
	return c.sendNoted(reply)
}

// sendNoted sends an answer. If the process dies in that, the outbox reports whether it was sent, unless it has a
// descriptor.
func (c *Conn) sendNoted(reply *Message) error {
	box := &c.recovery.answers
	if reply != nil {
		if err := box.put(reply); err != nil {
			return err
		}
	}
	c.recovery.answer.phase = answerSending
	c.note()
	if reply == nil {
		return nil
	}
	if err := box.send(c.sock, reply); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}
