package vhostuser

import "errors"

// SharedMemory maps files into one memory region that the front-end shows to the
// guest. Its methods wait for the front-end and may be called from any goroutine
// but Serve's.
type SharedMemory struct {
	channel *channel
	id      uint8
	size    uint64
}

// Size is the region's length in bytes.
func (s *SharedMemory) Size() uint64 { return s.size }

// Map shows length bytes of the file fd from fileOffset on at offset in the region.
// fd stays the caller's.
func (s *SharedMemory) Map(fd int, offset, length, fileOffset uint64, writable bool) error {
	m := SharedMemoryMap{ID: s.id, FileOffset: fileOffset, Offset: offset, Length: length}
	if writable {
		m.Flags |= SharedMemoryWritable
	}
	return s.channel.call(BackendShmemMap, Bytes(&m), fd)
}

// Unmap takes away what one Map has put at offset, exactly.
func (s *SharedMemory) Unmap(offset, length uint64) error {
	m := SharedMemoryMap{ID: s.id, Offset: offset, Length: length}
	return s.channel.call(BackendShmemUnmap, Bytes(&m), -1)
}

// attachSharedMemory gives the device its regions, or takes them away with nil.
func (c *Conn) attachSharedMemory(ch *channel) {
	d, ok := c.device.(SharedMemoryDevice)
	if !ok {
		return
	}
	for id, size := range d.SharedMemory() {
		switch {
		case size == 0:
		case ch == nil:
			d.AttachSharedMemory(uint8(id), nil)
		default:
			d.AttachSharedMemory(uint8(id), &SharedMemory{channel: ch, id: uint8(id), size: size})
		}
	}
}

func (c *Conn) getShmemConfig(*message) ([]byte, error) {
	d, ok := c.device.(SharedMemoryDevice)
	if !ok {
		return nil, errors.New("the device has no shared memory")
	}
	var config SharedMemoryConfig
	for id, size := range d.SharedMemory() {
		if size > 0 && id < len(config.Sizes) {
			config.Sizes[id] = size
			config.Regions++
		}
	}
	return append([]byte(nil), Bytes(&config)...), nil
}
