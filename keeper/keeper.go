package keeper

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options say how a keeper starts workers and what it does for them.
type Options struct {
	// Start starts a worker. Run's goroutine calls it.
	Start func(Launch) (*os.Process, error)
	// Check finds the program that is to take over in an upgrade, and tries whether it can. It may
	// take a while. nil refuses all upgrades.
	Check func() (*Program, error)
	// Recover has a worker that has died replaced. Without it the keeper ends as the worker does, and
	// holds nothing from the moment at which the worker has it.
	Recover bool
	// Ended reports whether the worker has said, in memory that outlives it, that it ends in order. nil
	// is never.
	Ended func() bool
	// Owner is a word in memory that workers share with the keeper: a worker that calls Owner.Own on it is replaced
	// earlier when it dies. nil is none.
	Owner *uint32
	// Limit is how many descriptors workers may have it hold. The keeper needs twice as many.
	Limit int
	// EndGrace is how long a worker may take to end after a signal. Then it is killed.
	EndGrace time.Duration
	// Ready is called when the first worker serves, Stopping when a signal ends the keeper. nil is
	// nothing.
	Ready, Stopping func()
	// Store keeps descriptors for the next start of the service; nil is none. If the keeper is told to end
	// while a front-end is connected, the worker leaves everything to a successor then.
	Store Store
	// Log gets a line for each death, and what is wrong. nil is slog.Default().
	Log *slog.Logger
}

// Launch is how a worker is started.
type Launch struct {
	Generation uint64
	Channel    *os.File // the worker's end, a descriptor for NewClient there; the keeper closes it
	Program    *Program // nil is the program of the keeper
}

// Program is one that workers run.
type Program struct {
	File    *os.File // the keeper closes it when no worker runs it any more
	Version string   // for the log
}

// Outcome is how the last worker has ended.
type Outcome struct {
	State  *os.ProcessState // nil if there was none
	Served bool             // it has said that it serves
	Told   bool             // it was told to end
	Quit   bool             // with SIGQUIT
	Left   bool             // everything was left to the next start of the service, see Options.Store
	// Err is the reason why there is no other worker, if it is none of the
	// above.
	Err error
}

// ErrGaveUp is wrapped by Outcome's error if workers have died again and again while they took over.
var ErrGaveUp = errors.New("the share can't be taken over")

// Keeper starts workers and holds descriptors for them.
type Keeper struct {
	o     Options
	log   *slog.Logger
	table *table
	clock clock

	events chan event
	done   chan struct{} // closed when Run returns
	// The following belong to Run's goroutine.
	generation  uint64
	worker      *worker // the one that serves or takes over; nil while there is none
	served      bool    // a worker has served
	deaths      int     // in a row, see delay
	takeOvers   int     // deaths in a row before the worker has served, of its own
	killedOvers int     // and by somebody else
	hung        bool    // the worker has not finished to take over, so it is killed
	told, quit  bool
	left        bool  // the worker was told to leave everything to the next start of the service
	restored    []Key // from the Store
	killed      bool  // how the last worker has ended, see Start.Killed
	upgrade     upgrade
	next        <-chan time.Time // when the next worker is to be started
	kill        <-chan time.Time // when the worker has had time enough to end
	hangs       <-chan time.Time // when taking over has taken too long
	quiet       <-chan time.Time // when the log does not wait for the first reply any more
	accepting   *accepting       // the wait for a front-end, or the last one
	notes       []*note          // deaths that are not in the log yet
}

// clock is the time, which tests make up.
type clock struct {
	now   func() time.Time
	after func(time.Duration) <-chan time.Time
}

// New makes a keeper.
func New(o Options) *Keeper {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &Keeper{o: o, log: o.Log, table: newTable(o.Limit), clock: clock{time.Now, time.After}, events: make(chan event), done: make(chan struct{})}
}

// Hold has the keeper hold a descriptor of its own process, which it owns from now on, for workers. It
// is called before Run.
func (k *Keeper) Hold(key Key, fd int) error {
	unix.CloseOnExec(fd)
	return k.table.put(key, fd)
}

// Run starts workers until the last one has ended. Signals end it, all but SIGQUIT as SIGTERM does.
// Two do not: SIGUSR2 has another program take over, see Options.Check, and SIGUSR1 is passed on.
func (k *Keeper) Run(signals <-chan os.Signal) Outcome {
	if k.o.Store != nil {
		k.table.saver = newSaver(k.o.Store, k.table, k.restored)
	}
	out := k.run(signals)
	close(k.done)
	k.accepting.cancel()
	out.Left = k.left && out.Err == nil && !k.ended()
	k.table.saver.finish(out.Left)
	k.table.closeAll()
	return out
}

func (k *Keeper) ended() bool { return k.o.Ended != nil && k.o.Ended() }

func (k *Keeper) run(signals <-chan os.Signal) Outcome {
	if err := k.start(); err != nil {
		return Outcome{Err: err}
	}
	for {
		var end *Outcome
		select {
		case e := <-k.events:
			end = k.handle(e)
		case sig := <-signals:
			switch sig {
			case unix.SIGUSR1:
				k.passOn(sig)
			case unix.SIGUSR2:
				k.beginUpgrade()
			default:
				end = k.signal(sig)
			}
		case <-k.next:
			k.next = nil
			end = k.startNext()
		case <-k.kill:
			k.kill = nil
			k.log.Warn("the worker does not end: killing it")
			_ = k.worker.process.Kill()
		case <-k.hangs:
			k.hangs, k.hung = nil, true
			k.log.Error(fmt.Sprintf("worker %d does not finish to take over: killing it", k.worker.generation))
			_ = k.worker.process.Kill()
		case <-k.quiet:
			k.quiet = nil
			k.tell("no request yet")
		}
		if end != nil {
			k.tell("no other worker")
			return *end
		}
	}
}

// passOn sends a signal to the worker if it has come so far that it does not end it.
func (k *Keeper) passOn(sig os.Signal) {
	if k.served && k.worker != nil {
		_ = k.worker.process.Signal(sig)
	}
}

// signal tells the worker to end, and has it print its stacks at SIGQUIT. It is told by a message, which
// can't come too early: a signal would be lost if a worker that is PID 1 had no handler yet.
func (k *Keeper) signal(sig os.Signal) *Outcome {
	k.quit = k.quit || sig == unix.SIGQUIT
	k.told = k.told || sig != unix.SIGQUIT
	if k.o.Stopping != nil {
		k.o.Stopping()
	}
	k.left = k.left || k.canLeave() && sig != unix.SIGQUIT
	switch {
	case k.worker == nil:
		return &Outcome{Told: k.told, Quit: k.quit}
	case sig == unix.SIGQUIT:
		_ = k.worker.process.Signal(sig)
	case k.left:
		go k.worker.order(opPark)
	default:
		go k.worker.order(opEnd)
	}
	if k.kill == nil {
		k.kill = k.clock.after(k.o.EndGrace)
	}
	return nil
}

// canLeave reports whether the next start of the service can go on with the front-end, or with the guest that
// comes over vsock.
func (k *Keeper) canLeave() bool {
	return k.o.Store != nil && k.o.Recover && (k.table.has(Connection()) || k.table.has(Accepted()) || k.table.has(Stream()))
}

// handle does what follows from something that a worker has said or that has happened to it.
func (k *Keeper) handle(e event) *Outcome {
	switch {
	case e.serves:
		k.serves(e.worker)
	case e.replied:
		if e.worker == k.worker && e.worker.serving {
			e.worker.replied = true
			k.tell(k.firstReply())
		}
	case e.accept:
		k.accept(e.worker)
	case e.checked != nil:
		k.checked(e.checked)
	case e.gone != nil:
		return k.gone(e)
	case e.state != nil || e.err != nil:
		return k.died(e)
	}
	return nil
}

func (k *Keeper) serves(w *worker) {
	if w != k.worker || w.serving {
		return
	}
	w.serving, w.since = true, k.clock.now()
	k.takeOvers, k.killedOvers, k.hangs = 0, 0, nil
	if !k.served {
		k.served = true
		if k.o.Ready != nil {
			k.o.Ready()
		}
	}
	k.upgraded()
	if len(k.notes) > 0 {
		k.back(fmt.Sprintf("worker %d serves after %s with these descriptors: %s", w.generation, k.sinceDeath(), countKinds(k.table.keys())))
		k.quiet = k.clock.after(time.Second)
	}
	k.park()
}

// died decides what follows from a death.
func (k *Keeper) died(e event) *Outcome {
	w := e.worker
	if w.over {
		return nil
	}
	k.end(w)
	out := &Outcome{State: e.state, Served: w.serving, Told: k.told, Quit: k.quit, Err: e.err}
	if e.err != nil || k.isLast() {
		return out
	}
	status, _ := e.state.Sys().(syscall.WaitStatus)
	return k.follow(w, status)
}

// gone is died for a worker that is not reaped yet. If there is no other one after it, the keeper waits for that.
func (k *Keeper) gone(e event) *Outcome {
	if e.worker.over || k.isLast() {
		return nil
	}
	k.end(e.worker)
	return k.follow(e.worker, *e.gone)
}

// isLast reports whether there is no other worker after this one.
func (k *Keeper) isLast() bool {
	return k.told || k.quit || !k.o.Recover || !k.served && len(k.restored) == 0 || k.ended()
}

// end notes a worker's death.
func (k *Keeper) end(w *worker) {
	w.over = true
	for _, m := range w.drain(k) { // what it has handed up counts
		k.handle(m)
	}
	k.worker, k.hangs, k.kill = nil, nil, nil
	k.accepting.cancel() // its successor is handed what has come
	k.accepting = nil
}

// follow has another worker started.
func (k *Keeper) follow(w *worker, status syscall.WaitStatus) *Outcome {
	k.killed = k.upgrade.parking || status.Signaled() && (status.Signal() == unix.SIGKILL || status.Signal() == unix.SIGTERM)
	if k.upgrade.parking {
		return k.handedOver(w, status)
	}
	return k.replace(w, describe(status))
}

// replace has the next worker started after a death, at once or after a while.
func (k *Keeper) replace(w *worker, how string) *Outcome {
	now := k.clock.now()
	if w != nil && w.serving {
		// A worker that has done something, and was killed from outside, says nothing about the next.
		if w.replied && k.killed || now.Sub(w.since) >= calm {
			k.deaths = 0
		}
	} else if w != nil && k.killed && !k.hung {
		k.killedOvers++
	} else {
		k.takeOvers++
	}
	k.hung = false
	k.deaths++
	k.fallBack()
	k.tell("and its successor has died")
	k.notes = append(k.notes, &note{generation: k.generation, how: "has died (" + how + ")", at: now})
	if k.tooMany(2) {
		k.alarm()
		return &Outcome{Served: true, Err: fmt.Errorf("%w: %d workers have died while they did it", ErrGaveUp, k.takeOvers+k.killedOvers)}
	}
	if d := delay(k.deaths); d > 0 {
		k.next = k.clock.after(d)
		return nil
	}
	return k.startNext()
}

// tooMany reports whether so many workers have died while they took over that the next one refuses what
// was under way (times 1), or that there is no next one (times 2). Those that were killed by somebody
// else say little about taking over, but the kernel kills again and again if it takes too much memory.
func (k *Keeper) tooMany(times int) bool {
	return k.takeOvers >= times*maxTakeOver || k.killedOvers >= times*maxKilledOver
}

// startNext starts a successor.
func (k *Keeper) startNext() *Outcome {
	if err := k.start(); err != nil {
		return k.replace(nil, err.Error())
	}
	k.hangs = k.clock.after(takeOverTime)
	return nil
}

// start starts a worker and hands it what there is.
func (k *Keeper) start() error {
	k.generation++
	if k.o.Owner != nil {
		atomic.StoreUint32(k.o.Owner, uint32(k.generation)&^(futexWaiters|futexOwnerDied)) // different from that of the last one
	}
	ours, theirs, err := pair()
	if err != nil {
		return fmt.Errorf("keeper: %w", err)
	}
	process, err := k.o.Start(Launch{Generation: k.generation, Channel: theirs, Program: k.upgrade.program})
	_ = theirs.Close()
	if err != nil {
		_ = ours.Close()
		return err
	}
	k.worker = newWorker(k, process, ours)
	return nil
}

// alarm tells the front-end that its rings are not served any more: by their eventfds for errors.
func (k *Keeper) alarm() {
	done := make(chan struct{})
	go func() { // a worker may have given a counter to which a write waits
		defer close(done)
		for _, key := range k.table.keys() {
			if key.Kind == KindErr {
				k.signalErr(key)
			}
		}
	}()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
}

// signalErr adds 1 to an eventfd that is held, and leaves everything else alone. It uses a copy of the
// descriptor: a write that waits must not have the table locked.
func (k *Keeper) signalErr(key Key) {
	fd := -1
	if has, err := k.table.with(key, func(held int) (err error) {
		fd, err = unix.FcntlInt(uintptr(held), unix.F_DUPFD_CLOEXEC, 0)
		return err
	}); !has || err != nil {
		return
	}
	defer unix.Close(fd)
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil || name != "anon_inode:[eventfd]" {
		return
	}
	// The front-end does not need a full counter's signal: it has not read the last one.
	if wait(fd, unix.POLLOUT, 0) == nil {
		_, _ = unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}
