package vsock

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxConns is how many connections a guest has at most, those that are being made included.
	maxConns = 1023
	// bufferSize is how much a connection keeps in each direction, in bytes.
	bufferSize = 64 << 10
	// connectTime is how long the host's program may take to accept, or the guest.
	connectTime = 2 * time.Second
	// updateBelow is the room at which the guest is told that there is more again.
	updateBelow = bufferSize / 2
)

type state int

const (
	connecting state = iota // to the host's program
	awaited                 // the guest's RESPONSE
	established
)

// conn is a connection between the guest and a program of the host. All of it is guarded by
// Device.mu.
type conn struct {
	device *Device
	key    key
	socket *net.UnixConn // nil while it is connecting
	state  state
	gone   bool // it is not in the table any more
	timer  *time.Timer

	out      []byte // from the guest, to be written to the socket
	bytesOK  int    // of out that are not the guest's: the answer to CONNECT
	got      uint32 // bytes that the guest has sent
	passed   uint32 // of those the socket has taken
	told     uint32 // the passed that the guest knows
	shut     uint32 // what the guest does no more: noReceive, noSend
	wrote    bool   // nothing more will be written
	deaf     bool   // the host's program takes nothing more
	writable sync.Cond

	in       []byte // from the socket, for the guest
	sent     uint32 // bytes that the guest was sent
	bufAlloc uint32 // the guest's room
	fwdCnt   uint32 // and what it has passed on
	hostShut uint32 // what the host's program does no more
	readable sync.Cond

	says   saying
	queued bool // in Device.ready
}

// add makes a connection. d.mu is held.
func (d *Device) add(k key) *conn {
	c := &conn{device: d, key: k}
	c.writable.L, c.readable.L = &d.mu, &d.mu
	d.conns[k] = c
	return c
}

// remove ends a connection, without a word to the guest. d.mu is held.
func (d *Device) remove(c *conn) {
	if c.gone {
		return
	}
	c.gone = true
	delete(d.conns, c.key)
	c.in, c.says = nil, 0
	if i := slices.Index(d.ready, c); i >= 0 {
		d.ready = slices.Delete(d.ready, i, i+1)
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.socket != nil {
		_ = c.socket.Close()
	}
	c.wakeReader()
	c.wakeWriter()
}

// reset ends a connection and tells the guest. d.mu is held.
func (d *Device) reset(c *conn) {
	if c.gone {
		return
	}
	d.remove(c)
	d.tellReset(header{srcCID: hostCID, dstCID: uint64(d.opts.CID), srcPort: c.key.host, dstPort: c.key.guest, kind: typeStream, op: opReset})
}

func (c *conn) wakeReader() { c.readable.Broadcast() }
func (c *conn) wakeWriter() { c.writable.Broadcast() }

// expire makes the connection end soon, whatever the other side does. d.mu is
// held.
func (c *conn) expire() {
	if c.timer != nil {
		c.timer.Stop()
	}
	c.timer = time.AfterFunc(lingerTime, func() {
		c.device.mu.Lock()
		defer c.device.mu.Unlock()
		c.device.reset(c)
	})
}

// open makes the connection of the guest's REQUEST. d.mu is held.
func (d *Device) open(h *header) {
	if len(d.conns) >= maxConns || d.opening >= maxConns { // the guest may have given up those that are being made
		d.orphan(h)
		return
	}
	d.opening++
	c := d.add(key{h.dstPort, h.srcPort})
	c.bufAlloc, c.fwdCnt = h.bufAlloc, h.fwdCnt
	path := fmt.Sprintf("%s_%d", d.opts.Path, h.dstPort)
	d.ended.Go(func() {
		s, err := net.DialTimeout("unix", path, connectTime)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.opening--
		switch {
		case err != nil:
			d.reset(c)
		case c.gone:
			_ = s.Close()
		default:
			c.socket, c.state = s.(*net.UnixConn), established
			d.say(c, sayResponse)
			c.start()
		}
	})
}

// start starts the goroutines of a connection that has a socket. d.mu is held.
func (c *conn) start() {
	if c.timer != nil {
		c.timer.Stop()
	}
	c.device.ended.Go(c.write)
	c.device.ended.Go(c.read)
}

// write passes on what comes from the guest.
func (c *conn) write() {
	d := c.device
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		for len(c.out) == 0 && c.shut&noSend == 0 && !c.gone {
			c.writable.Wait()
		}
		if c.gone {
			return
		}
		if len(c.out) == 0 {
			c.wrote = true
			if c.shut == noReceive|noSend {
				d.reset(c) // all was passed on
			} else {
				_ = c.socket.CloseWrite()
			}
			return
		}
		b := c.out
		c.out = nil
		if !c.deaf {
			d.mu.Unlock()
			_, err := c.socket.Write(b)
			d.mu.Lock()
			if err != nil && !c.gone { // what it has sent before is still for the guest
				c.deaf = true
				c.hostShut |= noReceive
				d.say(c, sayShutdown)
			}
		}
		c.passed += uint32(len(b) - c.bytesOK)
		c.bytesOK = 0
		if credit(bufferSize, c.got, c.told) < updateBelow && !c.gone {
			d.say(c, sayCredit)
		}
	}
}

// read gets what the host's program sends, as the guest takes it.
func (c *conn) read() {
	d := c.device
	b := make([]byte, bufferSize)
	for {
		n, err := c.socket.Read(b)
		d.mu.Lock()
		if err != nil {
			c.hostEnded()
			d.mu.Unlock()
			return
		}
		c.in = b[:n]
		for len(c.in) > 0 && !c.gone && c.shut&noReceive == 0 {
			if credit(c.bufAlloc, c.sent, c.fwdCnt) > 0 {
				d.say(c, 0)
			}
			c.readable.Wait()
		}
		ends := c.gone || c.shut&noReceive != 0
		d.mu.Unlock()
		if ends {
			return
		}
	}
}

// hostEnded tells the guest that the host's program sends nothing more, or has closed the
// socket. d.mu is held.
func (c *conn) hostEnded() {
	if c.gone {
		return
	}
	c.hostShut |= noSend
	if hungUp(c.socket) {
		c.hostShut |= noReceive
		c.expire()
	}
	c.device.say(c, sayShutdown)
}

// hungUp reports whether the other side has closed a socket, and not only its half.
func hungUp(s *net.UnixConn) bool {
	raw, err := s.SyscallConn()
	if err != nil {
		return true
	}
	p := []unix.PollFd{{}}
	if err := raw.Control(func(fd uintptr) {
		p[0].Fd = int32(fd)
		_, _ = unix.Poll(p, 0)
	}); err != nil {
		return true
	}
	return p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
}
