package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/share"
	"github.com/govirtiofs/govirtiofs/keeper"
	"github.com/govirtiofs/govirtiofs/ledger"
	"github.com/govirtiofs/govirtiofs/sandbox"
)

// supervised reports whether this process is to have another one serve.
func (o *options) supervised() bool {
	return o.Sandbox == sandbox.ModeNamespace || o.Recover == share.RecoveryAuto
}

// supervisor is the process outside of the sandbox: the keeper. It starts the worker, passes
// signals on, removes what the daemon has made, and ends as the worker does. If there is recovery, it
// starts another one when the worker dies.
type supervisor struct {
	o      *options
	long   *os.File // connection of the DAX helper, or nil
	notify *notifier
	passed *passed
	log    *logrus.Logger

	ledger *ledger.Ledger    // nil without recovery
	again  *sandbox.Launcher // starts all workers but the first
	store  *fdStore          // nil if the service manager has none
}

// isStored reports whether the name is one of a descriptor in a service manager's store.
func isStored(name string) bool {
	k, ok := keeper.ParseKey(name)
	return ok && k.Kind != keeper.KindListener || name == ledgerName
}

// supervise returns when there is no worker any more.
func supervise(o *options, s *supervisor, e *endpoint, signals <-chan os.Signal) error {
	s.store = openStore(s.notify)
	if o.Recover != share.RecoveryAuto || o.VsockState != "" { // the file outlives more than the store
		s.passed.discard(s.store)
		s.store = nil
	}
	s.openLedger()
	s.again = sandbox.NewLauncher(o.Capabilities)
	path, err := ownPath()
	if err != nil {
		return err
	}
	opts := keeper.Options{
		Start: s.start, Check: func() (*keeper.Program, error) { return checkUpgrade(path) },
		Recover: s.ledger != nil, Ended: s.ended, Owner: s.ledger.Owner(),
		Limit: keeperFiles(o), EndGrace: endGrace + time.Second,
		Ready: s.notify.ready, Stopping: s.notify.stopping, Log: slog.New(libraryHandler{log: s.log}),
	}
	if s.store != nil && s.ledger != nil {
		opts.Store = s.store
	}
	k := keeper.New(opts)
	if err := hold(k, e); err != nil {
		return err
	}
	if s.ledger != nil {
		if err := holdStreams(k, o); err != nil {
			return err
		}
	}
	for name, fd := range s.passed.stored {
		if err := k.Restore(name, fd); err != nil {
			return err
		}
	}
	out := k.Run(signals)
	if opts.Store != nil && !out.Left {
		_ = s.store.Remove(ledgerName)
	}
	return outcome(out)
}

// hold has the keeper hold the endpoint's descriptor.
func hold(k *keeper.Keeper, e *endpoint) error {
	fd, err := unix.FcntlInt(e.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	e.file.Close()
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	if e.connected {
		return k.Hold(keeper.Connection(), fd)
	}
	return k.Hold(keeper.Listener(), fd)
}

// openLedger makes the ledger if there is to be recovery, or takes the one that was stored, together with
// a front-end's connection or the memory of streams. Without both nothing that was stored is of any use.
func (s *supervisor) openLedger() {
	if s.o.Recover != share.RecoveryAuto {
		return
	}
	fd, ok1 := s.passed.stored[ledgerName]
	delete(s.passed.stored, ledgerName)
	with := keeper.Connection()
	if s.o.Streams() {
		with = keeper.Stream()
	}
	_, ok2 := s.passed.stored[with.String()]
	_, accepted := s.passed.stored[keeper.Accepted().String()]
	ok2 = ok2 || accepted
	if ok1 && ok2 {
		l, err := ledger.Open(fd)
		if err == nil && !l.Ended() {
			s.ledger = l
			s.log.Infof("Continuing with the previous front-end; the service manager has kept %d descriptors", len(s.passed.stored)+1)
			return
		}
		if err != nil {
			s.log.WithError(err).Error("The previous front-end is lost")
		}
	}
	if ok1 {
		_ = unix.Close(fd)
		_ = s.store.remove(ledgerName)
	}
	s.passed.discard(s.store)
	l, err := ledger.Create()
	if err != nil {
		s.log.WithError(err).Warn("No recovery: if the serving process dies, the daemon ends")
		return
	}
	s.ledger = l
	if s.store != nil {
		_ = s.store.Put(ledgerName, l.FD())
	}
}

func (s *supervisor) ended() bool { return s.ledger != nil && s.ledger.Ended() }

// Limits of the keeper's descriptors.
const (
	keeperOwn      = 64 // what it needs for itself
	keeperSpare    = 16 // what workers may have it hold in any case, if little is allowed
	keeperMostHeld = 1 << 20
)

// keeperFiles raises the limit of open files as far as it goes, and returns how many descriptors workers
// may have this process hold.
func keeperFiles(o *options) int {
	var now unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &now) != nil {
		return keeperSpare
	}
	most := now.Max
	if o.NoFile == nil {
		most = max(most, sandbox.DefaultNoFile())
	}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: most}) != nil {
		most = now.Max // no privilege to raise the hard limit
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: most})
	}
	// Twice as many: those that are being closed count, too.
	return int(max(min(most, 2*keeperMostHeld), keeperOwn+2*keeperSpare)-keeperOwn) / 2
}

// start starts a worker.
func (s *supervisor) start(l keeper.Launch) (*os.Process, error) {
	env := append(leanEnviron("govirtiofsd"), childEnv+"=1", startedNow())
	files := []*os.File{childChannel - 3: l.Channel}
	if s.ledger != nil {
		env = append(env, ledgerEnv+"=1")
		f, err := dupFile(s.ledger.FD(), "ledger")
		if err != nil {
			return nil, err
		}
		defer f.Close()
		files = append(files, f)
	}
	if s.long != nil {
		env = append(env, stretchClientEnv+"=1")
		files = append(files[:len(files):len(files)], make([]*os.File, childStretch-3-len(files))...)
		files = append(files, s.long)
	}
	if s.o.relay != nil {
		env, files = s.o.relay.pass(env, files)
	}
	program := ""
	if l.Program != nil {
		program = procPath(l.Program.File)
	}
	start := startPlain
	if s.o.Sandbox == sandbox.ModeNamespace {
		box := s.o.Namespace
		box.Program = program
		start = func(_ string, env []string, files []*os.File) (*exec.Cmd, error) { return box.Start(env, files) }
	}
	var cmd *exec.Cmd
	var err error
	begin := func() { cmd, err = start(program, env, files) }
	if l.Generation == 1 {
		begin()
	} else { // a guest waits. At the first start nobody does, and most daemons never need the launcher's thread
		s.again.Do(begin)
	}
	if err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	return cmd.Process, nil
}

func dupFile(fd int, name string) (*os.File, error) {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(own), name), nil
}

// startPlain runs the program once more, or another one, as [sandbox.Namespace.Start] does, in the same
// namespaces.
func startPlain(program string, env []string, files []*os.File) (*exec.Cmd, error) {
	cmd := exec.Command(cmp.Or(program, "/proc/self/exe"))
	cmd.Args = os.Args
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), env...)
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGTERM}
	_ = unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	return cmd, cmd.Start()
}

// outcome is what the last worker's end means for this process.
func outcome(out keeper.Outcome) error {
	switch {
	case out.Err != nil:
		return out.Err
	case out.Left: // the service manager has it all
		return errSignal
	case out.Told && !out.Served: // however it has ended: it may not have had a handler yet
		return errSignal
	case out.State == nil: // there was SIGQUIT when there was none
		return &childStatus{exitQuit}
	}
	return childError(out.State)
}

// childError is nil when the worker exited with 0.
func childError(state *os.ProcessState) error {
	status, ok := state.Sys().(syscall.WaitStatus)
	switch {
	case state.Success():
		return nil
	case ok && status.Signaled():
		return fmt.Errorf("serving process: %v", state)
	}
	return &childStatus{max(state.ExitCode(), exitStart)}
}
