package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/record"
)

// noteVersion is that of the record of a session.
const noteVersion = 1

// maxNote is more than a record has.
const maxNote = 4096

// note records who the guest is; nil is nobody.
func (j *journal) note(n *session) error {
	if j == nil {
		return nil
	}
	j.noteMu.Lock()
	defer j.noteMu.Unlock()
	if n == nil {
		return j.area.Store(nil)
	}
	if n.unnoted.Load() {
		return nil
	}
	var b bytes.Buffer
	w := record.NewWriter(&b)
	w.Uint(noteVersion, uint64(j.session), uint64(n.server.opts.MaxWrite), uint64(len(n.channels)))
	w.Bytes(n.id[:])
	w.Bytes([]byte(n.guest))
	for _, c := range n.channels {
		c.ticketMu.Lock()
		tickets := c.tickets
		c.ticketMu.Unlock()
		w.Bytes(tickets[0][:])
		w.Bytes(tickets[1][:])
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return j.area.Store(b.Bytes())
}

// begin makes the journal that of a new session.
func (j *journal) begin() {
	if j == nil {
		return
	}
	if j.session++; j.session == 0 {
		j.session++
	}
	for _, c := range j.channels {
		c.setFirst(0)
		c.setReceived(0)
	}
}

// Resume continues with what a process has left that has died, and reports whether that was a session. It is
// called once, before Serve, and after the Handler has resumed. After an error there is no session.
func (s *Server) Resume() (resumed bool, err error) {
	j := s.journal
	if j == nil {
		return false, nil
	}
	n, err := s.noted()
	var left []*leftover
	if err == nil && n != nil {
		for _, c := range n.channels {
			var l *leftover
			if l, err = c.sort(); err != nil {
				break
			}
			left = append(left, l)
		}
	}
	j.collect(n)
	if err != nil || n == nil {
		if n != nil {
			n.close()
		}
		return false, errors.Join(err, j.note(nil))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.session = n
	s.handler.Started()
	for i, c := range n.channels {
		c.ended = make(chan struct{})
		go c.goOn(left[i], c.ended)
	}
	s.log.Info(fmt.Sprintf("Continuing the session of %s, which another process has begun", n.name()))
	s.keep(n)
	return true, nil
}

// noted is the session that note has recorded; nil is none. The record comes from another process, and may
// be forged.
func (s *Server) noted() (*session, error) {
	b := s.journal.area.Load()
	if b == nil {
		return nil, nil
	}
	in := record.NewReader(bytes.NewReader(b), maxNote)
	if v := in.Uint(); in.Err() == nil && v != noteVersion {
		return nil, fmt.Errorf("record of a session: version %d", v)
	}
	number := uint32(in.Max(1<<32 - 1))
	if m := in.Max(maxMaxWrite); in.Err() == nil && m != uint64(s.opts.MaxWrite) {
		return nil, fmt.Errorf("record of a session: requests of %d bytes", m)
	}
	var h hello
	h.Channels = uint32(in.Max(maxChannels))
	copy(h.Session[:], in.Bytes(len(id{})))
	guest := string(in.Bytes(64))
	if in.Err() == nil && h.Channels < minChannels {
		return nil, fmt.Errorf("record of a session: %d channels", h.Channels)
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("record of a session: %w", err)
	}
	s.journal.session = number
	n := newSession(s, guest, h)
	for _, c := range n.channels {
		copy(c.tickets[0][:], in.Bytes(len(id{})))
		copy(c.tickets[1][:], in.Bytes(len(id{})))
	}
	in.End()
	if err := in.Err(); err != nil {
		n.close()
		return nil, fmt.Errorf("record of a session: %w", err)
	}
	return n, nil
}

// leftover is what a process has left of a channel.
type leftover struct {
	wait    []*slot // requests that were to wait, in the order in which they came
	partial *slot   // the one that was being served: the guest sends it again
}

var errLeft = errors.New("what the process before has left makes no sense")

// sort finds out what was left of a channel: replies that the guest may not have, and requests.
func (c *channel) sort() (*leftover, error) {
	cj, j := c.journal, c.session.server.journal
	o := c.out
	o.first, o.received = atomic.LoadUint64(&cj.record.first), atomic.LoadUint64(&cj.record.received)
	l := &leftover{}
	replies := make(map[uint64]*slot)
	for i := range cj.slots {
		s := &cj.slots[i]
		phase := s.cell.Phase()
		if phase == fuse.PhaseFree || s.record.session != j.session {
			continue
		}
		written, used := s.cell.Reply()
		switch ahead := int16(used - uint16(o.first)); {
		case phase == fuse.PhaseDone && (written == 0 || ahead < 0): // nothing to send, or the guest has it
			o.received = max(o.received, s.cell.Order())
		case phase == fuse.PhaseDone:
			if int(written) < outHeaderSize || int(written) > c.buffers.largest {
				return nil, errLeft
			}
			o.received = max(o.received, s.cell.Order())
			replies[o.first+uint64(ahead)] = s
		case atomic.LoadUint32(&s.record.waits) > 0:
			if n := s.record.waits; int(n) < inHeaderSize || int(n) > c.buffers.largest {
				return nil, errLeft
			}
			o.received = max(o.received, s.cell.Order())
			l.wait = append(l.wait, s)
		case l.partial != nil:
			return nil, errLeft
		default:
			l.partial = s
		}
	}
	for n := o.first; replies[n] != nil; n++ {
		s := replies[n]
		delete(replies, n)
		written, _ := s.cell.Reply()
		b, err := s.buffer(0, int(written))
		if err != nil {
			return nil, err
		}
		c.used += int(s.record.cost)
		o.frames = append(o.frames, frame{b: b, cost: int(s.record.cost), slot: s})
		o.bytes += len(b)
	}
	if len(replies) > 0 || c.used > c.window || l.partial != nil && l.partial.number() != o.received {
		return nil, errLeft
	}
	o.next, o.upto, o.ever = o.first, o.first, o.first+uint64(len(o.frames)) // the guest may have any of them
	c.adopt = c.index == 0                                                   // how many notifications there were is the guest's knowledge
	slices.SortFunc(l.wait, func(a, b *slot) int { return int(int64(a.number()) - int64(b.number())) })
	cj.setReceived(o.received)
	return l, nil
}

// collect makes a list of the slots that are free, and frees those that belong to no session, of which n is the
// present one; nil is none.
func (j *journal) collect(n *session) {
	for i, c := range j.channels {
		keep := make(map[*slot]bool)
		if n != nil && i < len(n.channels) {
			for _, f := range n.channels[i].out.frames {
				keep[f.slot] = true
			}
		}
		for k := range slices.Backward(c.slots[:]) { // the first are used first
			s := &c.slots[k]
			phase := s.cell.Phase()
			underWay := n != nil && s.record.session == j.session && (phase == fuse.PhaseTaken || phase == fuse.PhaseIntent)
			if !underWay && !keep[s] {
				s.cell.Free()
				c.free = append(c.free, s)
			}
		}
	}
}

// goOn serves the requests that were to wait when the process died.
func (c *channel) goOn(l *leftover, ended chan struct{}) {
	defer close(ended)
	c.partial = l.partial
	for len(l.wait) > 0 {
		err := c.onThread(func(t fuse.Thread) error {
			for len(l.wait) > 0 && !t.Broken() {
				s := l.wait[0]
				l.wait = l.wait[1:]
				if err := c.serveWaiting(t, s); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			c.session.server.abandon(c.session, fmt.Errorf("requests that were under way can't be served again: %w", err))
			return
		}
	}
}

// abandon ends a session that can't continue.
func (s *Server) abandon(n *session, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == n {
		s.log.Error(err.Error())
		s.end("it can't go on")
	}
}

// serveWaiting serves a request that is in its slot.
func (c *channel) serveWaiting(t fuse.Thread, s *slot) error {
	b, err := s.buffer(1, int(s.record.waits))
	if err != nil {
		return err
	}
	b = bytes.Clone(b)
	if int(binary.LittleEndian.Uint32(b)) != len(b) || !s.cell.Same(header(b)) {
		return errLeft
	}
	room := replyRoom(b, c.buffers.largest)
	c.used += int(s.record.cost)
	var m fuse.Message
	return c.serveRequest(t, &m, request{b: b, room: room, cost: int(s.record.cost), slot: s, again: true, counted: true})
}

// header is that of a request, which is aligned to 8 bytes and long enough.
func header(b []byte) *fp.InHeader {
	h, _, _ := fp.View[fp.InHeader](b)
	return h
}

// again prepares a request for being served once more. If it returns an errno, the request is answered
// with that. The caller calls end in any case, when the request has been served or waits.
func (c *channel) again(s *slot, h *fp.InHeader) (errno unix.Errno, end func()) {
	end = func() {}
	j := s.journal.journal
	deaths := s.cell.Tries() + 1
	if deaths >= fuse.ApartAfter { // no other suspect is served meanwhile
		c.session.server.apart.Lock()
		end = c.session.server.apart.Unlock
	}
	s.cell.TakeAgain(0)
	switch {
	case !s.cell.Same(h), j.Fail:
		return unix.EIO, end
	case deaths >= fuse.MostDeaths(j.Killed):
		c.session.server.log.Error(fmt.Sprintf("%d processes have died while they served %s: it is answered EIO", deaths, s.cell.Opcode()))
		return unix.EIO, end
	}
	return 0, end
}
