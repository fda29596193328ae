package vhostuser

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/memfile"
	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// inflightArea is the memory of SET_INFLIGHT_FD, one part for each queue.
type inflightArea struct {
	mapping mapping
	queues  int
	size    uint16
}

// queue is one queue's part, or nil when there is none that fits.
func (a *inflightArea) queue(index int, size uint16) []byte {
	if a.mapping.part == nil || index >= a.queues || size > a.size {
		return nil
	}
	n := virtqueue.InflightSize(a.size)
	return a.mapping.part[uint64(index)*n : uint64(index+1)*n]
}

func (a *inflightArea) close() {
	a.mapping.unmap()
	*a = inflightArea{}
}

// inflightNeed checks the description and returns the size of its area.
func (c *Conn) inflightNeed(d *InflightDescription) (uint64, error) {
	if d.NumQueues == 0 || int(d.NumQueues) > len(c.rings) || d.QueueSize == 0 || int(d.QueueSize) > c.device.MaxQueueSize() {
		return 0, fmt.Errorf("%d queues of %d entries", d.NumQueues, d.QueueSize)
	}
	return uint64(d.NumQueues) * virtqueue.InflightSize(d.QueueSize), nil
}

// getInflightFD makes an area; the front-end keeps it, and gives it back with
// SET_INFLIGHT_FD, now to us and after a crash to our successor (vhost-user,
// "Inflight I/O tracking").
func (c *Conn) getInflightFD(m *message) ([]byte, error) {
	d := body[InflightDescription](m)
	need, err := c.inflightNeed(&d)
	if err != nil {
		return nil, err
	}
	fd, err := memfile.Small("vhost-user-inflight", int64(need)) // a write to a mapping of it never faults
	if err != nil {
		return nil, fmt.Errorf("in-flight area of %d bytes: %w", need, err)
	}
	m.attach(fd)
	d.MmapSize, d.MmapOffset = need, 0
	return reply(d)[:len(m.Body)], nil
}

// setInflightFD takes an area into use with the next start of the rings.
func (c *Conn) setInflightFD(m *message) ([]byte, error) {
	d := body[InflightDescription](m)
	fd := m.TakeFD(0)
	defer unix.Close(fd)
	need, err := c.inflightNeed(&d)
	if err != nil {
		return nil, err
	}
	if d.MmapSize < need || d.MmapOffset%8 != 0 {
		return nil, fmt.Errorf("area of %#x bytes at offset %#x, want %#x", d.MmapSize, d.MmapOffset, need)
	}
	if c.running() {
		return nil, errors.New("a ring is running")
	}
	area, err := mapFile(fd, d.MmapOffset, d.MmapSize)
	if err != nil {
		return nil, err
	}
	n := c.keep(DescriptorInflight, 0, fd)
	c.drop(DescriptorInflight, c.recovery.inflight.number)
	c.recovery.inflight = noted{number: n, offset: d.MmapOffset, size: d.MmapSize}
	c.inflight.close()
	c.inflight = inflightArea{mapping: area, queues: int(d.NumQueues), size: d.QueueSize}
	for i := range c.rings {
		c.rings[i].known = false
	}
	return nil, nil
}

// running reports whether a ring runs.
func (c *Conn) running() bool {
	for i := range c.rings {
		if c.rings[i].queue != nil {
			return true
		}
	}
	return false
}
