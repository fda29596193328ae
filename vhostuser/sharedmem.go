package vhostuser

import (
	"errors"
	"fmt"
)

// SharedMemory maps files into one memory region that the front-end shows to the
// guest. Its methods wait for the front-end and may be called from any goroutine
// but Serve's, and not from one that StopQueue waits for: see channel. They fail with
// ErrDisconnected when the front-end is gone.
type SharedMemory struct {
	channel *channel
	echoes  *echoes
	id      uint8
	size    uint64
	old     FSMap // zero: by SHMEM
	again   bool
}

// Again reports whether another process has used the region, which has died: what it has mapped is
// still there.
func (s *SharedMemory) Again() bool { return s.again }

// Size is the region's length in bytes.
func (s *SharedMemory) Size() uint64 { return s.size }

// Done is closed when the front-end is gone, or has exchanged its channel.
func (s *SharedMemory) Done() <-chan struct{} { return s.channel.done }

// Map shows length bytes of the file fd from fileOffset on at offset in the region, and
// returns when the guest can see them. fd stays the caller's. The range must be free:
// front-ends refuse to map over a mapping, and past the end of the file.
func (s *SharedMemory) Map(fd int, offset, length, fileOffset uint64, writable bool) error {
	if err := s.check(offset, length); err != nil {
		return err
	}
	m := SharedMemoryMap{ID: s.id, FileOffset: fileOffset, Offset: offset, Length: length}
	if writable {
		m.Flags |= SharedMemoryWritable
	}
	e := s.echoes.await(fileIDOf(fd), fileOffset, length)
	request, body := s.mapping(&m)
	p := &pending{request: request, maps: true, id: s.id, offset: offset, length: length}
	if err := s.channel.call(p, body, fd); err != nil {
		s.echoes.drop(e)
		return err
	}
	s.echoes.wait(e, s.channel.done)
	return nil
}

// Unmap takes away what one Map has put at offset, exactly.
func (s *SharedMemory) Unmap(offset, length uint64) error {
	if err := s.check(offset, length); err != nil {
		return err
	}
	request, body := unmapping(s.old, &SharedMemoryMap{ID: s.id, Offset: offset, Length: length})
	return s.channel.call(&pending{request: request, id: s.id, offset: offset, length: length}, body)
}

// check keeps ranges inside the region: the guest chooses them.
func (s *SharedMemory) check(offset, length uint64) error {
	if length == 0 || length > s.size || offset > s.size-length {
		return fmt.Errorf("vhostuser: %#x bytes at offset %#x of a window of %#x", length, offset, s.size)
	}
	return nil
}

// attachSharedMemory gives the device its regions, or takes them away with nil.
func (c *Conn) attachSharedMemory(ch *channel) {
	if len(c.device.SharedMemory()) == 0 {
		return
	}
	var old FSMap
	if ch != nil && !ch.protocol.Has(ProtocolSharedMemory) {
		if old = c.fsMap(ch); old == (FSMap{}) {
			return
		}
	}
	waits := &echoes{limits: c.echoLimits}
	c.echoes = waits
	if ch != nil {
		ch.mu.Lock()
		ch.journal.share(waits)
		ch.mu.Unlock()
	}
	for id, size := range c.sharedMemory() {
		switch {
		case size == 0 || old != (FSMap{}) && id != 0:
		case ch == nil:
			c.device.AttachSharedMemory(uint8(id), nil)
		default:
			c.device.AttachSharedMemory(uint8(id), &SharedMemory{channel: ch, echoes: waits, id: uint8(id), size: size, old: old, again: ch.journal.again})
		}
	}
}

// sharedMemory is the size of each region of the device.
func (c *Conn) sharedMemory() []uint64 {
	sizes := c.device.SharedMemory()
	return sizes[:min(len(sizes), MaxSharedMemoryRegions)]
}

// getShmemConfig tells the regions; the index of a size is the region's id.
func (c *Conn) getShmemConfig(*message) ([]byte, error) {
	if len(c.device.SharedMemory()) == 0 {
		return nil, errors.New("the device has no shared memory")
	}
	var config SharedMemoryConfig
	for id, size := range c.sharedMemory() {
		config.Sizes[id] = size
		if size > 0 {
			config.Regions++
		}
	}
	return reply(config), nil
}
