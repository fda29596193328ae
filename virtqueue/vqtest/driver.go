// Package vqtest is the driver's side of a split virtqueue, for tests: what a guest's
// kernel does, and what a hostile one can. Nothing is checked on the way in, so
// descriptors, heads and indexes may be any.
//
// The memory is a file of its own, as a front-end's is: Truncate takes it away from
// under the device.
package vqtest

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// Where the memory of a Driver begins, for the guest and for the front-end.
const (
	GuestBase = 0x10_0000
	UserBase  = 0x7000_0000_0000
)

// MemSize is the length of a Driver's memory in bytes.
const MemSize = 4 << 20

// Descriptor flags (virtio 1.2, 2.7.5).
const (
	Next     = 1
	Write    = 2
	Indirect = 4
)

// NoInterrupt is the flag of the available ring that asks for no calls.
const NoInterrupt = 1

// NoNotify is the flag of the used ring that asks for no kicks.
const NoNotify = 1

// Desc is struct virtq_desc.
type Desc struct {
	Addr  uint64
	Len   uint32
	Flags uint16
	Next  uint16
}

// Driver is one ring in memory of its own. It belongs to one goroutine.
type Driver struct {
	Mem      []byte // of the guest
	Space    virtqueue.Space
	Region   *virtqueue.Region
	Released int // how often the device has let go of Region

	size  uint16
	avail uint16 // next index of the available ring to write
	used  uint16 // next index of the used ring to read
	file  int
}

// New makes a ring of size entries at the start of new memory, which ends with the test.
func New(t testing.TB, size uint16) *Driver {
	t.Helper()
	d, err := newDriver(size)
	if err != nil {
		t.Fatal("vqtest:", err)
	}
	t.Cleanup(func() {
		_ = unix.Munmap(d.Mem)
		_ = unix.Close(d.file)
	})
	return d
}

func newDriver(size uint16) (*Driver, error) {
	fd, err := unix.MemfdCreate("vqtest", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	if err := unix.Ftruncate(fd, MemSize); err != nil {
		return nil, fmt.Errorf("ftruncate: %w", err)
	}
	mem, err := unix.Mmap(fd, 0, MemSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mmap: %w", err)
	}
	d := &Driver{Mem: mem, size: size, file: fd}
	d.Region = &virtqueue.Region{GuestAddr: GuestBase, UserAddr: UserBase, Host: mem, Release: func() { d.Released++ }}
	m, err := virtqueue.NewMemory([]*virtqueue.Region{d.Region})
	if err != nil {
		return nil, err
	}
	d.Space.Store(m)
	return d, nil
}

// Truncate cuts the memory's file to n bytes. To touch what is behind is a fault.
func (d *Driver) Truncate(n int64) error { return unix.Ftruncate(d.file, n) }

// Offsets of the ring's areas in Mem.
func (d *Driver) availAt() int { return 16 * int(d.size) }

// UsedAt is the offset of the used ring in Mem.
func (d *Driver) UsedAt() int { return align(d.availAt() + int(virtqueue.AvailSize(d.size))) }

// DataAt is the offset of the first byte of Mem that the ring does not use.
func (d *Driver) DataAt() int { return align(d.UsedAt() + int(virtqueue.UsedSize(d.size))) }

func align(n int) int { return (n + 4095) &^ 4095 }

// Guest is the guest's address of an offset in Mem.
func (d *Driver) Guest(off int) uint64 { return GuestBase + uint64(off) }

// Config describes the ring to a device, with all features.
func (d *Driver) Config() virtqueue.Config {
	return virtqueue.Config{Size: d.size, Desc: UserBase, Avail: UserBase + uint64(d.availAt()),
		Used: UserBase + uint64(d.UsedAt()), EventIdx: true, Indirect: true}
}

// Set writes entry i of the ring's descriptor table.
func (d *Driver) Set(i int, v Desc) { d.SetAt(0, i, v) }

// SetAt writes entry i of the table at an offset of Mem, an indirect one.
func (d *Driver) SetAt(table, i int, v Desc) {
	b := d.Mem[table+16*i:]
	binary.LittleEndian.PutUint64(b, v.Addr)
	binary.LittleEndian.PutUint32(b[8:], v.Len)
	binary.LittleEndian.PutUint16(b[12:], v.Flags)
	binary.LittleEndian.PutUint16(b[14:], v.Next)
}

// Request makes descriptors i and i+1 a request of readable bytes at offset at, and room
// for a reply of writable bytes behind them.
func (d *Driver) Request(i, at, readable, writable int) {
	d.Set(i, Desc{Addr: d.Guest(at), Len: uint32(readable), Flags: Next, Next: uint16(i + 1)})
	d.Set(i+1, Desc{Addr: d.Guest(at + readable), Len: uint32(writable), Flags: Write})
}

// Offer puts a head in the available ring.
func (d *Driver) Offer(head uint16) {
	d.store(d.availAt()+4+2*int(d.avail%d.size), head)
	d.avail++
	d.store(d.availAt()+2, d.avail)
}

// SetAvailIdx moves the index of the available ring to anywhere.
func (d *Driver) SetAvailIdx(v uint16) { d.avail = v; d.store(d.availAt()+2, v) }

// SetUsedIdx moves the index of the used ring, as a device does.
func (d *Driver) SetUsedIdx(v uint16) { d.used = v; d.store(d.UsedAt()+2, v) }

// SetAvailFlags writes NoInterrupt or 0.
func (d *Driver) SetAvailFlags(v uint16) { d.store(d.availAt(), v) }

// SetUsedEvent asks for a call when entry v of the used ring is there.
func (d *Driver) SetUsedEvent(v uint16) { d.store(d.availAt()+4+2*int(d.size), v) }

// CallAtNext asks for a call when the next entry that was not reaped is there.
func (d *Driver) CallAtNext() { d.SetUsedEvent(d.used) }

// AvailEvent is the index at which the device wants to be kicked.
func (d *Driver) AvailEvent() uint16 { return d.load(d.UsedAt() + 4 + 8*int(d.size)) }

// WantsKick reports whether a driver with EVENT_IDX must kick after n offered chains.
func (d *Driver) WantsKick(n uint16) bool {
	event, old := d.AvailEvent(), d.avail-n
	return d.avail-event-1 < d.avail-old
}

// UsedFlags are the flags of the used ring: NoNotify or 0.
func (d *Driver) UsedFlags() uint16 { return d.load(d.UsedAt()) }

// Pending is how many entries of the used ring were not reaped.
func (d *Driver) Pending() int { return int(d.load(d.UsedAt()+2) - d.used) }

// Reap takes the next used entry; false when there is none.
func (d *Driver) Reap() (id, length uint32, ok bool) {
	if d.Pending() == 0 {
		return 0, 0, false
	}
	e := d.Mem[d.UsedAt()+4+8*int(d.used%d.size):]
	d.used++
	return binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:]), true
}

// Ring fields of 16 bits are accessed as part of their aligned word: there are no
// smaller atomics.
func (d *Driver) word(off int) (*uint32, int) {
	return (*uint32)(unsafe.Pointer(&d.Mem[off&^3])), 8 * (off & 2)
}

func (d *Driver) load(off int) uint16 {
	p, shift := d.word(off)
	return uint16(atomic.LoadUint32(p) >> shift)
}

func (d *Driver) store(off int, v uint16) {
	p, shift := d.word(off)
	for {
		old := atomic.LoadUint32(p)
		if atomic.CompareAndSwapUint32(p, old, old&^(0xffff<<shift)|uint32(v)<<shift) {
			return
		}
	}
}
