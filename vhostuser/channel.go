package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// errReplied tells serve that the handler has answered by itself.
var errReplied = errors.New("already answered")

// ErrDisconnected ends requests to a front-end that is gone.
var ErrDisconnected = errors.New("vhostuser: front-end disconnected")

// ErrRefused is wrapped by the error of a request which the front-end answered
// with a failure.
var ErrRefused = errors.New("vhostuser: front-end refused")

// channel carries our own requests to the front-end. The front-end answers in
// order; a goroutine reads the answers.
type channel struct {
	sock *net.UnixConn

	mu      sync.Mutex
	waiting []chan error // in the order of the requests
	closed  bool
}

// setBackendReqFD opens the back-end channel.
func (c *Conn) setBackendReqFD(m *message) ([]byte, error) {
	f := os.NewFile(uintptr(m.takeFD(0)), "back-end channel")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	sock, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		return nil, errors.New("not a unix socket")
	}
	if c.channel != nil {
		c.closeChannel()
	}
	c.channel = &channel{sock: sock}
	go c.channel.read()
	c.attachSharedMemory(c.channel)
	return nil, nil
}

func (c *Conn) closeChannel() {
	c.attachSharedMemory(nil)
	c.channel.close()
	c.channel = nil
}

// call sends a request and waits for its acknowledgement. fd stays the caller's;
// -1 is none.
func (ch *channel) call(r BackendRequest, body []byte, fd int) error {
	answer := make(chan error, 1)
	ch.mu.Lock()
	if ch.closed {
		ch.mu.Unlock()
		return ErrDisconnected
	}
	// Under the lock, so that requests and waiters are in the same order.
	err := sendMessage(ch.sock, uint32(r), FlagVersion|FlagNeedReply, body, fd)
	if err == nil {
		ch.waiting = append(ch.waiting, answer)
	}
	ch.mu.Unlock()
	if err != nil {
		return fmt.Errorf("vhostuser: %s: %w", r, err)
	}
	if err := <-answer; err != nil {
		return fmt.Errorf("%s: %w", r, err)
	}
	return nil
}

// read hands out answers until the channel ends.
func (ch *channel) read() {
	for {
		var h Header
		var ack U64
		_, err := io.ReadFull(ch.sock, Bytes(&h))
		if err == nil && (h.Flags&FlagReply == 0 || h.Size != uint32(sizeU64)) {
			err = errors.New("unexpected answer")
		}
		if err == nil {
			_, err = io.ReadFull(ch.sock, Bytes(&ack))
		}
		if err != nil {
			ch.close()
			return
		}
		ch.answer(ack.Value)
	}
}

func (ch *channel) answer(ack uint64) {
	ch.mu.Lock()
	var first chan error
	if len(ch.waiting) > 0 {
		first, ch.waiting = ch.waiting[0], ch.waiting[1:]
	}
	ch.mu.Unlock()
	switch {
	case first == nil:
	case ack != 0:
		first <- fmt.Errorf("%w with %d (%s)", ErrRefused, int64(ack), unix.Errno(-int64(ack)))
	default:
		first <- nil
	}
}

// close ends the channel and all that wait for an answer.
func (ch *channel) close() {
	ch.mu.Lock()
	waiting := ch.waiting
	ch.waiting, ch.closed = nil, true
	ch.mu.Unlock()
	_ = ch.sock.Close()
	for _, w := range waiting {
		w <- ErrDisconnected
	}
}
