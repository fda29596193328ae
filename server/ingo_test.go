package server

import (
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestWaitsInGo: requests that wait for another process take no thread each, end when the
// client interrupts them, and are bounded in memory.
func TestWaitsInGo(t *testing.T) {
	const n = 200
	fs := &fakeFS{}
	s, thread := newServer(t, fs, Options{MaxWaiting: 1})
	var called, local atomic.Int32
	all := make(chan struct{})
	answer := make(chan struct{})
	fs.fsync = func(r *Request) unix.Errno {
		if !r.MayWait {
			return WouldBlockInGo
		}
		if r.Thread.Local != nil {
			local.Add(1)
		}
		if called.Add(1) == n {
			close(all)
		}
		select {
		case <-answer:
			return 0
		case <-r.Canceled:
			return unix.EINTR
		}
	}
	fsync := func(unique uint64) (fuse.Reply, fuse.Pending) {
		h := fp.InHeader{Len: uint32(headerSize + 16), Opcode: uint32(fp.OpFsync), Unique: unique, NodeID: 1}
		var m fuse.Message
		m.Set(fuse.Over(fp.Bytes(&h), make([]byte, 16)), fuse.Over(make([]byte, 16)))
		return thread.Handle(&m)
	}
	done := make(chan fuse.Reply, n)
	var waiting []fuse.Pending
	for i := range uint64(n) {
		_, p := fsync(i + 1)
		if p == nil || p.Brief() || p.Lingers() {
			t.Fatalf("request %d: %v", i, p)
		}
		p.Start(func(r fuse.Reply) { done <- r })
		waiting = append(waiting, p)
	}
	receive := func() (r fuse.Reply) {
		t.Helper()
		select {
		case r = <-done:
		case <-time.After(60 * time.Second):
			t.Fatal("a request does not end")
		}
		return r
	}
	select {
	case <-all:
	case <-time.After(60 * time.Second):
		t.Fatalf("%d of %d wait at the same time", called.Load(), n)
	}
	if s.pool.threads != 0 || local.Load() != 0 {
		t.Errorf("%d threads of the pool, %d calls with a thread's state", s.pool.threads, local.Load())
	}
	stop := fp.InterruptIn{Unique: 7}
	serve(thread, fp.OpInterrupt, fp.Bytes(&stop), 0)
	if r := receive(); r.Errno != unix.EINTR {
		t.Errorf("interrupted: %+v", r)
	}
	waiting[99].Stop()
	if r := receive(); r.Errno != unix.EINTR {
		t.Errorf("stopped: %+v", r)
	}
	held := s.waiting.held
	if held < n*heldGoroutine {
		t.Errorf("%d requests are counted with %d bytes: their goroutines are missing", n, held)
	}
	if list, other := thread.heldSize(&ops[fp.OpReaddir], true), thread.heldSize(&ops[fp.OpRead], true); list < other+bulkSize {
		t.Errorf("a listing is counted with %d bytes: its buffer is missing", list)
	}
	s.waiting.held = maxHeld - 1
	if r, p := fsync(n + 1); p != nil || r.Errno != unix.ENOMEM {
		t.Errorf("without memory: %+v, waits: %v", r, p != nil)
	}
	s.waiting.held = held
	close(answer)
	for range n - 2 {
		if r := receive(); r != (fuse.Reply{Len: 16}) {
			t.Errorf("answered: %+v", r)
		}
	}
	for _, p := range waiting {
		p.Free()
	}
	if s.waiting.held != 0 || len(s.waiting.table) != 0 {
		t.Errorf("%d bytes, %d requests are left", s.waiting.held, len(s.waiting.table))
	}
}
