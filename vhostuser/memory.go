package vhostuser

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/virtqueue"
)

const (
	// memSlots is what GET_MAX_MEM_SLOTS answers: the same as other back-ends,
	// which front-ends were tested with.
	memSlots = 509
	// maxRegions is where ADD_MEM_REG ends. QEMU adds the mappings of a shared
	// memory window beyond the announced slots.
	maxRegions = 8192
	// maxMapping bounds offset and size of one mapping to what an address space
	// can hold.
	maxMapping = 1 << 46
)

func (c *Conn) getMaxMemSlots(*message) ([]byte, error) { return u64(memSlots), nil }

// setMemTable replaces all memory. Running queues see the new memory with their
// next batch.
func (c *Conn) setMemTable(m *message) ([]byte, error) {
	h, ok := Decode[MemoryHeader](m.body)
	const regionSize = int(unsafe.Sizeof(MemoryRegion{}))
	if !ok || h.Regions > MaxTableRegions || len(m.body) < 8+int(h.Regions)*regionSize {
		return nil, fmt.Errorf("%d regions in %d bytes", h.Regions, len(m.body))
	}
	if int(h.Regions) != len(m.fds) {
		return nil, fmt.Errorf("%d regions with %d descriptors: is the guest's memory shared (QEMU: memory-backend-memfd,share=on)?", h.Regions, len(m.fds))
	}
	var regions []*virtqueue.Region
	for i := range int(h.Regions) {
		r, _ := Decode[MemoryRegion](m.body[8+i*regionSize:])
		region, err := mapRegion(&r, m.takeFD(i))
		if err != nil {
			releaseAll(regions)
			return nil, fmt.Errorf("region %d: %w", i, err)
		}
		regions = append(regions, region)
	}
	if err := c.publish(regions); err != nil {
		releaseAll(regions)
		return nil, err
	}
	return nil, nil
}

func (c *Conn) addMemReg(m *message) ([]byte, error) {
	if len(c.regions) >= maxRegions {
		return nil, fmt.Errorf("more than %d regions", maxRegions)
	}
	s := body[SingleRegion](m)
	region, err := mapRegion(&s.Region, m.takeFD(0))
	if err != nil {
		return nil, err
	}
	if err := c.publish(append(slices.Clone(c.regions), region)); err != nil {
		region.Release()
		return nil, err
	}
	return nil, nil
}

func (c *Conn) remMemReg(m *message) ([]byte, error) {
	r := body[SingleRegion](m).Region
	i := slices.IndexFunc(c.regions, func(have *virtqueue.Region) bool {
		return have.GuestAddr == r.GuestAddr && have.UserAddr == r.UserAddr && uint64(len(have.Host)) == r.Size
	})
	if i < 0 {
		return nil, fmt.Errorf("no region of %d bytes at guest address %#x", r.Size, r.GuestAddr)
	}
	return nil, c.publish(slices.Delete(slices.Clone(c.regions), i, i+1))
}

// publish makes a new Memory current.
func (c *Conn) publish(regions []*virtqueue.Region) error {
	memory, err := virtqueue.NewMemory(regions)
	if err != nil {
		return err
	}
	c.space.Store(memory)
	c.regions = regions
	return nil
}

func releaseAll(regions []*virtqueue.Region) {
	for _, r := range regions {
		r.Release()
	}
}

// mapRegion maps a region and closes fd. The file is mapped from its start, not
// from MmapOffset, because with huge pages only the front-end knows the alignment.
func mapRegion(r *MemoryRegion, fd int) (*virtqueue.Region, error) {
	if fd < 0 {
		return nil, errors.New("no descriptor")
	}
	defer unix.Close(fd)
	if r.Size == 0 || r.Size > maxMapping || r.MmapOffset > maxMapping {
		return nil, fmt.Errorf("%#x bytes at offset %#x can't be mapped", r.Size, r.MmapOffset)
	}
	if r.GuestAddr+r.Size < r.GuestAddr || r.UserAddr+r.Size < r.UserAddr {
		return nil, fmt.Errorf("region at guest address %#x wraps around", r.GuestAddr)
	}
	b, err := mapShared(fd, r.MmapOffset+r.Size)
	if err != nil {
		return nil, fmt.Errorf("mmap of %#x bytes: %w", r.MmapOffset+r.Size, err)
	}
	return &virtqueue.Region{
		GuestAddr: r.GuestAddr,
		UserAddr:  r.UserAddr,
		Host:      b[r.MmapOffset:],
		Release:   func() { _ = unix.Munmap(b) },
	}, nil
}

func mapShared(fd int, size uint64) ([]byte, error) {
	b, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	_ = unix.Madvise(b, unix.MADV_DONTDUMP) // a core dump of ours is not for the guest's secrets
	return b, nil
}
