package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/record"
)

// stateMagic begins a saved session; its last byte is the version of what follows: the length of the
// stream's own part, that part, and the Handler's.
const stateMagic = "govirtiofs-stream\x01"

// maxStatePart is how long the stream's own part can be: a window of replies for each channel.
const maxStatePart = maxChannels * (windowMessages + 2) * maxMessage

// stopTime is Server.stopTime: how long save waits for requests that are under way.
const stopTime = 4 * time.Second

// save ends all connections, waits for the requests under way, and writes the session. Another
// Server continues with it by Load. A lock that waits is refused. It replaces the end of Serve;
// see Options.Save.
func (s *Server) save(w io.Writer) error {
	s.mu.Lock()
	s.closed = true
	n := s.session
	s.session = nil
	s.mu.Unlock()
	if n == nil || n.destroyed.Load() {
		if n != nil {
			n.close()
			s.handler.Disconnected()
		}
		return nil
	}
	err := n.suspend()
	if err == nil {
		err = n.write(w)
	}
	if err == nil {
		err = s.handler.Save(w)
	}
	n.close()
	if err != nil {
		s.handler.Disconnected()
		return fmt.Errorf("session of %s: %w", n.name(), err)
	}
	s.log.Info(fmt.Sprintf("Session with %s is saved", n.name()))
	return nil
}

// suspend ends the connections and waits until no request is under way.
func (n *session) suspend() error {
	n.suspended.Store(true)
	late := time.After(n.server.stopTime)
	for _, c := range n.channels {
		c.mu.Lock()
		c.closed = true
		c.out.reset()
		ended := c.ended
		c.mu.Unlock()
		select {
		case <-ended:
		case <-late:
			return errors.New("a request takes long")
		}
	}
	n.stopLingering()
	idle := make(chan struct{})
	go func() {
		n.underWay.Wait()
		close(idle)
	}()
	select {
	case <-idle:
		return nil
	case <-late:
		return errors.New("a request takes long")
	}
}

// begin counts a request that waits, and end counts it off.
func (n *session) begin(p fuse.Pending) {
	n.underWay.Add(1)
	if !p.Lingers() {
		return
	}
	n.linger.Add(1)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lingering[p] = true
}

func (n *session) end(p fuse.Pending, lingers bool) {
	if lingers {
		n.linger.Add(-1)
		n.mu.Lock()
		delete(n.lingering, p)
		n.mu.Unlock()
	}
	p.Free()
	n.underWay.Done()
}

func (n *session) stopLingering() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for p := range n.lingering {
		p.Stop()
	}
}

// write writes the stream's part of a state.
func (n *session) write(w io.Writer) error {
	var b bytes.Buffer
	out := record.NewWriter(&b)
	out.Bytes(n.id[:])
	out.Bytes([]byte(n.guest))
	out.Uint(uint64(n.server.opts.MaxWrite), uint64(len(n.channels)))
	for _, c := range n.channels {
		at := c.out.at()
		out.Bytes(c.tickets[0][:])
		out.Bytes(c.tickets[1][:])
		out.Uint(at.First, at.Received, uint64(len(c.out.frames)))
		for _, f := range c.out.frames {
			out.Uint(uint64(f.cost))
			out.Bytes(f.b)
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	first := binary.LittleEndian.AppendUint64([]byte(stateMagic), uint64(b.Len()))
	if _, err := w.Write(first); err != nil {
		return err
	}
	_, err := w.Write(b.Bytes())
	return err
}

// Load continues a session that another Server has saved. It is called before Serve. Its
// input is checked. An empty reader means no session.
func (s *Server) Load(r io.Reader) error {
	first := make([]byte, len(stateMagic)+8)
	switch _, err := io.ReadFull(r, first); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return fmt.Errorf("it ends in its first bytes: %w", err)
	case string(first[:len(stateMagic)]) != stateMagic:
		return errors.New("it is no saved session, or one of another version")
	}
	size := binary.LittleEndian.Uint64(first[len(stateMagic):])
	if size > maxStatePart {
		return fmt.Errorf("its length is %d bytes: at most %d are possible", size, maxStatePart)
	}
	var part bytes.Buffer // it grows with what there is, not with what is said
	if n, err := io.CopyN(&part, r, int64(size)); err != nil {
		return fmt.Errorf("it ends after %d of %d bytes: %w", n, size, err)
	}
	n, err := s.read(record.NewReader(&part, maxStatePart))
	if err != nil {
		return err
	}
	if err := s.handler.Load(r); err != nil {
		n.close()
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.session = n
	n.note()
	s.handler.Started()
	s.keep(n)
	return nil
}

// read reads the stream's part of a state.
func (s *Server) read(in *record.Reader) (*session, error) {
	var h hello
	copy(h.Session[:], in.Bytes(len(id{})))
	guest := string(in.Bytes(64))
	if maxWrite := in.Max(maxMaxWrite); in.Err() == nil && maxWrite != uint64(s.opts.MaxWrite) {
		return nil, fmt.Errorf("requests of %d bytes: this server has %d", maxWrite, s.opts.MaxWrite)
	}
	h.Channels = uint32(in.Max(maxChannels))
	if in.Err() == nil && h.Channels < minChannels {
		return nil, fmt.Errorf("%d channels", h.Channels)
	}
	if err := in.Err(); err != nil {
		return nil, err
	}
	s.journal.begin()
	n := newSession(s, guest, h)
	for _, c := range n.channels {
		c.load(in)
	}
	in.End()
	if err := in.Err(); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// load reads a channel's part.
func (c *channel) load(in *record.Reader) {
	copy(c.tickets[0][:], in.Bytes(len(id{})))
	copy(c.tickets[1][:], in.Bytes(len(id{})))
	const most = 1 << 62
	c.out.first, c.out.received = in.Max(most), in.Max(most)
	c.journal.setFirst(c.out.first)
	c.journal.setReceived(c.out.received)
	frames := in.Max(uint64(c.window))
	total := 0
	for range frames {
		f := frame{cost: int(in.Max(uint64(c.window)))}
		b := in.Bytes(c.buffers.largest)
		if in.Err() != nil {
			return
		}
		if err := c.place(&f, len(b)); err != nil {
			in.Fail(err)
			return
		}
		copy(f.b, b)
		c.used += f.cost
		if total += len(b); len(b) < outHeaderSize || c.used > c.window || total > c.window {
			in.Fail(errors.New("a channel has more replies than its window allows"))
			return
		}
		c.out.append(f)
	}
	c.out.next, c.out.upto, c.out.ever = c.out.first, c.out.first, c.out.first+uint64(len(c.out.frames))
}

// place gives a loaded reply its memory, where a successor finds it.
func (c *channel) place(f *frame, n int) (err error) {
	if c.journal == nil {
		f.b = c.buffers.get(n)
		return nil
	}
	if f.slot, err = c.journal.take(&fp.InHeader{}, c.out.received-1, f.cost, c.session.number); err == nil {
		f.b, err = f.slot.buffer(0, n)
	}
	return err
}
