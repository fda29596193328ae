package vsock

import (
	"errors"
	"fmt"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// What a connection has to send in addition to data, in the order in which it is sent.
type saying uint

const (
	sayRequest saying = 1 << iota
	sayResponse
	sayCredit
	sayShutdown
)

// say has a connection say something to the guest, and data if there is some. d.mu is held.
func (d *Device) say(c *conn, s saying) {
	c.says |= s
	if !c.queued {
		c.queued = true
		d.ready = append(d.ready, c)
	}
	d.kick()
}

// fill fills the guest's buffers with packets as long as there are both.
func (d *Device) fill(w *worker) (idle bool, err error) {
	q := w.vring.Queue
	for !w.stopping.Load() && d.hasPacket() {
		more, err := q.Pop(&w.chain)
		switch {
		case errors.Is(err, virtqueue.ErrBadChain):
			w.badChain(err)
			continue
		case err != nil:
			return false, err
		case !more:
			return false, nil // the guest kicks when there are buffers again
		}
		room := fuse.Buffers(w.chain.Writable())
		if room.Len() <= headerSize {
			w.badChain(fmt.Errorf("buffer of %d bytes for a packet", room.Len()))
			continue
		}
		q.Push(&w.chain, d.next(room))
	}
	return true, nil
}

// hasPacket forgets connections that have nothing to say. Their reader comes again when
// there is credit.
func (d *Device) hasPacket() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.ready) > 0 && !d.ready[0].hasMore() {
		d.unready()
	}
	return len(d.orphans) > 0 || len(d.ready) > 0
}

// next writes the next packet and returns its length: 0 if it has become superfluous.
func (d *Device) next(room fuse.Buffers) uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	var h header
	var data []byte
	if n := len(d.orphans); n > 0 {
		h = d.orphans[0]
		d.orphans = append(d.orphans[:0], d.orphans[1:]...)
	} else if len(d.ready) == 0 {
		return d.useless(room)
	} else {
		c := d.ready[0]
		var ok bool
		if h, data, ok = d.packetOf(c, min(room.Len()-headerSize, maxPacket)); !ok {
			d.unready()
			return d.useless(room)
		}
		if !c.hasMore() {
			d.unready()
		} else { // the others first
			d.ready = append(d.ready[1:], c)
		}
	}
	h.length = uint32(len(data))
	var raw [headerSize]byte
	h.write(&raw)
	room.CopyFrom(raw[:], 0)
	room.CopyFrom(data, headerSize)
	return uint32(headerSize + len(data))
}

// useless fills a buffer that was taken for nothing: the driver gets a packet that it
// answers with nothing.
func (d *Device) useless(room fuse.Buffers) uint32 {
	h := header{srcCID: hostCID, dstCID: uint64(d.opts.CID), kind: typeStream, op: opReset}
	var raw [headerSize]byte
	h.write(&raw)
	room.CopyFrom(raw[:], 0)
	return headerSize
}

// unready takes the first connection off the list.
func (d *Device) unready() {
	d.ready[0].queued = false
	d.ready[0] = nil
	d.ready = d.ready[1:]
}

// packetOf is what the connection has to say next. d.mu is held.
func (d *Device) packetOf(c *conn, most uint64) (h header, data []byte, ok bool) {
	h = header{srcCID: hostCID, dstCID: uint64(d.opts.CID), srcPort: c.key.host, dstPort: c.key.guest, kind: typeStream,
		bufAlloc: bufferSize, fwdCnt: c.passed}
	for _, s := range []struct {
		says saying
		op   op
	}{{sayRequest, opRequest}, {sayResponse, opResponse}} {
		if c.says&s.says != 0 {
			c.says &^= s.says
			c.told = c.passed
			h.op = s.op
			return h, nil, true
		}
	}
	if n := min(uint64(len(c.in)), most, uint64(credit(c.bufAlloc, c.sent, c.fwdCnt))); n > 0 {
		h.op, data = opData, c.in[:n]
		c.in = c.in[n:]
		c.sent += uint32(n)
		c.told = c.passed
		c.says &^= sayCredit
		c.wakeReader()
		return h, data, true
	}
	switch {
	case c.says&sayShutdown != 0 && len(c.in) == 0:
		c.says &^= sayShutdown
		h.op, h.flags = opShutdown, c.hostShut
	case c.says&sayCredit != 0:
		c.says &^= sayCredit
		c.told = c.passed
		h.op = opCreditUpdate
	default:
		return h, nil, false
	}
	return h, nil, true
}

// hasMore reports whether packetOf would return something.
func (c *conn) hasMore() bool {
	says := c.says
	if len(c.in) > 0 {
		says &^= sayShutdown
	}
	return says != 0 || len(c.in) > 0 && credit(c.bufAlloc, c.sent, c.fwdCnt) > 0
}
