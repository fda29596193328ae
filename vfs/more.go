package vfs

import (
	"context"
	"math"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// CopyFileRange implements server.FileSystem.
func (f *FS) CopyFileRange(r *server.Request, in *fp.CopyFileRangeIn) (copied uint64, _ unix.Errno) {
	if f.opts.ReadOnly {
		return 0, unix.EROFS
	}
	n := min(in.Len, maxCopy)
	if in.OffIn > math.MaxInt64-n || in.OffOut > math.MaxInt64-n {
		return 0, unix.EFBIG
	}
	errno := f.useOpen(r, in.FhIn, func(ctx context.Context, src *openFile) error {
		dst := f.open.Acquire(in.FhOut)
		if dst == nil {
			return unix.EBADF
		}
		defer f.open.Release(dst)
		if dst.node.ID() != in.NodeIDOut || !dst.writes {
			return unix.EBADF
		}
		if err := f.changesData(ctx, dst.node, r.Header.UID != 0); err != nil {
			return err
		}
		k, err := CopyFrom(ctx, dst.handle, int64(in.OffOut), src.handle, int64(in.OffIn), int64(n))
		if k < 0 || k > int64(n) {
			return unix.EIO
		}
		if k > 0 {
			err = nil // the next call says what is wrong
		}
		copied = uint64(k)
		return err
	})
	return copied, errno
}

// maxCopy is how many bytes are copied by one request: a program that was killed waits for it.
const maxCopy = 64 << 20

// Ioctl implements server.FileSystem. The client's kernel lets only such ioctls through whose data is
// described by the number of the command.
func (f *FS) Ioctl(r *server.Request, in *fp.IoctlIn, data []byte, out *fp.IoctlOut, dst []byte) (n int, _ unix.Errno) {
	errno := f.useOpen(r, in.Fh, func(ctx context.Context, o *openFile) error {
		i, ok := asHandle[Ioctler](o.handle)
		if !ok {
			return unix.ENOTTY
		}
		var err error
		out.Result, err = i.Ioctl(ctx, in.Cmd, in.Arg, data, dst)
		if err == nil && out.Result < 0 {
			err = unix.EIO // the client would take it for an error number
		}
		n = len(dst)
		return err
	})
	return n, errno
}

// Syncfs implements server.FileSystem.
func (f *FS) Syncfs(r *server.Request) unix.Errno {
	s, ok := As[FSSyncer](f.root)
	if !ok {
		return unix.ENOSYS
	}
	return f.call(r, func(ctx context.Context) error { return s.SyncFS(ctx) })
}

// Connect says where notifications to the client go, before the client uses the file system; nil is
// nowhere. govirtiofs.Server.Mount calls it.
func (f *FS) Connect(to fuse.Notifier) {
	if to == nil {
		f.notifier.Store(nil)
		return
	}
	f.notifier.Store(&to)
}

func (f *FS) notify(code fp.NotifyCode, body ...[]byte) error {
	to := f.notifier.Load()
	if to == nil {
		return unix.ENOTCONN
	}
	return (*to).Notify(code, body...)
}

// InvalidateNode has the client's kernel drop the attributes of n, and its cached data from off on:
// length bytes, or up to the end if length is 0. If off is negative only the attributes are
// dropped. It is for what changes without the client. It must not be called by a method of a node
// that the client's kernel may hold the pages of, as Read: call it on a goroutine of its own. The error is ENOTCONN if
// there is no fuse.Notifier. A client that does not know the node is no error.
func (f *FS) InvalidateNode(n Node, off, length int64) error {
	id, err := f.idOf(n)
	if err != nil || id == 0 {
		return err
	}
	return known(f.notify(fp.NotifyInvalInode, fp.Bytes(&fp.NotifyInvalInodeOut{Ino: id, Off: off, Len: length})))
}

// InvalidateEntry has the client's kernel drop what it knows of a name in a directory, as
// InvalidateNode does.
func (f *FS) InvalidateEntry(dir Node, name string) error {
	id, err := f.idOf(dir)
	if err != nil || id == 0 {
		return err
	}
	if !validName(name) {
		return unix.EINVAL
	}
	return known(f.notify(fp.NotifyInvalEntry, fp.Bytes(&fp.NotifyInvalEntryOut{Parent: id, NameLen: uint32(len(name))}), append([]byte(name), 0)))
}

// idOf is the client's number of a node; 0 if it has none.
func (f *FS) idOf(n Node) (uint64, error) {
	if f.notifier.Load() == nil {
		return 0, unix.ENOTCONN
	}
	if !comparable(n) {
		return 0, unix.EINVAL
	}
	i := f.nodes.Find(nil, n, 0, nil)
	if i == nil {
		return 0, nil
	}
	defer f.nodes.Release(i)
	return i.ID(), nil
}

// known is err, but for that of a client that does not know what it is to drop.
func known(err error) error {
	if server.Errno(err) == unix.ENOENT {
		return nil
	}
	return err
}

// always is what a file that is no Poller is ready for (DEFAULT_POLLMASK of the kernel).
const always = unix.POLLIN | unix.POLLOUT | pollRDNorm | pollWRNorm

const (
	pollRDNorm = 0x40  // POLLRDNORM
	pollWRNorm = 0x100 // POLLWRNORM
)

// Poll implements server.FileSystem.
func (f *FS) Poll(r *server.Request, in *fp.PollIn, out *fp.PollOut) unix.Errno {
	if f.notifier.Load() == nil {
		return unix.ENOSYS // nobody could be woken: the client takes all files for ready
	}
	return f.useOpen(r, in.Fh, func(ctx context.Context, o *openFile) (err error) {
		p, ok := asHandle[Poller](o.handle)
		if !ok {
			out.Revents = always & in.Events
			return nil
		}
		var wake func()
		var events uint32
		if in.Flags&fp.PollScheduleNotify != 0 {
			wake, events = o.wakes.next(f, in)
		}
		out.Revents, err = p.Poll(ctx, in.Events, wake)
		if wake != nil && (out.Revents != 0 || err != nil) {
			o.wakes.unused(f, in.Kh, events)
		}
		return err
	})
}

// wakes are what a Poller keeps of a client's requests for one open file: at most one for each event, however often
// it asks.
type wakes struct {
	mu      sync.Mutex
	waiting uint32 // events for which the Poller has a wake
	shared  uint32 // of these, those that more than one request waits for
}

// next is the wake for a request and the events that it is for; nil if the Poller has those for all of the request's
// events already.
func (w *wakes) next(f *FS, in *fp.PollIn) (wake func(), events uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	events = in.Events
	if events == 0 {
		events = unix.POLLERR | unix.POLLHUP // poll(2) waits for them in any case
	}
	w.shared |= events & w.waiting
	if events &^= w.waiting; events == 0 {
		return nil, 0
	}
	w.waiting |= events
	kh := in.Kh // how the client names the open file; it is always the same
	return func() {
		w.drop(events)
		wakeUp(f, kh)
	}, events
}

// unused is told that the Poller has not kept the wake for these events, because something is ready. Requests
// that rely on it look again. Wakes of other requests, for other events, are still kept.
func (w *wakes) unused(f *FS, kh uint64, events uint32) {
	if w.drop(events) {
		wakeUp(f, kh)
	}
}

func (w *wakes) drop(events uint32) (shared bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	shared = w.shared&events != 0
	w.waiting &^= events
	w.shared &^= events
	return shared
}

func wakeUp(f *FS, kh uint64) { _ = f.notify(fp.NotifyPoll, fp.Bytes(&fp.NotifyPollWakeupOut{Kh: kh})) }
