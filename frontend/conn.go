package frontend

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

// Addresses of the shared memory for the guest and for the front-end. They are far
// apart and not what the memory is mapped at here, so that a mix-up shows.
const (
	GuestBase = 0x4000_0000
	UserBase  = 0x7f12_0000_0000
)

// Options say how a Frontend sets up the device. The zero value is one request queue
// of 128 entries with EVENT_IDX and indirect descriptors as offered.
type Options struct {
	Queues    int    // request queues; 0 is 1
	QueueSize uint16 // 0 is 128
	Data      int    // bytes of file data a request can carry; 0 is 1 MiB
	Slots     int    // requests at the same time, per queue; 0 is 32
	// NoEventIdx and NoIndirect leave features out that the back-end offers.
	NoEventIdx, NoIndirect bool
	// MemReg uses ADD_MEM_REG instead of SET_MEM_TABLE.
	MemReg bool
	// Indirect puts each request in an indirect table, so that it takes one descriptor
	// of the ring. Connect fails if the back-end does not offer that.
	Indirect bool
	// MemoryFile, if not empty, is the file that is made for the guest's memory. Otherwise it is a
	// memfd, which has no name.
	MemoryFile string
	// Inflight has the back-end note the requests under way in an area that outlives it.
	Inflight bool
	// CloudHypervisor sends what cloud-hypervisor sends for virtio-fs, in its order, with an in-flight
	// area. It excludes Window, MemReg and Inflight.
	CloudHypervisor bool
	// Window, if not nil, maps the back-end's shared memory region in this process.
	Window *WindowOptions
	// Chunk is the size of the largest buffer of file data in a Pipe's requests; 0 puts
	// all data in one. Less than the data needs Indirect.
	Chunk int
}

// Frontend is a connection to a back-end.
type Frontend struct {
	Features uint64
	Protocol vu.ProtocolFeatures
	Queues   []*Queue // the first is the high-priority queue
	Window   *Window  // nil without Options.Window

	opts  Options
	sock  atomic.Pointer[vu.Socket]
	cut   atomic.Bool // disconnected by Cut
	memfd int
	mem   []byte

	logs       atomic.Bool // what the back-end writes, see StartLog
	inflight   int         // file of the in-flight area, or -1
	inflightAt vu.InflightDescription

	// control is held from a request to its answer, and while a request of the
	// back-end is carried out.
	control sync.Mutex
}

// Dial connects to the back-end's socket and starts the device.
func Dial(path string, opts Options) (*Frontend, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return New(c, opts)
}

// New starts the device over a connection, which it takes over.
func New(c *net.UnixConn, opts Options) (*Frontend, error) {
	f, err := Connect(c, opts)
	if err != nil {
		return nil, err
	}
	if err := f.Start(); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Connect negotiates features and shares memory, and starts no queue yet.
func Connect(c *net.UnixConn, opts Options) (*Frontend, error) {
	if opts.Queues == 0 {
		opts.Queues = 1
	}
	if opts.QueueSize == 0 {
		opts.QueueSize = 128
	}
	if opts.Data == 0 {
		opts.Data = 1 << 20
	}
	if opts.Slots == 0 {
		opts.Slots = 32
	}
	f := &Frontend{opts: opts, memfd: -1, inflight: -1}
	f.sock.Store(vu.NewSocket(c, vu.ToBackend))
	err := f.allocate()
	if err == nil && opts.CloudHypervisor {
		if err = f.cloudConnect(); err == nil {
			return f, nil
		}
	}
	if err == nil {
		f.Features, f.Protocol, err = f.negotiate()
	}
	if err == nil && opts.Window != nil {
		err = f.openWindow()
	}
	if err == nil && opts.Indirect && f.Features&vu.FeatureIndirectDesc == 0 {
		err = errors.New("the back-end does not offer indirect descriptors")
	}
	if err == nil {
		err = f.ShareMemory()
	}
	if err == nil && opts.Inflight {
		err = f.openInflight()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// allocate makes the guest's memory and lays out the queues in it.
func (f *Frontend) allocate() (err error) {
	n := f.opts.Queues + 1
	per := queueBytes(&f.opts)
	if f.opts.MemoryFile != "" {
		f.memfd, err = unix.Open(f.opts.MemoryFile, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	} else {
		f.memfd, err = unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	}
	if err != nil {
		return err
	}
	if err = unix.Ftruncate(f.memfd, int64(n*per)); err != nil {
		return err
	}
	if f.mem, err = unix.Mmap(f.memfd, 0, n*per, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return err
	}
	for i := range n {
		q, err := newQueue(f, i, i*per)
		if err != nil {
			return err
		}
		f.Queues = append(f.Queues, q)
	}
	return nil
}

// indirect says whether requests stand in indirect tables.
func (f *Frontend) indirect() bool { return f.opts.Indirect }

// Memory is the guest's memory; its first byte is at GuestBase.
func (f *Frontend) Memory() []byte { return f.mem }

// negotiate agrees with the back-end on features. It does not set them: requests may be under way.
func (f *Frontend) negotiate() (features uint64, protocol vu.ProtocolFeatures, err error) {
	offered, err := f.GetU64(vu.ReqGetFeatures)
	if err != nil {
		return 0, 0, err
	}
	features = f.choose(offered)
	if features&vu.FeatureProtocolFeatures != 0 {
		p, err := f.GetU64(vu.ReqGetProtocolFeatures)
		if err != nil {
			return 0, 0, err
		}
		const known = vu.ProtocolMQ | vu.ProtocolReplyAck | vu.ProtocolConfigureMemSlots | vu.ProtocolConfig |
			vu.ProtocolInflightShmFD | vu.ProtocolLogShmFD | vu.ProtocolResetDevice | vu.ProtocolStatus |
			vu.ProtocolBackendReq | vu.ProtocolBackendSendFD | vu.ProtocolDeviceState
		protocol = vu.ProtocolFeatures(p) & known
		if f.opts.Window != nil && f.opts.Window.FSMap == (vu.FSMap{}) {
			protocol |= vu.ProtocolFeatures(p) & vu.ProtocolSharedMemory
		}
		if err := f.SetU64(vu.ReqSetProtocolFeatures, uint64(protocol)); err != nil {
			return 0, 0, err
		}
	}
	if err := f.Send(vu.ReqSetOwner, nil); err != nil {
		return 0, 0, err
	}
	return features, protocol, f.SetU64(vu.ReqSetFeatures, features)
}

// choose are those of the offered features that the driver and the front-end want.
func (f *Frontend) choose(offered uint64) uint64 {
	features := offered & (vu.FeatureVersion1 | vu.FeatureProtocolFeatures | vu.FeatureEventIdx | vu.FeatureIndirectDesc)
	if f.opts.NoEventIdx {
		features &^= vu.FeatureEventIdx
	}
	if f.opts.NoIndirect {
		features &^= vu.FeatureIndirectDesc
	}
	return features
}

// Region describes the shared memory as the back-end gets it.
func (f *Frontend) Region() vu.MemoryRegion {
	return vu.MemoryRegion{GuestAddr: GuestBase, Size: uint64(len(f.mem)), UserAddr: UserBase}
}

// ShareMemory sends the memory.
func (f *Frontend) ShareMemory() error {
	r := f.Region()
	if f.opts.MemReg {
		s := vu.SingleRegion{Region: r}
		return f.Acked(vu.ReqAddMemReg, vu.Bytes(&s), f.memfd)
	}
	h := vu.MemoryHeader{Regions: 1}
	return f.Acked(vu.ReqSetMemTable, append(append([]byte(nil), vu.Bytes(&h)...), vu.Bytes(&r)...), f.memfd)
}

// Start starts all queues. After Stop they continue where they stopped.
func (f *Frontend) Start() error {
	if f.opts.CloudHypervisor {
		return f.cloudSetUp()
	}
	for _, q := range f.Queues {
		if err := q.start(); err != nil {
			return fmt.Errorf("queue %d: %w", q.index, err)
		}
	}
	return nil
}

// Stop stops all queues; requests under way are finished by then.
func (f *Frontend) Stop() error {
	for _, q := range f.Queues {
		if err := q.stop(); err != nil {
			return fmt.Errorf("queue %d: %w", q.index, err)
		}
	}
	return nil
}

// Close disconnects.
func (f *Frontend) Close() {
	_ = f.sock.Load().Close()
	if f.Window != nil {
		f.Window.close()
		f.Window = nil
	}
	for _, q := range f.Queues {
		q.close()
	}
	if f.mem != nil {
		_ = unix.Munmap(f.mem)
		f.mem = nil
	}
	for _, fd := range []*int{&f.memfd, &f.inflight} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
			*fd = -1
		}
	}
}

// Send sends a message without waiting for an answer. fds stay the caller's.
func (f *Frontend) Send(r vu.Request, body []byte, fds ...int) error {
	return f.SendFlags(r, vu.FlagVersion, body, fds...)
}

// SendFlags is Send with any flags. Nothing checks the message, so that tests can send what
// no honest front-end would.
func (f *Frontend) SendFlags(r vu.Request, flags uint32, body []byte, fds ...int) error {
	return f.sock.Load().Send(&vu.Message{Number: uint32(r), Flags: flags, Body: body, FDs: fds})
}

// Receive reads the next message of the back-end, which the caller closes.
func (f *Frontend) Receive() (*vu.Message, error) { return f.sock.Load().Receive() }

// receive reads the answer to a request and checks it against the message table. No answer
// that this front-end asks for has descriptors.
func (f *Frontend) receive(r vu.Request) ([]byte, error) {
	m, err := f.Receive()
	if err != nil {
		return nil, err
	}
	defer m.Close()
	if err := m.CheckReply(uint32(r)); err != nil {
		return nil, fmt.Errorf("%s: %w", r, err)
	}
	return m.Body, nil
}

// Call sends a message that has an answer and returns its body, which has a size that the
// message table allows. It is empty if the back-end refuses a request for a body.
func (f *Frontend) Call(r vu.Request, body []byte, fds ...int) ([]byte, error) {
	f.control.Lock()
	defer f.control.Unlock()
	return f.call(r, body, fds...)
}

// call is Call with the control lock held.
func (f *Frontend) call(r vu.Request, body []byte, fds ...int) ([]byte, error) {
	if err := f.Send(r, body, fds...); err != nil {
		return nil, err
	}
	return f.receive(r)
}

// ErrRefused is the answer of a back-end that does not want to.
var ErrRefused = errors.New("refused by the back-end")

// Acked sends a message and waits until the back-end has acted on it.
func (f *Frontend) Acked(r vu.Request, body []byte, fds ...int) error {
	f.control.Lock()
	defer f.control.Unlock()
	return f.acked(r, body, fds...)
}

// acked is Acked with the control lock held.
func (f *Frontend) acked(r vu.Request, body []byte, fds ...int) error {
	if !f.Protocol.Has(vu.ProtocolReplyAck) {
		if err := f.Send(r, body, fds...); err != nil {
			return err
		}
		_, err := f.call(vu.ReqGetFeatures, nil) // messages are served in order
		return err
	}
	if err := f.SendFlags(r, vu.FlagVersion|vu.FlagNeedReply, body, fds...); err != nil {
		return err
	}
	answer, err := f.receive(r)
	if err != nil {
		return err
	}
	if u, ok := vu.Decode[vu.U64](answer); !ok || u.Value != 0 {
		return fmt.Errorf("%s: %w", r, ErrRefused)
	}
	return nil
}

// GetU64 asks for a number.
func (f *Frontend) GetU64(r vu.Request) (uint64, error) {
	answer, err := f.Call(r, nil)
	if err != nil {
		return 0, err
	}
	u, ok := vu.Decode[vu.U64](answer)
	if !ok {
		return 0, fmt.Errorf("%s: %w", r, ErrRefused)
	}
	return u.Value, nil
}

// SetU64 sends a number.
func (f *Frontend) SetU64(r vu.Request, v uint64, fds ...int) error {
	u := vu.U64{Value: v}
	return f.Send(r, vu.Bytes(&u), fds...)
}

func (f *Frontend) setState(r vu.Request, index int, num uint32) error {
	s := vu.VringState{Index: uint32(index), Num: num}
	return f.Send(r, vu.Bytes(&s))
}

// PeerPID is the process number of the back-end, for measuring it.
func (f *Frontend) PeerPID() (int, error) {
	raw, err := f.sock.Load().SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if cerr != nil || err != nil {
		return 0, errors.Join(cerr, err)
	}
	return int(cred.Pid), nil
}

// guestAddr is the guest's address of an offset in the memory.
func guestAddr(off int) uint64 { return GuestBase + uint64(off) }

func userAddr(off int) uint64 { return UserBase + uint64(off) }

func at[T any](mem []byte, off int) *T { return (*T)(unsafe.Pointer(&mem[off])) }
