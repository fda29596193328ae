package server

import (
	"errors"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// sessionFS counts sessions, and waits as a test says.
type sessionFS struct {
	NotImplemented
	inits, destroys atomic.Int64
	fsync           func(r *Request) unix.Errno
	startThread     func() error
}

func (f *sessionFS) Init(p *InitParams) unix.Errno {
	p.Flags |= fp.InitPosixLocks
	f.inits.Add(1)
	return 0
}

func (f *sessionFS) Destroy() { f.destroys.Add(1) }

func (f *sessionFS) StartThread(*Thread) error {
	if f.startThread != nil {
		return f.startThread()
	}
	return nil
}

func (f *sessionFS) StopThread(*Thread) {}

func (f *sessionFS) Getattr(*Request, *fp.GetattrIn, *fp.AttrOut) unix.Errno { return 0 }

func (f *sessionFS) Fsync(r *Request, _ *fp.FsyncIn) unix.Errno {
	if !r.MayWait {
		return WouldBlock
	}
	if f.fsync != nil {
		return f.fsync(r)
	}
	return 0
}

// Setlk waits for a lock that nobody ever drops.
func (f *sessionFS) Setlk(r *Request, _ *fp.LkIn, _ bool) unix.Errno {
	if !r.MayWait {
		return WouldBlock
	}
	<-r.Canceled
	return unix.EINTR
}

func newSessionServer(t testing.TB, fs FileSystem, maxWaiting int) *Server {
	t.Helper()
	return New(fs, Options{Log: silent(), MaxWaiting: maxWaiting})
}

func silent() *slog.Logger {
	return slog.New(slog.DiscardHandler)
}

var initBody = fp.Bytes(&fp.InitIn{Major: 7, Minor: 45, Flags: ^uint32(0), Flags2: ^uint32(0)})

// send serves a request with a number of its own and returns its errno.
func send(s *Server, t *thread, unique uint64, op fp.Opcode, body []byte) unix.Errno {
	m := message(op, body)
	h, _, _ := fp.View[fp.InHeader](m)
	h.Unique = unique
	out := alignedBytes(256)
	n, d := handle(t, split(m, len(m)), split(out, len(out)))
	if d != nil {
		done := make(chan uint32, 2)
		d.Start(func(r fuse.Reply) { done <- r.Len })
		select {
		case n = <-done:
		case <-time.After(60 * time.Second):
			return unix.ETIMEDOUT
		}
		d.Free()
	}
	if n < 16 {
		return unix.ENODATA
	}
	reply, _, _ := fp.View[fp.OutHeader](out)
	return unix.Errno(-reply.Error)
}

// TestDestroyConcurrently ends sessions and begins new ones on one queue while others
// have requests, some of them waiting. Each gets an answer that makes sense, and no
// request of a session waits longer than that.
func TestDestroyConcurrently(t *testing.T) {
	fs := &sessionFS{}
	s := newSessionServer(t, fs, 2)
	var stop atomic.Bool
	var wg sync.WaitGroup
	var unique, served atomic.Uint64
	for _, r := range []struct {
		op   fp.Opcode
		body []byte
	}{{fp.OpGetattr, make([]byte, 16)}, {fp.OpFsync, make([]byte, 16)}, {fp.OpSetlkw, make([]byte, 48)}} {
		wg.Go(func() {
			thread := newThread(s)
			for !stop.Load() {
				switch errno := send(s, thread, unique.Add(1), r.op, r.body); errno {
				case 0, unix.ENOLCK:
					served.Add(1)
				case unix.EINVAL, unix.ENOTCONN: // no session, or not this request's
				default:
					t.Errorf("%s: %v", r.op, errno)
					return
				}
			}
		})
	}
	thread := newThread(s)
	begin := time.Now() // and go on until something was served, which takes longer on a busy machine
	for d := time.Duration(0); d < 500*time.Millisecond || served.Load() == 0 && d < 60*time.Second; d = time.Since(begin) {
		if errno := send(s, thread, unique.Add(1), fp.OpInit, initBody); errno != 0 {
			t.Error("INIT:", errno)
		}
		time.Sleep(200 * time.Microsecond)
		if errno := send(s, thread, unique.Add(1), fp.OpDestroy, nil); errno != 0 {
			t.Error("DESTROY:", errno)
		}
	}
	stop.Store(true)
	wg.Wait()
	if served.Load() == 0 {
		t.Error("nothing was served")
	}
	if i, d := fs.inits.Load(), fs.destroys.Load(); i != d {
		t.Errorf("%d sessions, %d ended", i, d)
	}
	if n := len(s.waiting.table); n != 0 {
		t.Errorf("%d requests wait on", n)
	}
}

// TestPoolLosesNothing queues requests while threads of the pool go to sleep, leave,
// break and fail to start. Each is answered, soon: none waits for a time-out.
func TestPoolLosesNothing(t *testing.T) {
	var n atomic.Int64
	fs := &sessionFS{
		fsync: func(r *Request) unix.Errno {
			if n.Add(1)%7 == 0 {
				r.Thread.Break()
			}
			return 0
		},
		startThread: func() error {
			if n.Add(1)%5 == 0 {
				return errors.New("no thread")
			}
			return nil
		},
	}
	s := newSessionServer(t, fs, 2)
	s.pool.stay = 20 * time.Microsecond // so that leaving is as frequent as it can be
	if errno := send(s, newThread(s), 1, fp.OpInit, initBody); errno != 0 {
		t.Fatal(errno)
	}
	const senders, requests = 4, 500
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			thread := newThread(s)
			for j := range requests {
				switch errno := send(s, thread, uint64(2+i*requests+j), fp.OpFsync, make([]byte, 16)); errno {
				case 0, unix.EIO: // EIO: no thread
				default:
					t.Errorf("FSYNC: %v", errno)
					return
				}
				if j%16 == 0 {
					time.Sleep(50 * time.Microsecond)
				}
			}
		})
	}
	wg.Wait()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		s.pool.mu.Lock()
		threads, idle, queued := s.pool.threads, s.pool.idle, len(s.pool.queue)
		s.pool.mu.Unlock()
		if threads == 0 && idle == 0 && queued == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d threads, %d idle, %d requests are left", threads, idle, queued)
		}
	}
}

// TestBufferFault: a method that touches a client's buffer which is gone is not to
// blame; the transport gets the fault.
func TestBufferFault(t *testing.T) {
	b, err := unix.Mmap(-1, 0, 8192, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(b) }()
	s, thread := newServer(t, &fakeFS{}, Options{}) // its READ fills the buffers itself
	in := message(fp.OpRead, fp.Bytes(&fp.ReadIn{Size: 4096}))
	out := append(split(alignedBytes(16), 16), split(b[:4096], 4096)...)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the transport does not hear of the fault")
			}
		}()
		handle(thread, split(in, len(in)), out)
	}()
	if s.Panics() != 0 || thread.Broken() {
		t.Error("the fault counts as a mistake of the method's")
	}
}
