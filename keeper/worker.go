package keeper

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/spawn"
)

// worker is a process that was started.
type worker struct {
	generation uint64
	process    *os.Process
	channel    *os.File
	read       chan struct{} // closed when no goroutine reads from channel any more
	grumble    sync.Once
	fail       bool
	killed     bool // the one before it was killed from outside
	patrol     *patrol
	watched    sync.Once // see guard

	// The following belong to Run's goroutine.
	serving bool
	replied bool
	since   time.Time // when it has begun to serve
	over    bool      // it is dead, and what follows is done
}

// event is something that a worker has said, or that has happened to it.
type event struct {
	worker  *worker
	serves  bool
	replied bool
	accept  bool                // it waits for a front-end
	state   *os.ProcessState    // it is dead
	gone    *syscall.WaitStatus // none of its threads runs any more
	err     error               // it can't be waited for
	checked *checked            // not of the worker: what came of Options.Check
}

// pair makes a channel. Both ends are closed on exec; the other one is passed on in any case.
func pair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	for _, fd := range fds { // room for more messages while the other side is stopped; the kernel has its limits
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20)
	}
	return os.NewFile(uintptr(fds[0]), "channel"), os.NewFile(uintptr(fds[1]), "worker's channel"), nil
}

func newWorker(k *Keeper, process *os.Process, channel *os.File) *worker {
	w := &worker{generation: k.generation, process: process, channel: channel, read: make(chan struct{}), fail: k.tooMany(1), killed: k.killed,
		patrol: newPatrol(k.o.Owner, process.Pid)}
	if k.table.hasClient() {
		w.guard(k)
	}
	go w.listen(k)
	go w.handOver(k)
	go w.wait(k)
	return w
}

// wait waits for the worker's end.
func (w *worker) wait(k *Keeper) {
	spawn.UntilEnded(w.process)
	var state *os.ProcessState
	var err error
	w.patrol.reap(func() { state, err = w.process.Wait() })
	k.tellRun(event{worker: w, state: state, err: err})
}

// guard has the keeper notice the worker's death early. That takes a thread, which sleeps on the word. So it begins
// when there is a client, for whom a death should be short.
func (w *worker) guard(k *Keeper) {
	if w.patrol != nil {
		w.watched.Do(func() { go w.watch(k) })
	}
}

// watch waits until the worker is about to be gone.
func (w *worker) watch(k *Keeper) {
	if !w.patrol.await() {
		return
	}
	_ = w.process.Kill()
	if status, ok := w.patrol.stopped(); ok {
		k.tellRun(event{worker: w, gone: &status})
	}
}

// tellRun passes an event on to Run, unless that has returned.
func (k *Keeper) tellRun(e event) {
	select {
	case k.events <- e:
	case <-k.done:
	}
}

// order gives the worker an order.
func (w *worker) order(o op) {
	if raw, err := w.channel.SyscallConn(); err == nil {
		_ = w.sendOne(raw.Write, func(fd int) error { return send(fd, &message{op: o, fd: -1}) })
	}
}

// listen takes the worker's messages until drain stops it.
func (w *worker) listen(k *Keeper) {
	defer close(w.read)
	raw, err := w.channel.SyscallConn()
	if err != nil {
		return
	}
	for {
		var e *event
		err := raw.Read(func(fd uintptr) bool {
			var done bool
			e, done = w.take(k, int(fd))
			return done || e != nil
		})
		if err != nil || e == nil {
			return
		}
		k.events <- *e
	}
}

// take takes messages from the channel. done says that there are no more at all; what Run has to know it
// returns at once.
func (w *worker) take(k *Keeper, fd int) (e *event, done bool) {
	for {
		m, err := receive(fd, k.table.closer.close)
		switch {
		case errors.Is(err, errForm):
			w.grumble.Do(func() {
				k.log.Warn(fmt.Sprintf("worker %d: %v; it and others like it are ignored", w.generation, err))
			})
		case errors.Is(err, unix.EAGAIN):
			return nil, false
		case err != nil:
			return nil, true
		default:
			if e := w.obey(k, &m); e != nil {
				return e, false
			}
		}
	}
}

// obey does what a message says, or returns it for Run.
func (w *worker) obey(k *Keeper, m *message) *event {
	switch m.op {
	case opKeep:
		if !k.o.Recover {
			k.table.closer.close(m.fd)
			return nil
		}
		if !m.key.Kind.isWorkers() {
			k.table.closer.close(m.fd)
			w.grumble.Do(func() {
				k.log.Warn(fmt.Sprintf("worker %d: %s is not a worker's to replace; it and others like it are ignored", w.generation, m.key))
			})
			return nil
		}
		if err := k.table.put(m.key, m.fd); err != nil {
			w.grumble.Do(func() { k.log.Warn(fmt.Sprintf("worker %d: %s: %v", w.generation, m.key, err)) })
		}
		w.guard(k)
	case opDrop:
		k.table.drop(m.key)
	case opServing:
		return &event{worker: w, serves: true}
	case opAccept:
		return &event{worker: w, accept: true}
	case opReplied:
		return &event{worker: w, replied: true}
	default:
		if m.fd >= 0 {
			k.table.closer.close(m.fd)
		}
	}
	return nil
}

// drain takes all messages of a worker that is dead, and closes the channel.
func (w *worker) drain(k *Keeper) (events []event) {
	raw, err := w.channel.SyscallConn()
	if err == nil { // somebody else may have got the worker's end from it, and would send for ever
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RD) })
	}
	stopped := time.Unix(1, 0)
	_ = w.channel.SetDeadline(stopped)
	for reading := true; reading; {
		select {
		case <-w.read:
			reading = false
		case e := <-k.events: // the one that listen could not pass on any more
			events = append(events, e)
		}
	}
	if err == nil {
		_ = raw.Control(func(fd uintptr) {
			for {
				e, _ := w.take(k, int(fd))
				if e == nil {
					return
				}
				events = append(events, *e)
			}
		})
	}
	_ = w.channel.Close()
	return events
}

// handOver sends a worker what the keeper holds, and that this was all.
func (w *worker) handOver(k *Keeper) {
	raw, err := w.channel.SyscallConn()
	if err != nil {
		return
	}
	keys := k.table.keys()
	for _, key := range keys {
		if w.sendOne(raw.Write, func(fd int) error {
			_, err := k.table.with(key, func(kept int) error { return send(fd, &message{op: opKept, key: key, fd: kept}) })
			return err
		}) != nil {
			return
		}
	}
	begin := &message{op: opBegin, fd: -1, words: [3]uint64{w.generation, uint64(k.table.limit), 0}}
	if w.fail {
		begin.words[2] |= beginFail
	}
	if w.killed {
		begin.words[2] |= beginKilled
	}
	if k.o.Recover {
		begin.words[2] |= beginAccepts
	}
	if k.o.Store != nil {
		begin.words[2] |= beginStored
	}
	_ = w.sendOne(raw.Write, func(fd int) error { return send(fd, begin) })
	if !k.o.Recover { // the worker alone has it: when it is gone, front-ends are to notice
		k.table.closeAll()
	}
}

// crowded is how long to wait when too many descriptors are on their way in sockets (ETOOMANYREFS): those of all processes
// of the user count, and RLIMIT_NOFILE is the limit for a process without privileges.
const crowded = 10 * time.Millisecond

// sendOne sends one message when the socket has room for it.
func (w *worker) sendOne(write func(func(uintptr) bool) error, send func(fd int) error) error {
	for {
		var err error
		if stopped := write(func(fd uintptr) bool {
			err = send(int(fd))
			return !errors.Is(err, unix.EAGAIN)
		}); stopped != nil {
			return stopped
		}
		if !errors.Is(err, unix.ETOOMANYREFS) {
			return err
		}
		time.Sleep(crowded)
	}
}
