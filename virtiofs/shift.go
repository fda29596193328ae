package virtiofs

import (
	"fmt"
	"runtime/debug"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/virtqueue"
)

// shift is one thread's time at a queue, and what the thread has of its own. A request may hang in
// a system call of the host for ever: a frozen file system, a file server that is dead. Then
// another thread takes the queue over, and this one keeps the request: nothing else of the queue
// is its any more. When the request ends after all, its reply comes to the queue as that of any
// other request that waited.
type shift struct {
	worker  *worker
	thread  fuse.Thread
	message fuse.Message
	chain   virtqueue.Chain
	brief   *waiting // what Run or Try is called for; nil: Handle, for the chain
	late    *waiting // the request with which the thread was stuck when another took over
}

// ending reports whether this thread takes no more requests.
func (s *shift) ending() bool {
	return s.late != nil || s.worker.stopping.Load() || s.thread.Broken()
}

// relieve gives the queue to another thread. It is called on another goroutine while this thread
// is in Handle, Run or Try, which do not return before relieve has: see fuse.Hooks.Stuck. So no
// other thread uses the queue meanwhile.
func (s *shift) relieve() {
	w, p := s.worker, s.brief
	switch {
	case p == nil:
		p = &waiting{worker: w, chain: s.chain.Keep(s.chain.Writable()), cell: s.message.Cell, memory: w.queue.Memory()}
		w.enlist(p)
		w.again.relieved(p)
	case len(w.short.list) > 0 && w.short.list[0] == p: // Try leaves it there
		w.short.drop()
	}
	w.startBrief() // they may be reads from the same disk
	s.late = p
	w.queue.End()
	go w.run(nil)
}

// handBack gives the request to the thread that has the queue by now: with its reply, or if more
// is not nil to be waited for.
func (s *shift) handBack(r fuse.Reply, more fuse.Pending) {
	s.late.more = more
	s.late.finish(r)
}

// waitsOn starts a request that a thread has handed back to be waited for; false if it has its
// reply.
func (w *worker) waitsOn(p *waiting) bool {
	if p.more == nil {
		return false
	}
	p.request, p.more = p.more, nil
	w.countLingering(p)
	p.request.Start(p.finish)
	if w.canceled {
		p.request.Stop()
	}
	return true
}

// mayLinger reports whether the request that is served may wait for another client. Half of
// the ring's entries are for requests that end by themselves.
func (s *shift) mayLinger() bool {
	w := s.worker
	return w.lingering+s.chain.Entries() <= int(w.queue.Size())/2
}

// endBatch ends the batch, if the queue is still this thread's.
func (s *shift) endBatch() {
	if s.late == nil {
		s.worker.queue.End()
	}
}

// startBrief is worker.startBrief, if the queue is still this thread's.
func (s *shift) startBrief() {
	if s.late == nil {
		s.worker.startBrief()
	}
}

// fault turns a panic into the queue's error. A fault in memory that the front-end
// shares is its own doing (it has cut off the file); anything else is a mistake of
// ours, which costs this queue and leaves a stack in the log. A thread that has lost the queue
// loses the reply.
func (s *shift) fault(r any) error {
	w := s.worker
	if s.late != nil {
		w.log.Error(fmt.Sprintf("reply lost: %v\n%s", r, debug.Stack()))
		s.handBack(fuse.Reply{}, nil)
		return nil
	}
	if w.queue.IsMemoryFault(r) {
		return fmt.Errorf("%w: %v", virtqueue.ErrMemoryGone, r)
	}
	w.log.Error(fmt.Sprintf("panic: %v\n%s", r, debug.Stack()))
	return fmt.Errorf("panic: %v", r)
}
