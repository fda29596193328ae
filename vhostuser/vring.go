package vhostuser

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/eventfd"
	"github.com/govirtiofs/govirtiofs/internal/fdstat"
	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// ring is what the front-end has said about one ring. It runs when all parts are
// there and it is enabled:
//
//	     NUM, ADDR, KICK known, ENABLE 1, memory there
//	   +---------------------------------------------+
//	   |                                             v
//	stopped                                       running
//	   ^                                             |
//	   +---------------------------------------------+
//	     GET_VRING_BASE (forgets KICK), ENABLE 0, reset
//
// The specification starts a ring with its first kick. Starting before it does no
// harm, because an empty ring is only checked, and saves waiting for a kick that a
// front-end may have taken back.
type ring struct {
	size    uint16 // 0: not known
	base    uint16 // where it starts or has stopped; 0 unless SET_VRING_BASE says so
	addr    VringAddr
	hasAddr bool
	hasKick bool
	kick    int // -1: the ring is polled
	enabled bool
	call    eventfd.Notifier
	err     eventfd.Notifier
	queue   *virtqueue.Queue // while it runs
	known   bool             // the in-flight area says nothing that base does not
	stopped virtqueue.Position
	whole   bool // stopped is where another queue can continue
	hasCall bool
	hasErr  bool
	start   uint32 // see Vring.Start
	ran     bool   // it ran in another process, with this start, and could not be started yet
}

// close closes the ring's descriptors.
func (r *ring) close() {
	r.dropKick()
	r.call.Close()
	r.err.Close()
}

// dropKick forgets the kick descriptor; without a new one the ring does not start.
func (r *ring) dropKick() {
	if r.kick >= 0 {
		_ = unix.Close(r.kick)
	}
	r.hasKick, r.kick = false, -1
}

// ring checks an index that came with a message.
func (c *Conn) ring(index uint64) (*ring, error) {
	if index >= uint64(len(c.rings)) {
		return nil, fmt.Errorf("ring %d of %d: does the VMM ask for more queues than the daemon offers?", index, len(c.rings))
	}
	return &c.rings[index], nil
}

// stoppedRing decodes a request that is valid only for a stopped ring. It does
// not stop the ring: that would hide a front-end's mistake and start the ring
// half set up with the next message. A number that changes nothing is not a
// mistake.
func (c *Conn) stoppedRing(m *message, same func(*ring, uint32) bool) (*ring, VringState, error) {
	s := body[VringState](m)
	r, err := c.ring(uint64(s.Index))
	if err == nil && r.queue != nil && !same(r, s.Num) {
		err = errors.New("the ring is running; GET_VRING_BASE stops it")
	}
	return r, s, err
}

// setVringNum sets the size (virtio 1.2, 2.7: a power of two up to 32768).
func (c *Conn) setVringNum(m *message) ([]byte, error) {
	r, s, err := c.stoppedRing(m, func(r *ring, n uint32) bool { return n == uint32(r.size) })
	if err != nil {
		return nil, err
	}
	if s.Num == 0 || int64(s.Num) > int64(c.device.MaxQueueSize()) || s.Num > virtqueue.MaxSize || s.Num&(s.Num-1) != 0 {
		return nil, fmt.Errorf("size %d: want a power of two up to %d", s.Num, c.device.MaxQueueSize())
	}
	r.size = uint16(s.Num)
	return nil, c.startRing(int(s.Index))
}

// setVringBase sets the next entry of the available ring to read. The place in the
// used ring is read from the ring itself (vhost-user, VHOST_USER_SET_VRING_BASE).
func (c *Conn) setVringBase(m *message) ([]byte, error) {
	r, s, err := c.stoppedRing(m, func(*ring, uint32) bool { return false })
	if err != nil {
		return nil, err
	}
	if s.Num > 0xffff {
		return nil, fmt.Errorf("index %d does not fit a split ring", s.Num)
	}
	r.base, r.ran = uint16(s.Num), false
	return nil, nil
}

// setVringAddr comes again for a running ring when only the logging of its used
// ring changes (vhost-user, "Migration"); a ring that moves is stopped and started.
func (c *Conn) setVringAddr(m *message) ([]byte, error) {
	a := body[VringAddr](m)
	r, err := c.ring(uint64(a.Index))
	if err != nil {
		return nil, err
	}
	if a.Desc != r.addr.Desc || a.Used != r.addr.Used || a.Avail != r.addr.Avail {
		c.stopRing(int(a.Index))
	}
	r.addr, r.hasAddr = a, true
	c.updateLogs()
	return nil, c.startRing(int(a.Index))
}

// setVringEnable is independent of start and stop: QEMU disables the rings of a
// paused guest, and enables them again with new descriptors.
func (c *Conn) setVringEnable(m *message) ([]byte, error) {
	s := body[VringState](m)
	r, err := c.ring(uint64(s.Index))
	if err != nil {
		return nil, err
	}
	if s.Num > 1 {
		return nil, fmt.Errorf("value %d, want 0 or 1", s.Num)
	}
	r.enabled = s.Num == 1
	if !r.enabled {
		c.stopRing(int(s.Index))
		return nil, nil
	}
	return nil, c.startRing(int(s.Index))
}

// getVringBase stops the ring and answers where it stopped. It starts again with a
// new SET_VRING_KICK.
func (c *Conn) getVringBase(m *message) ([]byte, error) {
	s := body[VringState](m)
	r, err := c.ring(uint64(s.Index))
	if err != nil {
		return nil, err
	}
	c.stopRing(int(s.Index))
	r.dropKick()
	return reply(VringState{Index: s.Index, Num: uint32(r.base)}), nil
}

// vringFD decodes SET_VRING_KICK, CALL or ERR. fd is -1 when none is attached;
// otherwise it is the caller's.
func (c *Conn) vringFD(m *message) (index int, r *ring, fd int, err error) {
	v := body[U64](m).Value
	index = int(v & VringIndexMask)
	if r, err = c.ring(uint64(index)); err != nil {
		return 0, nil, -1, err
	}
	if noFD := v&VringNoFD != 0; noFD != (len(m.FDs) == 0) {
		return 0, nil, -1, fmt.Errorf("%d descriptors attached, flags %#x", len(m.FDs), v)
	}
	if len(m.FDs) > 0 {
		if err := checkEventFD(m.FDs[0]); err != nil {
			return 0, nil, -1, err
		}
	}
	return index, r, m.TakeFD(0), nil
}

// checkEventFD refuses a descriptor that can't be an eventfd or work like one. Access to
// another kind of file or device may wait for a server that never answers.
func checkEventFD(fd int) error {
	info, err := fdstat.Stat(fd)
	if err != nil {
		return err
	}
	switch info.Kind() {
	case 0, unix.S_IFIFO, unix.S_IFSOCK: // an eventfd's inode has no type
		return nil
	}
	return fmt.Errorf("the descriptor is no eventfd: its file has mode %#o", info.Mode)
}

// setVringKick restarts a running ring on the new descriptor.
//
// The descriptor's O_NONBLOCK stays as the front-end made it. The flag belongs to
// the description which both sides share, and QEMU reads its own kick eventfd when
// it takes a ring back (event_notifier_test_and_clear): made blocking, that would
// stop QEMU for ever.
func (c *Conn) setVringKick(m *message) ([]byte, error) {
	index, r, fd, err := c.vringFD(m)
	if err != nil {
		return nil, err
	}
	c.stopRing(index)
	r.dropKick()
	if fd >= 0 {
		c.keep(DescriptorKick, uint64(index), fd)
	} else {
		c.drop(DescriptorKick, uint64(index))
	}
	r.kick, r.hasKick = fd, true
	return nil, c.startRing(index)
}

// setVringCall exchanges the call descriptor, at any time: QEMU does it whenever
// the guest masks or unmasks its interrupt.
func (c *Conn) setVringCall(m *message) ([]byte, error) {
	index, r, fd, err := c.vringFD(m)
	if err != nil {
		return nil, err
	}
	r.hasCall = c.keepNotifier(DescriptorCall, index, fd)
	r.call.Set(fd)
	// A call that was due on the old descriptor may have got lost.
	if r.queue != nil {
		r.call.Notify()
	}
	return nil, nil
}

// setVringErr exchanges the error descriptor, at any time.
func (c *Conn) setVringErr(m *message) ([]byte, error) {
	index, r, fd, err := c.vringFD(m)
	if err != nil {
		return nil, err
	}
	r.hasErr = c.keepNotifier(DescriptorErr, index, fd)
	r.err.Set(fd)
	return nil, nil
}

// keepNotifier has the keeper hold the new descriptor of a ring, or none. It returns whether there is
// one.
func (c *Conn) keepNotifier(kind DescriptorKind, index, fd int) bool {
	if fd < 0 {
		c.drop(kind, uint64(index))
		return false
	}
	c.keep(kind, uint64(index), fd)
	return true
}

// startRing starts a ring that has all it needs and does not run yet.
func (c *Conn) startRing(index int) error {
	r := &c.rings[index]
	if r.queue != nil || r.size == 0 || !r.hasAddr || !r.hasKick || !r.enabled {
		return nil
	}
	q, back, err := c.newQueue(index)
	if err != nil {
		return fmt.Errorf("ring %d: %w", index, err)
	}
	known, at, underWay := r.known, q.Base(), q.UnderWay()
	// A transfer of the device's state needs stopped rings. If the front-end has
	// not asked for the result of a transfer, it has given the transfer up.
	c.transfer.abort()
	r.queue, r.known = q, true
	c.updateLogs()
	if c.recovery.on && !r.ran {
		c.recovery.starts++
		r.start = c.recovery.starts
		c.note() // before it takes a request: a successor has to continue with that
	}
	r.ran = false
	v := Vring{Queue: q, Kick: r.kick, Call: &r.call, Err: &r.err, Start: r.start, Back: back}
	if err := c.device.StartQueue(index, v); err != nil {
		r.queue, r.start, r.known = nil, 0, known
		return fmt.Errorf("ring %d: %w", index, err)
	}
	if back != nil {
		// It is not known which calls the driver got, and there may be nothing to publish.
		r.call.Notify()
		c.log.Info(fmt.Sprintf("vhost-user: ring %d continues at index %d, %d requests were under way", index, at, underWay))
	}
	c.begun.Do(func() {
		c.log.Info(fmt.Sprintf("vhost-user: the first ring runs: features %#x, protocol features %s", c.features, c.protocol))
	})
	c.log.Debug(fmt.Sprintf("vhost-user: ring %d runs: %d entries from index %d on", index, r.size, at))
	return nil
}

// newQueue makes the queue of a ring; back is where the ring has stopped if it ran in an earlier connection. That
// reads the ring, and memory that the front-end has cut off is its mistake, not a fault of ours.
func (c *Conn) newQueue(index int) (q *virtqueue.Queue, back *virtqueue.Position, err error) {
	r := &c.rings[index]
	err = c.readShared(func() error {
		if err := c.touch(r.addr.Used); err != nil { // where a fault leaves nothing behind
			return err
		}
		c.meet(true)
		cfg := virtqueue.Config{
			Size:     r.size,
			Desc:     r.addr.Desc,
			Avail:    r.addr.Avail,
			Used:     r.addr.Used,
			Base:     r.base,
			EventIdx: c.features&FeatureEventIdx != 0,
			Indirect: c.features&FeatureIndirectDesc != 0,
			Inflight: c.inflight.queue(index, r.size),
		}
		var away bool
		if cfg.Resume, away = c.position(index); away {
			back = cfg.Resume
		}
		q, err = virtqueue.New(&c.space, cfg)
		return err
	})
	return q, back, err
}

// readShared runs f, which reads memory that the front-end may have cut off.
func (c *Conn) readShared(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			fault, ok := p.(interface{ Addr() uintptr })
			if !ok || !c.isShared(fault.Addr()) {
				panic(p)
			}
			err = errors.New("its memory is gone: was the file truncated?")
		}
	}()
	return f()
}

// touch reads a byte at a front-end's address.
func (c *Conn) touch(userAddr uint64) error {
	memory := c.space.Load()
	if memory == nil {
		return errNoMemory
	}
	defer memory.Release()
	b := memory.User(userAddr, 1)
	if b == nil {
		return fmt.Errorf("front-end address %#x is not in guest memory", userAddr)
	}
	touched.Store(uint32(b[0]))
	return nil
}

// touched keeps the compiler from leaving the read in touch out.
var touched atomic.Uint32

// isShared reports whether an address of ours lies in memory of the front-end.
func (c *Conn) isShared(addr uintptr) bool {
	if c.inflight.mapping.contains(addr) {
		return true
	}
	memory := c.space.Load()
	if memory == nil {
		return false
	}
	defer memory.Release()
	return memory.Contains(addr)
}

// startReady starts the rings that waited only for memory or features. Those that
// still can't be started wait on.
func (c *Conn) startReady() {
	for i := range c.rings {
		if err := c.startRing(i); err != nil {
			c.log.Debug("vhost-user: ring not started yet", "error", err)
		}
	}
}

// stopRing stops a ring and keeps where it stopped.
func (c *Conn) stopRing(index int) {
	r := &c.rings[index]
	if r.queue == nil {
		return
	}
	if err := c.device.StopQueue(index); err != nil {
		c.log.Warn(fmt.Sprintf("stopping queue %d", index), "error", err)
	}
	r.base = r.queue.Base()
	r.stopped, r.whole = r.queue.Position()
	r.queue, r.start = nil, 0
	c.log.Debug(fmt.Sprintf("vhost-user: ring %d has stopped at index %d", index, r.base))
}
