package server

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestRunners: a goroutine that has served a request which waited serves another, and keeps nothing of the one before; not
// one whose method was cut off half-way.
func TestRunners(t *testing.T) {
	fs := &fakeFS{}
	_, thread := newServer(t, fs, Options{})
	ran := make(chan *Thread, 1)
	fault := false
	fs.fsync = func(r *Request) unix.Errno {
		if !r.MayWait {
			return WouldBlockInGo
		}
		ran <- r.Thread
		if fault {
			panic("a method fails")
		}
		return 0
	}
	one := func(unique uint64) *Thread {
		t.Helper()
		h := fp.InHeader{Len: uint32(headerSize + 16), Opcode: uint32(fp.OpFsync), Unique: unique, NodeID: 1}
		var m fuse.Message
		m.Set(fuse.Over(fp.Bytes(&h), make([]byte, 16)), fuse.Over(make([]byte, 16)))
		_, p := thread.Handle(&m)
		if p == nil {
			t.Fatal("the request does not wait")
		}
		done := make(chan fuse.Reply, 1)
		p.Start(func(r fuse.Reply) { done <- r })
		select {
		case r := <-done:
			if (r.Errno == 0) == fault {
				t.Errorf("%+v", r)
			}
		case <-time.After(60 * time.Second):
			t.Fatal("the request does not end")
		}
		p.Free()
		return <-ran
	}
	seen := map[*Thread]bool{}
	again := func() *Thread {
		t.Helper()
		for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if v := one(uint64(len(seen) + 1)); seen[v] {
				return v
			} else {
				seen[v] = true
			}
		}
		t.Fatal("no goroutine serves a second request")
		return nil
	}
	again()
	fault = true
	broken := again()
	if !broken.Broken() {
		t.Error("a thread is not broken whose method has failed")
	}
	fault = false
	for range 100 {
		if one(1) == broken {
			t.Fatal("a broken thread serves another request")
		}
	}
}
