package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/fdstat"
)

// transfer is a migration of the device's state that runs, or has run and was not
// asked about (vhost-user, "Migrating back-end state").
type transfer struct {
	file   *stateFile
	result chan error // nil: no transfer
	load   bool       // it is one to this device
	idle   time.Duration
}

// Directions of a transfer, for a successor.
const (
	transferNone = iota
	transferSave
	transferLoad
)

// the direction of a transfer whose result was not asked for
func (t *transfer) direction() uint64 {
	switch {
	case t.result == nil:
		return transferNone
	case t.load:
		return transferLoad
	}
	return transferSave
}

// checkIdle is transfer.idle: how long a transfer may wait for its file after CHECK_DEVICE_STATE. The
// front-end sends that when it has seen, or sent, the end of the data, so what is left is in
// the pipe, or never comes.
const checkIdle = 10 * time.Second

// hangupInterval is how often CHECK_DEVICE_STATE looks whether the front-end is still there.
const hangupInterval = 50 * time.Millisecond

// stateFile is the front-end's end of a transfer, which does not wait for ever.
type stateFile struct {
	f *os.File

	mu      sync.Mutex    // guards the following; a leaf
	idle    time.Duration // the longest wait; 0 has no end
	aborted bool
}

// newStateFile takes fd, unless it returns an error. A file of another kind may have no end
// (a terminal, /dev/zero), or can't be waited for with a time limit (a regular file whose
// server does not answer).
func newStateFile(fd int) (*stateFile, error) {
	info, err := fdstat.Stat(fd)
	if err != nil {
		return nil, err
	}
	if kind := info.Kind(); kind != unix.S_IFIFO && kind != unix.S_IFSOCK {
		return nil, errors.New("the descriptor is no pipe or socket")
	}
	// A read that does not block can be interrupted. No other process shares
	// our end.
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("non-blocking mode: %w", err)
	}
	return &stateFile{f: os.NewFile(uintptr(fd), "device state")}, nil
}

// Read implements io.Reader.
func (s *stateFile) Read(b []byte) (int, error) {
	s.arm()
	return s.f.Read(b)
}

// Write implements io.Writer.
func (s *stateFile) Write(b []byte) (int, error) {
	s.arm()
	return s.f.Write(b)
}

// arm sets the time limit of one call.
func (s *stateFile) arm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.aborted && s.idle != 0 {
		_ = s.f.SetDeadline(time.Now().Add(s.idle))
	}
}

// limit sets a time limit for this call and each that follows.
func (s *stateFile) limit(idle time.Duration) {
	s.mu.Lock()
	s.idle = idle
	s.mu.Unlock()
	s.arm()
}

// abort makes this call and all that follow fail.
func (s *stateFile) abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aborted = true
	_ = s.f.SetDeadline(time.Unix(1, 0))
}

// start runs move with the file on a goroutine of its own, because the front-end sends
// further messages while it moves the data.
func (t *transfer) start(file *stateFile, move func(*stateFile) error) {
	result := make(chan error, 1)
	t.file, t.result = file, result
	go func() {
		err := move(file)
		// The end of the data is what the front-end waits for before it asks.
		if closing := file.f.Close(); err == nil {
			err = closing
		}
		result <- err
	}()
}

// wait joins a transfer and returns its error. The front-end may have forgotten its end of
// the pipe, or be gone: so there is a limit to waiting for it, and gone and ended, if closed,
// interrupt the transfer.
func (t *transfer) wait(ended <-chan struct{}, gone func() bool) error {
	if t.result == nil {
		return errors.New("no transfer was started")
	}
	t.file.limit(t.idle)
	tick := time.NewTicker(hangupInterval)
	defer tick.Stop()
	for {
		select {
		case err := <-t.result:
			t.file, t.result = nil, nil
			return err
		case <-ended:
			t.abort()
			return errors.New("interrupted")
		case <-tick.C:
			if gone() {
				t.abort()
				return errors.New("the front-end is gone")
			}
		}
	}
}

// abort ends a transfer, if there is one, and forgets it.
func (t *transfer) abort() {
	if t.result == nil {
		return
	}
	t.file.abort()
	<-t.result
	t.file, t.result = nil, nil
}

// setDeviceStateFD starts to write the state to the front-end's pipe, or to read it.
// The front-end may have given up an earlier transfer.
func (c *Conn) setDeviceStateFD(m *message) ([]byte, error) {
	t := body[TransferState](m)
	switch {
	case t.Phase != TransferPhaseStopped || t.Direction > TransferLoad:
		return nil, fmt.Errorf("direction %d, phase %d", t.Direction, t.Phase)
	case c.running():
		return nil, errors.New("a ring is running")
	}
	c.transfer.abort()
	c.meet(false) // it is a state of this guest
	file, err := newStateFile(m.FDs[0])
	if err != nil {
		return nil, err
	}
	m.TakeFD(0)
	move := func(f *stateFile) error { return c.device.SaveState(struct{ io.Writer }{f}) }
	if t.Direction == TransferLoad {
		move = func(f *stateFile) error { return c.device.LoadState(struct{ io.Reader }{f}) }
	}
	c.transfer.load = t.Direction == TransferLoad
	c.transfer.start(file, move)
	return replyU64(TransferNoFD), nil
}

// checkDeviceState waits for the end of the transfer: the front-end has seen, or
// sent, the end of the data.
func (c *Conn) checkDeviceState(*message) ([]byte, error) {
	if err := c.transfer.wait(c.ended, c.sock.HungUp); err != nil {
		return nil, err
	}
	return replyU64(0), nil
}
