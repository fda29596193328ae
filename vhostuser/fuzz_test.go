package vhostuser

import (
	"context"
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/socketpair"
)

// fuzzDevice looks at its rings when they stop and takes what is handed to it.
type fuzzDevice struct{ *fakeDevice }

func (d *fuzzDevice) ProtocolFeatures() ProtocolFeatures           { return ProtocolDeviceState }
func (d *fuzzDevice) SaveState(w io.Writer) error                  { _, err := w.Write([]byte("state")); return err }
func (d *fuzzDevice) LoadState(io.Reader) error                    { return nil }
func (d *fuzzDevice) SharedMemory() []uint64                       { return []uint64{1 << 20} }
func (d *fuzzDevice) AttachSharedMemory(id uint8, s *SharedMemory) {}

// fuzzFDs are the descriptors that a fuzzed front-end may attach.
var fuzzFDs = sync.OnceValue(func() []int {
	var fds []int
	add := func(fd int, err error) {
		if err != nil {
			panic(err)
		}
		fds = append(fds, fd)
	}
	memory, err := unix.MemfdCreate("vhostuser-test", unix.MFD_CLOEXEC)
	add(memory, err)
	_ = unix.Ftruncate(memory, ramSize)
	add(unix.Eventfd(0, unix.EFD_CLOEXEC))
	for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
		pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		add(pair[0], err)
		add(pair[1], nil)
	}
	pipe := make([]int, 2)
	add(memory, unix.Pipe2(pipe, unix.O_CLOEXEC))
	add(pipe[0], nil)
	add(pipe[1], nil)
	add(unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0))
	add(unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0))
	add(unix.Open("/proc/self/exe", unix.O_RDONLY|unix.O_CLOEXEC, 0))
	small, err := unix.MemfdCreate("vhostuser-test", unix.MFD_CLOEXEC)
	add(small, err)
	_ = unix.Ftruncate(small, 5000)
	return fds
})

// What a fuzzed session is made of: the first byte of the input says how it starts,
// then each step is a request number, flags, descriptors and a length with so many
// bytes.
const (
	fuzzNegotiated = 1 // start: everything is negotiated
	fuzzMemory     = 2 // start: there is memory
	fuzzRing       = 4 // start: ring 0 runs

	fuzzNeedReply = 1 // flags of a step
	fuzzRaw       = 2 // the bytes are sent without a header
	fuzzWrongSize = 4 // the header announces a byte more
)

// FuzzMessage sends any messages with any descriptors. The Conn must neither panic
// nor hang, and must give everything back.
func FuzzMessage(f *testing.F) {
	for _, seed := range fuzzSeeds(f) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		fuzzFDs()
		fds, goroutines, maps := openFDs(t), runtime.NumGoroutine(), testMappings(t)
		fuzzSession(t, input)
		for try := 0; openFDs(t) > fds || runtime.NumGoroutine() > goroutines || testMappings(t) > maps; try++ {
			if try == 20_000 {
				t.Fatalf("left behind: %d descriptors of %d, %d goroutines of %d, %d mappings",
					openFDs(t), fds, runtime.NumGoroutine(), goroutines, testMappings(t))
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// fuzzSession plays the input to a Conn, until the input ends or Serve hangs up.
func fuzzSession(t *testing.T, input []byte) {
	d := &fuzzDevice{newFakeDevice()}
	d.whenStopped(func(index int) {
		if q := d.vring(index).Queue; q.Begin() == nil {
			q.End()
		}
	})
	back, front := socketpair.New(t)
	c := NewConn(back, d, testLog())
	c.transfer.idle = 5 * time.Millisecond // inputs may ask for what never ends
	served := make(chan error, 1)
	go func() { served <- c.Serve(context.Background()) }()
	drained := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, front) // drops descriptors
		close(drained)
	}()
	fuzzPlay(input, func(b []byte, fds []int) bool {
		var oob []byte
		if len(fds) > 0 {
			oob = unix.UnixRights(fds...)
		}
		_, _, err := front.WriteMsgUnix(b, oob, nil)
		return err == nil
	})
	_ = front.CloseWrite()
	select {
	case <-served:
	case <-time.After(60 * time.Second):
		buf := make([]byte, 1<<20)
		t.Fatalf("Serve does not return\n%s", buf[:runtime.Stack(buf, true)])
	}
	<-drained
	_ = front.Close()
}

// fuzzPlay turns the input into messages for send, as long as it returns true.
func fuzzPlay(input []byte, send func(b []byte, fds []int) bool) {
	if len(input) == 0 {
		return
	}
	for _, m := range fuzzStart(input[0]) {
		if !send(m.bytes, m.fds) {
			return
		}
	}
	for in := input[1:]; len(in) >= 4; {
		request, flags, spec, n := Request(in[0]), in[1], in[2], min(int(in[3]), len(in)-4)
		body := in[4 : 4+n]
		in = in[4+n:]
		b := body
		if flags&fuzzRaw == 0 {
			f := FlagVersion
			if flags&fuzzNeedReply != 0 {
				f |= FlagNeedReply
			}
			b = frame(request, f, body)
			if flags&fuzzWrongSize != 0 {
				b[8]++
			}
		}
		if len(b) == 0 {
			continue
		}
		all := fuzzFDs()
		var fds []int
		for i := range int(spec >> 4) {
			fds = append(fds, all[(int(spec&15)+i)%len(all)])
		}
		if !send(b, fds) {
			return
		}
	}
}

type fuzzMessage struct {
	bytes []byte
	fds   []int
}

// fuzzStart is what a session begins with, so that the fuzzer need not find it.
func fuzzStart(how byte) (m []fuzzMessage) {
	add := func(r Request, body []byte, fds ...int) {
		m = append(m, fuzzMessage{frame(r, FlagVersion, body), fds})
	}
	fds := fuzzFDs()
	if how&fuzzNegotiated != 0 {
		add(ReqSetProtocolFeatures, replyU64(uint64(connProtocolFeatures|ProtocolConfig|ProtocolDeviceState|ProtocolSharedMemory)))
		add(ReqSetFeatures, replyU64(connFeatures))
	}
	if how&fuzzMemory != 0 {
		add(ReqSetMemTable, table(MemoryRegion{GuestAddr: guestBase, Size: ramSize, UserAddr: userBase}), fds[0])
	}
	if how&fuzzRing != 0 {
		add(ReqSetVringNum, state(0, 256))
		add(ReqSetVringAddr, reply(ringAddr(0)))
		add(ReqSetVringKick, replyU64(0), fds[1])
		add(ReqSetVringEnable, state(0, 1))
	}
	return m
}

// fuzzStep is one step of an input.
func fuzzStep(r Request, flags, fdSpec byte, body []byte) []byte {
	return append([]byte{byte(r), flags, fdSpec, byte(len(body))}, body...)
}

// fuzzSeeds are a whole session, and each request by itself in a running one.
func fuzzSeeds(t testing.TB) (seeds [][]byte) {
	const all = fuzzNegotiated | fuzzMemory | fuzzRing
	const ram, event, sock = 0x10, 0x11, 0x12
	region := MemoryRegion{GuestAddr: guestBase, Size: ramSize, UserAddr: userBase}
	other := MemoryRegion{GuestAddr: 0, Size: 4096, UserAddr: 4096, MmapOffset: 4096}
	steps := [][]byte{
		fuzzStep(ReqGetFeatures, 0, 0, nil),
		fuzzStep(ReqGetProtocolFeatures, 0, 0, nil),
		fuzzStep(ReqGetQueueNum, 0, 0, nil),
		fuzzStep(ReqGetMaxMemSlots, 0, 0, nil),
		fuzzStep(ReqSetBackendReqFD, 1, sock, nil),
		fuzzStep(ReqGetConfig, 0, 0, reply(ConfigHeader{Size: 13})),
		fuzzStep(ReqSetConfig, 1, 0, reply(ConfigHeader{Flags: 1})),
		fuzzStep(ReqGetShmemConfig, 0, 0, nil),
		fuzzStep(ReqGetInflightFD, 0, 0, reply(InflightDescription{NumQueues: 1, QueueSize: 256})),
		fuzzStep(ReqSetInflightFD, 1, ram, reply(InflightDescription{MmapSize: 65536, MmapOffset: 0x40000, NumQueues: 1, QueueSize: 256})),
		fuzzStep(ReqAddMemReg, 1, ram, slot(other)),
		fuzzStep(ReqRemMemReg, 1, 0, slot(other)),
		fuzzStep(ReqSetMemTable, 1, ram, table(region)),
		fuzzStep(ReqSetMemTable, 1, 0x20, table(region, other)),
		fuzzStep(ReqSetLogBase, 0, ram, reply(LogDescription{Size: 65536})),
		fuzzStep(ReqSetLogFD, 1, event, nil),
		fuzzStep(ReqSetFeatures, 1, 0, replyU64(allFeatures)),
		fuzzStep(ReqSetVringNum, 1, 0, state(0, 128)),
		fuzzStep(ReqSetVringBase, 1, 0, state(1, 7)),
		fuzzStep(ReqSetVringAddr, 1, 0, reply(ringAddr(0))),
		fuzzStep(ReqSetVringKick, 1, event, replyU64(0)),
		fuzzStep(ReqSetVringCall, 1, event, replyU64(0)),
		fuzzStep(ReqSetVringErr, 1, 0, replyU64(VringNoFD)),
		fuzzStep(ReqSetVringEnable, 1, 0, state(0, 0)),
		fuzzStep(ReqSetVringEnable, 1, 0, state(0, 1)),
		fuzzStep(ReqGetVringBase, 0, 0, state(0, 0)),
		fuzzStep(ReqSetStatus, 1, 0, replyU64(15)),
		fuzzStep(ReqGetStatus, 0, 0, nil),
		fuzzStep(ReqResetDevice, 1, 0, nil),
		fuzzStep(ReqResetOwner, 1, 0, nil),
		fuzzStep(ReqSetDeviceStateFD, 0, 0x19, reply(TransferState{})),
		fuzzStep(ReqSetDeviceStateFD, 0, 0x18, reply(TransferState{Direction: TransferLoad})),
		fuzzStep(ReqCheckDeviceState, 0, 0, nil),
	}
	session := []byte{fuzzNegotiated}
	for _, s := range steps {
		session = append(session, s...)
		seeds = append(seeds, append([]byte{all}, s...))
	}
	return append(seeds, session, []byte{all, 0, fuzzRaw, event, 3, 1, 2, 3}, []byte{0})
}
