package vsock

import (
	"encoding/binary"
	"math"
)

// hostCID is the host's address.
const hostCID = 2

// op is what a packet is for (virtio 1.3, 5.10.6).
type op uint16

const (
	opRequest       op = 1
	opResponse      op = 2
	opReset         op = 3
	opShutdown      op = 4
	opData          op = 5
	opCreditUpdate  op = 6
	opCreditRequest op = 7
)

const (
	typeStream = 1

	// What the sender of a SHUTDOWN will no longer do.
	noReceive = 1 << 0
	noSend    = 1 << 1
)

// headerSize is the length of struct virtio_vsock_hdr.
const headerSize = 44

// header is struct virtio_vsock_hdr.
type header struct {
	srcCID, dstCID   uint64
	srcPort, dstPort uint32
	length           uint32
	kind             uint16
	op               op
	flags            uint32
	bufAlloc, fwdCnt uint32
}

func (h *header) read(b *[headerSize]byte) {
	le := binary.LittleEndian
	*h = header{
		srcCID: le.Uint64(b[0:]), dstCID: le.Uint64(b[8:]),
		srcPort: le.Uint32(b[16:]), dstPort: le.Uint32(b[20:]),
		length: le.Uint32(b[24:]), kind: le.Uint16(b[28:]), op: op(le.Uint16(b[30:])),
		flags: le.Uint32(b[32:]), bufAlloc: le.Uint32(b[36:]), fwdCnt: le.Uint32(b[40:]),
	}
}

func (h *header) write(b *[headerSize]byte) {
	le := binary.LittleEndian
	le.PutUint64(b[0:], h.srcCID)
	le.PutUint64(b[8:], h.dstCID)
	le.PutUint32(b[16:], h.srcPort)
	le.PutUint32(b[20:], h.dstPort)
	le.PutUint32(b[24:], h.length)
	le.PutUint16(b[28:], h.kind)
	le.PutUint16(b[30:], uint16(h.op))
	le.PutUint32(b[32:], h.flags)
	le.PutUint32(b[36:], h.bufAlloc)
	le.PutUint32(b[40:], h.fwdCnt)
}

// key is a connection: the host's port and the guest's.
type key struct{ host, guest uint32 }

// reset is the answer to a packet that belongs to no connection.
func (h *header) reset() header {
	return header{srcCID: h.dstCID, dstCID: h.srcCID, srcPort: h.dstPort, dstPort: h.srcPort, kind: h.kind, op: opReset}
}

// credit is how much may still be sent to a side that has bufAlloc bytes of room, was sent so many and has
// passed on fwdCnt of them. The counts wrap around. A side that says nonsense gets nothing.
func credit(bufAlloc, sent, fwdCnt uint32) uint32 {
	under := sent - fwdCnt
	if under > bufAlloc || under > math.MaxInt32 {
		return 0
	}
	return bufAlloc - under
}
