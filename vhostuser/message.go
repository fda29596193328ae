package vhostuser

import (
	"structs"
	"unsafe"
)

// Header precedes every message, in both directions. All fields of this
// protocol are in the machine's byte order (vhost-user, "Message Specification").
type Header struct {
	_       structs.HostLayout
	Request uint32
	Flags   uint32
	Size    uint32 // of the body
}

// Bits of Header.Flags.
const (
	FlagVersionMask uint32 = 0x3
	FlagVersion     uint32 = 0x1
	FlagReply       uint32 = 1 << 2
	FlagNeedReply   uint32 = 1 << 3 // with ProtocolReplyAck: answer even if the request has no reply of its own
)

// Limits of messages.
const (
	// HeaderSize is the size of Header on the wire.
	HeaderSize = 12
	// MaxBodySize bounds a body. The largest one defined is the reply to
	// GET_SHMEM_CONFIG with 2056 bytes; requests carry at most a device's
	// configuration space.
	MaxBodySize = 4096
	// MaxMessageFDs bounds the descriptors of one message: SET_MEM_TABLE with
	// MaxTableRegions regions.
	MaxMessageFDs = 8
	// MaxTableRegions is how many regions SET_MEM_TABLE can hold.
	MaxTableRegions = 8
	// MaxConfigSize is the largest configuration space (VHOST_USER_MAX_CONFIG_SIZE).
	MaxConfigSize = 256
	// MaxSharedMemoryRegions is the length of SharedMemoryConfig.Sizes.
	MaxSharedMemoryRegions = 256
)

// U64 is the body of requests and replies that are one number: features, acks,
// queue counts, SET_VRING_KICK, CALL and ERR.
type U64 struct {
	_     structs.HostLayout
	Value uint64
}

// Bits of U64 in SET_VRING_KICK, SET_VRING_CALL and SET_VRING_ERR.
const (
	VringIndexMask uint64 = 0xff
	VringNoFD      uint64 = 1 << 8 // no descriptor is attached: poll the ring, or do not notify
)

// VringState is a ring's index and one number: its size (SET_VRING_NUM), next
// available index (SET and GET_VRING_BASE) or switch (SET_VRING_ENABLE). It is
// also the body of VRING_KICK and of the back-end's VRING_CALL and VRING_ERR.
type VringState struct {
	_     structs.HostLayout
	Index uint32
	Num   uint32
}

// VringAddr says where a ring's three areas are, as front-end addresses. Log is
// the guest address whose pages are marked when the used ring is written.
type VringAddr struct {
	_     structs.HostLayout
	Index uint32
	Flags uint32 // VringAddrLog
	Desc  uint64 // descriptor table
	Used  uint64 // used ring
	Avail uint64 // available ring
	Log   uint64 // guest address of the used ring
}

// VringAddrLog in VringAddr.Flags turns dirty logging of the used ring on.
const VringAddrLog uint32 = 1

// MemoryHeader begins the body of SET_MEM_TABLE; Regions MemoryRegion follow.
type MemoryHeader struct {
	_       structs.HostLayout
	Regions uint32
	_       uint32
}

// MemoryRegion is a range of guest memory and its place in an attached file.
type MemoryRegion struct {
	_          structs.HostLayout
	GuestAddr  uint64 // guest physical
	Size       uint64 // in bytes
	UserAddr   uint64 // in the front-end; ring addresses are of this kind
	MmapOffset uint64 // in the file
}

// SingleRegion is the body of ADD_MEM_REG and REM_MEM_REG.
type SingleRegion struct {
	_      structs.HostLayout
	_      uint64
	Region MemoryRegion
}

// LogDescription is the body of SET_LOG_BASE with LOG_SHMFD.
type LogDescription struct {
	_      structs.HostLayout
	Size   uint64 // of the bitmap, in bytes
	Offset uint64 // in the file
}

// InflightDescription is the body of GET_INFLIGHT_FD and its reply, and of
// SET_INFLIGHT_FD.
type InflightDescription struct {
	_          structs.HostLayout
	MmapSize   uint64 // of the area, in bytes; filled in by the back-end
	MmapOffset uint64 // in the file
	NumQueues  uint16
	QueueSize  uint16 // entries of the largest ring
	_          [4]byte
}

// ConfigHeader begins the body of GET_CONFIG, its reply and SET_CONFIG; Size
// bytes follow.
type ConfigHeader struct {
	_      structs.HostLayout
	Offset uint32 // in the configuration space
	Size   uint32 // of what follows
	Flags  uint32 // of SET_CONFIG: 0 from the driver, 1 from a migration
}

// TransferState is the body of SET_DEVICE_STATE_FD.
type TransferState struct {
	_         structs.HostLayout
	Direction uint32 // TransferSave or TransferLoad
	Phase     uint32 // TransferPhaseStopped
}

// Values of TransferState.Direction and TransferState.Phase.
const (
	TransferSave         uint32 = 0 // the back-end writes its state
	TransferLoad         uint32 = 1 // the back-end reads its state
	TransferPhaseStopped uint32 = 0 // rings are stopped; the only phase defined
)

// TransferNoFD in the reply to SET_DEVICE_STATE_FD says that no descriptor is
// attached, so that the one which was sent is used. Bits 0 to 7 are an error.
const TransferNoFD uint64 = 1 << 8

// SharedMemoryConfig is the reply to GET_SHMEM_CONFIG. The index in Sizes is the
// region's id; Regions counts the sizes that are not 0.
type SharedMemoryConfig struct {
	_       structs.HostLayout
	Regions uint32
	_       uint32
	Sizes   [MaxSharedMemoryRegions]uint64
}

// SharedMemoryMap is the body of the back-end's SHMEM_MAP and SHMEM_UNMAP.
type SharedMemoryMap struct {
	_          structs.HostLayout
	ID         uint8
	_          [7]byte
	FileOffset uint64 // in the attached file; 0 for SHMEM_UNMAP
	Offset     uint64 // in the shared memory region
	Length     uint64 // in bytes
	Flags      uint64 // SharedMemoryWritable
}

// SharedMemoryWritable in SharedMemoryMap.Flags asks for a writable mapping.
const SharedMemoryWritable uint64 = 1

// Bytes is the memory of v, for reading it from or writing it to the wire. T is
// one of the structs above: no pointers, and no padding beside blank fields.
func Bytes[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}

// Decode copies a T from the start of b; ok is false when b is too short.
func Decode[T any](b []byte) (v T, ok bool) {
	ok = copy(Bytes(&v), b) == int(unsafe.Sizeof(v))
	return v, ok
}
