package vhostuser

import (
	"errors"
	"net"
	"testing"
	"time"
)

// never is longer than any test.
const never = 24 * time.Hour

// TestEchoNever: a front-end whose mappings do not come back as memory is waited for
// once.
func TestEchoNever(t *testing.T) {
	e := newEchoTest(t, newFullDevice(), echoLimits{first: time.Millisecond, next: never})
	e.request()
	e.returns() // after the first limit
	e.window.echoes.mu.Lock()
	e.window.echoes.limits.first = never
	e.window.echoes.mu.Unlock()
	e.request()
	e.returns()
	// Other memory is no sign.
	e.add(4096, 16384, memfd(t, 1<<20))
	e.remove(4096)
	e.request()
	e.returns()
}

// TestEcho: a front-end that acknowledges a mapping before the guest has it is waited
// for, until the mapping comes back as memory.
func TestEcho(t *testing.T) {
	e := newEchoTest(t, newFullDevice(), echoLimits{first: never, next: never})
	e.request()
	e.waits()
	e.add(8192, 16384, e.fd)
	e.remove(8192)
	e.add(4096, 0, e.fd)
	e.remove(4096)
	e.waits()
	e.add(4096, 16384, e.fd)
	e.returns()
	e.remove(4096)
	e.request()
	e.waits()
	e.fe.openChannel() // ends the wait
	e.returns()
}

// echoTest is a front-end with a window in which one range of one file is mapped.
type echoTest struct {
	t      *testing.T
	fe     *frontEnd
	sock   *net.UnixConn
	window *SharedMemory
	fd     int
	result chan error
}

func newEchoTest(t *testing.T, d *fullDevice, limits echoLimits) *echoTest {
	e := &echoTest{t: t, fd: memfd(t, 1<<20), result: make(chan error, 1)}
	e.fe = serveWith(t, d, func(c *Conn) { c.echoLimits = limits })
	e.fe.negotiate()
	e.sock = e.fe.openChannel()
	e.window = <-d.attached
	return e
}

// request begins to map and acknowledges the request.
func (e *echoTest) request() {
	e.t.Helper()
	go func() { e.result <- e.window.Map(e.fd, 8192, 4096, 16384, true) }()
	expect(e.t, e.sock, BackendShmemMap, 1)
	acknowledge(e.t, e.sock, BackendShmemMap, 0)
}

// returns waits until the mapping is done.
func (e *echoTest) returns() {
	e.t.Helper()
	select {
	case err := <-e.result:
		if err != nil && !errors.Is(err, ErrDisconnected) {
			e.t.Error(err)
		}
	case <-time.After(60 * time.Second):
		e.t.Fatal("it waits")
	}
}

// waits checks that the mapping is not done, nor a little later.
func (e *echoTest) waits() {
	e.t.Helper()
	select {
	case err := <-e.result:
		e.t.Fatal("it did not wait: ", err)
	case <-time.After(20 * time.Millisecond):
	}
}

func (e *echoTest) add(size, offset uint64, fd int) {
	e.t.Helper()
	e.fe.must(ReqAddMemReg, echoRegion(size, offset), fd)
}

func (e *echoTest) remove(size uint64) {
	e.t.Helper()
	e.fe.must(ReqRemMemReg, echoRegion(size, 0))
}

func echoRegion(size, offset uint64) []byte {
	return Bytes(&SingleRegion{Region: MemoryRegion{GuestAddr: 1 << 40, UserAddr: 1 << 41, Size: size, MmapOffset: offset}})
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
