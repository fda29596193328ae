package vsock

import (
	"errors"
	"fmt"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// maxPacket is the most data that a packet can have.
const maxPacket = 64 << 10

// fromGuest takes all packets that the guest sends.
func (d *Device) fromGuest(w *worker) (idle bool, err error) {
	q := w.vring.Queue
	for !w.stopping.Load() {
		more, err := q.Pop(&w.chain)
		switch {
		case errors.Is(err, virtqueue.ErrBadChain):
			w.badChain(err)
			continue
		case err != nil:
			return false, err
		case !more:
			return false, nil
		}
		if err := d.packet(fuse.Buffers(w.chain.Readable())); err != nil {
			w.badChain(err)
			continue
		}
		q.Push(&w.chain, 0)
	}
	return true, nil
}

// packet takes one packet of the guest's. The guest can change it meanwhile: the header is
// copied first.
func (d *Device) packet(b fuse.Buffers) error {
	var raw [headerSize]byte
	if b.CopyTo(raw[:], 0) < headerSize {
		return fmt.Errorf("packet of %d bytes", b.Len())
	}
	var h header
	h.read(&raw)
	if uint64(h.length) > b.Len()-headerSize || h.length > maxPacket {
		return fmt.Errorf("packet of %d bytes says that it has %d of data", b.Len(), h.length)
	}
	if h.srcCID != uint64(d.opts.CID) || h.dstCID != hostCID {
		return fmt.Errorf("packet from CID %d to CID %d", h.srcCID, h.dstCID)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.conns[key{h.dstPort, h.srcPort}]
	switch {
	case h.kind != typeStream:
		d.orphan(&h)
	case c == nil && h.op == opRequest:
		d.open(&h)
	case c == nil && h.op != opReset:
		d.orphan(&h)
	case c != nil:
		c.bufAlloc, c.fwdCnt = h.bufAlloc, h.fwdCnt
		d.take(c, &h, b)
		c.wakeReader() // there may be more credit
	}
	return nil
}

// take takes a packet of a connection. d.mu is held.
func (d *Device) take(c *conn, h *header, b fuse.Buffers) {
	switch h.op {
	case opReset:
		d.remove(c)
	case opResponse:
		if c.state != awaited {
			d.reset(c)
			return
		}
		c.state = established
		c.out = fmt.Appendf(c.out, "OK %d\n", c.key.host)
		c.bytesOK = len(c.out)
		c.start()
	case opShutdown:
		c.shut |= h.flags & (noReceive | noSend)
		c.wakeWriter()
		c.wakeReader()
		switch {
		case c.shut != noReceive|noSend:
		case c.wrote:
			d.reset(c)
		default: // when all was passed on
			c.expire()
		}
	case opData:
		// The credit that the guest was told.
		if c.state != established || c.shut&noSend != 0 || h.length > credit(bufferSize, c.got, c.passed) {
			d.reset(c)
			return
		}
		c.got += h.length
		n := len(c.out)
		c.out = append(c.out, make([]byte, h.length)...)
		b.CopyTo(c.out[n:], headerSize)
		c.wakeWriter()
	case opCreditUpdate:
	case opCreditRequest:
		d.say(c, sayCredit)
	default: // a REQUEST for an existing connection, or an unknown operation
		d.reset(c)
	}
}

// maxOrphans is how many resets wait for a guest that does not take them. There is one for each
// connection, and some for packets of no connection.
const maxOrphans = 2 * maxConns

// orphan answers a packet that belongs to no connection. d.mu is held.
func (d *Device) orphan(h *header) {
	if h.op != opReset {
		d.tellReset(h.reset())
	}
}

// tellReset sends a reset. If the guest does not take it, it is dropped: the guest gets one
// again when it sends more. d.mu is held.
func (d *Device) tellReset(h header) {
	if len(d.orphans) < maxOrphans {
		d.orphans = append(d.orphans, h)
	}
	d.kick()
}
