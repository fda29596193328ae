package server

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/host"
)

// poolIdle is pool.stay.
const poolIdle = 5 * time.Second

// pool is the threads on which requests may block in system calls: as many as
// needed, up to a limit.
type pool struct {
	server *Server
	max    int
	host   *host.Host
	part   *host.Part    // of the threads of all servers
	stay   time.Duration // how long a thread stays without work
	wake   semaphore     // a token for each sleeping thread that is to look

	mu      sync.Mutex // guards the following; a leaf
	threads int
	idle    int // threads that sleep and for which no token is on its way
	queue   []*pending
}

func (p *pool) init(s *Server, max int) {
	p.server, p.max, p.stay = s, max, poolIdle
	p.host, p.part = s.opts.Host, s.opts.Host.Threads()
}

// submit has d finished by an idle thread, a new one, or the next that is done.
func (p *pool) submit(d *pending) {
	p.mu.Lock()
	p.queue = append(p.queue, d)
	wake := p.idle > 0
	switch {
	case wake:
		p.idle--
	case p.threads < p.max && p.part.Take(1):
		p.threads++
		go p.run()
	}
	p.mu.Unlock()
	if wake {
		p.wake.put()
	}
}

// run is one thread of the pool. It leaves when it had nothing
// to do for a while or is not fit any more.
func (p *pool) run() {
	p.host.AddWaiting(1)
	defer p.leave()
	t, err := p.server.startThread(fuse.Hooks{})
	if err != nil {
		p.server.oops.Do(func() { p.server.log.Error("no thread for waiting requests", "error", err) })
		if d := p.next(); d != nil {
			d.refuse(unix.EIO)
		}
		return
	}
	defer t.Stop()
	for d := p.take(); d != nil; d = p.take() {
		d.finish(t)
		if t.Broken() {
			return
		}
	}
}

// take waits for a request; nil means that there was none for long.
func (p *pool) take() *pending {
	for {
		if d := p.nextOrIdle(); d != nil {
			return d
		}
		// With a token it looks again: another thread may be faster.
		if !p.wake.take(p.stay) && p.dismiss() {
			return nil
		}
	}
}

// next is the next request in the queue.
func (p *pool) next() *pending {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pop()
}

// nextOrIdle counts the calling thread as idle when it gets none. Both happen under
// one lock, so that submit either sees the thread or leaves it the request.
func (p *pool) nextOrIdle() *pending {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.pop()
	if d == nil {
		p.idle++
	}
	return d
}

// pop is called with mu held.
func (p *pool) pop() *pending {
	if len(p.queue) == 0 {
		return nil
	}
	d := p.queue[0]
	p.queue[0] = nil // the array may live on
	p.queue = p.queue[1:]
	return d
}

// dismiss takes an idle thread off the count. It fails, and takes the token, when
// every sleeping thread was just told to wake up.
func (p *pool) dismiss() bool {
	p.mu.Lock()
	if p.idle > 0 {
		p.idle--
		p.mu.Unlock()
		return true
	}
	p.mu.Unlock()
	for !p.wake.take(p.stay) { // it is on its way
	}
	return false
}

// leave takes a thread off the count. What was queued while it was leaving goes to
// a new one.
func (p *pool) leave() {
	p.host.AddWaiting(-1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) > 0 && p.idle == 0 {
		go p.run()
		return
	}
	p.threads--
	p.part.Put(1)
}
