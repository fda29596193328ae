package server

import (
	"sync"
	"sync/atomic"
	"time"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// A method may hang in a system call for as long as a file system of the host does not answer: it
// is frozen, or its server is dead. The watch checks all threads a few times a second. It has
// the transport continue without a thread that is stuck (fuse.Hooks.Stuck), has requests that would
// get stuck, too, wait on other threads (detours), tells the pool which of its threads are lost
// for now, and says in the log what hangs (hangs.go).
//
// It has no thread: a timer of the runtime's, which stops when nothing happens for a while, and
// which the next request starts. A locked thread that sleeps by itself would not do better: Go
// code needs one of the scheduler's processors to run, and a thread that hangs in a system call has
// given its own back. Only calls that can't hang are made without telling the scheduler.
//
// A thread notes in thread.turn that it is in a method. The watch notes in thread.held that the
// thread must call watch.release before it continues. Each stores its own word and loads the
// other's. Time makes sure that the loads see the stores: the watch reads turn again one look
// after it has stored held. If turn is still the same, the thread has not left the method, and
// will see held when it does. No processor delays a store for a quarter of a second. So a
// request costs two plain stores and two loads: no clock, no lock, no list and no atomic
// operation.

const (
	lookEvery = 250 * time.Millisecond
	// quietLooks is after how many looks that have seen nothing the timer stops.
	quietLooks = 8
	// maxLost is how many threads of queues may be stuck at the same time. Queues whose thread
	// is the next wait for it.
	maxLost = 64
)

// The lowest bit of thread.turn says that the thread is in a method. The rest counts the turns: the
// methods that it has called.
const (
	turnBusy = 1
	turnStep = 2
)

// watch looks after the threads of a server.
type watch struct {
	server *Server
	asleep atomic.Bool   // the timer does not run, or for the last time
	detour atomic.Int32  // how many entries hangs has
	count  atomic.Uint32 // looks so far: the watch's clock, which stands still when the process does

	mu      sync.Mutex // guards the following and thread.sight; pool.mu comes after it
	timer   *time.Timer
	threads map[*thread]struct{}
	quiet   int
	lost    int
	hangs   map[uint64]int // by spot.on, or by spot.at
	news    []hangLine     // ended since the last look
	unsaid  int            // of those, how many are left out
	report  reporter
}

// sight is what the watch knows of a thread.
type sight struct {
	turn   uint64 // when it last looked
	since  uint32 // the look that first saw this turn
	stuck  bool   // held in this turn, and not only to be checked
	spot   spot   // while it is stuck
	detour bool   // while it is stuck: others that touch the same do not wait on queues' threads
	hang   *hang  // while it is stuck
	own    hang   // of a request that is not a pending
}

// begin is for a turn that was not seen before.
func (s *sight) begin(turn uint64, now uint32) {
	s.turn, s.since = turn, now
	s.own.since, s.own.due = now, 0
}

func (w *watch) init(s *Server) {
	w.server = s
	w.asleep.Store(true)
	w.threads = make(map[*thread]struct{})
	w.hangs = make(map[uint64]int)
}

// enter begins a turn: the thread is about to call a method.
func (t *thread) enter() {
	t.turns += turnStep
	setTurn(&t.turn, t.turns|turnBusy)
	if w := &t.server.watch; w.asleep.Load() {
		w.wake()
	}
}

// leave ends it.
func (t *thread) leave() {
	setTurn(&t.turn, t.turns)
	if t.held.Load() {
		t.server.watch.release(t)
	}
}

// ask asks the transport something that belongs to the thread which has the queue; false if that
// is another one by now. It is called by a method, whose turn is over meanwhile.
func (t *thread) ask(hook func() bool) bool {
	t.leave()
	defer t.enter()
	return !t.lost && hook()
}

// add has the thread watched.
func (w *watch) add(t *thread) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.threads[t] = struct{}{}
}

func (w *watch) remove(t *thread) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.threads, t)
	if t.lost {
		w.lost--
	}
}

// wake starts the timer.
func (w *watch) wake() {
	if !w.asleep.CompareAndSwap(true, false) {
		return
	}
	w.server.lookAtLevel()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.quiet = 0
	if w.timer == nil {
		w.timer = time.AfterFunc(lookEvery, w.look)
		return
	}
	w.timer.Reset(lookEvery)
}

// look checks all threads, and the requests that wait without one.
func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.count.Add(1)
	busy := false
	for t := range w.threads {
		busy = w.see(t, now) || busy
	}
	w.server.lookAtLevel()
	lines := w.dueLines(now)
	w.report.send(w, lines)
	if w.quiet++; busy || w.server.waiting.some() {
		w.quiet = 0
		w.asleep.Store(false)
	}
	switch {
	case w.quiet < quietLooks:
	case w.quiet == quietLooks:
		w.asleep.Store(true) // and one look more, as a thread may have begun without seeing it
	case w.asleep.Load():
		return
	}
	w.timer.Reset(lookEvery)
}

// see checks one thread, and reports whether it has done something or is about to.
func (w *watch) see(t *thread, now uint32) bool {
	v, s := atomic.LoadUint64(&t.turn), &t.sight
	switch {
	case v != s.turn:
		s.begin(v, now)
	case v&turnBusy == 0:
		return false
	case !s.stuck && t.held.Load(): // since the last look
		w.hold(t)
	}
	if v&turnBusy != 0 {
		t.held.Store(true)
	}
	return true
}

// hold is for a thread that is stuck, and can't leave its method before mu is free. What it has
// read of the request stays until then.
func (w *watch) hold(t *thread) {
	s := &t.sight
	s.stuck, s.spot, s.hang = true, t.spotOf(t.op), &s.own
	s.detour = !t.pooled && !t.request.MayWait
	if d := t.request.pending; d != nil {
		s.hang, s.detour = &d.hang, s.detour || d.detour
	}
	if s.detour {
		w.mark(s.spot, 1)
	}
	if t.hooks.Stuck != nil && !t.lost && w.lost < maxLost {
		t.lost = true
		w.lost++
		t.hooks.Stuck()
	}
	w.server.pool.stick(s.spot, t.poolsPending())
}

// release is called by a thread that has left its method and is held.
func (w *watch) release(t *thread) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t.held.Store(false)
	s := &t.sight
	if !s.stuck {
		return
	}
	s.stuck = false
	if s.detour {
		w.mark(s.spot, -1)
	}
	w.server.pool.unstick(s.spot, t.poolsPending())
	w.ended(t.op, t.request.Header.NodeID, t.name(t.op), s.hang)
}

// poolsPending is the request that a thread of the pool serves; nil on another.
func (t *thread) poolsPending() *pending {
	if !t.pooled {
		return nil
	}
	return t.request.pending
}

// spot says what a request may hang on.
type spot struct {
	on     uint64 // file system of the host and kind of request, see thread.spotOf
	at     uint64 // node and name
	weight int    // by how much on is under suspicion when it hangs
}

// Behind a name there may be another file system of the host. So if one LOOKUP hangs, only those
// of the same name are known to hang, too; if that of a second name does, or a request of another
// kind, all of the file system are.
const (
	suspicion = 2
	crossing  = 1 // weight of a request that may get to another file system
	staying   = suspicion
)

// mark notes that one request more hangs there, or one less.
func (w *watch) mark(s spot, n int) {
	before := w.hangs[s.at]
	w.markOne(s.at, n*suspicion)
	if before == 0 || w.hangs[s.at] == 0 { // one name counts once
		w.markOne(s.on, n*s.weight)
	}
	w.detour.Store(int32(len(w.hangs)))
}

func (w *watch) markOne(key uint64, n int) {
	if key == 0 {
		return
	}
	if w.hangs[key] += n; w.hangs[key] <= 0 {
		delete(w.hangs, key)
	}
}

// marked reports whether a request there would hang.
func (w *watch) marked(s spot) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.hangs[s.on] >= suspicion || w.hangs[s.at] >= suspicion
}

// detours reports whether the request would hang like others that do, and is not to wait on its
// queue's thread. It is asked while something hangs.
func (t *thread) detours(o *op) bool {
	return !t.request.MayWait && !o.NoReply && !o.noSession && !o.waits && t.request.Parked() == nil && t.server.watch.marked(t.spotOf(o))
}

// spotOf says what the request may hang on. What changes something may hang where what only reads
// does not: on a frozen file system.
func (t *thread) spotOf(o *op) (s spot) {
	node, name := t.request.Header.NodeID, t.name(o)
	if on := t.server.fs.Backing(node, name); on != 0 {
		s.on = on << 2
		if o.modifies != nil && o.modifies(t) {
			s.on |= 1
		}
	}
	s.at, s.weight = hashOf(node, name), staying
	if o.crosses {
		s.weight = crossing
	}
	return s
}

// hashOf is FNV-1a, with the lowest bits of the keys in hangs that spot.on does not have.
func hashOf(node uint64, name fp.Name) uint64 {
	const prime = 0x100000001b3
	h := uint64(0xcbf29ce484222325)
	for ; node != 0; node >>= 8 {
		h = (h ^ node&0xff) * prime
	}
	for _, c := range name {
		h = (h ^ uint64(c)) * prime
	}
	return h | 3
}

// name is the name of a directory entry that the request has; nil is none.
func (t *thread) name(o *op) fp.Name {
	if !o.named || len(t.args) < o.Body {
		return nil
	}
	name, _, _ := fp.ParseName(t.args[o.Body:])
	return name
}
