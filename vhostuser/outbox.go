package vhostuser

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/memfile"
	"github.com/govirtiofs/govirtiofs/internal/storing"
)

// An outbox is a file in memory from which messages are sent, by sendfile(2): then the kernel moves the
// file's position when it sends. The position outlives this process, as the keeper has the same open
// file. So a successor knows whether a message was sent that this process was about to send.
//
// Messages with descriptors, which only sendmsg(2) can send, and those that do not fit do not go this way.
//
// The zero value sends nothing.
type outbox struct {
	fd    int
	slots uint64 // messages that were put in so far; 0: there is no outbox yet, or nothing in it
	on    bool
}

// A message stays in its slot until outboxSlots others have followed: what the other side has not read yet must not
// change, as the kernel sends pages of the file and no copy.
const (
	outboxSlot  = 512
	outboxSlots = 2 * mostWaiting
	outboxSize  = outboxSlot * outboxSlots
)

func newOutbox() (outbox, error) {
	fd, err := memfile.Small("govirtiofs-outbox", outboxSize)
	if err != nil {
		return outbox{}, fmt.Errorf("outbox: %w", err)
	}
	return outbox{fd: fd, on: true}, nil
}

// inheritOutbox takes over what another process has left: fd, which it owns, and slots. Access to
// anything but memory might wait for ever.
func inheritOutbox(fd int, slots uint64) (outbox, error) {
	if err := memfile.Check(fd, outboxSize); err != nil {
		_ = unix.Close(fd)
		return outbox{}, fmt.Errorf("outbox: %w", err)
	}
	return outbox{fd: fd, slots: slots, on: true}, nil
}

func (o *outbox) close() {
	if o.on {
		_ = unix.Close(o.fd)
	}
	*o = outbox{}
}

// takes reports whether the message goes this way.
func (o *outbox) takes(m *Message) bool {
	return o.on && len(m.FDs) == 0 && HeaderSize+len(m.Body) <= outboxSlot
}

// at is where the last message is.
func (o *outbox) at() int64 { return int64((o.slots-1)%outboxSlots) * outboxSlot }

// put puts a message in, if it goes this way. The caller notes slots before it calls send.
func (o *outbox) put(m *Message) error {
	if !o.takes(m) {
		return nil
	}
	o.slots++
	defer storing.Note()
	if _, err := unix.Pwrite(o.fd, m.encode(), o.at()); err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	if _, err := unix.Seek(o.fd, o.at(), unix.SEEK_SET); err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	return nil
}

// send sends a message that was put in, or another one as always.
func (o *outbox) send(s *Socket, m *Message) error {
	storing.Note()
	defer storing.Note()
	if !o.takes(m) {
		return s.Send(m)
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	left := HeaderSize + len(m.Body)
	waiting := raw.Write(func(fd uintptr) bool {
		for left > 0 {
			var n int
			n, err = unix.Sendfile(int(fd), o.fd, nil, left)
			switch {
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.EAGAIN):
				return false
			case err != nil || n == 0:
				return true
			default:
				left -= n
			}
		}
		return true
	})
	switch {
	case waiting != nil:
		return waiting
	case err != nil:
		return os.NewSyscallError("sendfile", err)
	case left > 0:
		return errors.New("sendfile sends nothing")
	}
	return nil
}

// sent reports whether a predecessor has sent the last message that it has put in, of size bytes with its header.
func (o *outbox) sent(size int) (bool, error) {
	position, err := unix.Seek(o.fd, 0, unix.SEEK_CUR)
	if err != nil {
		return false, fmt.Errorf("outbox: %w", err)
	}
	switch done := position - o.at(); {
	case done <= 0 || done > int64(size):
		return false, nil
	case done < int64(size): // the kernel sends what is in one page as a whole
		return false, errors.New("a part of a message was sent")
	}
	return true, nil
}
