package server

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// goroutines is how many have a function on their stacks.
func goroutines(name string) (n int) {
	stacks := make([]byte, 4<<20)
	for _, s := range strings.Split(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
		if strings.Contains(s, name) {
			n++
		}
	}
	return n
}

// TestClose: threads that wait for work leave, and then the file system is closed, once.
func TestClose(t *testing.T) {
	fs := &fakeFS{fsync: func(r *Request) unix.Errno {
		if !r.MayWait {
			return WouldBlock
		}
		return 0
	}}
	s, thread := newServer(t, fs, Options{})
	s.pool.stay = time.Hour
	before := goroutines("server.(*pool).run")
	if _, errno := serve(thread, fp.OpFsync, fp.Bytes(&fp.FsyncIn{}), 16); errno != 0 && errno != unix.ENODATA {
		t.Fatal(errno)
	}
	if n := goroutines("server.(*pool).run") - before; n != 1 {
		t.Fatalf("%d threads, want 1", n)
	}
	for range 2 {
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if fs.destroy != 1 || fs.closed.Load() != 1 {
		t.Errorf("%d sessions destroyed, closed %d times", fs.destroy, fs.closed.Load())
	}
	for deadline := time.Now().Add(60 * time.Second); goroutines("server.(*pool).run") > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a thread stays")
		}
	}
	if s.watch.timer.Stop() {
		t.Error("the timer runs")
	}
	if _, err := s.StartThread(fuse.Hooks{}); !errors.Is(err, errClosed) {
		t.Errorf("one thread more: %v", err)
	}
}

// TestCloseHangs: a request that hangs keeps the file system open until it comes back.
func TestCloseHangs(t *testing.T) {
	hangs, goOn := make(chan bool, 1), make(chan bool)
	fs := &fakeFS{fsync: func(r *Request) unix.Errno {
		if !r.MayWait {
			return WouldBlock
		}
		hangs <- true
		<-goOn
		return 0
	}}
	s, thread := newServer(t, fs, Options{})
	var m fuse.Message
	m.Set(split(message(fp.OpFsync, fp.Bytes(&fp.FsyncIn{})), 1<<20), split(alignedBytes(16), 1<<20))
	_, p := thread.Handle(&m)
	if p == nil {
		t.Fatal("it does not wait")
	}
	done := make(chan fuse.Reply, 1)
	p.Start(func(r fuse.Reply) { done <- r })
	<-hangs
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 2 {
		if err := s.Close(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("close with a request that hangs: %v", err)
		}
	}
	if n := fs.closed.Load(); n != 0 {
		t.Errorf("closed %d times under a request", n)
	}
	goOn <- true
	<-done
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := fs.closed.Load(); n != 1 {
		t.Errorf("closed %d times, want once", n)
	}
}
