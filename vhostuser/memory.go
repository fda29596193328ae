package vhostuser

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/virtqueue"
)

const (
	// memSlots is what GET_MAX_MEM_SLOTS answers: the same as other back-ends,
	// which front-ends were tested with.
	memSlots = 509
	// maxRegions is where ADD_MEM_REG ends. QEMU adds each mapping in a shared
	// memory window as a region, beyond the announced slots.
	maxRegions = 8192
)

// Errors of front-ends whose guest has memory that is not shared. QEMU sends no memory at
// all then, and starts the rings all the same.
var (
	errNotShared = errors.New("no descriptor comes with guest memory")
	errNoMemory  = errors.New("no guest memory yet")
)

// ShareHint says what to do about guest memory that the back-end can't see. It is the commonest
// mistake, and the guest only hangs.
const ShareHint = "The guest's memory is not shared with this daemon: the guest hangs as soon as it uses the share. " +
	"QEMU: -object memory-backend-memfd,id=mem,size=SIZE,share=on -numa node,memdev=mem. " +
	"cloud-hypervisor: --memory size=SIZE,shared=on. " +
	"libvirt: <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>. " +
	"\"govirtiofs doctor\" looks at a VMM that runs"

// getMaxMemSlots answers how many regions a front-end should count on.
func (c *Conn) getMaxMemSlots(*message) ([]byte, error) { return replyU64(memSlots), nil }

// setMemTable replaces all memory, or nothing if one region is wrong. Running
// queues see the new memory with their next batch.
func (c *Conn) setMemTable(m *message) ([]byte, error) {
	n := body[MemoryHeader](m).Regions
	switch {
	case n > MaxTableRegions || len(m.Body) != sizeMemory+int(n)*sizeRegion:
		return nil, fmt.Errorf("%d regions in %d bytes", n, len(m.Body))
	case n > 0 && len(m.FDs) == 0:
		return nil, errNotShared
	case int(n) != len(m.FDs):
		return nil, fmt.Errorf("%d regions with %d descriptors", n, len(m.FDs))
	}
	regions := make([]*virtqueue.Region, 0, n)
	err := func() error {
		for i := range int(n) {
			r, _ := Decode[MemoryRegion](m.Body[sizeMemory+i*sizeRegion:])
			defer c.noteRegion(&r, m.FDs[i])()
			region, err := c.mapRegion(&r, m.TakeFD(i))
			if err != nil {
				return fmt.Errorf("region %d: %w", i, err)
			}
			regions = append(regions, region)
		}
		return c.publish(regions)
	}()
	if err != nil {
		for _, r := range regions {
			c.forgetRegion(r)
			r.Release()
		}
	}
	return nil, err
}

// addMemReg adds a region; it must not overlap with those that are there.
func (c *Conn) addMemReg(m *message) ([]byte, error) {
	switch {
	case len(m.FDs) == 0:
		return nil, errNotShared
	case len(c.regions) >= maxRegions:
		return nil, fmt.Errorf("more than %d regions", maxRegions)
	}
	s := body[SingleRegion](m)
	defer c.noteRegion(&s.Region, m.FDs[0])()
	region, err := c.mapRegion(&s.Region, m.TakeFD(0))
	if err != nil {
		return nil, err
	}
	if err := c.publish(append(slices.Clone(c.regions), region)); err != nil {
		c.forgetRegion(region)
		region.Release()
		return nil, err
	}
	return nil, nil
}

// remMemReg finds the region by its addresses and size (vhost-user,
// VHOST_USER_REM_MEM_REG). A descriptor, which old front-ends send, is closed with
// the message.
func (c *Conn) remMemReg(m *message) ([]byte, error) {
	r := body[SingleRegion](m).Region
	i := slices.IndexFunc(c.regions, func(have *virtqueue.Region) bool {
		return have.GuestAddr == r.GuestAddr && have.UserAddr == r.UserAddr && uint64(len(have.Host)) == r.Size
	})
	if i < 0 {
		return nil, fmt.Errorf("no region of %#x bytes at guest address %#x", r.Size, r.GuestAddr)
	}
	return nil, c.publish(slices.Delete(slices.Clone(c.regions), i, i+1))
}

// publish makes a new Memory current, and starts the rings that waited for it. On
// error the regions are the caller's.
func (c *Conn) publish(regions []*virtqueue.Region) error {
	memory, err := virtqueue.NewMemory(regions)
	if err != nil {
		return err
	}
	c.space.Store(memory)
	c.forgetRegions(regions)
	c.regions = regions
	c.startReady()
	return nil
}

// mapRegion maps a region and closes fd. The keeper has it before that.
func (c *Conn) mapRegion(r *MemoryRegion, fd int) (*virtqueue.Region, error) {
	n := c.keep(DescriptorRegion, 0, fd)
	region, err := mapRegion(r, fd, false)
	switch {
	case err != nil:
		c.drop(DescriptorRegion, n)
	case n != 0:
		c.recovery.regions[region] = noted{number: n, offset: r.MmapOffset}
	}
	return region, err
}

// forgetRegion drops what the keeper has of a region.
func (c *Conn) forgetRegion(r *virtqueue.Region) {
	c.drop(DescriptorRegion, c.recovery.regions[r].number)
	delete(c.recovery.regions, r)
}

// forgetRegions is forgetRegion for all but those that stay.
func (c *Conn) forgetRegions(stay []*virtqueue.Region) {
	if !c.recovery.on {
		return
	}
	stays := make(map[*virtqueue.Region]bool, len(stay))
	for _, r := range stay {
		stays[r] = true
	}
	for r := range c.recovery.regions {
		if !stays[r] {
			c.forgetRegion(r)
		}
	}
}

// mapRegion maps a region and closes fd. An inherited one may have lost bytes since another process has
// mapped it: these are mapped all the same, and not there, as in that process.
func mapRegion(r *MemoryRegion, fd int, inherited bool) (*virtqueue.Region, error) {
	defer unix.Close(fd)
	if r.GuestAddr+r.Size < r.GuestAddr || r.UserAddr+r.Size < r.UserAddr {
		return nil, fmt.Errorf("%#x bytes at guest address %#x, front-end address %#x wrap around", r.Size, r.GuestAddr, r.UserAddr)
	}
	origin := originOf(fd, r.MmapOffset)
	check := checkFile
	if inherited {
		check = checkRange
	}
	m, err := mapChecked(check, fd, r.MmapOffset, r.Size)
	if err != nil {
		return nil, err
	}
	return &virtqueue.Region{
		GuestAddr: r.GuestAddr,
		UserAddr:  r.UserAddr,
		Host:      m.part,
		Origin:    origin,
		Release:   func() { m.unmap() },
	}, nil
}
