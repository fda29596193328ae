package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/dormant"
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
	env, files := []string{childEnv + "=1"}, []*os.File{childSocket - 3: e.file, childReady - 3: ready}
	if long != nil {
		env, files = append(env, stretchClientEnv+"=1"), append(files, long)
	}
	allowHugePages(log) // the child begins as we are
	cmd, err := o.namespace.Start(env, files)
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	if long != nil {
		long.Close() // the helper ends with the child
	}
	// The child alone listens: when it is gone, front-ends are to notice.
	e.file.Close()
	s := &supervisor{child: cmd.Process, made: e, notify: n, log: log, signals: signals}
	return s.start(watch())
}

// sleepAfter is how long after its start a daemon is taken for one that lasts: those that
// are ended again soon are spared two starts.
const sleepAfter = time.Second

// start is run, with a supervisor that sleeps if it is going to wait for long.
func (s *supervisor) start(ready <-chan bool) error {
	ended := s.ended()
	var lasts <-chan time.Time
	for {
		select {
		case is := <-ready:
			ready = nil
			if is {
				lasts = time.After(sleepAfter)
			}
		case <-lasts:
			s.sleep()
			return s.run(ended, false)
		case <-ended:
			if ready != nil {
				<-ready // systemd takes an end before READY for a failure
			}
			return s.run(ended, false)
		case sig := <-s.signals:
			s.pass(sig)
			return s.run(ended, true)
		}
	}
}

// ended is closed when the child has ended. It is not waited for in the proper sense: who
// sleeps must not learn of an end that it then forgets.
func (s *supervisor) ended() <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for unix.Waitid(unix.P_PID, s.child.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		}
	}()
	return ended
}

// pass tells the child to end: by SIGQUIT with its stacks, by all others with SIGTERM.
func (s *supervisor) pass(sig os.Signal) {
	if sig != unix.SIGQUIT {
		sig = unix.SIGTERM
	}
	s.notify.stopping()
	_ = s.child.Signal(sig)
}

// run returns when the child has ended. Signals are passed on; signalled says that there
// has been one already, which was passed on.
func (s *supervisor) run(ended <-chan struct{}, signalled bool) error {
	var kill <-chan time.Time
	for {
		if signalled && kill == nil {
			s.notify.stopping()
			kill = time.After(endGrace + time.Second)
		}
		select {
		case <-ended:
			state, err := s.child.Wait()
			if err != nil {
				return fmt.Errorf("sandboxed process: %w", err)
			}
			return childError(state)
		case sig := <-s.signals:
			s.pass(sig)
			signalled = true
		case <-kill:
			s.log.Warn("the sandboxed process does not end: killing it")
			_ = s.child.Kill()
			signalled = false
		}
	}
}

// childError is nil when the child exited with 0.
func childError(state *os.ProcessState) error {
	status, ok := state.Sys().(interface {
		Signaled() bool
	})
	switch {
	case state.Success():
		return nil
	case ok && status.Signaled():
		return fmt.Errorf("sandboxed process: %v", state)
	}
	return &childStatus{max(state.ExitCode(), exitStart)}
}

// asleep is what a supervisor remembers when it sleeps: numbers of processes and
// descriptors.
type asleep struct {
	Child   int
	Notify  int // -1 for none
	PIDFile int
	PID     *sleepingEntry `json:",omitempty"`
	Socket  *sleepingEntry `json:",omitempty"`
}

type sleepingEntry struct{ Dir, File int }

// sleep gives up this process's memory until the child ends or a signal comes, at which
// the program starts anew and calls awake. It returns if that does not work.
func (s *supervisor) sleep() {
	state := asleep{Child: s.child.Pid, Notify: -1, PIDFile: -1}
	var files []int
	if s.notify != nil {
		f, err := s.notify.file()
		if err != nil {
			return
		}
		defer f.Close()
		state.Notify = int(f.Fd())
		files = append(files, state.Notify)
	}
	if e := s.made.socket; e != nil {
		state.Socket = &sleepingEntry{e.dir, e.file}
		files = append(files, e.dir, e.file)
	}
	if p := s.made.pid; p != nil {
		state.PID = &sleepingEntry{p.dir, p.file}
		state.PIDFile = int(p.locked.Fd())
		files = append(files, p.dir, p.file, state.PIDFile)
	}
	b, err := json.Marshal(state)
	if err == nil {
		err = dormant.Sleep(string(b), s.child.Pid, files, s.signals, supervised)
	}
	s.log.WithError(err).Debug("The supervising process keeps its memory")
}

// awake goes on where sleep has left off, in the program that was started anew.
func awake(o *options, log *logrus.Logger, signals chan os.Signal, state string, signalled bool) error {
	var a asleep
	if err := json.Unmarshal([]byte(state), &a); err != nil {
		return fmt.Errorf("supervise: %w", err)
	}
	child, err := os.FindProcess(a.Child)
	if err != nil {
		return fmt.Errorf("supervise: %w", err)
	}
	s := &supervisor{child: child, made: &endpoint{}, log: log, signals: signals}
	if a.Notify >= 0 {
		unix.CloseOnExec(a.Notify)
		s.notify = &notifier{to: os.NewFile(uintptr(a.Notify), "service manager")}
	}
	if a.Socket != nil {
		e := a.Socket.entry(o.socketPath)
		s.made.socket = &e
	}
	if a.PID != nil {
		unix.CloseOnExec(a.PIDFile)
		s.made.pid = &pidFile{entry: a.PID.entry(o.socketPath + ".pid"), locked: os.NewFile(uintptr(a.PIDFile), "pid file")}
	}
	defer s.made.remove()
	defer s.notify.stopping()
	return s.run(s.ended(), signalled)
}

func (e *sleepingEntry) entry(path string) entry {
	unix.CloseOnExec(e.Dir)
	unix.CloseOnExec(e.File)
	return entry{dir: e.Dir, name: filepath.Base(path), file: e.File}
}
