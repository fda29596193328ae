package virtqueue

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"unsafe"
)

// Region is one mapping that the front-end shares with us.
type Region struct {
	GuestAddr uint64 // guest physical address of Host[0]
	UserAddr  uint64 // front-end's address of Host[0]; ring addresses use it
	Host      []byte
	// Origin identifies the memory, to compare regions; nil means unknown. It is
	// comparable.
	Origin any
	// Release, if not nil, is called once, when the last Memory with this region is
	// released. It unmaps Host.
	Release func()

	refs atomic.Int32 // Memory values that contain it
}

// Memory is all of a guest's memory: regions that do not overlap, sorted by guest
// address. It is immutable. It starts with one reference, the creator's.
type Memory struct {
	regions []*Region
	refs    atomic.Int64
}

// NewMemory checks the regions and takes a reference on each. On error it changes nothing.
func NewMemory(regions []*Region) (*Memory, error) {
	sorted := slices.Clone(regions)
	slices.SortFunc(sorted, func(a, b *Region) int {
		switch {
		case a.GuestAddr < b.GuestAddr:
			return -1
		case a.GuestAddr > b.GuestAddr:
			return 1
		}
		return 0
	})
	for i, r := range sorted {
		if err := r.check(); err != nil {
			return nil, err
		}
		if i > 0 && sorted[i-1].guestEnd() > r.GuestAddr {
			return nil, fmt.Errorf("virtqueue: regions overlap at guest address %#x", r.GuestAddr)
		}
	}
	m := &Memory{regions: sorted}
	m.refs.Store(1)
	for _, r := range sorted {
		r.refs.Add(1)
	}
	return m, nil
}

func (r *Region) check() error {
	n := uint64(len(r.Host))
	switch {
	case n == 0:
		return errors.New("virtqueue: empty memory region")
	case r.GuestAddr+n < r.GuestAddr, r.UserAddr+n < r.UserAddr:
		return fmt.Errorf("virtqueue: region at guest address %#x wraps around", r.GuestAddr)
	}
	return nil
}

func (r *Region) guestEnd() uint64 { return r.GuestAddr + uint64(len(r.Host)) }

// Regions returns the regions, sorted by guest address. The caller must not change the slice.
func (m *Memory) Regions() []*Region { return m.regions }

// TryAcquire takes a reference, unless the last one was already released.
func (m *Memory) TryAcquire() bool {
	for {
		n := m.refs.Load()
		if n == 0 {
			return false
		}
		if m.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Release drops a reference. With the last one, regions that are in no other
// Memory are released.
func (m *Memory) Release() {
	if m.refs.Add(-1) != 0 {
		return
	}
	for _, r := range m.regions {
		if r.refs.Add(-1) == 0 && r.Release != nil {
			r.Release()
		}
	}
}

// at returns the region that holds the guest address.
func (m *Memory) at(guestAddr uint64) *Region {
	r, _ := m.find(guestAddr)
	return r
}

// find is at; it also returns the region's index.
func (m *Memory) find(guestAddr uint64) (*Region, int) {
	lo, hi := 0, len(m.regions)
	for lo < hi {
		mid := (lo + hi) / 2
		r := m.regions[mid]
		switch {
		case guestAddr < r.GuestAddr:
			hi = mid
		case guestAddr-r.GuestAddr >= uint64(len(r.Host)):
			lo = mid + 1
		default:
			return r, mid
		}
	}
	return nil, 0
}

// Guest returns the n bytes at a guest address, or nil if they are not in one region.
func (m *Memory) Guest(guestAddr, n uint64) []byte {
	r := m.at(guestAddr)
	if r == nil {
		return nil
	}
	off := guestAddr - r.GuestAddr
	if n > uint64(len(r.Host))-off {
		return nil
	}
	return r.Host[off : off+n : off+n]
}

// User returns the n bytes at an address of the front-end, or nil if they are not in one
// region.
func (m *Memory) User(userAddr, n uint64) []byte {
	for _, r := range m.regions {
		off := userAddr - r.UserAddr
		if userAddr >= r.UserAddr && off < uint64(len(r.Host)) {
			if n > uint64(len(r.Host))-off {
				return nil
			}
			return r.Host[off : off+n : off+n]
		}
	}
	return nil
}

// hostToGuest returns the guest address of a byte at an address of this process, if a region
// contains it.
func (m *Memory) hostToGuest(p unsafe.Pointer) (guestAddr uint64, ok bool) {
	for _, r := range m.regions {
		off := uintptr(p) - uintptr(unsafe.Pointer(unsafe.SliceData(r.Host)))
		if uintptr(p) >= uintptr(unsafe.Pointer(unsafe.SliceData(r.Host))) && off < uintptr(len(r.Host)) {
			return r.GuestAddr + uint64(off), true
		}
	}
	return 0, false
}

// Contains reports whether a host address lies in a region.
func (m *Memory) Contains(addr uintptr) bool {
	for _, r := range m.regions {
		if within(r.Host, addr) {
			return true
		}
	}
	return false
}

// Space holds the current Memory of a device. The zero Space has none.
type Space struct {
	current atomic.Pointer[Memory]
}

// Load returns the current Memory with a reference taken for the caller, or nil.
func (s *Space) Load() *Memory {
	for {
		m := s.current.Load()
		if m == nil || m.TryAcquire() {
			return m
		}
		// It was replaced and released between the two steps: load the newer one.
	}
}

// Store makes m current and takes over the caller's reference. It drops the reference on the
// previous Memory. m may be nil.
func (s *Space) Store(m *Memory) {
	if old := s.current.Swap(m); old != nil {
		old.Release()
	}
}
