package virtqueue

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// Descriptor flags (virtio 1.2, 2.7.5).
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4
)

// Ring flags (virtio 1.2, 2.7.6 and 2.7.8).
const (
	availNoInterrupt = 1
	usedNoNotify     = 1
)

const descSize = 16

// desc is struct virtq_desc.
type desc struct {
	addr  uint64
	len   uint32
	flags uint16
	next  uint16
}

// usedElem is struct virtq_used_elem.
type usedElem struct {
	id  uint32
	len uint32
}

// ring has the three areas at their addresses in this process. It is valid as long as the
// Memory in which it was resolved has a reference.
type ring struct {
	desc  []desc
	avail unsafe.Pointer
	used  unsafe.Pointer
	elems []usedElem
	size  uint16
}

// AvailSize is the length of the available ring in bytes, with used_event.
func AvailSize(size uint16) uint64 { return 6 + 2*uint64(size) }

// UsedSize is the length of the used ring in bytes, with avail_event.
func UsedSize(size uint16) uint64 { return 6 + 8*uint64(size) }

// resolve finds the areas in m and checks their alignment (virtio 1.2, 2.7).
func resolve(m *Memory, cfg *Config) (r ring, err error) {
	area := func(name string, addr, n, align uint64) unsafe.Pointer {
		b := m.User(addr, n)
		if b == nil {
			if err == nil {
				err = fmt.Errorf("virtqueue: %s at front-end address %#x is not in shared memory", name, addr)
			}
			return nil
		}
		p := unsafe.Pointer(unsafe.SliceData(b))
		if uintptr(p)%uintptr(align) != 0 && err == nil {
			err = fmt.Errorf("virtqueue: %s at front-end address %#x is not aligned to %d", name, addr, align)
		}
		return p
	}
	d := area("descriptor table", cfg.Desc, descSize*uint64(cfg.Size), 16)
	r.avail = area("available ring", cfg.Avail, AvailSize(cfg.Size), 2)
	r.used = area("used ring", cfg.Used, UsedSize(cfg.Size), 4)
	if err != nil {
		return ring{}, err
	}
	r.size = cfg.Size
	r.desc = unsafe.Slice((*desc)(d), cfg.Size)
	r.elems = unsafe.Slice((*usedElem)(unsafe.Add(r.used, 4)), cfg.Size)
	return r, nil
}

// load16 loads a 16-bit field that the driver writes; see Memory order in the
// package comment.
func load16(p unsafe.Pointer) uint16 {
	word := (*uint32)(unsafe.Pointer(uintptr(p) &^ 3))
	return uint16(atomic.LoadUint32(word) >> (8 * (uintptr(p) & 2)))
}

// store16 stores a 16-bit field. The driver may own the other half of its word.
func store16(p unsafe.Pointer, v uint16) {
	word := (*uint32)(unsafe.Pointer(uintptr(p) &^ 3))
	shift := 8 * (uintptr(p) & 2)
	for {
		old := atomic.LoadUint32(word)
		if atomic.CompareAndSwapUint32(word, old, old&^(0xffff<<shift)|uint32(v)<<shift) {
			return
		}
	}
}

func (r *ring) availFlags() uint16 { return load16(r.avail) }
func (r *ring) availIdx() uint16   { return load16(unsafe.Add(r.avail, 2)) }

// availEntry reads one head. The driver wrote it before it moved idx, which was
// loaded before: the atomic load of idx orders the two.
func (r *ring) availEntry(i uint16) uint16 {
	return load16(unsafe.Add(r.avail, 4+2*uintptr(i&(r.size-1))))
}

func (r *ring) usedEvent() uint16 {
	return load16(unsafe.Add(r.avail, 4+2*uintptr(r.size)))
}

func (r *ring) setAvailEvent(v uint16) {
	store16(unsafe.Add(r.used, 4+8*uintptr(r.size)), v)
}

func (r *ring) usedIdx() uint16 { return load16(unsafe.Add(r.used, 2)) }

// setUsed publishes flags and idx of the used ring. The store is ordered after
// the writes of the elements and before the load of used_event or avail.flags
// that follows.
func (r *ring) setUsed(flags, idx uint16) {
	atomic.StoreUint32((*uint32)(r.used), uint32(flags)|uint32(idx)<<16)
}

// needEvent is vring_need_event of the virtio specification (2.7.10.2): it reports whether
// idx passed event when it went from old to now.
func needEvent(event, now, old uint16) bool {
	return now-event-1 < now-old
}
