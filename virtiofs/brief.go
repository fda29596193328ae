package virtiofs

import (
	"slices"
	"time"

	"github.com/govirtiofs/govirtiofs/fuse"
)

// Short waits on a queue's own thread: of a request that is alone, and for pages that the
// kernel is reading already. To have each of these waited for by another thread takes four
// switches and gains nothing while this one has nothing else to do: the disk works on all
// of them meanwhile. This thread waits for one after the other and checks the ring in
// between. Measured with "govirtiofs bench -w randread --depth 8,32": 0.36 of the
// processor time, 1.35 and 1.57 times as fast.
//
// Requests that arrive during such a wait are delayed by it. If such a request needs no
// wait itself, and this happens more than now and then, there are two kinds of work
// under way. Then waits go to other threads for a while.
type shortWaits struct {
	list   []*waiting // to be waited for here, the oldest first
	asked  bool       // the request that is served may wait, and knows it
	waited bool       // this thread has just waited, and has not checked the ring since
	held   int        // rises with requests that were held up, falls with waits that held up none
}

const (
	maxBrief = 128                   // how many requests a thread keeps to itself
	longWait = 20 * time.Microsecond // what tells a wait from a copy

	heldStep    = 2  // one request that was held up outweighs so many waits that held up none
	heldMost    = 16 // from here on waits go elsewhere
	heldPenalty = 64 // of which so many pass until it is tried again, heldMost not counted
)

// keep puts p on the list, if this thread may wait for it.
func (s *shortWaits) keep(p *waiting) bool {
	if len(s.list) == maxBrief || !s.may() {
		return false
	}
	s.list = append(s.list, p)
	return true
}

// ask is may for the request that is being served.
func (s *shortWaits) ask() bool {
	s.asked = s.may()
	return s.asked
}

// may reports whether this thread may wait.
func (s *shortWaits) may() bool {
	if s.held < heldMost {
		return true
	}
	s.held--
	return false
}

// ringState is what shortWaits wants to know of a queue's ring.
type ringState interface{ More() bool }

// watching reports whether served has something to note.
func (s *shortWaits) watching() bool { return s.asked || s.waited }

// served notes that a request was served, at once or not, and is not answered yet.
func (s *shortWaits) served(atOnce bool, ring ringState) {
	s.followed(atOnce)
	if s.asked && atOnce {
		s.ended(ring)
	}
	s.asked = false
}

// ended notes that a wait has ended. Its request is not answered yet: what the driver sends
// when it has the answer was not held up, even if it comes before the next check of the ring.
func (s *shortWaits) ended(ring ringState) {
	s.waited = true
	if !ring.More() {
		s.followed(false)
	}
}

// followed notes what came after a wait: a request that could have been served at once, or
// not.
func (s *shortWaits) followed(heldUp bool) {
	switch {
	case !s.waited:
		return
	case !heldUp:
		s.held = max(s.held-1, 0)
	default:
		if s.held += heldStep; s.held >= heldMost {
			s.held = heldMost + heldPenalty
		}
	}
	s.waited = false
}

// finishBrief finishes the oldest of the requests that this thread kept, or publishes what
// is finished while that has to be waited for; false when there is none.
func (w *worker) finishBrief(s *shift) bool {
	if len(w.short.list) == 0 {
		return false
	}
	p := w.short.list[0]
	if w.unflushed == 0 {
		w.waitBrief(s, p)
		return true
	}
	s.brief = p
	reply, ok := s.thread.Try(p.request)
	s.brief = nil
	switch {
	case s.late != nil && ok:
		s.handBack(reply, nil)
		return true
	case s.late != nil:
		s.handBack(fuse.Reply{}, p.request)
		return true
	case !ok:
		w.flush()
		return true
	}
	p.reply = reply
	w.short.drop()
	w.giveBack(p)
	return true
}

// waitBrief waits for the oldest.
func (w *worker) waitBrief(s *shift, p *waiting) {
	w.short.drop()
	began := time.Now()
	s.brief = p
	reply := s.thread.Run(p.request)
	s.brief = nil
	if s.late != nil {
		s.handBack(reply, nil)
		return
	}
	p.reply = reply
	waited := time.Since(began) > longWait
	w.forget(p) // as giveBack
	defer p.free()
	if waited {
		w.short.ended(w.queue)
	}
	w.push(p.chain, p.cell, p.reply.Len)
}

// drop takes the oldest off the list.
func (s *shortWaits) drop() { s.list = slices.Delete(s.list, 0, 1) }

// startBrief leaves them to other threads.
func (w *worker) startBrief() {
	for i, p := range w.short.list {
		w.short.list[i] = nil
		p.request.Start(p.finish)
	}
	w.short.list = w.short.list[:0]
}
