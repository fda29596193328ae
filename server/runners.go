package server

// maxIdleRunners is how many goroutines without a request are kept for requests that wait in Go. Each takes what
// heldGoroutine says.
const maxIdleRunners = 16

// runners are goroutines that serve requests which wait in Go, one request each at a time. A goroutine that has served one has a
// stack that is large enough, and a Thread: to make both for each request took as long as many requests do.
type runners struct {
	hand   chan *pending // without a buffer: only a goroutine that is idle takes from it
	idle   chan struct{} // has an element for each of them
	closed chan struct{}
}

func (w *runners) init() {
	w.hand, w.idle, w.closed = make(chan *pending), make(chan struct{}, maxIdleRunners), make(chan struct{})
}

// close has goroutines without a request end.
func (w *runners) close() { close(w.closed) }

// serve serves d, which counts among the server's users.
func (w *runners) serve(d *pending) {
	select {
	case w.hand <- d:
	default:
		go w.run(d)
	}
}

func (w *runners) run(d *pending) {
	s := d.server
	t := newWaiter(s)
	for {
		d.finish(t)
		d = nil
		t.letGo()
		s.leaveFS()
		if t.Broken() {
			return // a method was cut off half-way
		}
		select {
		case w.idle <- struct{}{}:
		default:
			return
		}
		select {
		case d = <-w.hand:
			<-w.idle
		case <-w.closed:
			return
		}
	}
}

// letGo lets go of what belongs to the last request.
func (t *thread) letGo() {
	t.request = Request{Thread: &t.Thread, of: t}
	t.session, t.args, t.data, t.writeTo, t.bulk, t.reply, t.mappings = nil, nil, nil, nil, nil, nil, nil
	t.dir = DirWriter{}
}
