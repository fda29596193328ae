package virtqueue

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrBadChain is wrapped by Pop's error for a descriptor chain that breaks a rule. The
// chain's Head is valid. The caller returns the chain with Push: with a length of 0, or with
// a reply if enough of the chain could be read.
var ErrBadChain = errors.New("malformed descriptor chain")

// MaxChainBytes is the longest chain, in bytes (virtio 1.2, 2.7.5.2: "a driver
// MUST NOT add a descriptor chain longer than 2^32 bytes in total").
const MaxChainBytes = 1 << 32

// maxIndirect bounds an indirect table's entries.
const maxIndirect = 32768

// maxBuffers bounds the buffers of a chain. A descriptor has one buffer for each memory
// region that it overlaps, so a guest with thousands of regions could have millions of
// buffers.
const maxBuffers = 2 * maxIndirect

// Chain is one descriptor chain as buffers in this process. The caller owns it. Its slices
// are valid until the caller passes it to Pop again.
type Chain struct {
	Head uint16

	iov      []unix.Iovec
	readable int // entries of iov that are device-readable; the others follow
	readLen  uint64
	writeLen uint64
	entries  int
	order    uint64 // in which the queue has popped it
}

// Readable are the device-readable buffers, in order.
func (c *Chain) Readable() []unix.Iovec { return c.iov[:c.readable:c.readable] }

// Writable are the device-writable buffers, in order.
func (c *Chain) Writable() []unix.Iovec { return c.iov[c.readable:] }

// ReadableLen is the total length of the device-readable buffers in bytes.
func (c *Chain) ReadableLen() uint64 { return c.readLen }

// WritableLen is the total length of the device-writable buffers in bytes.
func (c *Chain) WritableLen() uint64 { return c.writeLen }

// Entries is the number of descriptors of the ring's table in the chain. An indirect table
// counts as one.
func (c *Chain) Entries() int { return c.entries }

// Keep returns the chain for a Push after the next Pop. writable are its device-writable
// buffers, in a slice of the caller. Push marks them in the dirty log. The device-readable
// buffers are not kept. The buffers are valid as long as the caller holds a reference on the
// Memory.
func (c *Chain) Keep(writable []unix.Iovec) *Chain {
	return &Chain{Head: c.Head, iov: writable, writeLen: c.writeLen, entries: c.entries, order: c.order}
}

// keptBuffers is the number of buffers that a Chain keeps room for from one Pop to the next.
// The room for more is freed, so that one long chain does not take memory as long as the
// queue exists.
const keptBuffers = 4096

func (c *Chain) reset(head uint16) {
	c.Head = head
	if c.iov = c.iov[:0]; cap(c.iov) > keptBuffers {
		c.iov = nil
	}
	c.readable, c.readLen, c.writeLen, c.entries = 0, 0, 0, 0
}

func badChain(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBadChain, fmt.Sprintf(format, args...))
}

// walk collects the chain that begins at c.Head (virtio 1.2, 2.7.5). A chain consists of
// direct descriptors. The last one may point to an indirect table.
func (q *Queue) walk(c *Chain) error {
	table, indirect := q.ring.desc, false
	i, left := int(c.Head), len(table)
	for {
		if left--; left < 0 {
			return badChain("it has a loop")
		}
		d := table[i] // the only read of this descriptor
		if !indirect {
			c.entries++
		}
		if d.flags&descIndirect != 0 {
			if indirect {
				return badChain("an indirect table in an indirect table")
			}
			var err error
			if table, err = q.indirectTable(&d); err != nil {
				return err
			}
			indirect, i, left = true, 0, len(table)
			continue
		}
		if err := q.add(c, &d); err != nil {
			return err
		}
		if d.flags&descNext == 0 {
			return nil
		}
		if int(d.next) >= len(table) {
			return badChain("next index %d of %d", d.next, len(table))
		}
		i = int(d.next)
	}
}

// indirectTable returns the table that an indirect descriptor points to (virtio 1.2,
// 2.7.5.3). It copies a table that lies in two regions.
func (q *Queue) indirectTable(d *desc) ([]desc, error) {
	n := int(d.len / descSize)
	switch {
	case !q.cfg.Indirect:
		return nil, badChain("an indirect descriptor, which was not negotiated")
	case d.flags&descNext != 0:
		return nil, badChain("an indirect descriptor with a next")
	case n == 0 || d.len%descSize != 0 || n > maxIndirect:
		return nil, badChain("an indirect table of %d bytes", d.len)
	}
	if b := q.mem.Guest(d.addr, uint64(d.len)); b != nil && uintptr(unsafe.Pointer(unsafe.SliceData(b)))%8 == 0 {
		return unsafe.Slice((*desc)(unsafe.Pointer(unsafe.SliceData(b))), n), nil
	}
	if cap(q.table) < n {
		q.table = make([]desc, n)
	}
	q.table = q.table[:n]
	to := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(q.table))), n*descSize)
	for addr := d.addr; len(to) > 0; {
		r := q.mem.at(addr)
		if r == nil {
			return nil, badChain("an indirect table at guest address %#x, outside memory", d.addr)
		}
		copied := copy(to, r.Host[addr-r.GuestAddr:])
		to, addr = to[copied:], addr+uint64(copied)
	}
	return q.table, nil
}

// region is Memory.at. Buffers are mostly in the region of the one before.
func (q *Queue) region(guestAddr uint64) *Region {
	if regions := q.mem.regions; uint(q.near) < uint(len(regions)) {
		if r := regions[q.near]; guestAddr-r.GuestAddr < uint64(len(r.Host)) {
			return r
		}
	}
	r, i := q.mem.find(guestAddr)
	q.near = i
	return r
}

// add appends the buffer of one descriptor, which may lie in several regions. The
// specification allows buffers of length 0; add skips them.
func (q *Queue) add(c *Chain, d *desc) error {
	addr, left := d.addr, uint64(d.len)
	if d.flags&descWrite != 0 {
		c.writeLen += left
	} else {
		if c.writeLen > 0 || len(c.iov) > c.readable {
			return badChain("a device-readable buffer after a device-writable one")
		}
		c.readLen += left
	}
	if c.readLen+c.writeLen > MaxChainBytes {
		return badChain("more than 2^32 bytes")
	}
	for left > 0 {
		if len(c.iov) == maxBuffers {
			return badChain("more than %d buffers", maxBuffers)
		}
		r := q.region(addr)
		if r == nil {
			return badChain("a buffer of %d bytes at guest address %#x, outside memory", d.len, d.addr)
		}
		at := addr - r.GuestAddr
		n := min(left, uint64(len(r.Host))-at) // above 0: the address is in the region
		iov := unix.Iovec{Base: &r.Host[at]}
		iov.SetLen(int(n))
		c.iov = append(c.iov, iov)
		if d.flags&descWrite == 0 {
			c.readable++
		}
		left -= n
		addr += n // can't wrap: regions don't
	}
	return nil
}
