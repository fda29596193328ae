package relay

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

const (
	// maxPacket is the longest message that a program may send: a reply with MaxData or a listing.
	maxPacket = MaxData + 4096
	// maxOrphans bounds the replies that nobody waits for any more, because of a time-out or the end of a session.
	// A program that owes so many gets no new requests. Those that it has owed for orphanAge are lost, by all appearances, and
	// do not count any more, up to maxLost: a program that loses a reply now and then is still of use.
	maxOrphans = 4096
	maxLost    = 1 << 16
	orphanAge  = 5 * time.Minute
	// betweenForgets is how many queued requests may go before some counts of FORGET do; the kernel takes turns as well
	// (fs/fuse/dev.c: forget_batch).
	betweenForgets = 8
)

// link is the relay's end of one program's socket. It ends with the program.
type link struct {
	file  *os.File // until INIT is answered
	fd    int
	epoch uint32 // counts programs, from 1 on
	log   *slog.Logger
	oops  *rate.Sometimes
	done  <-chan struct{} // see Mounted.Done
	why   func() error    // see Mounted.Err

	process    uint32 // see Mounted.Process
	minor      uint32 // of the program
	flags      fp.InitFlags
	maxWrite   uint32
	maxRead    uint32
	maxTotal   int // the longest request that fits into the program's buffer
	maxForgets int // how many counts of FORGET may wait for room

	// notify is called on the receiving goroutine with a notification, body only; cut says that it is longer.
	notify func(l *link, code fp.NotifyCode, body []byte, cut bool)
	// late is called on it with the reply of an orphan.
	late func(l *link, o *orphan, body []byte)

	// letGo is called with an orphan whose reply has come, or will not.
	letGo func(o *orphan)

	// io is held for reading while a system call uses fd, and for writing while that is closed. Only the flusher's waits,
	// which shutdown ends; so does that of the receiving goroutine, which does not hold io.
	io        sync.RWMutex
	closed    bool // guarded by io
	receiving bool // run uses fd; run sets it with io held for reading, and clears it with io held for writing

	mu      sync.Mutex // guards the following
	calls   map[uint64]*call
	orphans map[uint64]orphan
	lost    int       // how many orphans are lost
	swept   time.Time // when they were counted
	next    uint64
	queue   []*call           // what the socket had no room for
	small   [][]byte          // the same, of messages without a call
	forgets map[uint64]uint64 // the same, of FORGET: counts by node id of the program
	forgo   int               // how many of queue were sent since the last FORGET
	flusher bool              // a goroutine waits for room
	err     error             // why the link has ended
	ended   chan struct{}     // closed then

	bulk          atomic.Int32 // calls under way whose reply goes to the client's memory
	noInterrupt   atomic.Bool  // the program has answered INTERRUPT with ENOSYS
	misbehaved    atomic.Uint64
	received      [maxPacket / 8]uint64 // of the receiving goroutine
	head          [outHeaderSize / 8]uint64
	finisher      server.Finisher
	looksMore     int // see looksAfter
	vec           []unix.Iovec
	msg           unix.Msghdr
	notifications atomic.Uint64
	// System calls so far.
	sends, receptions atomic.Uint64
}

// orphan is a call that nobody waits for any more, whose reply says what has to be undone.
type orphan struct {
	opcode fp.Opcode
	form   form
	node   uint64 // the program's number
	lock   fp.LkIn
	since  time.Time
	lost   bool // see orphanAge
	// What the program may still work with, to be kept until then; nil is nothing.
	nodes [2]*node
	files [2]*file
}

var errTooLong = errors.New("the program has cut a message into several packets, or joined several")

// newLink takes the socket over.
func newLink(m *Mounted, epoch uint32, log *slog.Logger) (*link, error) {
	defer m.Socket.Close()
	conn, err := m.Socket.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("relay: socket of the program: %w", err)
	}
	fd, kind := -1, 0
	if e := conn.Control(func(s uintptr) {
		if kind, err = unix.GetsockoptInt(int(s), unix.SOL_SOCKET, unix.SO_TYPE); err == nil {
			fd, err = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 3)
		}
	}); e != nil {
		err = e
	}
	if err != nil {
		return nil, fmt.Errorf("relay: socket of the program: %w", err)
	}
	if kind != unix.SOCK_SEQPACKET {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("relay: socket of the program has type %d, not SOCK_SEQPACKET", kind)
	}
	// INIT has a time limit, for which the runtime's poller is needed, and that takes only what does not block.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("relay: socket of the program: %w", err)
	}
	return &link{fd: fd, file: os.NewFile(uintptr(fd), "program"), epoch: epoch, log: log, done: m.Done,
		calls: make(map[uint64]*call), next: 2, ended: make(chan struct{}), orphans: make(map[uint64]orphan),
		forgets: make(map[uint64]uint64), oops: &rate.Sometimes{Interval: time.Second},
		minor: fp.KernelMinorVersion, maxTotal: 8192}, nil
}

// unpoll takes the socket from the poller, which every message would wake.
func (l *link) unpoll() error {
	fd, err := unix.FcntlInt(uintptr(l.fd), unix.F_DUPFD_CLOEXEC, 3)
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		return fmt.Errorf("relay: socket of the program: %w", err)
	}
	_ = l.file.Close()
	l.file, l.fd = nil, fd
	return nil
}

// run receives until the link ends, on a thread of its own: with the poller and the scheduler between, a reply took twice as long.
func (l *link) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Not for writing: the flusher may wait for a program that reads on when its replies are received.
	l.io.RLock()
	l.receiving = !l.closed
	l.io.RUnlock()
	if !l.receiving {
		return
	}
	var err error
	for err == nil {
		err = l.receive(l.fd)
	}
	l.end(err)
	l.io.Lock()
	defer l.io.Unlock()
	l.receiving = false
	l.shut()
}

// shut closes the socket when nobody uses it any more. l.io is held.
func (l *link) shut() {
	switch {
	case !l.closed || l.receiving || l.fd < 0:
		return
	case l.file != nil:
		_ = l.file.Close()
	default:
		_ = unix.Close(l.fd)
	}
	l.fd = -1
}

// end ends the link: all calls under way are told.
func (l *link) end(err error) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	if err == nil {
		err = io.EOF
	}
	l.err = err
	calls, orphans := l.calls, l.orphans
	l.calls, l.queue, l.small, l.forgets, l.orphans = nil, nil, nil, nil, nil
	close(l.ended)
	l.mu.Unlock()
	for _, o := range orphans {
		l.letGo(&o)
	}
	var parked []*call
	for _, c := range calls {
		c.gone = true
		if c.parked != nil {
			c.n, c.errno = 0, unix.EIO
			parked = append(parked, c)
			continue
		}
		c.finish(0, unix.EIO)
	}
	resumeAll(parked)
	l.io.RLock()
	_ = unix.Shutdown(l.fd, unix.SHUT_RDWR) // who waits in a system call comes back
	l.io.RUnlock()
	l.io.Lock()
	defer l.io.Unlock()
	l.closed = true
	l.shut()
}

// alive reports whether requests can still be sent.
func (l *link) alive() bool {
	select {
	case <-l.ended:
		return false
	default:
		return true
	}
}

// do sends c, whose numbers are filled in, and registers it. The errno says why it was not sent; c.gone then says
// that the program has ended. After 0 the result comes in c.done.
func (l *link) do(c *call) unix.Errno {
	if errno := l.fits(c); errno != 0 {
		return errno
	}
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		c.gone = true
		return unix.EIO
	}
	if len(l.orphans)-l.lost >= maxOrphans && l.owesTooMuch(time.Now()) {
		l.mu.Unlock()
		return unix.ETIMEDOUT
	}
	l.register(c)
	wait := l.waiting()
	if c.queued = wait; wait {
		l.queue = append(l.queue, c)
	}
	l.mu.Unlock()
	if wait {
		return 0
	}
	// Nobody else touches the message: the reply can't have come before it is sent.
	errno := l.send(&c.msg)
	if errno == 0 {
		return 0
	}
	return l.unsent(c, errno)
}

// register gives a call its number, under which its reply comes. l.mu is held.
func (l *link) register(c *call) (unique uint64) {
	unique = l.next
	l.next += 2
	c.header.Unique = unique
	*(*uint64)(unsafe.Pointer(&c.raw[8])) = unique
	l.calls[unique] = c
	if c.looks() {
		l.bulk.Add(1)
	}
	return unique
}

// owesTooMuch reports whether the program owes so many replies that it gets no more requests. l.mu is held.
func (l *link) owesTooMuch(now time.Time) bool {
	if now.Sub(l.swept) >= time.Second {
		l.swept = now
		for unique, o := range l.orphans {
			if !o.lost && l.lost < maxLost && now.Sub(o.since) >= orphanAge {
				o.lost = true
				l.orphans[unique] = o
				l.lost++
			}
		}
	}
	return len(l.orphans)-l.lost >= maxOrphans
}

// waiting reports whether something is queued. l.mu is held.
func (l *link) waiting() bool { return len(l.queue)+len(l.small)+len(l.forgets) > 0 }

// unsent decides about a call that could not be sent at once.
func (l *link) unsent(c *call, errno unix.Errno) unix.Errno {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.calls[c.header.Unique] != c:
		return 0 // end has told it, or the program has answered what it did not get
	case errno == unix.EAGAIN:
		c.queued = true
		l.queue = append(l.queue, c)
		l.wake()
		return 0
	}
	delete(l.calls, c.header.Unique)
	l.settled(c)
	switch errno {
	case unix.EPIPE, unix.ECONNRESET, unix.EBADF:
		c.gone = true // the receiving goroutine notices, too
		return unix.EIO
	case unix.EMSGSIZE, unix.ENOBUFS:
		return unix.ENOMEM
	}
	return unix.EIO // the client's memory is gone
}

// settled takes a call off the count. l.mu is held.
func (l *link) settled(c *call) {
	if c.looks() {
		l.bulk.Add(-1)
	}
}

// fits checks the length of a request: a program cuts off silently what its buffer has no room for.
func (l *link) fits(c *call) unix.Errno {
	c.gone = false
	if m := since[c.header.Opcode]; m > l.minor {
		return unix.ENOSYS
	}
	if c.message(l.minor) <= l.maxTotal {
		return 0
	}
	if fp.Opcode(c.header.Opcode) == fp.OpSetxattr {
		return unix.E2BIG
	}
	return unix.EIO
}

// send sends a message if there is room.
func (l *link) send(m *unix.Msghdr) unix.Errno {
	l.io.RLock()
	defer l.io.RUnlock()
	if l.closed {
		return unix.EPIPE
	}
	for {
		l.sends.Add(1)
		_, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(l.fd), uintptr(unsafe.Pointer(m)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if errno != unix.EINTR {
			return errno
		}
	}
}

// wake has a goroutine send what is queued when there is room. l.mu is held.
func (l *link) wake() {
	if !l.flusher {
		l.flusher = true
		go l.flush()
	}
}

// flush sends what is queued, as soon as there is room.
func (l *link) flush() {
	for !l.drain() {
		l.room()
	}
}

// room waits until the socket has room, or has ended.
func (l *link) room() {
	l.io.RLock()
	defer l.io.RUnlock()
	if l.closed {
		return
	}
	p := [1]unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLOUT}}
	_, _ = unix.Ppoll(p[:], nil, nil)
}

// drain sends what is queued; false when there is no room again. Otherwise the flusher has ended.
func (l *link) drain() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.err == nil && l.waiting() {
		errno := l.sendNext()
		if errno == unix.EAGAIN {
			return false
		}
	}
	l.flusher = false
	return true
}

// sendNext sends one queued message: first what is small, INTERRUPT among it, then requests, and some counts of FORGET after a few of
// them: neither waits for ever behind requests that keep coming. l.mu is held: nobody gives up the call meanwhile.
func (l *link) sendNext() unix.Errno {
	switch {
	case len(l.small) > 0:
		if l.sendBytes(l.small[0]) == unix.EAGAIN {
			return unix.EAGAIN
		}
		l.small[0] = nil
		l.small = l.small[1:]
		return 0
	case len(l.queue) == 0 || len(l.forgets) > 0 && l.forgo >= betweenForgets:
		if errno := l.sendForgets(); errno != 0 {
			return errno
		}
		l.forgo = 0
		return 0
	}
	c := l.queue[0]
	errno := l.send(&c.msg)
	if errno == unix.EAGAIN {
		return errno
	}
	l.queue[0] = nil
	l.queue = l.queue[1:]
	l.forgo++
	c.queued = false
	if errno != 0 {
		delete(l.calls, c.header.Unique)
		l.settled(c)
		c.gone = errno == unix.EPIPE || errno == unix.ECONNRESET
		c.finish(0, unix.EIO)
	}
	return 0
}

func (l *link) sendBytes(b []byte) unix.Errno {
	v := unix.Iovec{Base: unsafe.SliceData(b)}
	v.SetLen(len(b))
	m := unix.Msghdr{Iov: &v}
	m.SetIovlen(1)
	return l.send(&m)
}

// post sends a message that no call belongs to, or queues it. l.mu is held.
func (l *link) post(b []byte) {
	if l.err != nil {
		return
	}
	if !l.waiting() && l.sendBytes(b) != unix.EAGAIN {
		return
	}
	l.small = append(l.small, b)
	l.wake()
}
