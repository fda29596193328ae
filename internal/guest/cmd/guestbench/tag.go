package main

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

// tagger stands between User-Mode Linux and a back-end that has no configuration space.
// QEMU makes that of a virtio-fs device itself, with the tag from its command line, and the
// virtiofsd in C, which was written for QEMU, does not offer it. User-Mode Linux asks the
// back-end (GET_CONFIG) and has no device without an answer.
//
// All other messages pass as they are, with their descriptors. Requests of the guest's
// file system do not come by here: they go through memory and eventfds.
type tagger struct {
	config      []byte
	front, back *net.UnixConn
	mu          sync.Mutex // writing to front
}

// serveTag waits for one front-end at the socket, and connects it with the back-end at
// another. It returns a function that ends it.
func serveTag(socket, backend, tag string) (stop func(), err error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	back, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: backend, Net: "unix"})
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	t := &tagger{config: tagConfig(tag), back: back}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer back.Close()
		var err error
		if t.front, err = l.AcceptUnix(); err != nil {
			return
		}
		defer t.front.Close()
		t.run()
	}()
	return func() {
		_ = l.Close()
		_ = back.Close()
		<-ended
	}, nil
}

// tagSize is the length of the tag (virtio 1.3, 5.11.4).
const tagSize = 36

// tagConfig is the configuration of a virtio-fs device with one request queue.
func tagConfig(tag string) []byte {
	b := make([]byte, tagSize+4)
	copy(b[:tagSize], tag)
	binary.LittleEndian.PutUint32(b[tagSize:], 1)
	return b
}

// run passes messages both ways until one side ends.
func (t *tagger) run() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.pass(t.back, t.reply)
		_ = t.front.CloseRead() // which ends the other loop
	}()
	t.pass(t.front, t.request)
	_ = t.back.CloseRead()
	<-done
}

// passed is a message on its way.
type passed struct {
	head [vu.HeaderSize]byte
	body []byte
	fds  []int
}

func (m *passed) request() vu.Request { return vu.Request(binary.NativeEndian.Uint32(m.head[:])) }

// pass reads messages and gives them to handle.
func (t *tagger) pass(from *net.UnixConn, handle func(*passed) error) {
	for {
		m, err := receive(from)
		if err == nil {
			err = handle(m)
		}
		for _, fd := range m.fds {
			_ = unix.Close(fd)
		}
		if err != nil {
			return
		}
	}
}

// receive reads one message. Its descriptors, which come with the first byte, are to be
// closed even with an error.
func receive(from *net.UnixConn) (*passed, error) {
	m := &passed{}
	oob := make([]byte, unix.CmsgSpace(4*vu.MaxMessageFDs))
	n, oobn, _, _, err := from.ReadMsgUnix(m.head[:], oob)
	if err != nil {
		return m, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return m, err
	}
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			m.fds = append(m.fds, fds...)
		}
	}
	if n == 0 {
		return m, io.EOF
	}
	if _, err := io.ReadFull(from, m.head[n:]); err != nil {
		return m, err
	}
	size := binary.NativeEndian.Uint32(m.head[8:])
	if size > vu.MaxBodySize {
		return m, errors.New("message too large")
	}
	m.body = make([]byte, size)
	_, err = io.ReadFull(from, m.body)
	return m, err
}

// send writes a message with its descriptors.
func send(to *net.UnixConn, m *passed) error {
	var rights []byte
	if len(m.fds) > 0 {
		rights = unix.UnixRights(m.fds...)
	}
	b := append(m.head[:], m.body...)
	n, _, err := to.WriteMsgUnix(b, rights, nil)
	if err == nil && n < len(b) {
		_, err = to.Write(b[n:])
	}
	return err
}

// request passes a request on to the back-end, or answers it.
func (t *tagger) request(m *passed) error {
	switch m.request() {
	case vu.ReqGetConfig:
		return t.answerConfig(m)
	case vu.ReqSetProtocolFeatures:
		changeFeatures(m, func(f vu.ProtocolFeatures) vu.ProtocolFeatures { return f &^ vu.ProtocolConfig })
	}
	return send(t.back, m)
}

// reply passes the back-end's replies on, and offers the configuration.
func (t *tagger) reply(m *passed) error {
	if m.request() == vu.ReqGetProtocolFeatures {
		changeFeatures(m, func(f vu.ProtocolFeatures) vu.ProtocolFeatures { return f | vu.ProtocolConfig })
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return send(t.front, m)
}

func changeFeatures(m *passed, change func(vu.ProtocolFeatures) vu.ProtocolFeatures) {
	if len(m.body) == 8 {
		f := vu.ProtocolFeatures(binary.NativeEndian.Uint64(m.body))
		binary.NativeEndian.PutUint64(m.body, uint64(change(f)))
	}
}

// answerConfig answers GET_CONFIG: offset, size, flags, and room for so many bytes.
func (t *tagger) answerConfig(m *passed) error {
	const before = 12
	if len(m.body) < before {
		return os.ErrInvalid
	}
	offset := int(binary.NativeEndian.Uint32(m.body))
	clear(m.body[before:])
	if offset < len(t.config) {
		copy(m.body[before:], t.config[offset:])
	}
	binary.NativeEndian.PutUint32(m.head[4:], vu.FlagVersion|vu.FlagReply)
	t.mu.Lock()
	defer t.mu.Unlock()
	return send(t.front, m)
}
