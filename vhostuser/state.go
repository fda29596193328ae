package vhostuser

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// transfer is a migration of the device's state that runs, or has run and was not
// asked about (vhost-user, "Migrating back-end state").
type transfer struct {
	file   *os.File   // closed by the transfer's goroutine
	result chan error // nil: no transfer
}

// start runs move with fd, which it keeps, on a goroutine of its own: the front-end
// goes on to talk to us while it moves the data.
func (t *transfer) start(fd int, move func(*os.File) error) {
	// A pipe that does not block can be interrupted. Nobody shares our end.
	_ = unix.SetNonblock(fd, true)
	f := os.NewFile(uintptr(fd), "device state")
	result := make(chan error, 1)
	t.file, t.result = f, result
	go func() {
		err := move(f)
		// The end of the data is what the front-end waits for before it asks.
		if closing := f.Close(); err == nil {
			err = closing
		}
		result <- err
	}()
}

// wait joins a transfer and returns its error. The front-end may have forgotten its
// end of the pipe; then ended, if closed, interrupts the transfer.
func (t *transfer) wait(ended <-chan struct{}) error {
	if t.result == nil {
		return errors.New("no transfer was started")
	}
	select {
	case err := <-t.result:
		t.file, t.result = nil, nil
		return err
	case <-ended:
		t.abort()
		return errors.New("interrupted")
	}
}

// abort ends a transfer, if there is one, and forgets it.
func (t *transfer) abort() {
	if t.result == nil {
		return
	}
	_ = t.file.SetDeadline(time.Unix(1, 0))
	<-t.result
	t.file, t.result = nil, nil
}

// setDeviceStateFD starts to write the state to the front-end's pipe, or to read it.
// The front-end may have given up an earlier transfer.
func (c *Conn) setDeviceStateFD(m *message) ([]byte, error) {
	t := body[TransferState](m)
	switch {
	case c.stateful == nil:
		return nil, errors.New("the device has no state to transfer")
	case t.Phase != TransferPhaseStopped || t.Direction > TransferLoad:
		return nil, fmt.Errorf("direction %d, phase %d", t.Direction, t.Phase)
	case c.running():
		return nil, errors.New("a ring is running")
	}
	c.transfer.abort()
	move := c.stateful.SaveState
	if t.Direction == TransferLoad {
		move = c.stateful.LoadState
	}
	c.transfer.start(m.takeFD(0), move)
	return replyU64(TransferNoFD), nil
}

// checkDeviceState waits for the end of the transfer: the front-end has seen, or
// sent, the end of the data.
func (c *Conn) checkDeviceState(*message) ([]byte, error) {
	if err := c.transfer.wait(c.ended); err != nil {
		return nil, err
	}
	return replyU64(0), nil
}
