package fusedev

import (
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/ledger"
)

// uniqueResend is set in the number of a request that the kernel sends again (FUSE_UNIQUE_RESEND). The reply has
// it, too.
const uniqueResend = 1 << 63

// mostTries is how many processes may die while they serve a request before it is answered EIO.
const mostTries = 10

// File is the mount's descriptor of /dev/fuse, for a process that keeps the mount alive: as long as it is open
// somewhere, programs that use the mount wait, and get no error. It stays the Mount's.
func (m *Mount) File() *os.File { return m.file }

// Adopt is the Mount of a file system that another process has mounted on target with the same options. file, which it owns, is a
// descriptor of the same open file as that Mount's: inherited, or received over a socket. A process that
// continues with what another one has begun calls Recover next.
func Adopt(target string, file *os.File, o Options) *Mount {
	return &Mount{target: target, file: file, helper: os.Geteuid() != 0, ledger: o.Ledger, host: o.Host}
}

// Recover has the kernel send again what a process that died had read and not answered (FUSE_NOTIFY_RESEND, Linux
// 6.9; EINVAL before it). Options.Ledger is what that process has noted. resume is that of the server
// (server.Server.Resume), with the same ledger; it is called when it is clear which replies the kernel has got. Serve comes
// after it, and serves those requests first. No other process may read from the mount.
//
// What the client was told is not done twice: the kernel takes a reply in one piece or not at all, and
// sends a request again only if it has not. Of requests that were half done doc/recovery.md says what
// can be decided. FORGETs that were under way are lost: their nodes are known until the mount's end.
func (m *Mount) Recover(resume func() error) error {
	if m.ledger == nil {
		return errors.New("fusedev: Recover needs Options.Ledger")
	}
	m.ledger.Begin()
	if err := m.Notify(fp.NotifyResend); err != nil {
		return err
	}
	if err := m.readResent(); err != nil {
		return err
	}
	q, err := m.ledger.Queue(0, ledger.MaxQueueSize)
	if err != nil {
		return err
	}
	sent := make(map[uint64]bool, len(m.resent))
	for _, b := range m.resent {
		if h, _, ok := fp.View[fp.InHeader](b); ok && h.Unique&uniqueResend != 0 {
			sent[h.Unique&^uniqueResend] = true
		}
	}
	m.cells = newCells(q)
	var over []*fuse.Cell // what the kernel wants no reply for any more
	for head, c := range q.Unfinished {
		switch {
		case sent[c.Unique()]:
			m.cells.past[c.Unique()] = head
			continue
		case !forgets(c.Opcode()):
			c.Done(0, 0) // the client has what it was granted
		}
		over = append(over, c)
	}
	if err := resume(); err != nil {
		return err
	}
	for _, c := range over {
		c.Free()
	}
	m.cells.fill()
	m.ledger.Serving()
	return nil
}

func forgets(o fp.Opcode) bool { return o == fp.OpForget || o == fp.OpBatchForget }

// readResent reads what the kernel sends again. These requests come before all others
// (fs/fuse/dev.c: fuse_dev_resend), but for FORGET and INTERRUPT.
func (m *Mount) readResent() error {
	buf := make([]byte, BufferSize)
	for {
		p := []unix.PollFd{{Fd: int32(m.file.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 || p[0].Revents&unix.POLLIN == 0 {
			return err // at the end of the mount Serve finds it
		}
		k, err := m.Read(buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		b := append([]byte(nil), buf[:k]...)
		m.resent = append(m.resent, b)
		h, _, ok := fp.View[fp.InHeader](b)
		if o := fp.Opcode(h.Opcode); ok && h.Unique&uniqueResend == 0 && !forgets(o) && o != fp.OpInterrupt {
			return nil
		}
	}
}

// hold gets all of a buffer into memory, and keeps it there if it may. If the process is killed while the kernel
// copies a request or a reply, the kernel continues with the copy as long as it needs no page that is not there. Otherwise the
// client gets EIO (fs/fuse/dev.c: fuse_dev_do_read, fuse_dev_do_write).
func hold(b []byte) {
	for i := 0; i < len(b); i += os.Getpagesize() {
		b[i] = 1
	}
	_ = unix.Mlock(b) // RLIMIT_MEMLOCK, for others than root
}

// next is a request that Recover has read; false when there are no more.
func (m *Mount) next(in []byte) (int, bool) {
	m.resentMu.Lock()
	defer m.resentMu.Unlock()
	if len(m.resent) == 0 {
		return 0, false
	}
	n := copy(in, m.resent[0])
	m.resent = m.resent[1:]
	return n, true
}

// cells are where requests under way are noted for a successor; nil is nowhere. A cell has no place in a ring
// here: the kernel's number of the request finds it.
type cells struct {
	queue *ledger.Queue

	mu   sync.Mutex
	free []uint16
	past map[uint64]uint16 // requests of a process that died, which come again
}

func newCells(q *ledger.Queue) *cells { return &cells{queue: q, past: make(map[uint64]uint16)} }

// fill makes all cells that nobody uses free.
func (c *cells) fill() {
	for i := ledger.MaxQueueSize - 1; i >= 0; i-- { // the first ones are used first: memory that is not touched is none
		if c.queue.Cell(uint16(i)).Phase() == fuse.PhaseFree {
			c.free = append(c.free, uint16(i))
		}
	}
}

// take notes a request that was read. given up says that too many processes have died of it.
func (c *cells) take(m *fuse.Message) (givenUp bool) {
	m.Cell = nil
	if c == nil {
		return false
	}
	unique := m.Header.Unique &^ uniqueResend
	c.mu.Lock()
	defer c.mu.Unlock()
	if head, ok := c.past[unique]; ok && m.Header.Unique&uniqueResend != 0 {
		delete(c.past, unique)
		cell := c.queue.Cell(head)
		if fp.Opcode(m.Header.Opcode) != cell.Opcode() || cell.Node() != m.Header.NodeID {
			cell.Free()
		} else {
			cell.TakeAgain(head)
			m.Cell = cell
			return cell.Tries() > mostTries
		}
	}
	if len(c.free) == 0 {
		return false
	}
	head := c.free[len(c.free)-1]
	c.free = c.free[:len(c.free)-1]
	h := m.Header
	h.Unique = unique
	m.Cell = c.queue.Cell(head)
	m.Cell.Take(&h, c.queue.Order(), head, 0)
	return false
}

// done frees the cell of a request whose reply the kernel has.
func (c *cells) done(cell *fuse.Cell) {
	if c == nil || cell == nil {
		return
	}
	head := cell.Avail()
	cell.Free()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free = append(c.free, head)
}
