package virtiofs

import (
	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// waiting is a request that left the queue's thread, or whose thread the queue has left.
type waiting struct {
	worker  *worker
	request fuse.Pending // nil if its thread answers it without one, see shift.relieve
	more    fuse.Pending // from such a thread: the request has to wait after all
	chain   *virtqueue.Chain
	cell    *fuse.Cell        // where the request is noted, or nil
	memory  *virtqueue.Memory // kept until the chain is in the used ring
	reply   fuse.Reply
	lingers int // entries of the ring, if it waits for another client
}

// park takes a request that has to wait off the queue's thread.
func (w *worker) park(s *shift, r fuse.Pending) *waiting {
	p := &waiting{worker: w, request: r, chain: s.chain.Keep(r.Out()), cell: s.message.Cell, memory: w.queue.Memory()}
	w.enlist(p)
	if r.Brief() {
		if w.short.keep(p) {
			return p
		}
	}
	r.Start(p.finish)
	return p
}

// enlist counts a request among those that wait. The batch has a reference on its memory.
func (w *worker) enlist(p *waiting) {
	p.memory.TryAcquire() // can't fail
	w.waiting[p] = struct{}{}
	w.countLingering(p)
}

// countLingering counts the entries of the ring that a request takes if it waits for another client.
func (w *worker) countLingering(p *waiting) {
	if p.request != nil && p.request.Lingers() {
		p.lingers = p.chain.Entries()
		w.lingering += p.lingers
		p.cell.Forgive()
	}
}

// finish is called once, on any goroutine, when the request is done.
func (p *waiting) finish(r fuse.Reply) {
	p.reply = r
	w := p.worker
	w.mu.Lock()
	w.done = append(w.done, p)
	w.hasDone.Store(true)
	first := len(w.done) == 1
	if first {
		w.waking.Add(1)
	}
	w.mu.Unlock()
	if first { // otherwise an earlier caller has woken the worker, which has not looked yet
		w.waker.wake()
		w.waking.Done()
	}
}

// takeDone moves what was finished elsewhere to finished.
func (w *worker) takeDone() {
	if !w.hasDone.Load() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.finished = append(w.finished, w.done...)
	clear(w.done)
	w.done = w.done[:0]
	w.hasDone.Store(false)
}

// reap puts finished requests in the used ring. Each is off the list before the ring
// is touched: should that fault, the queue can still be stopped.
func (w *worker) reap() {
	w.takeDone()
	for i, p := range w.finished {
		w.finished[i] = nil
		w.giveBack(p)
	}
	w.finished = w.finished[:0]
}

// giveBack puts the chain of a finished request in the used ring. Until then the dirty log
// needs its memory. A request that had to end because the front-end is gone stays for the
// queue that continues, if there is one.
func (w *worker) giveBack(p *waiting) {
	if w.waitsOn(p) {
		return
	}
	w.forget(p)
	defer p.free()
	if p.reply.Stopped && w.queue.GiveUp(p.chain) {
		return // its cell says that it is to be served again, also to a successor of this process
	}
	w.push(p.chain, p.cell, p.reply.Len)
}

// forget takes a request off those that wait.
func (w *worker) forget(p *waiting) {
	delete(w.waiting, p)
	w.lingering -= p.lingers
	w.again.finished(w, p)
}

// free releases all that the request has kept.
func (p *waiting) free() {
	p.memory.Release()
	if p.request != nil {
		p.request.Free()
	}
}

// dropDone lets go of finished requests whose ring is not usable.
func (w *worker) dropDone() {
	if w.stopping.Load() {
		w.cancelWaiting()
	}
	w.takeDone()
	for _, p := range w.finished {
		if p != nil && !w.waitsOn(p) {
			w.forget(p)
			if p.cell != nil {
				p.cell.Free() // no reply will come
			}
			p.free()
		}
	}
	clear(w.finished)
	w.finished = w.finished[:0]
}

// cancelWaiting tells the requests that wait for other clients to end, once.
func (w *worker) cancelWaiting() {
	if w.canceled {
		return
	}
	w.canceled = true
	for p := range w.waiting {
		if p.request != nil {
			p.request.Stop()
		}
	}
}
