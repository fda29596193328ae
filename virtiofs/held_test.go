package virtiofs

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/virtqueue/vqtest"
)

// inUse is the memory that the runtime has for objects and stacks that live.
func inUse() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}

// TestWaitingChains: requests that wait do not keep the buffers that they were read from. One
// indirect table of 32,600 buffers of one byte costs a guest next to nothing, and the daemon
// half a MiB if each request that shares it had them copied.
func TestWaitingChains(t *testing.T) {
	const buffers = 32600
	waits := make(chan struct{}, ringSize)
	fs := &testFS{setlk: func(r *server.Request) unix.Errno {
		if !r.MayWait {
			return server.WouldBlock
		}
		waits <- struct{}{}
		<-r.Canceled
		return unix.EINTR
	}}
	r, w := start(t, fs)
	table := r.DataAt() + 1<<20
	request, reply := table+16*(buffers+1), table+16*(buffers+1)+buffers
	h := fp.InHeader{Opcode: uint32(fp.OpSetlkw), Unique: 77, NodeID: 1, Len: buffers}
	n := copy(r.Mem[request:], fp.Bytes(&h))
	copy(r.Mem[request+n:], setlkwBody)
	for i := range buffers {
		r.SetAt(table, i, vqtest.Desc{Addr: r.Guest(request + i), Len: 1, Flags: vqtest.Next, Next: uint16(i + 1)})
	}
	r.SetAt(table, buffers, vqtest.Desc{Addr: r.Guest(reply), Len: 16, Flags: vqtest.Write})
	before := inUse()
	const requests = ringSize/2 - 2 // locks may take half of a ring
	for i := range requests {
		r.Set(i, vqtest.Desc{Addr: r.Guest(table), Len: 16 * (buffers + 1), Flags: vqtest.Indirect})
		r.Offer(uint16(i))
		r.offered++
	}
	r.notify()
	for range requests {
		select {
		case <-waits:
		case <-time.After(60 * time.Second):
			t.Fatal("a request does not wait")
		}
	}
	// A body of 32 KiB each, with its share of the rest, and not 520 KiB of buffers.
	if taken, most := inUse()-before, requests*(100<<10); taken > most {
		t.Errorf("%d requests take %d bytes, want at most %d", requests, taken, most)
	}
	within(t, "stop", w.stop)
	for range requests {
		if _, _, ok := r.Reap(); !ok {
			t.Fatal("a request was not answered")
		}
	}
	left := inUse() - before // goroutines are still ending
	for end := time.Now().Add(60 * time.Second); left > 1<<20 && time.Now().Before(end); left = inUse() - before {
		time.Sleep(10 * time.Millisecond)
	}
	if left > 1<<20 {
		t.Errorf("%d bytes are left", left)
	}
}
