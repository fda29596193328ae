package virtiofs

import (
	"os"

	"github.com/govirtiofs/govirtiofs/vhostuser"
)

var _ vhostuser.StateTransferrer = (*Device)(nil)

// SaveState implements vhostuser.StateTransferrer.
func (d *Device) SaveState(f *os.File) error {
	err := d.server.Save(f)
	if err != nil {
		d.opts.Log.WithError(err).Error("the guest can't move to another host")
	}
	return err
}

// LoadState implements vhostuser.StateTransferrer.
func (d *Device) LoadState(f *os.File) error {
	err := d.server.Load(f)
	if err != nil {
		d.opts.Log.WithError(err).Error("a guest can't move to this host")
		return err
	}
	d.opts.Log.Info("a guest has moved to this host")
	return nil
}
