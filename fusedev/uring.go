package fusedev

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// FUSE over io_uring (fs/fuse/dev_uring.c, Linux 6.14): a queue for each processor, whose requests come
// from programs on that processor, and are served on a thread that stays on it. A request costs one
// system call instead of two, and wakes nobody on another processor. FORGET and INTERRUPT still
// come over /dev/fuse.

const (
	// uringDepth is how many requests of one processor may be under way. The kernel keeps more
	// until one is answered.
	uringDepth = 16
	// payloadSize is what the kernel wants for a request's data with fuse.DefaultMaxWrite
	// (fs/fuse/dev_uring.c: fuse_uring_create).
	payloadSize = fuse.DefaultMaxWrite
	headSpace   = 512 // for one uringHead

	uringRegister = 1       // FUSE_IO_URING_CMD_REGISTER
	uringCommit   = 2       // FUSE_IO_URING_CMD_COMMIT_AND_FETCH
	wakeData      = 1 << 32 // userData of the poll of the wakeList
)

var inHeaderSize, outHeaderSize = fp.Size[fp.InHeader](), fp.Size[fp.OutHeader]()

// uringCmd is struct fuse_uring_cmd_req.
type uringCmd struct {
	flags, commitID uint64
	qid             uint16
	_               [6]byte
}

// uringHead is struct fuse_uring_req_header.
type uringHead struct {
	inOut    [128]byte // header of the request, then of the reply
	opIn     [128]byte // body of fixed size
	flags    uint64
	commitID uint64
	payload  uint32 // length, also of a reply without its header
	_        uint32
	_        uint64
}

// uringEntry is room for one request and its reply, which the kernel knows. From the completion to
// uringCommit it is ours.
type uringEntry struct {
	head    *uringHead
	payload []byte
	iov     [2]unix.Iovec
}

// rings are the queues of a mount.
type rings struct {
	mount   *Mount
	handler fuse.Handler
	queues  []*uringQueue
	use     chan bool   // a value for each queue
	chosen  atomic.Bool // use has its values
	waiting *sync.WaitGroup
}

// uringQueue is the queue of one processor.
type uringQueue struct {
	*rings
	id      int
	ring    *ioURing
	entries []uringEntry
	memory  [][]byte
	done    wakeList
	linger  atomic.Int32
	thread  fuse.Thread  // nil after it was broken
	spare   *spareThread // serves instead of it
	names   []byte       // copy of what follows the body: the reply goes where that is
}

// newRings makes a queue for each processor that there may be.
func (m *Mount) newRings(h fuse.Handler, waiting *sync.WaitGroup) (*rings, error) {
	n, err := possibleCPUs()
	if err != nil {
		return nil, err
	}
	r := &rings{mount: m, handler: h, use: make(chan bool, n), waiting: waiting}
	for i := range n {
		q, err := r.newQueue(i)
		if q != nil {
			r.queues = append(r.queues, q)
		}
		if err != nil {
			r.close()
			return nil, err
		}
	}
	return r, nil
}

// startRings makes the queues if they are wanted and possible, and has run run them.
func (m *Mount) startRings(h fuse.Handler, waiting *sync.WaitGroup, run func(serve func() error)) *rings {
	if !m.uring {
		return nil
	}
	r, err := m.newRings(h, waiting)
	if err != nil {
		return nil
	}
	ready := make(chan error)
	for _, q := range r.queues {
		run(func() error {
			ended := make(chan error)
			go func() { ended <- q.serve(ready) }() // its thread ends with it
			return <-ended
		})
	}
	for range r.queues {
		if err := <-ready; err != nil {
			r.choose(false)
		}
	}
	return r
}

// offer has INIT's reply say that the rings are there, if the kernel has asked for them.
func (r *rings) offer(request, reply []byte) bool {
	if r == nil || r.chosen.Load() || len(request) < inHeaderSize || len(reply) < outHeaderSize {
		return false
	}
	in, _, ok := fp.View[fp.InitIn](request[inHeaderSize:])
	out, _, full := fp.View[fp.InitOut](reply[outHeaderSize:])
	if !ok || !full || in.InitFlags()&fp.InitOverIOUring == 0 || out.Flags&uint32(fp.InitExt) == 0 || out.MaxWrite > payloadSize || int(out.MaxPages)*os.Getpagesize() > payloadSize {
		return false
	}
	out.Flags2 |= uint32(fp.InitOverIOUring >> 32)
	return true
}

// choose says whether the rings are used. It has been decided when somebody calls it first.
func (r *rings) choose(use bool) {
	if r == nil || r.chosen.Swap(true) {
		return
	}
	for range r.queues {
		r.use <- use
	}
}

// possibleCPUs is how many queues the kernel wants.
func possibleCPUs() (int, error) {
	const path = "/sys/devices/system/cpu/possible" // "0-7"
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	s := strings.TrimSpace(string(b))
	last, err := strconv.Atoi(s[strings.LastIndexAny(s, "-,")+1:])
	if err != nil || last < 0 || last >= 1<<13 {
		return 0, fmt.Errorf("%s: %q is not understood", path, s)
	}
	return last + 1, nil
}

func (r *rings) newQueue(id int) (*uringQueue, error) {
	q := &uringQueue{rings: r, id: id, names: make([]byte, 64<<10), done: wakeList{event: -1}}
	var err error
	if q.done.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return q, os.NewSyscallError("eventfd", err)
	}
	for _, size := range []int{headSpace, payloadSize} {
		b, err := unix.Mmap(-1, 0, uringDepth*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return q, os.NewSyscallError("mmap", err)
		}
		q.memory = append(q.memory, b)
	}
	q.entries = make([]uringEntry, uringDepth)
	for i := range q.entries {
		e := &q.entries[i]
		head := q.memory[0][i*headSpace:][:unsafe.Sizeof(uringHead{})]
		e.head, e.payload = (*uringHead)(unsafe.Pointer(&head[0])), q.memory[1][i*payloadSize:][:payloadSize]
		for k, b := range [][]byte{head, e.payload} {
			e.iov[k].Base = &b[0]
			e.iov[k].SetLen(len(b))
		}
	}
	return q, nil
}

// close frees everything, after the last request was answered.
func (r *rings) close() {
	if r == nil {
		return
	}
	for _, q := range r.queues {
		for _, b := range q.memory {
			_ = unix.Munmap(b)
		}
		if q.done.event >= 0 {
			_ = unix.Close(q.done.event)
		}
	}
}

// serve is the goroutine of a queue, whose thread ends with it. ready is told whether there is a ring.
func (q *uringQueue) serve(ready chan<- error) error {
	hooks := fuse.Hooks{MayLinger: func() bool { return q.linger.Load() < uringDepth/2 }, Backing: q.mount}
	t, err := q.handler.StartThread(hooks)
	if err != nil {
		ready <- err
		return nil
	}
	q.thread = t
	defer func() {
		if q.thread != nil {
			q.thread.Stop()
		}
	}()
	var here unix.CPUSet
	here.Set(q.id)
	_ = unix.SchedSetaffinity(0, &here) // a processor may be off
	q.ring, err = newIOURing(2 * uringDepth)
	ready <- err
	if err != nil {
		return nil
	}
	defer q.ring.close()
	if !<-q.use {
		return nil
	}
	defer func() { q.spare.stop() }()
	for i := range q.entries {
		q.command(i, uringRegister)
	}
	q.poll()
	for {
		if err := q.ring.enter(); err != nil {
			return err
		}
		for c, ok := q.ring.next(); ok; c, ok = q.ring.next() {
			if ended, err := q.completed(c); ended || err != nil {
				return err
			}
		}
	}
}

func (q *uringQueue) command(i int, op uint64) {
	e := &q.entries[i]
	s := sqe{opcode: opUringCmd, fd: int32(q.mount.file.Fd()), off: op, userData: uint64(i)}
	c := (*uringCmd)(unsafe.Pointer(&s.cmd))
	c.qid = uint16(q.id)
	if op == uringRegister {
		s.addr, s.len = uint64(uintptr(unsafe.Pointer(&e.iov))), uint32(len(e.iov))
	} else {
		c.commitID = e.head.commitID
	}
	q.ring.submit(s)
}

func (q *uringQueue) poll() {
	q.ring.submit(sqe{opcode: opPollAdd, fd: int32(q.done.event), opFlags: unix.POLLIN, userData: wakeData})
}

// completed serves what the kernel has said. ended says that the file system was unmounted.
func (q *uringQueue) completed(c cqe) (ended bool, err error) {
	if c.userData == wakeData {
		for _, i := range q.done.take() {
			q.command(i, uringCommit)
		}
		q.poll()
		return false, nil
	}
	switch errno := unix.Errno(-c.res); errno {
	case 0:
		return false, q.request(int(c.userData))
	case unix.ENOTCONN, unix.ECANCELED, unix.ENODEV, unix.ECONNABORTED:
		return true, nil
	default:
		return true, fmt.Errorf("FUSE over io_uring: %w", errno)
	}
}

// request serves the request in an entry.
func (q *uringQueue) request(i int) error {
	e := &q.entries[i]
	var h fp.InHeader
	copy(fp.Bytes(&h), e.head.inOut[:])
	body := int64(h.Len) - int64(inHeaderSize) - int64(e.head.payload)
	if body < 0 || body > int64(len(e.head.opIn)) || int64(e.head.payload) > int64(len(e.payload)) {
		return fmt.Errorf("FUSE over io_uring: a request of %d bytes has %d of data", h.Len, e.head.payload)
	}
	data := e.payload[:e.head.payload]
	if h.Opcode != uint32(fp.OpWrite) && len(data) <= len(q.names) { // WRITE's reply comes after its data was used
		data = q.names[:copy(q.names, data)]
	}
	var m fuse.Message
	m.Set(fuse.Over(e.head.inOut[:inHeaderSize], e.head.opIn[:body], data), fuse.Over(e.head.inOut[:outHeaderSize], e.payload))
	q.mount.rung.Add(1)
	r, p := q.handle(&m)
	if p == nil {
		e.answer(h.Unique, r)
		q.command(i, uringCommit)
		return nil
	}
	q.names = make([]byte, len(q.names)) // the old one is p's
	lingers := int32(0)
	if p.Lingers() {
		lingers = 1
	}
	q.linger.Add(lingers)
	q.waiting.Add(1)
	p.Start(func(r fuse.Reply) {
		defer q.waiting.Done()
		defer q.linger.Add(-lingers)
		defer p.Free()
		e.answer(h.Unique, r)
		q.done.add(i)
	})
	return nil
}

// answer puts the length where the kernel looks for it. A request that got no reply fails.
func (e *uringEntry) answer(unique uint64, r fuse.Reply) {
	if int(r.Len) < outHeaderSize {
		failed := fp.OutHeader{Len: uint32(outHeaderSize), Error: -int32(unix.EIO), Unique: unique}
		r.Len = uint32(copy(e.head.inOut[:], fp.Bytes(&failed)))
	}
	e.head.payload = r.Len - uint32(outHeaderSize)
}

// handle serves m, on another thread if this one is broken. The ring needs this one until the end.
func (q *uringQueue) handle(m *fuse.Message) (fuse.Reply, fuse.Pending) {
	if q.thread != nil {
		r, p := q.thread.Handle(m)
		if q.thread.Broken() {
			q.thread.Stop()
			q.thread = nil
		}
		return r, p
	}
	if q.spare == nil {
		q.spare = startSpare(q)
	}
	q.spare.ask <- m
	s := <-q.spare.answer
	if s.ended {
		q.spare = nil
	}
	return s.reply, s.pending
}

// spareThread serves requests for the thread of a ring that may not do it any more.
type spareThread struct {
	ask    chan *fuse.Message
	answer chan served
}

type served struct {
	reply   fuse.Reply
	pending fuse.Pending
	ended   bool // there will be no more
}

func startSpare(q *uringQueue) *spareThread {
	s := &spareThread{ask: make(chan *fuse.Message), answer: make(chan served)}
	hooks := fuse.Hooks{MayLinger: func() bool { return q.linger.Load() < uringDepth/2 }, Backing: q.mount}
	go func() {
		t, err := q.handler.StartThread(hooks)
		if err != nil {
			<-s.ask
			s.answer <- served{ended: true} // it is answered EIO
			return
		}
		defer t.Stop()
		for m := range s.ask {
			r, p := t.Handle(m)
			ended := t.Broken()
			s.answer <- served{r, p, ended}
			if ended {
				return
			}
		}
	}()
	return s
}

func (s *spareThread) stop() {
	if s != nil {
		close(s.ask)
	}
}
