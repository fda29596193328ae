package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/share"
	"github.com/govirtiofs/govirtiofs/sandbox"
	"github.com/govirtiofs/govirtiofs/server"
)

// errSignal says that a signal ended the daemon.
var errSignal = errors.New("ended by a signal")

// childStatus is the exit status of the worker, when it is not 0.
type childStatus struct{ code int }

func (s *childStatus) Error() string { return fmt.Sprintf("serving process exited with %d", s.code) }

// endSignals ask the daemon to end.
var endSignals = []os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP}

// requestSignal has all requests under way logged.
const requestSignal = unix.SIGUSR1

// servingSignals are those of the process that serves.
var servingSignals = append([]os.Signal{requestSignal}, endSignals...)

// supervised are those that the keeper passes on: also SIGQUIT, at which a Go program prints its
// stacks and exits with 2.
var supervised = append([]os.Signal{unix.SIGQUIT}, servingSignals...)

// removeAtQuit has SIGQUIT remove the endpoint's files before it does what it does to a Go
// program.
func removeAtQuit(e *endpoint) {
	quit := make(chan os.Signal, 1)
	signal.Notify(quit, unix.SIGQUIT)
	go func() {
		<-quit
		e.removeFiles()
		signal.Reset(unix.SIGQUIT)
		_ = unix.Kill(os.Getpid(), unix.SIGQUIT)
	}()
}

// takeSignals has the process get those signals that it takes from its start on.
func (o *options) takeSignals() <-chan os.Signal {
	signals := make(chan os.Signal, 4)
	signal.Ignore(unix.SIGUSR2) // it would end the process; a keeper upgrades
	if o.supervised() {
		signal.Notify(signals, supervised...)
		if o.Recover == share.RecoveryAuto {
			signal.Notify(signals, unix.SIGUSR2)
		}
	} else {
		signal.Notify(signals, servingSignals...)
	}
	return signals
}

// start opens the endpoint and serves it, in this process or in another one.
func start(o *options, log *logrus.Logger) error {
	if inChild() {
		_ = os.Unsetenv(childEnv)
		return startChild(o, log)
	}
	signals := o.takeSignals()
	for _, w := range o.Warnings {
		log.Warn(w)
	}
	for _, n := range o.Notes {
		log.Debug(n)
	}
	if err := o.takeRelay(); err != nil {
		return err
	}
	if s := o.aboutOwners(os.Geteuid()); s != "" && o.relay == nil {
		log.Info(s)
	}
	n := openNotifier(log)
	if err := o.checkShares(); err != nil {
		return err
	}
	files, err := openVsockFiles(o) // mistakes are told before anything is made
	if err != nil {
		return err
	}
	files.close()
	passed := takePassed(isStored)
	e, err := openEndpoint(o, &passed)
	if err != nil {
		return err
	}
	defer e.remove()
	defer n.stopping()
	if !o.supervised() {
		removeAtQuit(e)
	}
	if e.connected && o.KeepListening {
		return errors.New("--keep-listening needs a listening socket: the descriptor of --fd is a connection")
	}
	if builtWithCgo && o.Sandbox != sandbox.ModeNone {
		return errors.New("this program was built with cgo and can't drop the privileges of its threads in a sandbox: build it with CGO_ENABLED=0")
	}
	forbidden, err := o.probeCalls(log)
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	long := startStretch(o, log)
	if o.supervised() {
		return supervise(o, &supervisor{o: o, long: long, notify: n, passed: &passed, log: log}, e, signals)
	}
	if err := o.goWithout(forbidden, log); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	return serve(o, &process{endpoint: e, notify: n, long: long}, log, signals)
}

// checkShares names a share that can't be served.
func (o *options) checkShares() error {
	for _, s := range o.Shares() {
		err := sandbox.CheckShare(s.Dir)
		switch {
		case err == nil:
		case len(o.VsockShares) > 0:
			return fmt.Errorf("shared directory of --vsock-share %s: %w", s.Name, err)
		default:
			return fmt.Errorf("shared directory: %w", err)
		}
	}
	return nil
}

// logAtSignal has all requests under way logged at each requestSignal.
func (p *process) logAtSignal(s *server.Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.servers = append(p.servers, s)
}

func (p *process) logRequests() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.servers {
		s.LogRequests()
	}
}

// endGrace is how long requests that are being served may take after a signal.
const endGrace = 5 * time.Second

// untilSignal returns a context that ends at the first signal that ends the daemon.
func (p *process) untilSignal(signals <-chan os.Signal) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(context.Background())
	asked := make(chan struct{}, 1)
	go func() { // a goroutine of its own: the log may not be read
		for range asked {
			p.logRequests()
		}
	}()
	go func() {
		for sig := range signals {
			if sig == requestSignal {
				select {
				case asked <- struct{}{}:
				default:
				}
				continue
			}
			if !p.told.Load() && p.client.Left(time.Second) { // it is the signal for the keeper's death
				os.Exit(exitParked)
			}
			cancel(errSignal)
		}
	}()
	return ctx, cancel
}
