package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/keeper"
	"github.com/govirtiofs/govirtiofs/ledger"
	"github.com/govirtiofs/govirtiofs/server"
)

// childEnv tells a process that it is a worker: descriptor childChannel is its channel to the
// keeper, and childLedger the ledger if there is ledgerEnv.
const (
	childEnv     = "GOVIRTIOFSD_SANDBOXED"
	ledgerEnv    = "GOVIRTIOFSD_LEDGER"
	childChannel = 3
	childLedger  = 4
)

// inChild reports whether this process is a worker.
func inChild() bool {
	_, ok := os.LookupEnv(childEnv)
	return ok
}

// process is what the serving process has got from its parent.
type process struct {
	endpoint *endpoint // nil in a worker, which gets its sockets from the keeper
	notify   *notifier // nil in a worker
	long     *os.File  // connection of the DAX helper, or nil

	client *keeper.Client // nil without recovery
	start  keeper.Start
	again  bool // the connection is one that another worker has served
	// generation counts the workers that have had the ledger, also those of an earlier keeper.
	generation uint64
	link       *keeper.Client   // to the keeper, nil if there is none
	owner      *keeper.Owner    // nil without recovery
	ledger     *ledger.Ledger   // nil without recovery
	more       []*ledger.Ledger // of other shares than the first
	paused     sync.Once        // see pauseCollector
	phases     *phases          // of a worker's start; nil: not measured

	mu      sync.Mutex
	servers []*server.Server // whose requests are logged at requestSignal

	told    atomic.Bool      // the keeper has said that it is to end
	signals chan<- os.Signal // in a worker: gets SIGTERM when the keeper says that it is to end
}

// init keeps a worker's main goroutine on the first thread, for startChild: on a busy machine it is on another one soon.
func init() {
	if inChild() {
		runtime.LockOSThread()
	}
}

// startChild is start in a worker.
func startChild(o *options, log *logrus.Logger) error {
	phases := newPhases()
	owner := keeper.NewOwner()
	runtime.UnlockOSThread()
	// Signals that arrive as such take three threads (package os/signal), and there is nothing that
	// a signal could interrupt before a front-end connects. Until then the keeper says when to end.
	signal.Ignore(append([]os.Signal{unix.SIGUSR2}, servingSignals...)...)
	signals := make(chan os.Signal, 4)
	o.onConnection = sync.OnceFunc(func() { signal.Notify(signals, servingSignals...) })
	p := &process{signals: signals, link: keeper.NewClient(childChannel), long: adoptStretch(), phases: phases}
	forbidden, err := o.probeCalls(log)
	if err == nil {
		err = o.takeRelay()
	}
	if err == nil {
		err = o.goWithout(forbidden, log)
	}
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	if os.Getenv(ledgerEnv) != "" {
		_ = os.Unsetenv(ledgerEnv)
		unix.CloseOnExec(childLedger)
		p.client = p.link
		p.owner = owner
	}
	phases.end("options")
	return serve(o, p, log, signals)
}

// takeOverPatience is how long a keeper may take to hand over what it holds.
const takeOverPatience = time.Minute

// takeOver gets what the process is to serve. A worker calls it when it is confined: what it reads
// here, another worker may have written.
func (p *process) takeOver() (*acceptor, error) {
	if p.link == nil {
		return newAcceptor(p.endpoint)
	}
	var err error
	if p.start, err = p.link.Receive(takeOverPatience); err != nil {
		return nil, err
	}
	p.phases.end("receive")
	if err := p.link.Listen(p.obey); err != nil {
		return nil, err
	}
	if p.client != nil {
		var err error
		if p.ledger, err = ledger.Open(childLedger); err != nil {
			return nil, err
		}
		p.generation = p.ledger.Begin()
		p.owner.Own(p.ledger.Owner())
	}
	return p.sockets()
}

// obey does what the keeper says.
func (p *process) obey(o keeper.Order) {
	if o == keeper.OrderPark {
		os.Exit(exitParked) // what is under way is a successor's, as after a crash
	}
	if p.client.Left(0) {
		os.Exit(exitParked)
	}
	p.told.Store(true)
	p.signals <- unix.SIGTERM
}

// sockets are the listening socket and the connection that the keeper holds.
func (p *process) sockets() (*acceptor, error) {
	a := &acceptor{}
	if fd, ok := p.link.Take(keeper.Listener()); ok {
		l, err := newAcceptor(&endpoint{file: os.NewFile(uintptr(fd), "vhost-user socket")})
		if err != nil {
			return nil, err
		}
		a.listener, a.vsock = l.listener, l.vsock
		if a.listener != nil && p.link.Accepts() {
			a.keeper = p.link
		}
	}
	if fd, ok := p.link.Take(keeper.Connection()); ok {
		c, err := newAcceptor(&endpoint{file: os.NewFile(uintptr(fd), "vhost-user socket"), connected: true})
		if err != nil {
			return nil, err
		}
		a.first = c.first
		p.again = p.generation > 1
		p.link.Drop(keeper.Accepted()) // it is the same one
	}
	return a, nil
}

// ready says that front-ends can connect.
func (p *process) ready() error {
	p.ledger.Serving()
	for _, l := range p.more {
		l.Serving()
	}
	p.notify.ready()
	return p.link.Serving()
}

// connected has the keeper hold a connection as the front-end's before the worker stops listening, or lets go of what was
// accepted: a worker that dies in between has a successor. If more front-ends are to come, it continues to listen.
func (p *process) connected(c *net.UnixConn, more bool) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var keepErr error
	err = raw.Control(func(fd uintptr) { keepErr = p.client.Keep(keeper.Connection(), int(fd)) })
	if !more {
		p.client.Drop(keeper.Listener())
	}
	if err == nil {
		err = keepErr
	}
	p.client.Drop(keeper.Accepted())
	return err
}

// disconnected has the keeper let go of all that a front-end had, but for the guest's memory and files if its
// session waits.
func (p *process) disconnected(waits bool) {
	if waits {
		return // each has dropped what is not needed
	}
	p.client.DropAll(keeper.KindConnection, keeper.KindRegion, keeper.KindKick, keeper.KindCall, keeper.KindErr, keeper.KindLog,
		keeper.KindInflight, keeper.KindChannel, keeper.KindNode, keeper.KindOpen, keeper.KindLock, keeper.KindAnswer, keeper.KindOutbox)
}
