package vhostuser

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// maxOldLogs bounds the mappings of earlier logs that running queues may still
// write to.
const maxOldLogs = 64

// dirtyLog is the bitmap of SET_LOG_BASE.
type dirtyLog struct {
	log  *virtqueue.Log
	maps [][]byte // all mappings, the current one last
}

// setLogBase maps the bitmap. The answer has a body, which says nothing.
func (c *Conn) setLogBase(m *message) ([]byte, error) {
	d := body[LogDescription](m)
	fd := m.takeFD(0)
	defer unix.Close(fd)
	if d.Size == 0 || d.Size > maxMapping || d.Offset > maxMapping || d.Offset%4 != 0 {
		return nil, fmt.Errorf("log of %#x bytes at offset %#x", d.Size, d.Offset)
	}
	if len(c.dirty.maps) >= maxOldLogs {
		return nil, errors.New("too many logs; stop the rings first")
	}
	b, err := mapShared(fd, d.Offset+d.Size)
	if err != nil {
		return nil, fmt.Errorf("mmap: %w", err)
	}
	c.dirty.maps = append(c.dirty.maps, b)
	c.dirty.log = virtqueue.NewLog(b[d.Offset:])
	c.updateLogs()
	c.dropOldLogs()
	return u64(0), nil
}

// setLogFD is accepted and its descriptor closed: nobody waits for it.
func (c *Conn) setLogFD(*message) ([]byte, error) { return nil, nil }

// updateLogs tells the running queues where to log, if at all.
func (c *Conn) updateLogs() {
	for i := range c.rings {
		r := &c.rings[i]
		if r.queue == nil {
			continue
		}
		log := c.dirty.log
		if c.features&FeatureLogAll == 0 {
			log = nil
		}
		r.queue.SetLog(log, r.addr.Log, r.addr.Flags&VringAddrLog != 0)
	}
}

// dropOldLogs unmaps earlier logs when no queue runs that may write to them.
func (c *Conn) dropOldLogs() {
	for i := range c.rings {
		if c.rings[i].queue != nil {
			return
		}
	}
	for len(c.dirty.maps) > 1 {
		_ = unix.Munmap(c.dirty.maps[0])
		c.dirty.maps = c.dirty.maps[1:]
	}
}

// close unmaps everything; no queue runs any more.
func (d *dirtyLog) close() {
	for _, b := range d.maps {
		_ = unix.Munmap(b)
	}
	d.maps, d.log = nil, nil
}
