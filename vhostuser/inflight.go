package vhostuser

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// inflightArea is the memory of SET_INFLIGHT_FD.
type inflightArea struct {
	mapping []byte
	area    []byte
	queues  int
	size    uint16
}

// queue is one queue's part, or nil when there is none that fits.
func (a *inflightArea) queue(index int, size uint16) []byte {
	if a.area == nil || index >= a.queues || size > a.size {
		return nil
	}
	n := virtqueue.InflightSize(a.size)
	return a.area[uint64(index)*n : uint64(index+1)*n]
}

func (a *inflightArea) close() {
	if a.mapping != nil {
		_ = unix.Munmap(a.mapping)
	}
	*a = inflightArea{}
}

func checkInflight(d *InflightDescription, queues, maxSize int) error {
	if d.NumQueues == 0 || int(d.NumQueues) > queues || d.QueueSize == 0 || int(d.QueueSize) > maxSize {
		return fmt.Errorf("%d queues of %d entries", d.NumQueues, d.QueueSize)
	}
	return nil
}

// getInflightFD makes the area; the front-end keeps it, and gives it back with
// SET_INFLIGHT_FD now and to our successor.
func (c *Conn) getInflightFD(m *message) ([]byte, error) {
	d := body[InflightDescription](m)
	if err := checkInflight(&d, len(c.rings), c.device.MaxQueueSize()); err != nil {
		return nil, err
	}
	size := uint64(d.NumQueues) * virtqueue.InflightSize(d.QueueSize)
	fd, err := unix.MemfdCreate("vhost-user-inflight", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return nil, fmt.Errorf("ftruncate: %w", err)
	}
	d.MmapSize, d.MmapOffset = size, 0
	if err := c.reply(m.request, Bytes(&d), fd); err != nil {
		return nil, err
	}
	return nil, errReplied
}

func (c *Conn) setInflightFD(m *message) ([]byte, error) {
	d := body[InflightDescription](m)
	fd := m.takeFD(0)
	defer unix.Close(fd)
	if err := checkInflight(&d, len(c.rings), c.device.MaxQueueSize()); err != nil {
		return nil, err
	}
	need := uint64(d.NumQueues) * virtqueue.InflightSize(d.QueueSize)
	if d.MmapSize < need || d.MmapSize > maxMapping || d.MmapOffset > maxMapping || d.MmapOffset%8 != 0 {
		return nil, fmt.Errorf("area of %d bytes at offset %d, want %d", d.MmapSize, d.MmapOffset, need)
	}
	for i := range c.rings {
		if c.rings[i].queue != nil {
			return nil, errors.New("a ring is running")
		}
	}
	b, err := mapShared(fd, d.MmapOffset+d.MmapSize)
	if err != nil {
		return nil, fmt.Errorf("mmap: %w", err)
	}
	c.inflight.close()
	c.inflight = inflightArea{mapping: b, area: b[d.MmapOffset:], queues: int(d.NumQueues), size: d.QueueSize}
	return nil, nil
}
