package virtqueue

import (
	"encoding/binary"
	"unsafe"
)

// driver is the other side of a ring, in plain memory: what a guest's kernel does,
// and what a hostile one can.
type driver struct {
	mem    []byte
	size   uint16
	avail  uint16
	used   uint16
	space  Space
	region *Region
	freed  int
}

const (
	guestBase = 0x10_0000
	userBase  = 0x7000_0000_0000
	descAt    = 0
	memSize   = 4 << 20
)

func (d *driver) availAt() int { return descAt + 16*int(d.size) }
func (d *driver) usedAt() int  { return (d.availAt() + int(AvailSize(d.size)) + 4095) &^ 4095 }

// dataAt is where memory for buffers begins.
func (d *driver) dataAt() int { return (d.usedAt() + int(UsedSize(d.size)) + 4095) &^ 4095 }

func newDriver(size uint16) *driver {
	words := make([]uint64, memSize/8)
	d := &driver{mem: unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), memSize), size: size}
	d.region = &Region{GuestAddr: guestBase, UserAddr: userBase, Host: d.mem, Release: func() { d.freed++ }}
	m, err := NewMemory([]*Region{d.region})
	if err != nil {
		panic(err)
	}
	d.space.Store(m)
	return d
}

func (d *driver) config() Config {
	return Config{Size: d.size, Desc: userBase + descAt, Avail: userBase + uint64(d.availAt()),
		Used: userBase + uint64(d.usedAt()), EventIdx: true, Indirect: true}
}

// set writes descriptor i of the table at offset table.
func (d *driver) set(table, i int, v desc) {
	b := d.mem[table+16*i:]
	binary.LittleEndian.PutUint64(b, v.addr)
	binary.LittleEndian.PutUint32(b[8:], v.len)
	binary.LittleEndian.PutUint16(b[12:], v.flags)
	binary.LittleEndian.PutUint16(b[14:], v.next)
}

// offer puts a head in the available ring.
func (d *driver) offer(head uint16) {
	store16(unsafe.Pointer(&d.mem[d.availAt()+4+2*int(d.avail%d.size)]), head)
	d.avail++
	store16(unsafe.Pointer(&d.mem[d.availAt()+2]), d.avail)
}

func (d *driver) setAvailFlags(v uint16) { store16(unsafe.Pointer(&d.mem[d.availAt()]), v) }

func (d *driver) setUsedEvent(v uint16) {
	store16(unsafe.Pointer(&d.mem[d.availAt()+4+2*int(d.size)]), v)
}

func (d *driver) availEvent() uint16 {
	return load16(unsafe.Pointer(&d.mem[d.usedAt()+4+8*int(d.size)]))
}

func (d *driver) usedFlags() uint16 { return load16(unsafe.Pointer(&d.mem[d.usedAt()])) }

// reap takes the next used entry; false when there is none.
func (d *driver) reap() (id, length uint32, ok bool) {
	if load16(unsafe.Pointer(&d.mem[d.usedAt()+2])) == d.used {
		return 0, 0, false
	}
	e := d.mem[d.usedAt()+4+8*int(d.used%d.size):]
	d.used++
	return binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:]), true
}

func unsafePointer(p *byte) unsafe.Pointer { return unsafe.Pointer(p) }
