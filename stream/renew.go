package stream

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// This file is what a Client does when the host has no session of it any more: it begins another one. The kernel
// keeps the mount, which it has begun with one INIT. So the Client sends that INIT once more, and the reply must be
// the one that the kernel knows. Nodes and open files of before are nothing to the host, which says so
// (Options.Renew). The kernel finds names again from the root on, whose number is always the same.

// errRenew tells a channel that another one has found the session gone.
var errRenew = errors.New("the session is gone, and another one begins")

// renewUnique is the number of the INIT that the kernel has not sent.
const renewUnique = 1 << 61

// initRequest is the INIT with which the kernel has begun, and its reply.
type initRequest struct {
	mu             sync.Mutex
	unique         uint64
	request, reply []byte
}

// sent is told of the requests that come before the reply to INIT.
func (i *initRequest) sent(b []byte) {
	if h := header(b); fp.Opcode(h.Opcode) == fp.OpInit {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.unique, i.request = h.Unique, bytes.Clone(b)
	}
}

// answered is told of replies, and reports whether it is the one to INIT, which has succeeded.
func (i *initRequest) answered(unique uint64, b []byte) bool {
	h, _, _ := fp.View[fp.OutHeader](b)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.request == nil || unique != i.unique || h.Error != 0 {
		return false
	}
	i.reply = bytes.Clone(b[outHeaderSize:])
	return true
}

// again is the request with the number of one that the kernel has not sent.
func (i *initRequest) again() []byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	b := bytes.Clone(i.request)
	header(b).Unique = renewUnique
	return b
}

// same reports whether a reply is as the first one.
func (i *initRequest) same(b []byte) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return bytes.Equal(i.reply, b[outHeaderSize:])
}

// renewal is where the goroutines that receive meet: no other one changes the channels then.
type renewal struct {
	mu      sync.Mutex
	changed sync.Cond
	arrived int
	count   int
	err     error // of the last one
}

// renew begins another session when all channels have come. cause is what it returns if that is not possible.
func (c *Client) renew(cause error) error {
	if !c.begun.Load() {
		return cause // not even the first one has begun
	}
	r := &c.renewal
	r.mu.Lock()
	defer r.mu.Unlock()
	if !c.renewing.Swap(true) {
		for _, ch := range c.channels {
			ch.out.reset()
		}
		c.wakeAll()
	}
	if r.arrived++; r.arrived < len(c.channels) {
		for n := r.count; n == r.count; {
			if c.closing.Load() {
				return net.ErrClosed // a channel that can't continue does not come
			}
			r.changed.Wait()
		}
		return r.err
	}
	r.err = c.beginAgain(cause)
	r.count++
	r.arrived = 0
	c.renewing.Store(false)
	r.changed.Broadcast()
	if r.err == nil && c.opts.Renewed != nil {
		go c.opts.Renewed()
	}
	return r.err
}

// beginAgain begins another session, as soon as the host can be reached.
func (c *Client) beginAgain(cause error) error {
	c.log.Warn(fmt.Sprintf("Beginning a new session, files that are open are stale: %v", cause))
	w := newWait(c)
	for {
		if c.closing.Load() {
			return net.ErrClosed
		}
		for _, ch := range c.channels {
			ch.restart()
		}
		err := c.dialAgain()
		switch {
		case err == nil:
			return nil
		case errors.Is(err, ErrStale), errors.Is(err, ErrRefused), errors.Is(err, ErrBusy) && time.Since(w.lost) > busyTime:
			return err
		}
		if err := w.after(err); err != nil {
			return err
		}
	}
}

// interrupting notes which request an INTERRUPT is for.
func (c *Client) interrupting(b []byte) {
	h, body, _ := fp.View[fp.InHeader](b)
	in, _, ok := fp.View[fp.InterruptIn](body)
	if fp.Opcode(h.Opcode) != fp.OpInterrupt || !ok {
		return
	}
	for _, ch := range c.channels[1:] {
		ch.mu.Lock()
		if f, ok := ch.flight[in.Unique]; ok {
			f.interrupted = true
			ch.flight[in.Unique] = f
		}
		ch.mu.Unlock()
	}
}

// restart ends the channel's part of a session that is gone, and begins that of the next. Requests that the host
// may have got are answered: nobody knows whether they were carried out. The others are the next
// session's, or are answered if the kernel has interrupted them: their INTERRUPT is not sent again.
func (ch *clientChannel) restart() {
	ch.mu.Lock()
	sent, unsent := ch.out.restart()
	if ch.index == 0 {
		sent, unsent = append(sent, unsent...), nil // they are about nodes that are gone
	}
	lost := ch.flight
	ch.flight, ch.used, ch.settled, ch.unread = make(map[uint64]flight), 0, 0, 0
	if ch.index == 1 {
		b := ch.client.init.again()
		ch.post(b, replyRoom(b, ch.buffers.largest))
	}
	for _, f := range unsent {
		unique := header(f.b).Unique
		if g := lost[unique]; g.interrupted {
			g.lost = unix.EINTR
			lost[unique] = g
			sent = append(sent, f)
			continue
		}
		delete(lost, unique)
		if unique != renewUnique {
			ch.post(f.b, replyRoom(f.b, ch.buffers.largest))
		}
	}
	ch.room.Broadcast()
	ended := ch.ended
	ch.mu.Unlock()
	for _, f := range sent {
		ch.free(f)
	}
	for unique, f := range lost {
		switch {
		case ch.index == 0 || unique == renewUnique:
		case unique == destroyUnique:
			close(ended)
		default:
			ch.fail(unique, f.lost)
		}
	}
}

// lostErrno is the answer to a request of which nobody knows whether it was carried out. Those that change nothing
// get ESTALE, at which the kernel tries the whole system call once more.
func lostErrno(b []byte) unix.Errno {
	switch h, body, _ := fp.View[fp.InHeader](b); fp.Opcode(h.Opcode) {
	case fp.OpOpen:
		if in, _, ok := fp.View[fp.OpenIn](body); !ok || in.Flags&unix.O_TRUNC != 0 {
			return unix.EIO
		}
		return unix.ESTALE
	case fp.OpLookup, fp.OpGetattr, fp.OpReadlink, fp.OpRead, fp.OpStatfs, fp.OpGetxattr, fp.OpListxattr, fp.OpOpendir,
		fp.OpReaddir, fp.OpReaddirplus, fp.OpAccess, fp.OpGetlk, fp.OpLseek, fp.OpStatx:
		return unix.ESTALE
	}
	return unix.EIO
}

// dialAgain connects all channels. The others follow channel 1 when INIT was answered.
func (c *Client) dialAgain() error {
	c.id = newID()
	var sockets []*socket
	var welcomes []welcome
	defer func() {
		for _, s := range sockets { // those that were not attached
			s.shutdown()
			s.put()
		}
	}()
	for _, ch := range c.channels {
		ch.ticket = id{}
		s, m, err := ch.dial(context.Background(), modeRenew)
		if err != nil {
			return err
		}
		sockets, welcomes = append(sockets, s), append(welcomes, m)
		if l := c.limits; m.MaxMessage != l.MaxMessage || m.MaxWrite != l.MaxWrite || m.Window != l.Window {
			return fmt.Errorf("%w: the host has other limits than before: unmount and mount again", ErrRefused)
		}
	}
	first := c.channels[1]
	if err := first.attach(sockets[1].get(), welcomes[1]); err != nil {
		return err
	}
	first.out.flush(true)
	if err := first.initReply(); err != nil {
		first.leave()
		return err
	}
	for i, ch := range c.channels {
		if i == 1 {
			continue
		}
		if err := ch.attach(sockets[i].get(), welcomes[i]); err != nil {
			for _, ch := range c.channels {
				ch.leave()
			}
			return err
		}
	}
	for _, s := range sockets {
		s.put()
	}
	sockets = nil
	return nil
}

// leave lets the connection go.
func (ch *clientChannel) leave() {
	if ch.socket != nil {
		ch.out.detach(ch.socket)
		ch.socket.put()
		ch.socket = nil
	}
}

// initReply waits for the reply to the INIT that restart has sent.
func (ch *clientChannel) initReply() error {
	s := ch.socket
	_ = unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(dialTime / time.Second)})
	for {
		b, err := s.message(ch.buffers.largest)
		if err != nil {
			return err
		}
		if n, ok := isAck(b); ok {
			if err := ch.acked(n); err != nil {
				return err
			}
			continue
		}
		switch h, _, _ := fp.View[fp.OutHeader](b); {
		case h.Unique != renewUnique:
			return errors.New("the host answers something else than INIT")
		case h.Error != 0 || !ch.client.init.same(b):
			return fmt.Errorf("%w: the host's daemon is not as before (other options, or another version): unmount and mount again", ErrRefused)
		}
		ch.out.got(false, false)
		_ = unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{})
		return ch.answered(renewUnique)
	}
}

// message reads one message, and nothing behind it.
func (s *socket) message(most int) ([]byte, error) {
	b := make([]byte, 4)
	if err := s.full(b); err != nil {
		return nil, err
	}
	n := int(binary.LittleEndian.Uint32(b))
	if n < outHeaderSize || n > most {
		return nil, fmt.Errorf("message of %d bytes from the host", n)
	}
	b = append(make([]byte, 0, n), b...)[:n]
	return b, s.full(b[4:])
}

func (s *socket) full(b []byte) error {
	for len(b) > 0 {
		n, err := s.read(b)
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
