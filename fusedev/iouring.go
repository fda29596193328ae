package fusedev

import (
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What is used of io_uring (include/uapi/linux/io_uring.h).
const (
	setupSQE128       = 1 << 10 // IORING_SETUP_SQE128
	setupSingleIssuer = 1 << 12 // IORING_SETUP_SINGLE_ISSUER
	setupDeferTaskrun = 1 << 13 // IORING_SETUP_DEFER_TASKRUN
	enterGetevents    = 1       // IORING_ENTER_GETEVENTS
	offSQEs           = 0x10000000
	opPollAdd         = 6  // IORING_OP_POLL_ADD
	opUringCmd        = 46 // IORING_OP_URING_CMD
	sqeSize           = 128
	cqeSize           = 16
)

// ringParams is struct io_uring_params.
type ringParams struct {
	sqEntries, cqEntries, flags, threadCPU, threadIdle, features, wqFD uint32

	_  [3]uint32
	sq struct {
		head, tail, ringMask, ringEntries, flags, dropped, array, _ uint32

		userAddr uint64
	}
	cq struct {
		head, tail, ringMask, ringEntries, overflow, cqes, flags, _ uint32

		userAddr uint64
	}
}

// sqe is struct io_uring_sqe with 128 bytes, as commands of /dev/fuse have it.
type sqe struct {
	opcode, flags uint8
	ioprio        uint16
	fd            int32
	off           uint64 // the lower word of a command is its number
	addr          uint64
	len, opFlags  uint32
	userData      uint64
	_             [2]uint16
	_             uint32
	cmd           [80]byte
}

// cqe is struct io_uring_cqe.
type cqe struct {
	userData uint64
	res      int32
	flags    uint32
}

// ioURing is a ring of one thread: only that one may submit and wait.
type ioURing struct {
	fd             int
	sqTail         *uint32
	cqHead, cqTail *uint32
	sqMask, cqMask uint32
	sqes           []sqe
	cqes           []cqe
	unsent         uint32 // entries that the kernel has not taken yet
	memory         [][]byte
}

func newIOURing(entries int) (r *ioURing, err error) {
	p := ringParams{flags: setupSQE128 | setupSingleIssuer | setupDeferTaskrun}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, os.NewSyscallError("io_uring_setup", errno)
	}
	r = &ioURing{fd: int(fd)}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	b, err := r.mmap(0, max(p.sq.array+p.sqEntries*4, p.cq.cqes+p.cqEntries*cqeSize))
	if err != nil {
		return nil, err
	}
	s, err := r.mmap(offSQEs, p.sqEntries*sqeSize)
	if err != nil {
		return nil, err
	}
	word := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&b[off])) }
	r.sqTail, r.cqHead, r.cqTail = word(p.sq.tail), word(p.cq.head), word(p.cq.tail)
	r.sqMask, r.cqMask = *word(p.sq.ringMask), *word(p.cq.ringMask)
	r.sqes = unsafe.Slice((*sqe)(unsafe.Pointer(&s[0])), p.sqEntries)
	r.cqes = unsafe.Slice((*cqe)(unsafe.Pointer(&b[p.cq.cqes])), p.cqEntries)
	for i := range p.sqEntries {
		*word(p.sq.array + 4*i) = i
	}
	return r, nil
}

func (r *ioURing) mmap(off int64, size uint32) ([]byte, error) {
	b, err := unix.Mmap(r.fd, off, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, os.NewSyscallError("mmap of io_uring", err)
	}
	r.memory = append(r.memory, b)
	return b, nil
}

// submit has the next enter send s. There are never more than the ring has entries.
func (r *ioURing) submit(s sqe) {
	tail := *r.sqTail
	r.sqes[tail&r.sqMask] = s
	atomic.StoreUint32(r.sqTail, tail+1)
	r.unsent++
}

// enter sends what was submitted, and waits until something is complete. It may return early.
func (r *ioURing) enter() error {
	n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(r.unsent), 1, enterGetevents, 0, 0)
	switch errno {
	case 0:
		r.unsent -= uint32(n)
	case unix.EINTR, unix.EAGAIN, unix.EBUSY: // nothing was sent
	default:
		return os.NewSyscallError("io_uring_enter", errno)
	}
	return nil
}

// next is what has completed, if something has.
func (r *ioURing) next() (c cqe, ok bool) {
	head := *r.cqHead
	if head == atomic.LoadUint32(r.cqTail) {
		return c, false
	}
	c = r.cqes[head&r.cqMask]
	atomic.StoreUint32(r.cqHead, head+1)
	return c, true
}

func (r *ioURing) close() {
	for _, b := range r.memory {
		_ = unix.Munmap(b)
	}
	_ = unix.Close(r.fd)
}

// wakeList are numbers that other threads have for a ring's thread, which polls the eventfd.
type wakeList struct {
	event int
	mu    sync.Mutex // guards list; leaf
	list  []int
}

func (w *wakeList) add(i int) {
	w.mu.Lock()
	w.list = append(w.list, i)
	w.mu.Unlock()
	one := [8]byte{1}
	_, _ = unix.Write(w.event, one[:]) // it never fills up
}

func (w *wakeList) take() []int {
	var b [8]byte
	_, _ = unix.Read(w.event, b[:])
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.list
	w.list = nil
	return list
}
