package fusedev

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/ledger"
)

// BufferSize is enough for any request to a Handler with fuse.DefaultMaxWrite, and for
// its reply: data, header and body. The kernel refuses to hand a request out into less
// than what INIT has settled (fs/fuse/dev.c: fuse_dev_do_read). Kernels with larger pages
// than 4 KiB need Options.MaxRead, or they ask for more in one READ.
const BufferSize = fuse.DefaultMaxWrite + 64<<10

// Read reads the next request into the buffers, one after the other, which must have
// BufferSize bytes together, or what INIT has settled. It waits for a request. The error
// is io.EOF when the file system has been unmounted.
func (m *Mount) Read(b ...[]byte) (int, error) { return readRequest(int(m.file.Fd()), b...) }

func readRequest(fd int, b ...[]byte) (int, error) {
	for {
		n, err := unix.Readv(fd, b)
		switch err {
		case nil:
			return n, nil
		case unix.EINTR, unix.EAGAIN, unix.ENOENT: // ENOENT: the request was taken back
		case unix.ENODEV, unix.ECONNABORTED: // the second one after an abort, with FUSE_ABORT_ERROR
			return 0, io.EOF
		default:
			return 0, &os.PathError{Op: "read", Path: "/dev/fuse", Err: err}
		}
	}
}

// Answer writes a reply, header first, in one or more parts. A reply to a request that
// was taken back is dropped without an error.
func (m *Mount) Answer(reply ...[]byte) error { return answer(int(m.file.Fd()), reply...) }

func answer(fd int, reply ...[]byte) error {
	_, err := unix.Writev(fd, reply)
	if err == nil || err == unix.ENOENT || err == unix.ENODEV {
		return nil
	}
	return &os.PathError{Op: "write", Path: "/dev/fuse", Err: err}
}

// queue is one goroutine's way to the kernel.
type queue struct {
	rings   *rings // nil is none
	mount   *Mount
	fd      int
	*pair                   // its buffers
	waiting *sync.WaitGroup // requests that wait and will be answered on fd
	linger  *atomic.Int32   // those of all queues that wait for other clients
	more    func()          // starts another queue on fd
	lost    bool            // its thread is stuck in a request, and answers that one only
}

// relieve has another goroutine continue, with buffers of its own; see fuse.Hooks.Stuck.
func (q *queue) relieve() {
	q.lost = true
	q.more()
}

// maxLinger is how many requests may wait for other clients. They take no goroutine and no
// thread of a queue.
const maxLinger = 1024

func (q *queue) mayLinger() bool { return q.linger.Load() < maxLinger }

// Device is one more descriptor of a mount. A reply has to be given to the one that has read
// the request.
type Device struct{ file *os.File }

// Clone opens the same mount once more, with a queue of its own for replies
// (fs/fuse/dev.c: fuse_dev_ioctl_clone).
func (m *Mount) Clone() (*Device, error) {
	f, err := m.clone()
	if err != nil {
		return nil, &os.PathError{Op: "clone", Path: "/dev/fuse", Err: err}
	}
	return &Device{f}, nil
}

// Read is Mount.Read.
func (d *Device) Read(b ...[]byte) (int, error) { return readRequest(int(d.file.Fd()), b...) }

// Answer is Mount.Answer.
func (d *Device) Answer(reply ...[]byte) error { return answer(int(d.file.Fd()), reply...) }

// Close closes the descriptor. Requests that were read from it are answered with ECONNABORTED.
func (d *Device) Close() error { return d.file.Close() }

// clone is Clone for Serve, whose goroutines share one descriptor without it.
func (m *Mount) clone() (*os.File, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	session := uint32(m.file.Fd())
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), devIocClone, uintptr(unsafe.Pointer(&session)))
	if errno != 0 {
		_ = unix.Close(fd)
		return nil, errno
	}
	return os.NewFile(uintptr(fd), "/dev/fuse"), nil
}

// Serve serves the kernel's requests with h on so many goroutines until the file system
// is unmounted. Then it ends the session. A failure of one goroutine aborts the mount
// and is returned. No request is left when Serve returns: a late reply would go to the
// file that has the descriptor's number by then.
func (m *Mount) Serve(h fuse.Handler, threads int) error {
	if err := m.recordRequests(); err != nil {
		return err
	}
	s := &serving{mount: m, handler: h}
	s.rings = m.startRings(h, &s.waiting, func(serve func() error) { s.run(serve, m.abort) })
	defer s.rings.close()
	for i := range max(threads, 1) {
		file := m.file
		if i > 0 && m.ledger == nil {
			// Not worth failing for: without a clone it shares the first descriptor.
			if c, err := m.clone(); err == nil {
				defer func() { _ = c.Close() }()
				file = c
			}
		}
		s.addQueue(int(file.Fd()))
	}
	s.running.Wait()
	h.Reset() // ends what waits for other clients
	s.waiting.Wait()
	return s.failed
}

// recordRequests begins the ledger's part about requests, unless there is one to recover.
func (m *Mount) recordRequests() error {
	if m.ledger == nil || m.cells != nil {
		return nil
	}
	q, err := m.ledger.Queue(0, ledger.MaxQueueSize)
	if err != nil {
		return err
	}
	m.ledger.Begin()
	q.Begin(1, 0)
	m.cells = newCells(q)
	m.cells.fill()
	m.ledger.Serving()
	return nil
}

// serving is what the goroutines of one Serve have in common.
type serving struct {
	mount   *Mount
	handler fuse.Handler
	rings   *rings         // nil is none
	running sync.WaitGroup // goroutines
	waiting sync.WaitGroup // requests that wait and will be answered
	linger  atomic.Int32   // those of them that wait for other clients

	mu     sync.Mutex // guards failed
	failed error
}

// addQueue has one more goroutine serve the requests that it reads from fd.
func (s *serving) addQueue(fd int) {
	m := s.mount
	s.run(func() error {
		q := &queue{mount: m, rings: s.rings, fd: fd, pair: m.takePair(), waiting: &s.waiting, linger: &s.linger,
			more: func() { s.addQueue(fd) }}
		return q.serve(s.handler)
	}, func() { _ = m.Detach() })
}

// run calls serve on a goroutine of its own. If it fails, abort ends the others, which would wait for ever.
func (s *serving) run(serve func() error, abort func()) {
	s.mount.host.AddQueues(1)
	s.running.Go(func() {
		defer s.mount.host.AddQueues(-1)
		if err := serve(); err != nil {
			s.mu.Lock()
			s.failed = errors.Join(s.failed, err)
			s.mu.Unlock()
			abort()
		}
	})
}

// serve is one goroutine of Serve. A thread that is unfit ends, and another
// goroutine replaces it.
func (q *queue) serve(h fuse.Handler) error {
	for {
		ended := make(chan error)
		var again bool
		go func() {
			t, err := h.StartThread(fuse.Hooks{MayLinger: q.mayLinger, Stuck: q.relieve, Backing: q.mount})
			if err != nil {
				ended <- err
				return
			}
			again, err = q.loop(t)
			t.Stop()
			ended <- err
		}()
		if err := <-ended; err != nil || !again {
			return err
		}
	}
}

// loop serves requests on t; again tells that t is broken and another has to continue. A thread that
// was stuck in a request ends after it.
func (q *queue) loop(t fuse.Thread) (again bool, err error) {
	var m fuse.Message
	in, room := make(fuse.Buffers, 0, 1), make(fuse.Buffers, 0, 1)
	for !q.lost && !t.Broken() {
		n, err := q.read()
		if errors.Is(err, io.EOF) {
			q.rings.choose(false)
			return false, nil
		}
		if err != nil {
			return false, err
		}
		out := q.out
		m.Set(in.Append(q.in[:n]), room.Append(out))
		if q.mount.cells.take(&m) {
			if err := q.giveUp(&m); err != nil {
				return false, err
			}
			continue
		}
		r, p := t.Handle(&m)
		if p != nil {
			q.wait(p, out, m.Cell)
			continue
		}
		uring := m.Header.Opcode == uint32(fp.OpInit) && q.rings.offer(q.in[:n], out[:r.Len])
		if err := reply(q.fd, out[:r.Len]); err != nil {
			return false, err
		}
		q.mount.cells.done(m.Cell)
		if m.Header.Opcode == uint32(fp.OpInit) {
			q.rings.choose(uring)
		}
	}
	return !q.lost, nil
}

// read reads the next request.
func (q *queue) read() (int, error) {
	if n, ok := q.mount.next(q.in); ok {
		return n, nil
	}
	return readRequest(q.fd, q.in)
}

// giveUp answers EIO.
func (q *queue) giveUp(m *fuse.Message) error {
	defer q.mount.cells.done(m.Cell)
	h := fp.OutHeader{Len: uint32(unsafe.Sizeof(fp.OutHeader{})), Error: -int32(unix.EIO), Unique: m.Header.Unique}
	return answer(q.fd, fp.Bytes(&h))
}

// wait has p finished and answered elsewhere. out is p's reply buffer, cell where it is noted.
func (q *queue) wait(p fuse.Pending, out []byte, cell *fuse.Cell) {
	lingers := int32(0)
	var kept *pair
	if p.Lingers() { // possibly for ever: with a small buffer of its own
		lingers = 1
		out = make([]byte, 4096)
		p.ReplyTo(fuse.Over(out))
	} else { // the old ones are p's until it is done
		kept = q.pair
		q.pair = q.mount.takePair()
	}
	q.linger.Add(lingers)
	q.waiting.Add(1)
	p.Start(func(r fuse.Reply) {
		defer q.waiting.Done()
		defer q.linger.Add(-lingers)
		_ = reply(q.fd, out[:r.Len])
		q.mount.cells.done(cell)
		p.Free()
		if kept != nil {
			q.mount.pairs.Put(kept)
		}
	})
}

// pair is the two buffers of a request. They are large: to make and to clear new ones for each
// request that waits took longer than most requests.
type pair struct{ in, out []byte }

// takePair returns two buffers that no request uses.
func (m *Mount) takePair() *pair {
	if p, ok := m.pairs.Get().(*pair); ok {
		return p
	}
	p := &pair{make([]byte, BufferSize), make([]byte, BufferSize)}
	if m.ledger != nil {
		hold(p.in)
		hold(p.out)
	}
	return p
}

// reply writes the reply, unless the request wants none. If the kernel calls a reply
// malformed, the client gets an error instead.
func reply(fd int, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	err := answer(fd, b)
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	h, _, ok := fp.View[fp.OutHeader](b)
	if !ok {
		return fmt.Errorf("reply of %d bytes: %w", len(b), err)
	}
	failed := fp.OutHeader{Len: uint32(unsafe.Sizeof(*h)), Error: -int32(unix.EIO), Unique: h.Unique}
	return answer(fd, fp.Bytes(&failed))
}
