package server

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// Messages about requests that hang.

const (
	// firstDue is after how many looks a request is named for the first time: 5 s. Each
	// further time comes after twice as long.
	firstDue = uint32(5 * time.Second / lookEvery)
	// mostLines bounds the lines of one look, and mostNamed those of LogRequests.
	mostLines = 10
	mostNamed = 256
	// restEvery is at how many looks those that wait without a thread are checked.
	restEvery = 4
)

// hang is how long a request has been under way, and what was said about it.
type hang struct {
	since uint32 // the look before it, or the first to see it
	due   uint32 // after how many looks it is named next; 0 is firstDue
	told  atomic.Bool
}

// isDue reports whether the request is to be named now.
func (h *hang) isDue(now uint32) bool {
	h.due = max(h.due, firstDue)
	if now-h.since < h.due {
		return false
	}
	for now-h.since >= h.due {
		h.due *= 2
	}
	return true
}

// hangLine is one request in a message.
type hangLine struct {
	op   string
	node uint64
	name string
	age  time.Duration
	// One of them: the thread that serves it, and the word that says so; or what it waits for.
	thread *thread
	turn   uint64
	waits  string
}

// lineOf is a line about a request.
func (w *watch) lineOf(o *op, node uint64, name fp.Name, h *hang) hangLine {
	l := hangLine{op: o.Name, node: node, age: time.Duration(w.count.Load()-h.since) * lookEvery}
	if len(name) > 0 {
		l.name = name.String()
	}
	return l
}

// what is operation and path. The file system may have to close a file for it, which may wait: mu
// is not held.
func (l *hangLine) what(s *Server) string {
	path := s.fs.Path(l.node)
	switch {
	case path == "" && l.name != "":
		return fmt.Sprintf("%s of node %d, name %q", l.op, l.node, l.name)
	case path == "":
		return fmt.Sprintf("%s of node %d", l.op, l.node)
	case path == "." && l.name != "":
		path = l.name
	case l.name != "":
		path += "/" + l.name
	}
	return fmt.Sprintf("%s of %q", l.op, path)
}

// dueLines are the lines of this look. mu is held.
func (w *watch) dueLines(now uint32) (lines []hangLine) {
	for t := range w.threads {
		if s := &t.sight; s.stuck && s.hang.isDue(now) {
			s.hang.told.Store(true)
			lines = append(lines, w.describeThread(t))
		}
	}
	if now%restEvery == 0 {
		for _, d := range w.server.waiting.withoutThread() {
			if d.hang.isDue(now) {
				d.hang.told.Store(true)
				lines = append(lines, w.describePending(d))
			}
		}
	}
	return lines
}

// describeThread is the line of the request that a thread which is held serves.
func (w *watch) describeThread(t *thread) hangLine {
	h := &t.sight.own
	if t.sight.stuck {
		h = t.sight.hang
	}
	l := w.lineOf(t.op, t.request.Header.NodeID, t.name(t.op), h)
	l.thread, l.turn = t, t.sight.turn
	return l
}

// describePending is the line of a request that waits without a thread.
func (w *watch) describePending(d *pending) hangLine {
	t := thread{args: d.args}
	l := w.lineOf(d.op, d.header.NodeID, t.name(d.op), &d.hang)
	switch {
	case d.op.lingers:
		l.waits = "waits for another client's lock"
	case d.inGo:
		l.waits = "waits in the daemon"
	default:
		l.waits = "waits for a thread"
	}
	return l
}

// ended notes that a request has ended which was named. mu is held.
func (w *watch) ended(o *op, node uint64, name fp.Name, h *hang) {
	if !h.told.Swap(false) {
		return
	}
	if len(w.news) >= mostLines {
		w.unsaid++
		return
	}
	w.news = append(w.news, w.lineOf(o, node, name, h))
}

// notWaiting is ended for one that waited without a thread.
func (w *watch) notWaiting(d *pending) {
	if !d.hang.told.Load() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	t := thread{args: d.args}
	w.ended(d.op, d.header.NodeID, t.name(d.op), &d.hang)
}

// reporter writes messages on a goroutine of its own, because the log may also be on a file
// system that does not answer.
type reporter struct{ busy atomic.Bool }

// send has the lines written, and what has ended meanwhile; while earlier ones are being
// written they are left out. mu is held.
func (r *reporter) send(w *watch, lines []hangLine) {
	if len(lines)+len(w.news) == 0 || !r.busy.CompareAndSwap(false, true) {
		return
	}
	if !w.server.users.enter() {
		r.busy.Store(false)
		return
	}
	ended, unsaid := w.news, w.unsaid
	w.news, w.unsaid = nil, 0
	go func() {
		defer w.server.leaveFS()
		defer r.busy.Store(false)
		w.server.writeHangs(lines, mostLines, slog.LevelWarn, "A request hangs: ")
		for _, l := range ended {
			w.server.log.Info(fmt.Sprintf("A request that hung has ended after %v: %s", l.age.Round(time.Second), l.what(w.server)))
		}
		if unsaid > 0 {
			w.server.log.Info(fmt.Sprintf("%d more requests that hung have ended", unsaid))
		}
	}()
}

// writeHangs writes at most so many lines, the oldest requests first.
func (s *Server) writeHangs(lines []hangLine, most int, level slog.Level, intro string) {
	slices.SortStableFunc(lines, func(a, b hangLine) int { return cmp.Compare(b.age, a.age) })
	for _, l := range lines[:min(most, len(lines))] {
		s.log.Log(context.Background(), level, intro+l.what(s)+s.circumstances(&l))
	}
	if n := len(lines) - most; n > 0 {
		s.log.Log(context.Background(), level, fmt.Sprintf("%s%d more", intro, n))
	}
}

// circumstances are how long the request has been under way, and what it waits for.
func (s *Server) circumstances(l *hangLine) string {
	text := ", under way for " + l.age.Round(time.Second).String()
	if l.age < time.Second {
		text = ", under way for less than a second"
	}
	switch {
	case l.thread == nil:
		return text + ", " + l.waits
	case s.opts.ThreadState == nil:
		return text
	}
	state := s.opts.ThreadState(l.thread.tid)
	if atomic.LoadUint64(&l.thread.turn) != l.turn || state == "" {
		return text // it is in another request by now
	}
	return text + ", " + state
}

// LogRequests logs all requests that are under way, up to a few hundred, the oldest first. The
// age of one that does not hang is not known.
func (s *Server) LogRequests() {
	if !s.users.enter() {
		return
	}
	defer s.leaveFS()
	lines := s.watch.all()
	level := slog.LevelWarn
	if len(lines) == 0 {
		level = slog.LevelInfo
	}
	s.log.Log(context.Background(), level, fmt.Sprintf("%d requests are under way", len(lines)))
	s.writeHangs(lines, mostNamed, slog.LevelWarn, "Under way: ")
}

// peekTime is enough for a thread to see that it is held.
const peekTime = 10 * time.Millisecond

// all are lines of all requests.
func (w *watch) all() (lines []hangLine) {
	turns := w.peek()
	time.Sleep(peekTime)
	w.mu.Lock()
	defer w.mu.Unlock()
	for t, turn := range turns {
		if s := &t.sight; t.held.Load() && atomic.LoadUint64(&t.turn) == turn {
			if s.turn != turn {
				s.begin(turn, w.count.Load())
			}
			lines = append(lines, w.describeThread(t))
		}
	}
	for _, d := range w.server.waiting.withoutThread() {
		lines = append(lines, w.describePending(d))
	}
	for _, d := range w.server.waiting.locks() {
		lines = append(lines, w.describePending(d))
	}
	return lines
}

// peek holds all threads that are in a method, and returns their turns.
func (w *watch) peek() map[*thread]uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	turns := make(map[*thread]uint64)
	for t := range w.threads {
		if v := atomic.LoadUint64(&t.turn); v&turnBusy != 0 {
			t.held.Store(true)
			turns[t] = v
		}
	}
	return turns
}
