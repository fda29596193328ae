package frontend

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

// Descriptor flags (virtio 1.2, 2.7.5).
const (
	DescNext     = 1
	DescWrite    = 2
	DescIndirect = 4
)

// Desc is a descriptor as it stands in a table.
type Desc struct {
	Addr  uint64
	Len   uint32
	Flags uint16
	Next  uint16
}

const (
	pageSize = 4096
	// The sizes of a slot's parts are no multiples of a page, and colour shifts each
	// slot: parts that are used together would share a few sets of the cache.
	headBytes = 8<<10 + 256 // of a slot: request header, body and names
	replyMax  = 8<<10 + 256 // of a slot: reply header and body
	colour    = 5 * 64
	// slotDescs is how many descriptors a slot has in the ring: request, data to the
	// device, reply, data from the device.
	slotDescs = 4
)

// Slot is the memory of one request.
type Slot struct {
	Out  []byte // what the device reads
	In   []byte // what the device writes, the reply
	Data []byte // file data, one way or the other

	q       *Queue
	index   int
	head    uint16 // the first of its descriptors in the ring
	outAt   int    // offsets in the guest's memory
	inAt    int
	dataAt  int
	tableAt int
	done    chan uint32 // length that the device has written

	pipe pipeSlot // what a Pipe knows of it
}

// Queue is one virtqueue. Slots may be used from several goroutines.
type Queue struct {
	f     *Frontend
	index int
	size  uint16
	base  int // offset of this queue's memory

	descAt, availAt, usedAt int
	kick, call              int
	free                    chan *Slot
	Slots                   []*Slot
	lost                    bool // a Pipe has failed with requests under way

	mu       sync.Mutex // guards the ring
	avail    uint16
	next     uint16 // index in the available ring where the device continues when the ring starts
	kicked   uint16 // avail index when the device was last considered for a kick
	lastUsed uint16
	inUse    map[uint16]*Slot
	reaping  bool
	ended    chan struct{}

	// Kicks and Calls count notifications each way.
	Kicks, Calls atomic.Uint64
}

func align(n, to int) int { return (n + to - 1) / to * to }

// ringBytes is the room for the three areas.
func ringBytes(size uint16) int {
	return align(16*int(size), pageSize) + align(6+2*int(size), pageSize) + align(6+8*int(size), pageSize)
}

// metaBytes is the part of a slot before its data.
func metaBytes(o *Options) int {
	return align(headBytes+replyMax+tableLen(o)*16+pageSize, pageSize)
}

func slotBytes(o *Options) int { return metaBytes(o) + align(o.Data, pageSize) }

// tableLen is how many entries a slot's indirect table has: header, arguments, reply
// header and reply, and the data, at any page of which a buffer may begin.
func tableLen(o *Options) int {
	if o.Chunk > 0 {
		return 16 + o.Data/o.Chunk
	}
	return 16
}

// stride is how many descriptors of the ring a slot has.
func stride(o *Options) int {
	if o.Indirect {
		return 1
	}
	return slotDescs
}

func slotCount(o *Options) int { return min(o.Slots, int(o.QueueSize)/stride(o)) }

func queueBytes(o *Options) int { return ringBytes(o.QueueSize) + max(slotCount(o), 1)*slotBytes(o) }

func newQueue(f *Frontend, index, base int) (q *Queue, err error) {
	size := f.opts.QueueSize
	q = &Queue{f: f, index: index, size: size, base: base, descAt: base, kick: -1, call: -1,
		inUse: make(map[uint16]*Slot), ended: make(chan struct{})}
	q.availAt = q.descAt + align(16*int(size), pageSize)
	q.usedAt = q.availAt + align(6+2*int(size), pageSize)
	if q.kick, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return q, err
	}
	if q.call, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return q, err
	}
	q.addSlots()
	return q, nil
}

// addSlots lays out the request slots behind the ring.
func (q *Queue) addSlots() {
	o := &q.f.opts
	n := slotCount(o)
	q.free = make(chan *Slot, n)
	for i := range n {
		start := q.base + ringBytes(q.size) + i*slotBytes(o)
		at := start + i*colour%pageSize
		s := &Slot{q: q, index: i, head: uint16(i * stride(o)), outAt: at, inAt: at + headBytes,
			tableAt: at + headBytes + replyMax, dataAt: start + metaBytes(o), done: make(chan uint32, 1)}
		mem := q.f.mem
		s.Out, s.In, s.Data = mem[s.outAt:s.outAt+headBytes], mem[s.inAt:s.inAt+replyMax], mem[s.dataAt:s.dataAt+o.Data]
		q.Slots = append(q.Slots, s)
		q.free <- s
	}
}

// start tells the back-end about the ring, as QEMU does. The device continues at the index
// that stop has read. That may be before requests that it has not taken yet.
func (q *Queue) start() error {
	f := q.f
	q.mu.Lock()
	base := q.next
	q.mu.Unlock()
	addr := q.addr()
	for _, step := range []func() error{
		func() error { return f.setState(vu.ReqSetVringNum, q.index, uint32(q.size)) },
		func() error { return f.setState(vu.ReqSetVringBase, q.index, uint32(base)) },
		func() error { return f.Send(vu.ReqSetVringAddr, vu.Bytes(&addr)) },
		func() error { return f.SetU64(vu.ReqSetVringCall, uint64(q.index), q.call) },
		func() error { return f.SetU64(vu.ReqSetVringKick, uint64(q.index), q.kick) },
		func() error {
			if f.Features&vu.FeatureProtocolFeatures == 0 {
				return nil
			}
			s := vu.VringState{Index: uint32(q.index), Num: 1}
			return f.Acked(vu.ReqSetVringEnable, vu.Bytes(&s))
		},
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// addr is where the ring is.
func (q *Queue) addr() vu.VringAddr {
	a := vu.VringAddr{Index: uint32(q.index), Desc: userAddr(q.descAt), Used: userAddr(q.usedAt), Avail: userAddr(q.availAt)}
	if q.f.logs.Load() {
		a.Flags, a.Log = vu.VringAddrLog, guestAddr(q.usedAt)
	}
	return a
}

// stop stops the ring and keeps where the device has stopped.
func (q *Queue) stop() error {
	s := vu.VringState{Index: uint32(q.index)}
	if err := q.f.setState(vu.ReqSetVringEnable, q.index, 0); err != nil {
		return err
	}
	answer, err := q.f.Call(vu.ReqGetVringBase, vu.Bytes(&s))
	if err != nil {
		return err
	}
	got, ok := vu.Decode[vu.VringState](answer)
	if !ok || got.Index != uint32(q.index) {
		return fmt.Errorf("GET_VRING_BASE answers %+v", got)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	offered := q.Offered()
	if got.Num > 0xffff || offered-uint16(got.Num) > q.size {
		return fmt.Errorf("GET_VRING_BASE answers %d, the ring has %d entries up to %d", got.Num, q.size, offered)
	}
	q.next = uint16(got.Num)
	return nil
}

func (q *Queue) close() {
	q.stopReaper()
	for _, fd := range [...]int{q.kick, q.call} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

func (q *Queue) ring(fd int) {
	one := [8]byte{1}
	_, _ = unix.Write(fd, one[:])
}

// SetDesc writes entry i of the ring's descriptor table.
func (q *Queue) SetDesc(i uint16, d Desc) { *at[Desc](q.f.mem, q.descAt+16*int(i)) = d }

// Offer puts a head in the available ring and kicks if the device wants that.
func (q *Queue) Offer(head uint16) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.put(head)
	q.notify()
}

// put adds a head to the available ring. mu is held.
func (q *Queue) put(head uint16) {
	mem := q.f.mem
	storeHalf(mem, q.availAt+4+2*int(q.avail%q.size), head)
	q.avail++
	// flags are 0 or ask for no call; here always 0.
	atomic.StoreUint32(at[uint32](mem, q.availAt), uint32(q.avail)<<16)
}

// notify kicks the device for what was put since the last time, if it wants that.
// mu is held.
func (q *Queue) notify() {
	old, now := q.kicked, q.avail
	q.kicked = now
	if q.f.Features&vu.FeatureEventIdx != 0 {
		event := loadHalf(q.f.mem, q.usedAt+4+8*int(q.size))
		if now-event-1 >= now-old {
			return
		}
	} else if loadHalf(q.f.mem, q.usedAt)&1 != 0 {
		return
	}
	q.Kick()
}

// Kick wakes the device whether it wants it or not.
func (q *Queue) Kick() {
	q.Kicks.Add(1)
	q.ring(q.kick)
}

// UsedIndex is the device's index of the used ring.
func (q *Queue) UsedIndex() uint16 { return loadHalf(q.f.mem, q.usedAt+2) }

// UnderWay is how many requests of a Client the device has not finished. Those of a Pipe are
// not among them.
func (q *Queue) UnderWay() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.inUse)
}

// Used is an entry of the used ring.
func (q *Queue) Used(i uint16) (id, length uint32) {
	p := q.f.mem[q.usedAt+4+8*int(i%q.size):]
	return binary.LittleEndian.Uint32(p), binary.LittleEndian.Uint32(p[4:])
}

// 16-bit fields are accessed as part of their aligned word, for there are no smaller
// atomics.
func loadHalf(mem []byte, off int) uint16 {
	return uint16(atomic.LoadUint32(at[uint32](mem, off&^3)) >> (8 * (off & 2)))
}

func storeHalf(mem []byte, off int, v uint16) {
	p := at[uint32](mem, off&^3)
	shift := 8 * (off & 2)
	for {
		old := atomic.LoadUint32(p)
		if atomic.CompareAndSwapUint32(p, old, old&^(0xffff<<shift)|uint32(v)<<shift) {
			return
		}
	}
}

// Buf is a part of a request: length bytes at an offset of the guest's memory.
type Buf struct {
	At, Len int
	Write   bool // by the device
}

// Add offers a chain of buffers in the slot's descriptors, or in its indirect table.
// Kick, or the next Submit, lets the device know.
func (s *Slot) add(bufs []Buf) {
	q := s.q
	head, indirect := s.head, q.f.indirect()
	for i, b := range bufs {
		d := Desc{Addr: guestAddr(b.At), Len: uint32(b.Len)}
		if b.Write {
			d.Flags |= DescWrite
		}
		if indirect {
			if i < len(bufs)-1 {
				d.Flags, d.Next = d.Flags|DescNext, uint16(i+1)
			}
			*at[Desc](q.f.mem, s.tableAt+16*i) = d
			continue
		}
		if i < len(bufs)-1 {
			d.Flags, d.Next = d.Flags|DescNext, head+uint16(i+1)
		}
		q.SetDesc(head+uint16(i), d)
	}
	if indirect {
		q.SetDesc(head, Desc{Addr: guestAddr(s.tableAt), Len: uint32(16 * len(bufs)), Flags: DescIndirect})
	}
	q.inUse[head] = s
	q.put(head)
}

// Submit offers requests; bufs are each slot's buffers. One kick at most.
func (q *Queue) Submit(s *Slot, bufs []Buf) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s.add(bufs)
	q.notify()
}

// Reap hands each finished request to f and returns how many there were.
func (q *Queue) Reap(f func(s *Slot, written uint32)) (n int) {
	for {
		q.mu.Lock()
		if q.lastUsed == q.UsedIndex() {
			q.mu.Unlock()
			return n
		}
		id, length := q.Used(q.lastUsed)
		q.lastUsed++
		s := q.inUse[uint16(id)]
		delete(q.inUse, uint16(id))
		q.mu.Unlock()
		if s != nil {
			f(s, length)
		}
		n++
	}
}

// Wait sleeps until the device calls. With EVENT_IDX the device is asked to call at
// the next finished request.
func (q *Queue) Wait() {
	q.mu.Lock()
	storeHalf(q.f.mem, q.availAt+4+2*int(q.size), q.lastUsed)
	more := q.lastUsed != q.UsedIndex()
	q.mu.Unlock()
	if more {
		return
	}
	// The back-end may have made the eventfd non-blocking, so read may not sleep.
	fds := []unix.PollFd{{Fd: int32(q.call), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != unix.EINTR {
			break
		}
	}
	var b [8]byte
	if fds[0].Revents&unix.POLLIN != 0 {
		_, _ = unix.Read(q.call, b[:])
	}
	q.Calls.Add(1)
}

// reap is the goroutine that wakes the callers of finished requests.
func (q *Queue) reap() {
	defer close(q.ended)
	for {
		q.Reap(func(s *Slot, written uint32) { s.done <- written })
		q.mu.Lock()
		over := !q.reaping
		q.mu.Unlock()
		if over {
			return
		}
		q.Wait()
	}
}

// stopReaper ends reap and says whether it ran. No request may be under way.
func (q *Queue) stopReaper() bool {
	q.mu.Lock()
	reaping := q.reaping
	q.reaping = false
	q.mu.Unlock()
	if reaping {
		q.ring(q.call) // wakes the reaper, which sees that it is over
		<-q.ended
	}
	return reaping
}

// startReaper starts reap once.
func (q *Queue) startReaper() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.reaping {
		q.reaping, q.ended = true, make(chan struct{})
		go q.reap()
	}
}

// Offset is where the queue's memory begins, with its descriptor table.
func (q *Queue) Offset() int { return q.base }

// DataAddr is the guest's address of Data.
func (s *Slot) DataAddr() uint64 { return guestAddr(s.dataAt) }

// ExchangeCall has the device call by a copy of the queue's eventfd from now on, as QEMU does when
// a guest masks or unmasks its interrupt.
func (f *Frontend) ExchangeCall(queue int) error {
	q := f.Queues[queue]
	own, err := unix.FcntlInt(uintptr(q.call), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(own)
	u := vu.U64{Value: uint64(queue)}
	return f.Acked(vu.ReqSetVringCall, vu.Bytes(&u), own)
}
