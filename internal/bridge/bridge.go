// Package bridge carries requests from this machine's own FUSE client to a
// vhost-user-fs back-end, and the replies back. In a virtual machine the guest's
// kernel and the VMM do this.
//
// Each goroutine has one request at a time. It reads the request from /dev/fuse straight
// into the memory that it shares with the back-end, and writes the reply straight from
// there, so that data is copied once each way, by the kernel.
//
// The room for a reply follows from the request's opcode and body (fs/fuse/virtio_fs.c:
// virtio_fs_enqueue_req offers as much room as fuse_args say). The back-end is trusted
// no more than the kernel trusts any FUSE server.
package bridge

import (
	"errors"
	"io"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	"github.com/govirtiofs/govirtiofs/fusedev"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

const (
	inHeaderSize  = int(unsafe.Sizeof(fp.InHeader{}))
	outHeaderSize = int(unsafe.Sizeof(fp.OutHeader{}))

	// headSize is the size of a request's first part, which holds the header and body
	// of a WRITE. So the data of a WRITE begins a page.
	headSize = inHeaderSize + int(unsafe.Sizeof(fp.WriteIn{}))
)

// Bridge joins a mount and a back-end.
type Bridge struct {
	mount *fusedev.Mount
	front *frontend.Frontend
	gone  <-chan struct{}

	linger    atomic.Int32 // requests that wait for another client, possibly for ever
	maxLinger int32        // half of those that can be under way
}

// New connects a front-end to a mount. The front-end must have been started. Both
// remain the caller's.
func New(f *frontend.Frontend, m *fusedev.Mount) (*Bridge, error) {
	for _, q := range f.Queues {
		q.StartReceiving()
	}
	gone, err := f.Gone()
	if err != nil {
		return nil, err
	}
	return &Bridge{mount: m, front: f, gone: gone}, nil
}

// Serve carries requests until the file system is unmounted. For each queue, perQueue
// requests can be under way at the same time. The error is frontend.ErrGone when the
// back-end ends first; requests then remain unanswered until the mount is closed.
func (b *Bridge) Serve(perQueue int) error {
	queues := b.front.Queues[1:]
	threads := perQueue * len(queues)
	// A goroutine that sleeps in a system call keeps its P (processor of the Go runtime)
	// until the runtime takes it away, which can be 10 ms later. With one more for each of
	// them, a goroutine that wakes finds a P at once.
	sleepers := threads + len(b.front.Queues)
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + sleepers)
	defer func() { runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) - sleepers) }()
	for _, q := range queues { // a goroutine has a slot as long as it lives
		b.maxLinger += int32(min(perQueue, len(q.Slots)))
	}
	b.maxLinger /= 2
	ended := make(chan error, threads)
	for i := range threads {
		go func() { ended <- b.carry(queues[i%len(queues)]) }()
	}
	for range threads {
		select {
		case err := <-ended:
			if err != nil {
				return err
			}
		case <-b.gone:
			return frontend.ErrGone
		}
	}
	return b.destroy()
}

// destroy sends DESTROY as a guest does: /dev/fuse has no such request.
func (b *Bridge) destroy() error {
	q := b.front.Queues[1]
	s := q.Acquire()
	h := fp.InHeader{Len: uint32(inHeaderSize), Opcode: uint32(fp.OpDestroy), Unique: 1 << 62}
	copy(s.Out, fp.Bytes(&h))
	if _, err := s.Run(inHeaderSize, 0, outHeaderSize, 0, b.gone); err != nil {
		return err
	}
	q.Release(s)
	return nil
}

// carry is one goroutine: it takes requests one after the other over q.
func (b *Bridge) carry(q *frontend.Queue) error {
	s := q.Acquire()
	for {
		n, err := b.mount.Read(s.Out[:headSize], s.Data)
		if errors.Is(err, io.EOF) {
			q.Release(s)
			return nil
		}
		if err != nil {
			return err
		}
		if err := b.request(s, n); err != nil {
			return err
		}
	}
}

// request carries the request of n bytes in s.
func (b *Bridge) request(s *frontend.Slot, n int) error {
	head, data := min(n, headSize), max(n-headSize, 0)
	h, _, ok := fp.View[fp.InHeader](s.Out)
	if !ok {
		return unix.EINVAL
	}
	header := *h // the reply may not change what was asked
	op := fp.Opcode(header.Opcode)
	if data > 0 && op != fp.OpWrite && n <= len(s.Out) {
		// The name is long. It moves up so that the reply's data does not
		// overwrite it.
		copy(s.Out[head:], s.Data[:data])
		head, data = n, 0
	}
	if op.Shape().NoReply {
		return b.urgent(s, head, data)
	}
	room := min(op.ReplyData(s.Out[inHeaderSize:head]), len(s.Data))
	in := outHeaderSize
	if room == 0 {
		in = len(s.In)
	}
	clear(s.In[:outHeaderSize])
	if op == fp.OpSetlkw {
		defer b.linger.Add(-1)
		if b.linger.Add(1) > b.maxLinger {
			return b.tryLock(s, &header, head)
		}
	}
	if _, err := s.Run(head, data, in, room, b.gone); err != nil {
		return err
	}
	return b.answer(s, &header, in, room)
}

// tryLock carries a request for a lock that may not wait, because too many others wait
// already: otherwise no other request could be carried, not even the one that ends a wait.
// If another owner has the lock, the answer is ENOLCK.
func (b *Bridge) tryLock(s *frontend.Slot, asked *fp.InHeader, head int) error {
	try := *asked
	try.Opcode = uint32(fp.OpSetlk)
	copy(s.Out, fp.Bytes(&try))
	if _, err := s.Run(head, 0, outHeaderSize, 0, b.gone); err != nil {
		return err
	}
	var out fp.OutHeader
	copy(fp.Bytes(&out), s.In)
	if out.Error == -int32(unix.EAGAIN) {
		return b.fail(asked, unix.ENOLCK)
	}
	return b.answer(s, asked, outHeaderSize, 0)
}

// urgent carries a request without a reply over the high-priority queue, where it does
// not wait for other requests.
func (b *Bridge) urgent(s *frontend.Slot, head, data int) error {
	q := b.front.Queues[0]
	u := q.Acquire()
	copy(u.Out, s.Out[:head])
	copy(u.Data, s.Data[:data])
	if _, err := u.Run(head, data, 0, 0, b.gone); err != nil {
		return err
	}
	q.Release(u)
	return nil
}

// answer gives the reply in s to the kernel. If the reply makes no sense, the kernel
// gets EIO.
func (b *Bridge) answer(s *frontend.Slot, asked *fp.InHeader, in, room int) error {
	var out fp.OutHeader
	copy(fp.Bytes(&out), s.In) // once: the back-end can change it at any time
	length := int(out.Len)
	if length < outHeaderSize || length > in+room || out.Unique != asked.Unique {
		return b.fail(asked, unix.EIO)
	}
	if fp.Opcode(asked.Opcode) == fp.OpInit {
		limit(s)
	}
	first := min(length, in)
	err := b.mount.Answer(fp.Bytes(&out), s.In[outHeaderSize:first], s.Data[:length-first])
	if errors.Is(err, unix.EINVAL) {
		return b.fail(asked, unix.EIO)
	}
	return err
}

func (b *Bridge) fail(asked *fp.InHeader, errno unix.Errno) error {
	out := fp.OutHeader{Len: uint32(outHeaderSize), Error: -int32(errno), Unique: asked.Unique}
	return b.mount.Answer(fp.Bytes(&out))
}

// limit lowers what INIT's reply allows to what a slot holds.
func limit(s *frontend.Slot) {
	out, _, ok := fp.View[fp.InitOut](s.In[outHeaderSize:])
	if !ok {
		return
	}
	out.MaxWrite = min(out.MaxWrite, uint32(len(s.Data)))
	out.MaxPages = uint16(min(int(out.MaxPages), len(s.Data)/unix.Getpagesize()))
}
