package vhostuser

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/eventfd"
	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// ring is what the front-end has said about one ring. It runs when all parts are
// there and it is enabled.
type ring struct {
	size    uint16
	base    uint16
	addr    VringAddr
	hasAddr bool
	hasKick bool
	kick    int // -1: the ring is polled
	enabled bool
	call    eventfd.Notifier
	err     eventfd.Notifier
	queue   *virtqueue.Queue // while it runs
}

// close closes the ring's descriptors.
func (r *ring) close() {
	r.dropKick()
	r.call.Close()
	r.err.Close()
}

func (r *ring) dropKick() {
	if r.hasKick && r.kick >= 0 {
		_ = unix.Close(r.kick)
	}
	r.hasKick, r.kick = false, -1
}

func (c *Conn) ring(index uint64) (*ring, error) {
	if index >= uint64(len(c.rings)) {
		return nil, fmt.Errorf("ring %d of %d: does the VMM ask for more queues than the daemon offers?", index, len(c.rings))
	}
	return &c.rings[index], nil
}

// ringState decodes a request about a ring that is not running.
func (c *Conn) ringState(m *message) (*ring, VringState, error) {
	s := body[VringState](m)
	r, err := c.ring(uint64(s.Index))
	if err == nil && r.queue != nil {
		err = errors.New("the ring is running")
	}
	return r, s, err
}

func (c *Conn) setVringNum(m *message) ([]byte, error) {
	r, s, err := c.ringState(m)
	if err != nil {
		return nil, err
	}
	if s.Num == 0 || s.Num > uint32(c.device.MaxQueueSize()) || s.Num > virtqueue.MaxSize || s.Num&(s.Num-1) != 0 {
		return nil, fmt.Errorf("size %d: want a power of two up to %d", s.Num, c.device.MaxQueueSize())
	}
	r.size = uint16(s.Num)
	return nil, nil
}

func (c *Conn) setVringBase(m *message) ([]byte, error) {
	r, s, err := c.ringState(m)
	if err != nil {
		return nil, err
	}
	if s.Num > 0xffff {
		return nil, fmt.Errorf("index %d does not fit a split ring", s.Num)
	}
	r.base = uint16(s.Num)
	return nil, nil
}

// setVringAddr comes again for a running ring when only the logging of its used
// ring changes; a ring that moves is stopped and started.
func (c *Conn) setVringAddr(m *message) ([]byte, error) {
	a := body[VringAddr](m)
	r, err := c.ring(uint64(a.Index))
	if err != nil {
		return nil, err
	}
	moved := a.Desc != r.addr.Desc || a.Used != r.addr.Used || a.Avail != r.addr.Avail
	if moved {
		c.stopRing(int(a.Index))
	}
	r.addr, r.hasAddr = a, true
	c.updateLogs()
	return nil, c.startRing(int(a.Index))
}

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
// new kick descriptor.
func (c *Conn) getVringBase(m *message) ([]byte, error) {
	s := body[VringState](m)
	r, err := c.ring(uint64(s.Index))
	if err != nil {
		return nil, err
	}
	c.stopRing(int(s.Index))
	r.dropKick()
	reply := VringState{Index: s.Index, Num: uint32(r.base)}
	return append([]byte(nil), Bytes(&reply)...), nil
}

// vringFD decodes SET_VRING_KICK, CALL or ERR. fd is -1 when none is attached;
// otherwise it is the caller's.
func (c *Conn) vringFD(m *message) (index int, r *ring, fd int, err error) {
	v := body[U64](m).Value
	index = int(v & VringIndexMask)
	if r, err = c.ring(uint64(index)); err != nil {
		return 0, nil, -1, err
	}
	noFD := v&VringNoFD != 0
	if noFD != (len(m.fds) == 0) {
		return 0, nil, -1, fmt.Errorf("%d descriptors attached, flags %#x", len(m.fds), v)
	}
	return index, r, m.takeFD(0), nil
}

func (c *Conn) setVringKick(m *message) ([]byte, error) {
	index, r, fd, err := c.vringFD(m)
	if err != nil {
		return nil, err
	}
	c.stopRing(index)
	r.dropKick()
	r.kick, r.hasKick = fd, true
	if c.features&FeatureProtocolFeatures == 0 {
		r.enabled = true // vhost-user, "Ring states"
	}
	return nil, c.startRing(index)
}

func (c *Conn) setVringCall(m *message) ([]byte, error) {
	_, r, fd, err := c.vringFD(m)
	if err != nil {
		return nil, err
	}
	r.call.Set(fd)
	// A call that was due on the old descriptor may have got lost.
	if r.queue != nil {
		r.call.Notify()
	}
	return nil, nil
}

func (c *Conn) setVringErr(m *message) ([]byte, error) {
	_, r, fd, err := c.vringFD(m)
	if err != nil {
		return nil, err
	}
	r.err.Set(fd)
	return nil, nil
}

// startRing starts a ring that has all it needs and does not run yet.
func (c *Conn) startRing(index int) error {
	r := &c.rings[index]
	if r.queue != nil || r.size == 0 || !r.hasAddr || !r.hasKick || !r.enabled {
		return nil
	}
	q, err := virtqueue.New(&c.space, virtqueue.Config{
		Size:     r.size,
		Desc:     r.addr.Desc,
		Avail:    r.addr.Avail,
		Used:     r.addr.Used,
		Base:     r.base,
		EventIdx: c.features&FeatureEventIdx != 0,
		Indirect: c.features&FeatureIndirectDesc != 0,
		Inflight: c.inflight.queue(index, r.size),
	})
	if err != nil {
		return err
	}
	r.queue = q
	c.updateLogs()
	if err := c.device.StartQueue(index, Vring{Queue: q, Kick: r.kick, Call: &r.call, Err: &r.err}); err != nil {
		r.queue = nil
		return err
	}
	return nil
}

// stopRing stops a ring and keeps where it stopped.
func (c *Conn) stopRing(index int) {
	r := &c.rings[index]
	if r.queue == nil {
		return
	}
	if err := c.device.StopQueue(index); err != nil {
		c.log.WithError(err).Warnf("stopping queue %d", index)
	}
	r.base = r.queue.Base()
	r.queue = nil
}

// disableRings stops all rings until the front-end sets them up again.
func (c *Conn) disableRings() {
	for i := range c.rings {
		c.stopRing(i)
		c.rings[i].enabled = false
		c.rings[i].base = 0
	}
}
