package stream

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// session is a mount of a guest's, from its first hello on. It outlives connections.
type session struct {
	server   *Server
	id       id
	guest    string
	number   uint32 // of the session in what a successor finds
	channels []*channel

	linger    atomic.Int32 // requests that wait for another client, possibly for ever
	destroyed atomic.Bool  // DESTROY has come
	suspended atomic.Bool  // another Server continues
	unnoted   atomic.Bool  // a successor of this process does not find the session

	underWay sync.WaitGroup // requests that wait

	mu        sync.Mutex // guards the following; a leaf
	alive     int        // channels with a connection
	timer     *time.Timer
	lingering map[fuse.Pending]bool // those of linger
}

// maxLinger is how many requests of a session may wait for another client.
const maxLinger = 1024

func newSession(s *Server, guest string, h hello) *session {
	n := &session{server: s, id: h.Session, guest: guest, lingering: make(map[fuse.Pending]bool)}
	if s.journal != nil {
		n.number = s.journal.session
	}
	most := messageSize(s.opts.MaxWrite)
	for i := range h.Channels {
		c := &channel{
			session: n, index: int(i), out: newOutbox(), buffers: pool{largest: most},
			window: windowMessages * most, ended: make(chan struct{}), tickets: [2]id{h.Ticket, h.Ticket},
		}
		if s.journal != nil {
			c.journal = s.journal.channels[i]
			c.out.journal = c.journal
		}
		close(c.ended)
		n.channels = append(n.channels, c)
		go c.out.write()
	}
	s.opts.Host.AddQueues(len(n.channels))
	return n
}

func (n *session) name() string {
	if n.guest == "" {
		return "the guest"
	}
	return n.guest
}

// note records the session for a successor of this process, if there can be one.
func (n *session) note() {
	if n.server.journal != nil {
		n.forgetIf(n.server.journal.note(n))
	}
}

// forgetIf has a successor of this process not continue with the session if something of it could not be recorded.
func (n *session) forgetIf(err error) {
	if err == nil || n.unnoted.Swap(true) {
		return
	}
	n.server.log.Warn(fmt.Sprintf("The session of %s can't be recorded: %v. If the serving process dies, %s", n.name(), err, n.server.lost()))
	_ = n.server.journal.note(nil)
}

// close ends the connections.
func (n *session) close() {
	n.mu.Lock()
	if n.timer != nil {
		n.timer.Stop()
	}
	n.mu.Unlock()
	for _, c := range n.channels {
		c.close()
	}
	n.server.opts.Host.AddQueues(-len(n.channels))
}

// connected reports whether a channel has a connection.
func (n *session) connected() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.alive > 0
}

// count adds to the channels with a connection, and reports whether none is left.
func (n *session) count(k int) (none bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.alive += k
	if n.timer != nil && n.alive > 0 {
		n.timer.Stop()
	}
	return n.alive == 0
}

// expiry has f called if no connection comes for keepTime.
func (n *session) expiry(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.timer != nil {
		n.timer.Stop()
	}
	n.timer = time.AfterFunc(keepTime, f)
}

// notify puts a notification on channel 0.
func (n *session) notify(code fp.NotifyCode, body [][]byte) error {
	first := n.channels[0]
	h := fp.OutHeader{Len: uint32(outHeaderSize), Error: int32(code)}
	for _, b := range body {
		h.Len += uint32(len(b))
	}
	size := envelopeSize + 8*len(n.channels) + int(h.Len)
	if size > first.buffers.largest {
		return fmt.Errorf("notification of %d bytes: too long", h.Len)
	}
	b := make([]byte, 0, size)
	b = binary.LittleEndian.AppendUint32(b, uint32(size))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(n.channels)))
	first.notifyMu.Lock() // counts never go back from one notification to the next
	defer first.notifyMu.Unlock()
	for _, c := range n.channels {
		var count uint64
		if c.index > 0 {
			count = c.out.sent()
		}
		b = binary.LittleEndian.AppendUint64(b, count)
	}
	b = append(b, fp.Bytes(&h)...)
	for _, p := range body {
		b = append(b, p...)
	}
	if !first.out.offer(frame{b: b}, first.window) {
		return ErrNobody
	}
	first.out.flush(false)
	return nil
}
