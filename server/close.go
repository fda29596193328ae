package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// errClosed says that a Server is used after Close.
var errClosed = errors.New("server: it was closed")

// users counts what may call the file system: threads, requests that wait without one, messages
// about requests. The last one that leaves after Close closes it: a request that hangs in a system
// call must not find that its descriptors are other files' by now.
type users struct {
	mu     sync.Mutex // guards the following; a leaf
	count  int
	closed bool
	gone   chan struct{} // closed when the file system is; made by the first Close
}

// enter reports whether the file system may still be used. Then leave has to follow.
func (u *users) enter() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return false
	}
	u.count++
	return true
}

func (s *Server) leaveFS() {
	if s.users.leave() {
		s.closeFS()
	}
}

// leave reports whether it was the last one: closeFS has to follow.
func (u *users) leave() (last bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.count--
	return u.closed && u.count == 0
}

func (s *Server) closeFS() {
	s.fs.Close()
	close(s.users.gone)
}

// Close implements fuse.Handler. Requests that hang in system calls keep the file system open
// until they return, also after Close has returned.
func (s *Server) Close(ctx context.Context) error {
	u := &s.users
	u.mu.Lock()
	first := !u.closed
	if first {
		u.closed, u.gone = true, make(chan struct{})
		u.count++ // ours
	}
	u.mu.Unlock()
	if first {
		s.Reset()
		s.pool.close()
		s.runners.close()
		s.watch.close()
		s.leaveFS()
	}
	select {
	case <-u.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("server: requests do not come back from the file system: %w", context.Cause(ctx))
	}
}

// close has threads without work leave.
func (p *pool) close() {
	p.mu.Lock()
	p.closing = true
	sleeping := p.idle
	p.idle = 0
	p.mu.Unlock()
	for range sleeping {
		p.wake.put()
	}
}

// close stops the timer. A request that hangs starts it once more when it comes back.
func (w *watch) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asleep.Store(true)
	if w.timer != nil {
		w.timer.Stop()
	}
}
