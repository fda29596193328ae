package vhostuser

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/govirtiofs/govirtiofs/internal/record"
	"github.com/govirtiofs/govirtiofs/internal/storing"
)

// The front-end answers requests on the back-end channel in their order, and an answer does not say which
// request of its kind it is for. So a successor of this process must know exactly which answers
// are to come. The journal is the list of the requests without an answer. An answer is peeked at, taken off the list, and
// then taken out of the socket: the socket's peek offset reports whether it was, as for the front-end's messages.
//
// A request is put in the list before it is sent. If the process dies in between, only the kernel can tell
// whether it was sent:
//
//   - A request without a descriptor goes by the outbox, which tells.
//   - A request to map has a descriptor, which only sendmsg(2) can send. It stays doubtful until
//     the answer to a request of another kind comes, which shows that no answer to it is to come any more.
//     So the next request to map is not sent before a request to unmap.
type journal struct {
	store  interface{ Store(b []byte) error } // nil: nothing is noted
	number uint64                             // of the channel's descriptor
	outbox outbox
	slots  uint64 // of the outbox, as of the last request that was sent; changed with the list
	taking bool   // the last answer may still be in the socket
	again  bool   // the channel is another process's
	old    FSMap
	echo   uint64 // what is known about the front-end's echoes, as inherited
	echoes *echoes

	written bytes.Buffer
	writer  *record.Writer
}

func (j *journal) on() bool { return j.store != nil }

// beginJournal begins to note the requests of a new channel.
func (c *Conn) beginJournal(ch *channel) {
	c.drop(DescriptorOutbox, c.recovery.outbox)
	c.recovery.outbox = 0
	if !c.recovery.on || c.recovery.Channel == nil || !ch.protocol.Has(ProtocolReplyAck) {
		return // without answers there is nothing to know
	}
	box, err := newOutbox()
	if err != nil {
		c.unrecoverable(err)
		return
	}
	c.recovery.outbox = c.keep(DescriptorOutbox, 0, box.fd)
	ch.journal = journal{store: c.recovery.Channel, number: c.recovery.channel, outbox: box, old: c.fsMap(ch)}
	ch.sock.peek = true
	if err := ch.journal.note(nil); err != nil {
		c.unrecoverable(err)
	}
}

// close is called when nobody uses the channel any more.
func (j *journal) close() {
	if j.on() {
		j.outbox.close()
		j.store = nil
	}
}

// share has what is known about the front-end's echoes noted, and restores it.
func (j *journal) share(e *echoes) {
	j.echoes = e
	e.known, e.expect = j.echo&echoKnown != 0, j.echo&echoExpected != 0
}

const (
	echoKnown    = 1 << 0
	echoExpected = 1 << 1
)

// Bits of a request in the journal.
const (
	requestMaps = 1 << iota
	requestUnsure
)

// note stores the list of requests. The channel's mu is held, or nobody else uses the channel yet.
func (j *journal) note(list []*pending) error {
	if !j.on() {
		return nil
	}
	if j.writer == nil {
		j.writer = record.NewWriterSize(&j.written, 512)
	}
	w := j.writer
	j.written.Reset()
	w.Uint(j.number, j.slots, boolWord(j.taking), j.echoBits(), uint64(len(list)))
	for _, p := range list {
		w.Uint(uint64(p.request), boolWord(p.maps)*requestMaps|boolWord(p.unsure)*requestUnsure, uint64(p.id), p.offset, p.length)
	}
	_ = w.Flush() // to memory
	storing.Note()
	defer storing.Note()
	return j.store.Store(j.written.Bytes())
}

func (j *journal) echoBits() uint64 {
	if j.echoes == nil {
		return j.echo
	}
	j.echoes.mu.Lock()
	defer j.echoes.mu.Unlock()
	return boolWord(j.echoes.known)*echoKnown | boolWord(j.echoes.expect)*echoExpected
}

func boolWord(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// noteSent notes that a request was sent.
func (ch *channel) noteSent(p *pending) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	p.unsure = false
	_ = ch.journal.note(ch.waiting) // it has the memory of the note before
}

// noteTaken notes that the answer was taken out of the socket.
func (ch *channel) noteTaken() {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.journal.taking = false
	_ = ch.journal.note(ch.waiting)
}

// settle sends a request to unmap before one to map, if it is not known whether another process has
// sent the last request to map. The range is one that nobody needs: the process has died.
func (ch *channel) settle(p *pending) error {
	if !p.maps {
		return nil
	}
	ch.mu.Lock()
	var doubt *pending
	for _, w := range ch.waiting {
		switch {
		case w.doubtful:
			doubt = w
		case !w.maps:
			doubt = nil
		}
	}
	ch.mu.Unlock()
	if doubt == nil {
		return nil
	}
	old := ch.journal.old
	if doubt.request == BackendShmemMap {
		old = FSMap{}
	}
	request, body := unmapping(old, &SharedMemoryMap{ID: doubt.id, Offset: doubt.offset, Length: doubt.length})
	marker := &pending{request: request, id: doubt.id, offset: doubt.offset, length: doubt.length, answer: make(chan error, 1)}
	return ch.sendNext(marker, body, nil, true)
}

// journalNotes is a journal as another process has left it.
type journalNotes struct {
	number, slots, taking, echo uint64
	list                        []*pending
}

// readJournal decodes what note has made. The caller checks what is compared with the device.
func readJournal(b []byte) (*journalNotes, error) {
	r := record.NewReader(bytes.NewReader(b), int64(len(b)))
	n := &journalNotes{number: r.Uint(), slots: r.Uint(), taking: r.Max(1), echo: r.Max(echoKnown | echoExpected)}
	for range r.Max(mostWaiting) {
		if r.Err() != nil {
			break
		}
		p := &pending{request: BackendRequest(r.Max(1<<32 - 1)), answer: make(chan error, 1)}
		bits := r.Max(requestMaps | requestUnsure)
		p.maps, p.unsure = bits&requestMaps != 0, bits&requestUnsure != 0
		p.id, p.offset, p.length = uint8(r.Max(0xff)), r.Uint(), r.Uint()
		n.list = append(n.list, p)
	}
	if r.End(); r.Err() != nil {
		return nil, fmt.Errorf("journal: %w", r.Err())
	}
	return n, nil
}

// resumeJournal continues with the requests of another process. Nobody uses ch yet.
func (c *Conn) resumeJournal(ch *channel, n *notes, left Inherited) error {
	ch.journal.again = true
	if n.outbox == 0 || len(left.Channel) == 0 {
		return nil
	}
	had, err := readJournal(left.Channel)
	if err != nil {
		return err
	}
	if had.number != n.channel {
		return nil // of one that the front-end was about to put in place of this one
	}
	fd, err := left.take(DescriptorOutbox, n.outbox)
	if err != nil {
		return err
	}
	box, err := inheritOutbox(fd, had.slots)
	if err != nil {
		return err
	}
	ch.journal = journal{store: c.recovery.Channel, number: n.channel, outbox: box, slots: had.slots, again: true, echo: had.echo, old: c.fsMap(ch)}
	c.recovery.outbox = n.outbox
	if err := ch.takeAnswer(had.taking != 0); err != nil {
		return err
	}
	ch.sock.peek = true
	if ch.waiting, err = ch.journal.sort(c, had.list); err != nil {
		return err
	}
	return ch.journal.note(ch.waiting)
}

// takeAnswer takes the answer that is not in the list any more out of the socket, if it is there.
func (ch *channel) takeAnswer(taking bool) error {
	rest, err := ch.sock.peeked()
	if err != nil || !taking || rest <= 0 {
		return err
	}
	if rest > HeaderSize+MaxBodySize {
		return fmt.Errorf("%d bytes of an answer were not taken", rest)
	}
	return ch.sock.takeNow(rest)
}

// sort finds out which requests of a predecessor were sent.
func (j *journal) sort(c *Conn, list []*pending) ([]*pending, error) {
	doubt := false
	for i, p := range list {
		if err := c.checkInherited(j, p); err != nil {
			return nil, err
		}
		switch {
		case p.maps:
			if p.unsure && doubt {
				return nil, errors.New("journal: two requests in a row of which nobody knows whether they were sent")
			}
			p.doubtful, doubt = p.unsure, p.unsure
		case !p.unsure:
			doubt = false
		case i != len(list)-1:
			return nil, errors.New("journal: a request was sent before an earlier one")
		default:
			sent, err := j.outbox.sent(HeaderSize + p.bodySize())
			if err != nil || !sent {
				return list[:i], err
			}
			p.unsure = false
		}
	}
	return list, nil
}

// checkInherited checks a request of another process.
func (c *Conn) checkInherited(j *journal, p *pending) error {
	var maps bool
	switch p.request {
	case BackendShmemMap:
		maps = true
	case BackendShmemUnmap, BackendConfigChange:
	default:
		if j.old == (FSMap{}) || p.request != j.old.Map && p.request != j.old.Unmap {
			return fmt.Errorf("journal: %s", p.request)
		}
		maps = p.request == j.old.Map
	}
	sizes := c.sharedMemory()
	if maps != p.maps || maps && (int(p.id) >= len(sizes) || p.length > sizes[p.id] || p.offset > sizes[p.id]-p.length) {
		return fmt.Errorf("journal: %s of %#x bytes at %#x of region %d", p.request, p.length, p.offset, p.id)
	}
	return nil
}

// bodySize is how long the body of the request is.
func (p *pending) bodySize() int {
	switch p.request {
	case BackendConfigChange:
		return 0
	case BackendShmemMap, BackendShmemUnmap:
		return sizeOf[SharedMemoryMap]().Max
	}
	return sizeFSMap
}
