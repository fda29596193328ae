package main

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/spawn"
)

// supervisor is the process beside the sandboxed one. It passes signals on, removes what
// the daemon has made outside of the sandbox, and ends as the child does.
type supervisor struct {
	child   *os.Process
	link    *link
	made    *endpoint // without its descriptor
	notify  *notifier
	log     *logrus.Logger
	signals chan os.Signal
}

// superviseChild runs the sandboxed process and returns when it ends.
func superviseChild(o *options, e *endpoint, n *notifier, long *os.File, log *logrus.Logger, signals chan os.Signal) error {
	link, theirs, err := newLink()
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	env := append(leanEnviron("govirtiofsd"), childEnv+"=1")
	files := []*os.File{childSocket - 3: e.file, childLink - 3: theirs}
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
	theirs.Close()
	s := &supervisor{child: cmd.Process, link: link, made: e, notify: n, log: log, signals: signals}
	return s.run(link.ready(n))
}

// pass tells the child to end: at SIGQUIT with its stacks. It may be at its start still: then
// it reads later what the link says, while a signal would be lost.
func (s *supervisor) pass(sig os.Signal) {
	s.notify.stopping()
	if sig == unix.SIGQUIT {
		_ = s.child.Signal(sig)
		return
	}
	s.link.end()
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
		case err := <-ended:
			if ready != nil {
				isReady = <-ready // systemd takes an end before READY for a failure
			}
			if told && !isReady {
				return errSignal // however it has ended
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
		state, err := spawn.Wait(s.child)
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
