package virtqueue

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// LogPage is the number of bytes that one bit of the dirty log stands for
// (vhost-user, "Migration": VHOST_LOG_PAGE).
const LogPage = 4096

// Log is the bitmap of pages that the device wrote, shared with the front-end
// during migration (SET_LOG_BASE). Safe for concurrent use.
type Log struct {
	words []uint32
}

// NewLog uses the mapping b, which must be aligned to 4 bytes. It uses only whole words of
// 4 bytes.
func NewLog(b []byte) *Log {
	return &Log{words: unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)}
}

// contains reports whether an address lies in the bitmap.
func (l *Log) contains(addr uintptr) bool {
	start := uintptr(unsafe.Pointer(unsafe.SliceData(l.words)))
	return addr >= start && addr-start < 4*uintptr(len(l.words))
}

// Mark sets the bits of the pages with n bytes from a guest address on. Pages
// beyond the bitmap are ignored.
func (l *Log) Mark(guestAddr, n uint64) {
	if n == 0 || guestAddr+n < guestAddr {
		return
	}
	for page := guestAddr / LogPage; page <= (guestAddr+n-1)/LogPage; page++ {
		if page/32 >= uint64(len(l.words)) {
			return
		}
		atomic.OrUint32(&l.words[page/32], 1<<(page%32))
	}
}

// logTarget is a log as a queue sees it.
type logTarget struct {
	log     *Log
	used    uint64 // guest address of the used ring
	logUsed bool
}

// SetLog starts logging to l. With nil it ends logging. used is the guest address of the
// used ring; its pages are marked if logUsed is set. SetLog may be called at any time from
// any goroutine. The caller keeps the mapping until the queue is stopped.
func (q *Queue) SetLog(l *Log, used uint64, logUsed bool) {
	if l == nil {
		q.log.Store(nil)
		return
	}
	q.log.Store(&logTarget{l, used, logUsed})
}

// markChain marks the first written bytes of the chain's device-writable buffers.
func (t *logTarget) markChain(m *Memory, c *Chain, written uint32) {
	left := uint64(written)
	for _, v := range c.Writable() {
		if left == 0 {
			return
		}
		n := min(left, uint64(v.Len))
		t.mark(m, v, n)
		left -= n
	}
}

// mark marks the first n bytes of a buffer.
func (t *logTarget) mark(m *Memory, v unix.Iovec, n uint64) {
	if addr, ok := m.hostToGuest(unsafe.Pointer(v.Base)); ok {
		t.log.Mark(addr, n)
	}
}

// markUsed marks the pages of the used ring that are written when the entries old to now are
// published. size is the size of the ring. It is called before the index is written: if this process dies then, nothing is
// lost.
func (t *logTarget) markUsed(size, old, now uint16) {
	if !t.logUsed {
		return
	}
	t.markIndex()
	for i := old; i != now; i++ {
		t.log.Mark(t.used+4+8*uint64(i&(size-1)), 8)
	}
	t.log.Mark(t.used+4+8*uint64(size), 2)
}

// markIndex marks the page with the used ring's flags and index.
func (t *logTarget) markIndex() {
	if t.logUsed {
		t.log.Mark(t.used, 4)
	}
}
