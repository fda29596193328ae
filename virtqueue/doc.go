// Package virtqueue is the device side of split virtqueues (virtio 1.2, section
// 2.7) in guest memory that a vhost-user front-end shares with us.
//
// A ring has three parts:
//
//	descriptor table  16 bytes an entry: address, length, flags, next   written by the driver
//	available ring    flags, idx, ring[size], used_event                written by the driver
//	used ring         flags, idx, ring[size] of {id, len}, avail_event  written by us
//
// The driver puts the head of a descriptor chain in the available ring and moves
// its idx; Pop takes it from there. When the request is served, Push puts the head
// in the used ring and Flush moves its idx, for a whole batch at once, and says
// whether the driver wants to be called.
//
// # Trust
//
// The driver is hostile. It can change everything in guest memory at any moment,
// so each field is read once into a local variable and checked there. A chain that
// breaks a rule is an ErrBadChain with a valid head and costs that chain; a ring
// whose indexes make no sense is an ErrBrokenRing.
//
// # Ownership
//
// A Queue, and the Chain that Pop fills, belong to one goroutine at a time. Memory
// is immutable and counted: a Space holds the current one, a Queue takes a
// reference from Begin to End, a request that outlives its batch takes its own. A
// Region is released when no Memory that contains it is referenced any more.
//
// # Memory order
//
// Go's atomics are sequentially consistent, on amd64 and arm64 stronger than the
// barriers which the ring needs: a store to one index followed by a load of the
// other side's is not reordered. It has no 16-bit atomics, so a 16-bit field is
// loaded as part of the aligned 32-bit word that holds it, which never leaves the
// field's page. The word of used.flags and used.idx is ours and stored whole; of
// the word of avail_event only one half may be ours, so it is replaced by
// compare-and-swap.
package virtqueue
