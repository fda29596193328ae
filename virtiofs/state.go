package virtiofs

import (
	"io"
)

// SaveState implements vhostuser.StateTransferrer.
func (d *Device) SaveState(w io.Writer) error {
	err := d.handler.Save(w)
	if err != nil {
		d.opts.Log.Error("the guest can't move to another host", "error", err)
	}
	return err
}

// LoadState implements vhostuser.StateTransferrer.
func (d *Device) LoadState(r io.Reader) error {
	err := d.handler.Load(r)
	if err != nil {
		d.opts.Log.Error("a guest can't move to this host", "error", err)
		return err
	}
	d.opts.Log.Info("a guest has moved to this host")
	return nil
}
