package vhostuser

import (
	"errors"
	"testing"
	"time"
)

// TestEcho: a front-end that acknowledges a mapping before the guest has it is waited
// for, until the mapping comes back as memory; one that does not do so is waited for
// once.
func TestEcho(t *testing.T) {
	d := newFullDevice()
	fe := serve(t, d)
	fe.negotiate()
	sock := fe.openChannel()
	window := <-d.attached
	fd, other := memfd(t, 1<<20), memfd(t, 1<<20)
	result := make(chan error, 1)
	request := func() {
		t.Helper()
		go func() { result <- window.Map(fd, 8192, 4096, 16384, true) }()
		expect(t, sock, BackendShmemMap, 1)
		acknowledge(t, sock, BackendShmemMap, 0)
	}
	waits := func(want bool) {
		t.Helper()
		select {
		case err := <-result:
			if err != nil || want {
				t.Error("did not wait:", err)
			}
		case <-time.After(20 * time.Millisecond):
			if !want {
				t.Error("waits")
			}
		}
	}
	region := func(size, offset uint64) []byte {
		return Bytes(&SingleRegion{Region: MemoryRegion{GuestAddr: 1 << 40, UserAddr: 1 << 41, Size: size, MmapOffset: offset}})
	}
	add := func(size, offset uint64, fd int) {
		t.Helper()
		fe.must(ReqAddMemReg, region(size, offset), fd)
	}
	remove := func(size uint64) { t.Helper(); fe.must(ReqRemMemReg, region(size, 0)) }

	request()
	if err := <-result; err != nil { // after firstEcho
		t.Error(err)
	}
	request()
	waits(false)
	// Other memory is no sign.
	request()
	<-result
	add(4096, 16384, other)
	remove(4096)

	fe = serve(t, d)
	fe.negotiate()
	sock = fe.openChannel()
	for window = nil; window == nil; {
		window = <-d.attached
	}
	request()
	waits(true)
	add(8192, 16384, fd)
	remove(8192)
	add(4096, 0, fd)
	remove(4096)
	waits(true)
	add(4096, 16384, fd)
	if err := <-result; err != nil {
		t.Error(err)
	}
	remove(4096)
	request()
	waits(true)
	fe.openChannel() // ends the wait
	if err := <-result; err != nil && !errors.Is(err, ErrDisconnected) {
		t.Error(err)
	}
}
