package vhostuser

import (
	"structs"
	"unsafe"
)

// FSMap are the numbers of the requests FS_MAP and FS_UNMAP, which VMMs had for a DAX
// window before there was SHMEM. They were never part of the specification: there is no
// feature bit, the numbers differ, and those of the first implementations mean something
// else today (SHARED_OBJECT_ADD). The front-end decides about the window's size.
type FSMap struct{ Map, Unmap BackendRequest }

// FSMap of different origin.
var (
	// FSMapLate are above the numbers of the specification.
	FSMapLate = FSMap{Map: 1002, Unmap: 1003}
	// FSMapEarly are those of QEMU's virtio-fs branch until 2020, of rust-vmm, of
	// cloud-hypervisor up to version 23 and of Dragonball.
	FSMapEarly = FSMap{Map: 6, Unmap: 7}
)

// fsMapBody is the body of both requests (VhostUserFSSlaveMsg): up to eight ranges, of
// which those of length 0 are not there. QEMU's patches of 2021 had the same numbers and
// another body, a count and as many ranges, which nothing tells apart: not supported.
type fsMapBody struct {
	_          structs.HostLayout
	FileOffset [8]uint64
	Offset     [8]uint64
	Length     [8]uint64
	Flags      [8]uint64
}

// sizeFSMap is the size of fsMapBody in bytes.
const sizeFSMap = int(unsafe.Sizeof(fsMapBody{}))

// Bits of fsMapBody.Flags.
const (
	fsMapRead  = 1 << 0
	fsMapWrite = 1 << 1
)

// fsMap are the numbers for the front-end of ch; zero when it has SHMEM, or the device
// does not want that.
func (c *Conn) fsMap(ch *channel) FSMap {
	if ch.protocol.Has(ProtocolSharedMemory) || !ch.protocol.Has(ProtocolBackendSendFD) {
		return FSMap{}
	}
	return c.device.FSMap()
}

// mapping is the request for m, and its body.
func (s *SharedMemory) mapping(m *SharedMemoryMap) (BackendRequest, []byte) {
	if s.old == (FSMap{}) {
		return BackendShmemMap, Bytes(m)
	}
	b := fsMapBody{Flags: [8]uint64{fsMapRead}}
	if m.Flags&SharedMemoryWritable != 0 {
		b.Flags[0] |= fsMapWrite
	}
	b.FileOffset[0], b.Offset[0], b.Length[0] = m.FileOffset, m.Offset, m.Length
	return s.old.Map, Bytes(&b)
}

// unmapping is the request to unmap m, and its body.
func unmapping(old FSMap, m *SharedMemoryMap) (BackendRequest, []byte) {
	if old == (FSMap{}) {
		return BackendShmemUnmap, Bytes(m)
	}
	var b fsMapBody
	b.Offset[0], b.Length[0] = m.Offset, m.Length
	return old.Unmap, Bytes(&b)
}
