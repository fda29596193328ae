package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/socketpair"
)

// fakeDevice records what a Conn asks of it.
type fakeDevice struct {
	NotImplemented
	mu      sync.Mutex
	calls   []string
	running map[int]Vring

	startErr error
	stopping func(int) // called by StopQueue, if set

	config []byte
}

const (
	testQueues    = 3
	testQueueSize = 1024
)

func newFakeDevice() *fakeDevice {
	return &fakeDevice{running: make(map[int]Vring), config: []byte("configuration")}
}

func (d *fakeDevice) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, fmt.Sprintf(format, args...))
}

// takeCalls returns what was recorded since the last time.
func (d *fakeDevice) takeCalls() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := strings.Join(d.calls, " ")
	d.calls = nil
	return s
}

// failStart lets StartQueue fail, with nil no longer.
func (d *fakeDevice) failStart(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.startErr = err
}

// whenStopped has f called by StopQueue.
func (d *fakeDevice) whenStopped(f func(int)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopping = f
}

func (d *fakeDevice) vring(index int) Vring {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.running[index]
}

func (d *fakeDevice) Features() uint64  { return 1 << 40 }
func (d *fakeDevice) NumQueues() int    { return testQueues }
func (d *fakeDevice) MaxQueueSize() int { return testQueueSize }
func (d *fakeDevice) Config() []byte    { return d.config }

func (d *fakeDevice) StartQueue(index int, v Vring) error {
	d.note("start%d@%d", index, v.Queue.Base())
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.startErr != nil {
		return d.startErr
	}
	if _, ok := d.running[index]; ok {
		panic("queue started twice")
	}
	d.running[index] = v
	return nil
}

func (d *fakeDevice) StopQueue(index int) error {
	d.note("stop%d", index)
	d.mu.Lock()
	stopping := d.stopping
	d.mu.Unlock()
	if stopping != nil {
		stopping(index)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.running[index]; !ok {
		panic("queue stopped twice")
	}
	delete(d.running, index)
	return nil
}

func (d *fakeDevice) Reset() { d.note("reset") }

// fullDevice can do all that is optional.
type fullDevice struct {
	*fakeDevice
	save     func(io.Writer) error
	load     func(io.Reader) error
	attached chan *SharedMemory
}

func newFullDevice() *fullDevice {
	return &fullDevice{fakeDevice: newFakeDevice(), attached: make(chan *SharedMemory, 16)}
}

func (d *fullDevice) ProtocolFeatures() ProtocolFeatures { return ProtocolDeviceState }
func (d *fullDevice) SaveState(w io.Writer) error        { return d.save(w) }
func (d *fullDevice) LoadState(r io.Reader) error        { return d.load(r) }
func (d *fullDevice) SharedMemory() []uint64             { return []uint64{0, 1 << 20} }
func (d *fullDevice) AttachSharedMemory(id uint8, s *SharedMemory) {
	d.note("attach%d:%v", id, s != nil)
	d.attached <- s
}

// testLog is a log that nobody reads, at a level that runs every line of it.
func testLog() *slog.Logger {
	return slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// frontEnd is the other side of a Conn, without any sense of its own.
type frontEnd struct {
	t      testing.TB
	sock   *net.UnixConn
	cancel context.CancelFunc
	served chan error
	ended  bool
}

// serve serves d to a new front-end. When the test ends, nothing of the connection
// may be left.
func serve(t testing.TB, d Device) *frontEnd {
	t.Helper()
	return serveWith(t, d, func(*Conn) {})
}

// serveWith is serve for a connection that edit changes before it is served.
func serveWith(t testing.TB, d Device, edit func(*Conn)) *frontEnd {
	t.Helper()
	checkLeaks(t)
	ours, theirs := socketpair.New(t)
	ctx, cancel := context.WithCancel(context.Background())
	fe := &frontEnd{t: t, sock: theirs, cancel: cancel, served: make(chan error, 1)}
	c := NewConn(ours, d, testLog())
	edit(c)
	go func() { fe.served <- c.Serve(ctx) }()
	t.Cleanup(func() {
		if f, ok := d.(interface{ vring(int) Vring }); ok {
			f.vring(0) // what a test did as a ring's owner comes before StopQueue, by the lock
		}
		_ = theirs.Close()
		if !fe.ended {
			if err := fe.wait(); err != nil {
				t.Errorf("Serve: %v", err)
			}
		}
		cancel()
	})
	return fe
}

// wait returns what Serve returns.
func (fe *frontEnd) wait() error {
	fe.t.Helper()
	select {
	case err := <-fe.served:
		fe.ended = true
		return err
	case <-time.After(60 * time.Second):
		buf := make([]byte, 1<<20)
		fe.t.Fatalf("Serve does not return\n%s", buf[:runtime.Stack(buf, true)])
		return nil
	}
}

// write sends raw bytes.
func (fe *frontEnd) write(b []byte, fds ...int) {
	fe.t.Helper()
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := fe.sock.WriteMsgUnix(b, oob, nil); err != nil {
		fe.t.Fatal(err)
	}
}

// frame is a message as bytes.
func frame(r Request, flags uint32, body []byte) []byte {
	h := Header{Request: uint32(r), Flags: flags, Size: uint32(len(body))}
	return append(slices.Clone(Bytes(&h)), body...)
}

// send sends a request that is not answered.
func (fe *frontEnd) send(r Request, body []byte, fds ...int) {
	fe.t.Helper()
	fe.write(frame(r, FlagVersion, body), fds...)
}

// receive reads an answer and its descriptors.
func receive(sock *net.UnixConn) (h Header, body []byte, fds []int, err error) {
	_ = sock.SetReadDeadline(time.Now().Add(60 * time.Second))
	m, err := NewSocket(sock, ToBackend).Receive()
	if err != nil {
		return h, nil, nil, err
	}
	return Header{Request: m.Number, Flags: m.Flags, Size: uint32(len(m.Body))}, m.Body, m.FDs, nil
}

// ask sends a request with a reply of its own and returns the reply's body.
func (fe *frontEnd) ask(r Request, body []byte, fds ...int) []byte {
	fe.t.Helper()
	fe.send(r, body, fds...)
	return fe.reply(r)
}

func (fe *frontEnd) reply(r Request) []byte {
	fe.t.Helper()
	h, body, fds, err := receive(fe.sock)
	if err != nil {
		fe.t.Fatalf("%s: %v", r, err)
	}
	if Request(h.Request) != r || h.Flags != FlagVersion|FlagReply || len(fds) != 0 {
		fe.t.Fatalf("reply to %s: %s with flags %#x and %d descriptors", r, Request(h.Request), h.Flags, len(fds))
	}
	return body
}

func (fe *frontEnd) number(r Request, body []byte, fds ...int) uint64 {
	fe.t.Helper()
	v, ok := Decode[U64](fe.ask(r, body, fds...))
	if !ok {
		fe.t.Fatalf("%s: empty reply", r)
	}
	return v.Value
}

// ack sends a request with FlagNeedReply and reports whether it was accepted.
func (fe *frontEnd) ack(r Request, body []byte, fds ...int) bool {
	fe.t.Helper()
	fe.write(frame(r, FlagVersion|FlagNeedReply, body), fds...)
	v, ok := Decode[U64](fe.reply(r))
	if !ok {
		fe.t.Fatalf("%s: empty acknowledgement", r)
	}
	return v.Value == 0
}

// must is ack for what has to be accepted.
func (fe *frontEnd) must(r Request, body []byte, fds ...int) {
	fe.t.Helper()
	if !fe.ack(r, body, fds...) {
		fe.t.Fatalf("%s was refused", r)
	}
}

// mustNot is ack for what has to be refused.
func (fe *frontEnd) mustNot(r Request, body []byte, fds ...int) {
	fe.t.Helper()
	if fe.ack(r, body, fds...) {
		fe.t.Fatalf("%s was accepted", r)
	}
}

const allFeatures = connFeatures &^ FeatureLogAll

// negotiate takes all that is offered.
func (fe *frontEnd) negotiate() {
	fe.t.Helper()
	p := fe.number(ReqGetProtocolFeatures, nil)
	fe.send(ReqSetProtocolFeatures, replyU64(p))
	fe.must(ReqSetFeatures, replyU64(allFeatures))
}

// Where the test guest's memory is.
const (
	guestBase = 0x1_0000_0000
	userBase  = 0x7f00_0000_0000
	ramSize   = 1 << 20
)

// ringAddr is where the test's rings are: ring i in the i-th 64 KiB.
func ringAddr(i int) VringAddr {
	at := userBase + uint64(i)<<16
	return VringAddr{Index: uint32(i), Desc: at, Avail: at + 0x4000, Used: at + 0x8000, Log: guestBase + uint64(i)<<16 + 0x8000}
}

// memfd is a file of size bytes that is closed with the test.
func memfd(t testing.TB, size int64) int {
	t.Helper()
	fd, err := unix.MemfdCreate("vhostuser-test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Ftruncate(fd, size); err != nil {
		t.Fatal(err)
	}
	return fd
}

func eventFD(t testing.TB) int {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// ram gives the Conn one region of memory and returns its file and its content.
func (fe *frontEnd) ram() (fd int, b []byte) {
	fe.t.Helper()
	fd = memfd(fe.t, ramSize)
	fe.must(ReqSetMemTable, table(MemoryRegion{GuestAddr: guestBase, Size: ramSize, UserAddr: userBase}), fd)
	b, err := unix.Mmap(fd, 0, ramSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		fe.t.Fatal(err)
	}
	fe.t.Cleanup(func() { _ = unix.Munmap(b) })
	return fd, b
}

// table is the body of SET_MEM_TABLE.
func table(regions ...MemoryRegion) []byte {
	h := MemoryHeader{Regions: uint32(len(regions))}
	b := slices.Clone(Bytes(&h))
	for i := range regions {
		b = append(b, Bytes(&regions[i])...)
	}
	return b
}

func state(index, num uint32) []byte { return reply(VringState{Index: index, Num: num}) }

func slot(r MemoryRegion) []byte { return reply(SingleRegion{Region: r}) }

// setUpRing configures ring i up to its kick descriptor, which it returns.
func (fe *frontEnd) setUpRing(i int) (kick int) {
	fe.t.Helper()
	fe.must(ReqSetVringNum, state(uint32(i), 256))
	fe.must(ReqSetVringBase, state(uint32(i), 0))
	fe.must(ReqSetVringAddr, reply(ringAddr(i)))
	kick = eventFD(fe.t)
	fe.must(ReqSetVringKick, replyU64(uint64(i)), kick)
	return kick
}

// startRing also enables it.
func (fe *frontEnd) startRing(i int) (kick int) {
	fe.t.Helper()
	kick = fe.setUpRing(i)
	fe.must(ReqSetVringEnable, state(uint32(i), 1))
	return kick
}

func wantCalls(t testing.TB, d *fakeDevice, want string) {
	t.Helper()
	if got := d.takeCalls(); got != want {
		t.Errorf("device saw %q, want %q", got, want)
	}
}

// openFDs counts this process's descriptors.
func openFDs(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// testMappings counts the mappings of files that the tests or GET_INFLIGHT_FD made.
func testMappings(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), "memfd:vhost")
}

// checkLeaks fails the test if it leaves descriptors, mappings or goroutines. Call
// it first, so that its check is last.
func checkLeaks(t testing.TB) {
	t.Helper()
	// The first use of the network poller opens descriptors that stay.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	_ = w.Close()
	fds, maps, goroutines := openFDs(t), testMappings(t), runtime.NumGoroutine()
	t.Cleanup(func() {
		var err error
		for range 2000 {
			err = nil
			if n := openFDs(t); n > fds {
				err = fmt.Errorf("%d descriptors, %d before", n, fds)
			}
			if n := testMappings(t); n > maps {
				err = errors.Join(err, fmt.Errorf("%d mappings, %d before", n, maps))
			}
			if n := runtime.NumGoroutine(); n > goroutines {
				err = errors.Join(err, fmt.Errorf("%d goroutines, %d before", n, goroutines))
			}
			if err == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("left behind: %v", err)
	})
}
