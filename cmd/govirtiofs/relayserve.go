package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fusedev"
	"github.com/govirtiofs/govirtiofs/internal/spawn"
	"github.com/govirtiofs/govirtiofs/relay"
	fuseprogram "github.com/govirtiofs/govirtiofs/relay/program"
	"github.com/govirtiofs/govirtiofs/server"
)

// relayEnv has the daemon serve a program; its value is that of the daemon's file relay.go.
const relayEnv = "GOVIRTIOFSD_RELAY"

// Descriptors of the daemon.
const (
	relayChannel = 3
	relaySocket  = 4 // that of --fd or of a service manager
)

// serveGuest has the daemon serve the program, until one of the two ends.
func (o *relayOptions) serveGuest(ctx context.Context, p *fuseprogram.Program, first *relay.Mounted, daemon string, passed bool) error {
	ours, theirs, err := relayPair()
	if err != nil {
		return err
	}
	defer ours.Close()
	cmd, err := o.startDaemon(daemon, p.EmptyDir(), theirs, passed)
	_ = theirs.Close()
	if err != nil {
		return fmt.Errorf("start %s: %w", daemon, err)
	}
	served := make(chan error, 1)
	go func() { served <- fuseprogram.Serve(ctx, ours, p, first) }()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	done := first.Done
	if o.restart {
		done = nil
	}
	return o.watch(ctx, p, cmd, served, ended, done)
}

// lastWord is how long the end of a program waits for that of the daemon: when the daemon ends it takes the program's socket
// with it, and the program may be noticed first.
const lastWord = 2 * time.Second

// watch waits for the end of the daemon, and brings it about when the program has ended.
func (o *relayOptions) watch(ctx context.Context, p *fuseprogram.Program, cmd *exec.Cmd, served, ended <-chan error, done <-chan struct{}) error {
	requests := make(chan os.Signal, 1)
	signal.Notify(requests, unix.SIGUSR1)
	defer signal.Stop(requests)
	var reason error
	var alone <-chan time.Time // the program has ended, and the daemon has not
	told := ctx.Done()
	for {
		select {
		case <-requests:
			_ = cmd.Process.Signal(unix.SIGUSR1)
		case <-told:
			told, done, alone = nil, nil, nil
			_ = cmd.Process.Signal(unix.SIGTERM)
		case <-done:
			done, alone = nil, time.After(lastWord)
		case <-alone:
			if reason = p.Err(); reason == nil {
				reason = o.endedError()
			}
			_ = cmd.Process.Signal(unix.SIGTERM)
		case err := <-served: // nil: no process of the daemon has the channel any more
			served, done, alone = nil, nil, nil
			if err != nil && reason == nil && ctx.Err() == nil {
				reason = err
				_ = cmd.Process.Signal(unix.SIGTERM)
			}
		case err := <-ended:
			var exit *exec.ExitError
			if reason == nil && errors.As(err, &exit) && exit.ExitCode() > 0 {
				return exitStatus(exit.ExitCode()) // it has said why
			}
			return errors.Join(reason, err)
		}
	}
}

// endedError is the end of the program if nobody knows more.
func (o *relayOptions) endedError() error {
	return fmt.Errorf("%s: the program has ended", filepath.Base(o.args[0]))
}

// relayPair is a channel for package relay/program.
func relayPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "channel")
	f := os.NewFile(uintptr(fds[0]), "channel")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	return c.(*net.UnixConn), theirs, nil
}

// startDaemon starts the daemon, which ends with this process.
func (o *relayOptions) startDaemon(path, empty string, channel *os.File, passed bool) (*exec.Cmd, error) {
	value, err := json.Marshal(map[string]any{"Channel": relayChannel, "Program": filepath.Base(o.args[0]), "Restart": o.restart, "Timeout": time.Duration(o.timeout) * time.Second})
	if err != nil {
		return nil, err
	}
	args := o.daemonArgs(empty)
	files := []*os.File{channel}
	if fd := o.daemon.FD; fd >= 0 || passed {
		if fd < 0 {
			fd = firstPassed
		}
		f := os.NewFile(uintptr(fd), "socket")
		if f == nil {
			return nil, fmt.Errorf("descriptor %d is not open", fd)
		}
		defer f.Close()
		files = append(files, f)
		args = append(args, fmt.Sprintf("--fd=%d", relaySocket))
	}
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stdout, os.Stderr, files
	cmd.Env = append(os.Environ(), relayEnv+"="+string(value))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGTERM}
	return cmd, spawn.Start(cmd)
}

// firstPassed is the first descriptor that a service manager passes (SD_LISTEN_FDS_START).
const firstPassed = 3

// started is a relay.Source that has the first mount already.
type started struct {
	*fuseprogram.Program
	first *relay.Mounted
}

func (s *started) Mount(ctx context.Context) (*relay.Mounted, error) {
	if m := s.first; m != nil {
		s.first = nil
		return m, nil
	}
	return s.Program.Mount(ctx)
}

// reasonPatience is how long a program may take to end that does not answer.
const reasonPatience = time.Second

// ownReason is why the program has ended, or else err.
func ownReason(p *fuseprogram.Program, m *relay.Mounted, err error) error {
	select {
	case <-m.Done:
		if reason := p.Err(); reason != nil {
			return reason
		}
	case <-time.After(reasonPatience):
	}
	return err
}

// mountThreads is how many threads serve a mount on this machine. They only take requests and send them on: with 2, threads of the relay
// slept 1.4 times for each GETATTR instead of once.
const mountThreads = 1

// moreProcessors lets more goroutines run at the same time than there are processors. Threads that wait in the kernel, for requests and for
// replies, keep theirs of the runtime's processors for a while; other goroutines would wait for these, which cost half of the speed on two
// processors.
func moreProcessors() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), mountThreads+1+2))
	}
}

// serveHere mounts the program's file system on this machine.
func (o *relayOptions) serveHere(ctx context.Context, p *fuseprogram.Program, first *relay.Mounted, log *slog.Logger) error {
	moreProcessors()
	fs, err := relay.New(ctx, &started{p, first}, relay.Options{Restart: o.restart, Timeout: time.Duration(o.timeout) * time.Second,
		Users: o.daemon.UIDs, Groups: o.daemon.GIDs, Log: log})
	if err != nil {
		return err
	}
	defer fs.Close()
	s := server.New(fs, server.Options{ReadOnly: o.daemon.ReadOnly, Log: log, MaxWrite: relay.MaxData})
	mount, err := fusedev.New(o.mount, fusedev.Options{Source: filepath.Base(o.args[0]), Subtype: "relay", ReadOnly: o.daemon.ReadOnly,
		AllowOther: os.Geteuid() == 0, Permissions: true, MaxRead: relay.MaxData})
	if err != nil {
		return fuseHint(err)
	}
	defer func() { _ = mount.Close() }()
	fs.Connect(mount)
	defer fs.Connect(nil)
	if dir, err := filepath.Abs(o.mount); err == nil {
		p.Hide(dir)
	}
	log.Info(filepath.Base(o.args[0]) + " is mounted on " + o.mount)
	served := make(chan error, 1)
	go func() { served <- mount.Serve(s, mountThreads) }()
	ended, told := fs.Ended(), ctx.Done()
	var late, last <-chan time.Time // told to end, and still there
	var reason error
	for {
		select {
		case <-told:
			told = nil
			late = time.After(o.graceTime())
			go leave(mount) // this waits for the program if there is data to write
		case <-late: // a process uses it and may wait for a program that hangs; or only a namespace has a copy, see Program.Hide
			log.Warn("the mount is still in use: programs that use it get errors from now on")
			fs.Close()
			_ = p.Close()
			last = time.After(lastWord)
		case <-last: // any other process's namespace can have a copy, too: the end of this process closes the device
			return reason
		case <-ended:
			ended = nil
			_ = mount.Detach()
			reason = ownReason(p, first, o.endedError())
		case err := <-served:
			return errors.Join(reason, err)
		}
	}
}
