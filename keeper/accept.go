package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/accept"
	"github.com/govirtiofs/govirtiofs/internal/fdstat"
)

// The keeper accepts front-ends, and a worker gets each of them when the keeper holds it: so no connection is lost when
// a worker dies, at whatever point. It accepts one when the worker asks for it. Later ones wait in the kernel's backlog.
// The connection has the key Accepted until the worker has it held as the front-end's and drops it; a successor gets
// it in the same way as if it were new.

// accepting is a wait for a connection.
type accepting struct {
	listener *os.File
	stop     chan struct{} // closed by cancel
	done     chan struct{} // closed when the connection, if there is one, is in the table
}

// accept begins to wait for a connection on behalf of a worker. It belongs to Run's goroutine.
func (k *Keeper) accept(w *worker) {
	if w != k.worker || k.accepting.runs() || k.table.has(Accepted()) {
		return
	}
	own := -1
	has, err := k.table.with(Listener(), func(fd int) (err error) {
		own, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if !has || err != nil {
		k.log.Error("no front-end can connect", "listens", has, "error", err)
		return
	}
	_ = unix.SetNonblock(own, true) // then it takes no thread to wait
	a := &accepting{listener: os.NewFile(uintptr(own), "listener"), stop: make(chan struct{}), done: make(chan struct{})}
	k.accepting = a
	go func() {
		came := a.wait(k)
		close(a.done)
		if came {
			w.give(k, Accepted())
		}
	}()
}

// runs reports whether there is no connection yet.
func (a *accepting) runs() bool {
	if a == nil {
		return false
	}
	select {
	case <-a.done:
		return false
	default:
		return true
	}
}

// cancel ends the wait. When it returns, a connection that has come is in the table.
func (a *accepting) cancel() {
	if a == nil {
		return
	}
	close(a.stop)
	_ = a.listener.SetDeadline(time.Unix(1, 0))
	<-a.done
}

// wait waits for a connection, and reports whether one is in the table. A worker asks only once, so a connection for which
// there is no room does not end the wait.
func (a *accepting) wait(k *Keeper) (came bool) {
	defer a.listener.Close()
	raw, err := a.listener.SyscallConn()
	for grumble := true; err == nil; {
		fd := -1
		var failed error
		err = raw.Read(func(socket uintptr) bool {
			fd, _, failed = unix.Accept4(int(socket), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return !errors.Is(failed, unix.EAGAIN)
		})
		if err == nil && failed == nil {
			failed = k.table.put(Accepted(), fd)
		}
		switch {
		case err != nil: // cancelled
		case failed == nil:
			return true
		case errors.Is(failed, unix.EINTR) || errors.Is(failed, unix.ECONNABORTED):
		default: // there may be descriptors and memory again soon
			if grumble {
				k.log.Warn("A front-end can't connect for now", "error", failed)
				grumble = false
			}
			select {
			case <-a.stop:
				return false
			case <-time.After(accept.Pause):
			}
		}
	}
	return false
}

// give sends a worker a descriptor that the keeper holds.
func (w *worker) give(k *Keeper, key Key) {
	raw, err := w.channel.SyscallConn()
	if err != nil {
		return
	}
	_ = w.sendOne(raw.Write, func(fd int) error {
		_, err := k.table.with(key, func(kept int) error { return send(fd, &message{op: opKept, key: key, fd: kept}) })
		return err
	})
}

// Accepts reports whether the keeper accepts front-ends, see Accept.
func (c *Client) Accepts() bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.start.Accepts
}

// Accept waits for the next front-end. The caller owns the descriptor, and the keeper holds a copy of it until
// Drop(Accepted()), which comes before the next call. Until then a successor's first call returns the same connection. Listen
// was called before. The error is that of ctx, or of the connection to the keeper.
func (c *Client) Accept(ctx context.Context) (fd int, err error) {
	if fd, ok := c.Take(Accepted()); ok {
		return fd, nil
	}
	c.mu.Lock()
	err = c.send(&message{op: opAccept, fd: -1})
	c.mu.Unlock()
	if err != nil {
		return -1, fmt.Errorf("keeper: accept: %w", err)
	}
	select {
	case fd := <-c.accepted:
		return fd, nil
	case <-ctx.Done():
		return -1, ctx.Err()
	}
}

// arrived takes a descriptor that has come after Receive.
func (c *Client) arrived(m *message) {
	if m.op == opKept && m.key == Accepted() {
		c.mu.Lock()
		c.held[m.key] = true
		c.mu.Unlock()
		select {
		case c.accepted <- m.fd:
			return
		default: // nobody has asked
		}
	}
	if m.fd >= 0 {
		fdstat.Close(m.fd)
	}
}
