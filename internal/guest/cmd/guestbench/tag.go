package main

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync"

	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

// tagger stands between User-Mode Linux and a back-end that has no configuration space.
// User-Mode Linux asks the back-end for it (GET_CONFIG) and has no device without an
// answer. QEMU makes the configuration space of a virtio-fs device itself, with the tag
// from its command line. The virtiofsd in C was written for QEMU and does not offer one.
//
// All other messages pass unchanged, with their descriptors. FUSE requests of the
// guest do not pass here: they go through memory and eventfds.
type tagger struct {
	config      []byte
	front, back *vu.Socket
	mu          sync.Mutex // writing to front
}

// serveTag waits for one front-end at the socket, and connects it to the socket of a
// back-end. It returns a function that ends it.
func serveTag(socket, backend, tag string) (stop func(), err error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	back, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: backend, Net: "unix"})
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	t := &tagger{config: tagConfig(tag), back: vu.NewSocket(back, vu.ToBackend)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer back.Close()
		front, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer front.Close()
		t.front = vu.NewSocket(front, vu.ToBackend)
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

// pass reads messages and gives them to handle.
func (t *tagger) pass(from *vu.Socket, handle func(*vu.Message) error) {
	for {
		m, err := from.Receive()
		if err != nil {
			return
		}
		err = handle(m)
		m.Close()
		if err != nil {
			return
		}
	}
}

// request passes a request on to the back-end, or answers it.
func (t *tagger) request(m *vu.Message) error {
	switch vu.Request(m.Number) {
	case vu.ReqGetConfig:
		return t.answerConfig(m)
	case vu.ReqSetProtocolFeatures:
		changeFeatures(m, func(f vu.ProtocolFeatures) vu.ProtocolFeatures { return f &^ vu.ProtocolConfig })
	}
	return t.back.Send(m)
}

// reply passes the back-end's replies on, and offers the configuration.
func (t *tagger) reply(m *vu.Message) error {
	if vu.Request(m.Number) == vu.ReqGetProtocolFeatures {
		changeFeatures(m, func(f vu.ProtocolFeatures) vu.ProtocolFeatures { return f | vu.ProtocolConfig })
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.front.Send(m)
}

func changeFeatures(m *vu.Message, change func(vu.ProtocolFeatures) vu.ProtocolFeatures) {
	if u, ok := vu.Decode[vu.U64](m.Body); ok {
		u.Value = uint64(change(vu.ProtocolFeatures(u.Value)))
		copy(m.Body, vu.Bytes(&u))
	}
}

// answerConfig answers GET_CONFIG with as many bytes as were asked for.
func (t *tagger) answerConfig(m *vu.Message) error {
	h, ok := vu.Decode[vu.ConfigHeader](m.Body)
	if !ok {
		return os.ErrInvalid
	}
	data := m.Body[len(vu.Bytes(&h)):]
	clear(data)
	if int64(h.Offset) < int64(len(t.config)) {
		copy(data, t.config[h.Offset:])
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.front.Send(&vu.Message{Number: m.Number, Flags: vu.FlagVersion | vu.FlagReply, Body: m.Body})
}
