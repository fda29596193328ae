package virtiofs

import (
	"fmt"
	"log/slog"

	"github.com/govirtiofs/govirtiofs/dax"
	"github.com/govirtiofs/govirtiofs/vhostuser"
)

// windowID is the shared memory region that Linux takes for the DAX window
// (VIRTIO_FS_SHMCAP_ID_CACHE, virtio 1.2, 5.11.6.4).
const windowID = 0

// SharedMemory implements vhostuser.SharedMemoryDevice: the DAX window, if there is
// one.
func (d *Device) SharedMemory() []uint64 {
	if d.opts.Window == nil {
		return nil
	}
	return []uint64{windowID: d.opts.Window.Size()}
}

// FSMap implements vhostuser.SharedMemoryDevice.
func (d *Device) FSMap() vhostuser.FSMap { return d.opts.FSMap }

// AttachSharedMemory implements vhostuser.SharedMemoryDevice.
func (d *Device) AttachSharedMemory(id uint8, s *vhostuser.SharedMemory) {
	switch {
	case id != windowID || d.opts.Window == nil:
	case s == nil:
		if len(d.opts.Window.Mappings()) > 0 {
			d.absent.mapped = true // the guest does not know that they are gone
		}
		d.opts.Window.Attach(nil)
	case s.Again():
		d.opts.Window.Reattach(window{s, &d.frontend, d.opts.Log})
	default:
		d.opts.Window.Attach(window{s, &d.frontend, d.opts.Log})
	}
}

// window is a region of the front-end's as a dax.Window.
type window struct {
	*vhostuser.SharedMemory
	frontend *frontendReady
	log      *slog.Logger
}

// Map implements dax.Window.
func (w window) Map(fd int, m dax.Mapping) error {
	w.frontend.wait(w.Done())
	err := w.SharedMemory.Map(fd, m.Offset, m.Length, m.FileOffset, m.Writable)
	if err != nil {
		w.log.Debug(fmt.Sprintf("DAX: %#x bytes at %#x of a file are not mapped", m.Length, m.FileOffset), "error", err)
	}
	return err
}

// Unmap implements dax.Window.
func (w window) Unmap(r dax.Range) error {
	w.frontend.wait(w.Done())
	return w.SharedMemory.Unmap(r.Offset, r.Length)
}
