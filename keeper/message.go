package keeper

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Protocol is the version of what keeper and worker say to each other. Both are mostly the same
// program, but an upgrade has a new worker under the old keeper.
const Protocol = 1

// op is what a message says.
type op uint16

const (
	// From the worker.
	opKeep    op = iota + 1 // hold the descriptor, in place of the one that has the key
	opDrop                  // close what has the key
	opServing               // the worker serves
	opReplied               // the first reply since then is out
	// From the keeper.
	opKept  // a descriptor from before
	opBegin // that was all; words: see Start
	opEnd   // end
	opPark  // leave everything to a successor
	// From the worker: the keeper is to accept the next front-end, see Client.Accept. An older keeper does not know it.
	opAccept
)

// Bits of opBegin's last word.
const (
	beginFail = 1 << iota
	beginKilled
	beginStored
	beginAccepts
)

// messageSize is the size of each message: version, op, kind, share, id, sub and two more words.
const messageSize = 48

// message is one message, with its descriptor or -1.
type message struct {
	op    op
	key   Key
	words [3]uint64
	fd    int
}

func (m *message) marshal() []byte {
	b := make([]byte, messageSize)
	binary.LittleEndian.PutUint16(b, Protocol)
	binary.LittleEndian.PutUint16(b[2:], uint16(m.op))
	binary.LittleEndian.PutUint32(b[4:], uint32(m.key.Kind)|uint32(m.key.Share)<<16)
	for i, v := range []uint64{m.key.ID, m.key.Sub, m.words[0], m.words[1], m.words[2]} {
		binary.LittleEndian.PutUint64(b[8+8*i:], v)
	}
	return b
}

// carries reports whether a message with this op has a descriptor.
func (o op) carries() bool { return o == opKeep || o == opKept }

// hasKey reports whether a message with this op has a key.
func (o op) hasKey() bool { return o.carries() || o == opDrop }

func unmarshal(b []byte) (m message, err error) {
	if len(b) != messageSize {
		return m, fmt.Errorf("%d bytes: want %d", len(b), messageSize)
	}
	if v := binary.LittleEndian.Uint16(b); v != Protocol {
		return m, fmt.Errorf("version %d: want %d", v, Protocol)
	}
	m.op, m.fd = op(binary.LittleEndian.Uint16(b[2:])), -1
	m.key.Kind, m.key.Share = Kind(binary.LittleEndian.Uint16(b[4:])), binary.LittleEndian.Uint16(b[6:])
	for i, v := range []*uint64{&m.key.ID, &m.key.Sub, &m.words[0], &m.words[1], &m.words[2]} {
		*v = binary.LittleEndian.Uint64(b[8+8*i:])
	}
	switch {
	case m.op < opKeep || m.op > opAccept:
		return m, fmt.Errorf("unknown message %d", m.op)
	case m.op.hasKey() && !m.key.valid():
		return m, fmt.Errorf("message %d of unknown %s", m.op, m.key.Kind)
	}
	return m, nil
}

// send sends a message without waiting; EAGAIN says that the other side does not keep up.
func send(socket int, m *message) error {
	var rights []byte
	if m.op.carries() {
		rights = unix.UnixRights(m.fd)
	}
	for {
		_, err := unix.SendmsgN(socket, m.marshal(), rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// errForm is what receive returns for a message that was taken from the socket and is not one.
var errForm = errors.New("malformed message")

// errEnd says that the other side is gone, and all that it has sent was received.
var errEnd = errors.New("the other side is gone")

// receive takes a message from a socket without waiting (EAGAIN). What is not as it should be is
// closed by discard, and an error that wraps errForm; the next message can be received.
func receive(socket int, discard func(fd int)) (message, error) {
	b := make([]byte, messageSize+1)
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, flags, err := recvmsg(socket, b, oob)
	if err != nil {
		return message{}, err
	}
	fds := descriptors(oob[:oobn])
	if n == 0 && len(fds) == 0 {
		return message{}, errEnd
	}
	m, err := unmarshal(b[:n])
	want := 0
	if m.op.carries() {
		want = 1
	}
	switch {
	case err != nil:
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = errors.New("too long, or too many descriptors")
	case len(fds) != want:
		err = fmt.Errorf("message %d with %d descriptors", m.op, len(fds))
	}
	if err != nil {
		for _, fd := range fds {
			discard(fd)
		}
		return message{}, fmt.Errorf("%w: %w", errForm, err)
	}
	if want == 1 {
		m.fd = fds[0]
	}
	return m, nil
}

func recvmsg(socket int, b, oob []byte) (n, oobn, flags int, err error) {
	for {
		n, oobn, flags, _, err = unix.Recvmsg(socket, b, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			return n, oobn, flags, err
		}
	}
}

// descriptors are those of a control message.
func descriptors(oob []byte) (fds []int) {
	all, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range all {
		if more, err := unix.ParseUnixRights(&all[i]); err == nil {
			fds = append(fds, more...)
		}
	}
	return fds
}
