package fuseproto

import "structs"

// InHeader is struct fuse_in_header.
type InHeader struct {
	_           structs.HostLayout
	Len         uint32
	Opcode      uint32
	Unique      uint64
	NodeID      uint64
	UID         uint32
	GID         uint32
	PID         uint32
	TotalExtLen uint16
	_           uint16
}

// OutHeader is struct fuse_out_header.
type OutHeader struct {
	_      structs.HostLayout
	Len    uint32
	Error  int32
	Unique uint64
}

// InterruptIn is struct fuse_interrupt_in.
type InterruptIn struct {
	_      structs.HostLayout
	Unique uint64
}
