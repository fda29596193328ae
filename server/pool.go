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

// Threads that are stuck (watch.go) do not count as the pool's: others take their place, up to
// these limits. What would exceed them waits without a thread. So a file system of the host that
// does not answer costs those requests that touch it, and some threads.
const (
	maxStuckOn = 64  // of one file system of the host
	maxStuckAt = 16  // of one name or node
	maxStuck   = 96  // from here on file systems where something is stuck get no thread more
	maxThreads = 224 // of a pool in all
)

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
	closing bool
	threads int
	idle    int // threads that sleep and for which no token is on its way
	queue   []*pending
	stuck   int        // of threads
	parked  []*pending // that have no thread for now, see mayStick; in order
	suspect int        // requests that threads serve, not stuck yet, where others are: half of max at most
	// Where requests are stuck, on the pool's threads and others, by spot.on and spot.at.
	stuckOn, stuckAt map[uint64]int
	stuckAll         int
}

func (p *pool) init(s *Server, max int) {
	p.server, p.max, p.stay = s, max, poolIdle
	p.host, p.part = s.opts.Host, s.opts.Host.Threads()
	p.stuckOn, p.stuckAt = make(map[uint64]int), make(map[uint64]int)
}

// submit has d finished by an idle thread, a new one, or the next that is done.
func (p *pool) submit(d *pending) {
	p.mu.Lock()
	p.queue = append(p.queue, d)
	wake := p.staff()
	p.mu.Unlock()
	if wake {
		p.wake.put()
	}
}

// staff finds a thread for a request that was queued: one that sleeps, which the caller wakes, or
// a new one, or none. mu is held.
func (p *pool) staff() (wake bool) {
	switch {
	case p.idle > 0:
		p.idle--
		return true
	case p.threads-p.stuck < p.max && p.threads < maxThreads && p.part.Take(1):
		p.threads++
		go p.run()
	}
	return false
}

// stick notes that a request is stuck. d is not nil on a thread of the pool.
func (p *pool) stick(s spot, d *pending) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stuckOn[s.on]++
	p.stuckAt[s.at]++
	p.stuckAll++
	if d != nil {
		p.stuck++
		p.suspected(d, -1)
		p.unpark()
	}
}

// unstick takes back what stick has noted.
func (p *pool) unstick(s spot, d *pending) {
	p.mu.Lock()
	defer p.mu.Unlock()
	takeOne(p.stuckOn, s.on)
	takeOne(p.stuckAt, s.at)
	p.stuckAll--
	if d != nil {
		p.stuck--
		p.suspected(d, 1)
	}
	p.unpark()
}

// suspected counts d, if others are stuck where it goes. mu is held.
func (p *pool) suspected(d *pending, n int) {
	if d.detour {
		p.suspect += n
	}
}

// unpark has threads look again at what was parked. mu is held.
func (p *pool) unpark() {
	p.queue, p.parked = append(p.parked, p.queue...), nil
	for range min(len(p.queue), p.max) {
		if p.staff() {
			p.wake.put()
		}
	}
}

// served is for a request that a thread has finished.
func (p *pool) served(d *pending) {
	if !d.detour {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.suspected(d, -1)
	p.unpark()
}

func takeOne(m map[uint64]int, key uint64) {
	if m[key]--; m[key] == 0 {
		delete(m, key)
	}
}

// mayStick reports whether a thread may get stuck where d goes.
func (p *pool) mayStick(d *pending) bool {
	if d.detour && p.suspect >= p.max/2 {
		return false
	}
	on := p.stuckOn[d.spot.on]
	return on == 0 || on < maxStuckOn && p.stuckAt[d.spot.at] < maxStuckAt && p.stuckAll < maxStuck
}

// run is one thread of the pool. It leaves when it had nothing
// to do for a while or is not fit any more.
func (p *pool) run() {
	p.host.AddWaiting(1)
	defer p.leave()
	t, err := p.server.startThread(fuse.Hooks{})
	if err == nil {
		t.pooled = true
		p.server.watch.add(t)
	}
	if err != nil {
		p.server.oops.Do(func() { p.server.log.Error("no thread for waiting requests", "error", err) })
		if d := p.next(); d != nil {
			d.refuse(unix.EIO)
			p.served(d)
		}
		return
	}
	defer t.Stop()
	for d := p.take(); d != nil; d = p.take() {
		d.finish(t)
		p.served(d)
		if t.Broken() {
			return
		}
	}
}

// take waits for a request; nil means that there was none for long, that there are too many
// threads, as stuck ones have come back, or that the server is closed.
func (p *pool) take() *pending {
	for {
		d, leave := p.nextOrIdle()
		if d != nil || leave {
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
// one lock, so that submit either sees the thread or leaves it the request. leave says that the
// thread is one too many, or the server closed.
func (p *pool) nextOrIdle() (d *pending, leave bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.threads-p.stuck > p.max {
		return nil, true
	}
	if d = p.pop(); d == nil && !p.closing {
		p.idle++
	}
	return d, d == nil && p.closing
}

// pop is called with mu held.
func (p *pool) pop() *pending {
	for len(p.queue) > 0 {
		d := p.queue[0]
		p.queue[0] = nil // the array may live on
		p.queue = p.queue[1:]
		if p.stuckAll == 0 || p.mayStick(d) {
			p.suspected(d, 1)
			return d
		}
		p.parked = append(p.parked, d)
	}
	return nil
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
	if len(p.queue) > 0 && p.idle == 0 && p.threads-p.stuck <= p.max {
		go p.run()
		return
	}
	p.threads--
	p.part.Put(1)
}
