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

// workersResume says that a worker can go on with the front-end of one that has died.
const workersResume = false

// supervised reports whether this process is to have another one serve.
func (o *options) supervised() bool {
	return o.Sandbox == sandbox.ModeNamespace || o.Recover == share.RecoveryAuto
}

// supervisor is the process outside of the sandbox: the keeper. It starts the worker, passes
// signals on, removes what the daemon has made, and ends as the worker does. If there is recovery, it
// starts another one when the worker dies.
type supervisor struct {
	o      *options
	ledger *ledger.Ledger // nil without recovery
	long   *os.File       // connection of the DAX helper, or nil
}

// supervise returns when there is no worker any more.
func supervise(o *options, e *endpoint, n *notifier, long *os.File, log *logrus.Logger, signals <-chan os.Signal) error {
	s := &supervisor{o: o, long: long}
	if o.Recover == share.RecoveryAuto {
		var err error
		if s.ledger, err = ledger.Create(); err != nil {
			log.WithError(err).Warn("No recovery: if the serving process dies, the daemon ends")
		}
	}
	path, err := ownPath()
	if err != nil {
		return err
	}
	k := keeper.New(keeper.Options{
		Start: s.start, Check: func() (*keeper.Program, error) { return checkUpgrade(path) },
		Recover: s.ledger != nil, Resumes: workersResume, Ended: s.ended,
		Limit: keeperFiles(o), EndGrace: endGrace + time.Second,
		Ready: n.ready, Stopping: n.stopping, Log: slog.New(libraryHandler{log: log}),
	})
	fd, err := unix.FcntlInt(e.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	e.file.Close()
	if err != nil {
		return err
	}
	key := keeper.Listener()
	if e.connected {
		key = keeper.Connection()
	}
	if err := k.Hold(key, fd); err != nil {
		return err
	}
	return outcome(k.Run(signals))
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
	env := append(leanEnviron("govirtiofsd"), childEnv+"=1")
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
	cmd, err := start(program, env, files)
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
