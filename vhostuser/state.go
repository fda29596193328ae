package vhostuser

import (
	"errors"
	"fmt"
	"os"
)

// transfer is a migration of the device's state that runs or has run.
type transfer struct {
	done chan error
}

// wait joins a transfer and returns its error.
func (t *transfer) wait() error {
	if t.done == nil {
		return nil
	}
	err := <-t.done
	t.done = nil
	return err
}

// setDeviceStateFD starts to write the state to the front-end's pipe, or to read it
// (vhost-user, "Migrating back-end state"). The pipe is read or written while the
// front-end goes on to talk to us, so this runs on its own goroutine.
func (c *Conn) setDeviceStateFD(m *message) ([]byte, error) {
	t := body[TransferState](m)
	d, ok := c.device.(StateTransferrer)
	var err error
	switch {
	case !ok:
		err = errors.New("the device has no state to transfer")
	case t.Phase != TransferPhaseStopped || t.Direction > TransferLoad:
		err = fmt.Errorf("direction %d, phase %d", t.Direction, t.Phase)
	case c.transfer.done != nil:
		err = errors.New("a transfer is under way")
	}
	if err != nil {
		return u64(1 | TransferNoFD), err
	}
	f := os.NewFile(uintptr(m.takeFD(0)), "device state")
	done := make(chan error, 1)
	c.transfer.done = done
	go func() {
		defer f.Close()
		if t.Direction == TransferSave {
			done <- d.SaveState(f)
		} else {
			done <- d.LoadState(f)
		}
	}()
	return u64(TransferNoFD), nil
}

func (c *Conn) checkDeviceState(*message) ([]byte, error) {
	if err := c.transfer.wait(); err != nil {
		return u64(1), err
	}
	return u64(0), nil
}
