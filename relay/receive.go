package relay

import (
	"io"
	"math"
	"unsafe"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// maxErrno is the largest errno of a reply; what is above is the kernel's own.
const maxErrno = 511

// looksAfter is for how many messages after file data it is looked whether the next is, too, when no READ is under way yet.
const looksAfter = 16

// receive waits for one message of the program's, and takes it. An error ends the link.
func (l *link) receive(fd int) error {
	if l.bulk.Load() > 0 || l.looksMore > 0 {
		// The reply may be file data, which goes to the client's memory without a copy of ours: look first.
		l.looksMore = max(l.looksMore-1, 0)
		n, _, errno := l.recv(fd, l.headVec(nil), unix.MSG_PEEK)
		if errno != 0 {
			return errno
		}
		h := (*fp.OutHeader)(unsafe.Pointer(&l.head))
		if n == outHeaderSize && h.Error == 0 {
			if c := l.claimData(h); c != nil {
				l.looksMore = looksAfter
				return l.receiveData(fd, c)
			}
		}
	}
	b := unsafe.Slice((*byte)(unsafe.Pointer(&l.received)), len(l.received)*8)
	l.vec = append(l.vec[:0], unix.Iovec{Base: &b[0], Len: uint64(len(b))})
	n, flags, errno := l.recv(fd, l.vec, 0)
	switch {
	case errno != 0:
		return errno
	case n == 0:
		return io.EOF
	case n < outHeaderSize:
		return errTooLong
	}
	h := *(*fp.OutHeader)(unsafe.Pointer(&l.received))
	if flags&unix.MSG_TRUNC == 0 && int(h.Len) != n || int(h.Len) < n {
		return errTooLong
	}
	l.deliver(&h, b[outHeaderSize:n], flags&unix.MSG_TRUNC != 0)
	return nil
}

// headVec is the header's room and then the pieces.
func (l *link) headVec(pieces []unix.Iovec) []unix.Iovec {
	l.vec = append(l.vec[:0], unix.Iovec{Base: (*byte)(unsafe.Pointer(&l.head)), Len: uint64(outHeaderSize)})
	l.vec = append(l.vec, pieces...)
	return l.vec
}

func (l *link) recv(fd int, v []unix.Iovec, how uintptr) (n int, flags int32, errno unix.Errno) {
	for {
		l.receptions.Add(1)
		l.msg = unix.Msghdr{Iov: &v[0]}
		l.msg.SetIovlen(len(v))
		r, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&l.msg)), how)
		switch errno {
		case unix.EINTR:
			continue
		case 0:
			return int(r), l.msg.Flags, 0
		}
		return 0, 0, errno
	}
}

// claimData takes the call that a reply with file data belongs to, if it is one that fits.
func (l *link) claimData(h *fp.OutHeader) *call {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.calls[h.Unique]
	if c == nil || c.queued || c.form != formData || len(c.dst) > maxIovecs ||
		int(h.Len) < outHeaderSize || uint64(h.Len)-uint64(outHeaderSize) > c.dst.Len() {
		return nil
	}
	delete(l.calls, h.Unique)
	l.settled(c)
	return c
}

// receiveData receives a reply into the memory of the client that waits for it.
func (l *link) receiveData(fd int, c *call) error {
	h := *(*fp.OutHeader)(unsafe.Pointer(&l.head))
	n, flags, errno := l.recv(fd, l.headVec(c.dst), 0)
	clear(l.vec) // the memory is the client's again
	switch {
	case errno == unix.EFAULT:
		// The client has taken its memory away. The message is gone all the same.
		c.finish(0, unix.EIO)
		return nil
	case errno != 0:
		c.gone = true
		c.finish(0, unix.EIO)
		return errno
	case n != int(h.Len) || flags&unix.MSG_TRUNC != 0:
		c.finish(0, unix.EIO)
		return errTooLong
	}
	c.finish(n-outHeaderSize, 0)
	return nil
}

// deliver gives a message that was received to whom it is for. cut says that it is longer than body.
func (l *link) deliver(h *fp.OutHeader, body []byte, cut bool) {
	if h.Unique == 0 {
		l.notifications.Add(1)
		l.notify(l, fp.NotifyCode(h.Error), body, cut)
		return
	}
	if h.Unique&1 != 0 {
		l.interrupted(h)
		return
	}
	l.mu.Lock()
	c := l.calls[h.Unique]
	if c != nil && c.queued {
		c = nil // it can't be an answer
	}
	if c != nil {
		delete(l.calls, h.Unique)
		l.settled(c)
	}
	l.mu.Unlock()
	if c == nil {
		l.deliverLate(h, body, cut)
		return
	}
	l.answer(c, h, body, cut)
}

// deliverLate is deliver for the reply to a request that nobody waits for. It is apart because an orphan is allocated.
func (l *link) deliverLate(h *fp.OutHeader, body []byte, cut bool) {
	l.mu.Lock()
	o, orphaned := l.takeOrphan(h.Unique)
	l.mu.Unlock()
	if !orphaned {
		l.lie("a reply to a request that was not sent, or was answered before")
		return
	}
	if h.Error == 0 && !cut {
		l.late(l, &o, body)
	}
	l.letGo(&o)
}

// answer checks a reply against what the call has room for, and gives it to the call.
func (l *link) answer(c *call, h *fp.OutHeader, body []byte, cut bool) {
	if h.Error != 0 {
		if h.Error > 0 || h.Error < -maxErrno || len(body) != 0 {
			l.lie("an error that is none")
			c.finish(0, unix.EIO)
			return
		}
		c.finish(0, unix.Errno(-h.Error))
		return
	}
	size, exact := c.replySize(l.minor)
	if cut || len(body) > size || exact && len(body) != size {
		l.lie("a reply to " + fp.Opcode(c.header.Opcode).String() + " that has the wrong length")
		c.finish(0, unix.EIO)
		return
	}
	switch c.form {
	case formNone:
	case formBytes:
		copy(c.out, body)
	case formData:
		if c.looks() {
			l.looksMore = looksAfter
		}
		if c.parked != nil { // the copy is made on this goroutine, before the next message
			c.bounce = body
			break
		}
		// Rare: the client's memory has too many pieces, or no READ was under way when this goroutine began to wait. The thread that waits copies, because the client can
		// have taken its memory away.
		c.bounce = append([]byte(nil), body...)
	default:
		copy(c.fixedBytes(), body)
		c.widen(l.minor)
	}
	c.finish(len(body), 0)
}

// interrupted takes the reply to an INTERRUPT: EAGAIN if the program does not know the call yet, ENOSYS if it knows
// no INTERRUPT.
func (l *link) interrupted(h *fp.OutHeader) {
	switch -h.Error {
	case int32(unix.ENOSYS):
		l.noInterrupt.Store(true)
	case int32(unix.EAGAIN):
		l.interrupt(h.Unique &^ 1)
	}
}

// maxInterrupts bounds how often a program can ask for the same INTERRUPT again.
const maxInterrupts = 100

// lie notes that the program does not keep to the protocol.
func (l *link) lie(what string) {
	if l.misbehaved.Add(1) < math.MaxUint64 {
		l.oops.Do(func() { l.log.Warn("the program has sent " + what) })
	}
}
