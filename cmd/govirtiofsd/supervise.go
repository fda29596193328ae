package main

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// supervisor is the process beside the sandboxed one. It passes signals on, removes what
// the daemon has made outside of the sandbox, and ends as the child does.
type supervisor struct {
	child   *os.Process
	made    *endpoint // without its descriptor
	notify  *notifier
	log     *logrus.Logger
	signals chan os.Signal
}

// superviseChild runs the sandboxed process and returns when it ends.
func superviseChild(o *options, e *endpoint, n *notifier, long *os.File, log *logrus.Logger, signals chan os.Signal) error {
	ready, watch, err := n.readyPipe()
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	env := []string{childEnv + "=1"}
	if os.Getenv("GOMAXPROCS") == "" { // the runtime keeps 16 KiB for each processor that it starts with
		env = []string{childEnv + "=" + childLean, "GOMAXPROCS=1"}
	}
	files := []*os.File{childSocket - 3: e.file, childReady - 3: ready}
	if long != nil {
		env, files = append(env, stretchClientEnv+"=1"), append(files, long)
	}
	cmd, err := o.Namespace.Start(env, files)
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	if long != nil {
		long.Close() // the helper ends with the child
	}
	// The child alone listens: when it is gone, front-ends are to notice.
	e.file.Close()
	s := &supervisor{child: cmd.Process, made: e, notify: n, log: log, signals: signals}
	return s.run(watch())
}

// pass tells the child to end: by SIGQUIT with its stacks, by all others with SIGTERM.
func (s *supervisor) pass(sig os.Signal) {
	if sig != unix.SIGQUIT {
		sig = unix.SIGTERM
	}
	s.notify.stopping()
	_ = s.child.Signal(sig)
}

// run returns when the child has ended. Signals are passed on. ready says once whether the
// child was ready before it ended.
func (s *supervisor) run(ready <-chan bool) error {
	ended := s.ended()
	var kill <-chan time.Time
	var isReady, told bool
	for {
		select {
		case isReady = <-ready:
			ready = nil
			if isReady && told {
				s.pass(unix.SIGTERM) // it is PID 1: the first is lost if it came before the handler
			}
		case err := <-ended:
			if ready != nil {
				isReady = <-ready // systemd takes an end before READY for a failure
			}
			if told && !isReady {
				return errSignal // however it has ended: it may not have had a handler yet
			}
			return err
		case sig := <-s.signals:
			s.pass(sig)
			told = told || sig != unix.SIGQUIT
			if kill == nil {
				kill = time.After(endGrace + time.Second)
			}
		case <-kill:
			s.log.Warn("the sandboxed process does not end: killing it")
			_ = s.child.Kill()
		}
	}
}

// ended yields how the child has ended.
func (s *supervisor) ended() <-chan error {
	ended := make(chan error, 1)
	go func() {
		state, err := s.child.Wait()
		if err != nil {
			ended <- fmt.Errorf("sandboxed process: %w", err)
			return
		}
		ended <- childError(state)
	}()
	return ended
}

// childError is nil when the child exited with 0.
func childError(state *os.ProcessState) error {
	status, ok := state.Sys().(syscall.WaitStatus)
	switch {
	case state.Success():
		return nil
	case ok && status.Signaled():
		return fmt.Errorf("sandboxed process: %v", state)
	}
	return &childStatus{max(state.ExitCode(), exitStart)}
}
