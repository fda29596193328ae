// Package virtqueue is the device side of split virtqueues (virtio 1.2, section
// 2.7) in guest memory that a vhost-user front-end shares with us.
//
// To start, make a Memory of the guest's regions, put it in a Space, and make a Queue with
// New. Package virtiofs does so for each queue; only another kind of device needs this package.
//
// A ring has three parts:
//
//	descriptor table  16 bytes an entry: address, length, flags, next   written by the driver
//	available ring    flags, idx, ring[size], used_event                written by the driver
//	used ring         flags, idx, ring[size] of {id, len}, avail_event  written by us
//
// The driver puts the head of a descriptor chain in the available ring and increments its
// idx. Pop takes the head from there. When the request is served, Push puts the head in the
// used ring. Flush increments the idx of the used ring for a whole batch, and says whether
// the driver wants a call.
//
// # Trust
//
// The driver is hostile. It can change everything in guest memory at any moment. So each
// field is read once into a local variable and checked there. For a chain that breaks a rule
// Pop returns ErrBadChain and a valid head; only this chain is lost. For a ring with
// impossible indexes it returns ErrBrokenRing.
//
// # Ownership
//
// A Queue and the Chain that Pop fills belong to one goroutine at a time. Memory is immutable
// and counts its references. A Space holds the current Memory. A Queue holds a reference from
// Begin to End. A request that outlives its batch holds its own. A Region is released when no
// Memory that contains it has a reference.
//
// # Memory order
//
// Go's atomics are sequentially consistent. On amd64 and arm64 this is stronger than the
// barriers that the ring needs: a store to one index and a later load of the other side's
// index are not reordered. Go has no 16-bit atomics. So a 16-bit field is loaded as part of
// the aligned 32-bit word around it; this word is always in the field's page. The device owns
// the whole word of used.flags and used.idx, and stores it at once. It may own only one half
// of the word of avail_event, and so replaces this word by compare-and-swap.
package virtqueue
