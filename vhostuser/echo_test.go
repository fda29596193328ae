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

// oldDevice asks front-ends without SHMEM by FS_MAP.
type oldDevice struct {
	*fullDevice
	numbers FSMap
}

func (d *oldDevice) FSMap() FSMap           { return d.numbers }
func (d *oldDevice) SharedMemory() []uint64 { return []uint64{1 << 20} }

func TestFSMap(t *testing.T) {
	for _, numbers := range []FSMap{FSMapLate, FSMapEarly} {
		d := &oldDevice{newFullDevice(), numbers}
		fe := serve(t, d)
		p := ProtocolFeatures(fe.number(ReqGetProtocolFeatures, nil))
		fe.send(ReqSetProtocolFeatures, replyU64(uint64(p&^ProtocolSharedMemory)))
		fe.must(ReqSetFeatures, replyU64(allFeatures))
		sock := fe.openChannel()
		window := <-d.attached
		fd := memfd(t, 1<<20)
		result := make(chan error, 1)
		go func() { result <- window.Map(fd, 0x1000, 0x2000, 0x3000, true) }()
		m, ok := Decode[fsMapBody](expect(t, sock, numbers.Map, 1))
		if !ok || m.Offset[0] != 0x1000 || m.Length != [8]uint64{0x2000} || m.FileOffset[0] != 0x3000 || m.Flags[0] != 3 {
			t.Errorf("%+v", m)
		}
		acknowledge(t, sock, numbers.Map, 0)
		if err := <-result; err != nil {
			t.Error(err)
		}
		go func() { result <- window.Unmap(0x1000, 0x2000) }()
		if m, _ := Decode[fsMapBody](expect(t, sock, numbers.Unmap, 0)); m.Offset[0] != 0x1000 || m.Length != [8]uint64{0x2000} {
			t.Errorf("%+v", m)
		}
		acknowledge(t, sock, numbers.Unmap, 1)
		if err := <-result; !errors.Is(err, ErrRefused) {
			t.Error(err)
		}
	}
	d := &oldDevice{fullDevice: newFullDevice()}
	fe := serve(t, d)
	fe.send(ReqSetProtocolFeatures, replyU64(uint64(ProtocolReplyAck|ProtocolBackendReq|ProtocolBackendSendFD)))
	fe.must(ReqSetFeatures, replyU64(allFeatures))
	fe.openChannel()
	if len(d.attached) != 0 {
		t.Error("a front-end without SHMEM got a window")
	}
}
