package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/govirtiofs/govirtiofs/host"
	"github.com/govirtiofs/govirtiofs/internal/tasks"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/sandbox"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/stream"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// Descriptors that the process keeps for itself. A guest that has used up all others can
// still be stopped, started, given memory, moved and disconnected.
const (
	// filesOfQueue are its three eventfds, one that takes the place of another, and the
	// two that its thread sleeps on.
	filesOfQueue = 6
	// filesOfProcess are those of a message and its answer, the connection, back-end
	// channel, log, in-flight area, state transfer, next connection, and the runtime's.
	filesOfProcess = 96
	// reconnectWait is how long a guest keeps its session while its front-end is away.
	// cloud-hypervisor connects again at once, QEMU after the seconds that its user chooses.
	reconnectWait = 10 * time.Second
	// minGuestFiles is what must be left for the guest.
	minGuestFiles = 128
)

// serve confines this process, then serves front-ends until it is told to end.
func serve(o *options, p *process, log *logrus.Logger, signals <-chan os.Signal) error {
	ctx, cancel := untilSignal(signals)
	defer cancel(nil)
	context.AfterFunc(ctx, p.notify.stopping)
	var err error
	if o.guestFiles, err = limitFiles(o, log); err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/maps") // there is no /proc in the sandbox
	if err != nil {
		return err
	}
	defer maps.Close()
	files, err := openVsockFiles(o) // they are not in the sandbox
	if err != nil {
		return err
	}
	defer files.close()
	view, err := enterSandbox(o)
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	o.linksFD = openLinks(o, view)
	if err := dropPrivileges(o); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	if err := o.enterLandlock(view, p.endpoint, log); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	if err := allowHugePages(maps); err != nil {
		log.WithError(err).Debug("No huge pages")
	}
	if err := sandbox.Filter(sandbox.FilterOptions{Action: o.Seccomp, Accept: true, Extra: o.watchCalls()}); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	a, err := p.takeOver()
	if err != nil {
		return err
	}
	serveClients, err := newService(o, p, view, files, log)
	if err != nil {
		return err
	}
	if !p.again { // otherwise when the front-end's rings go on
		if err := p.ready(); err != nil {
			return err
		}
	}
	err = within(ctx, log, func() error { return serveClients(ctx, a) })
	p.ledger.End() // all before is a crash, if it ends the process
	return err
}

// limitFiles sets the limit of open files and returns how many the guest may use up.
func limitFiles(o *options, log *logrus.Logger) (guest int, err error) {
	want := sandbox.DefaultNoFile()
	if o.NoFile != nil {
		want = *o.NoFile
	}
	limit, err := sandbox.NoFile()
	if want != 0 {
		limit, err = sandbox.SetNoFile(want)
	}
	if err != nil {
		return 0, fmt.Errorf("limit of open files: %w", err)
	}
	if limit < want && o.NoFile != nil {
		log.Warnf("limit of open files is %d: no privilege to raise the hard limit to %d", limit, want)
	}
	open, err := os.ReadDir("/proc/self/fd") // the parent may have left some open
	if err != nil {
		return 0, fmt.Errorf("open files: %w", err)
	}
	own := len(open) + filesOfProcess + filesOfQueue*(o.RequestQueues+1)
	if need := uint64(own + minGuestFiles); limit < need {
		return 0, fmt.Errorf("limit of open files is %d: at least %d are needed for %d request queues (--rlimit-nofile, or raise the hard limit)",
			limit, need, o.RequestQueues)
	}
	return int(min(limit, 1<<30)) - own, nil
}

// enterSandbox limits what can be reached by name.
func enterSandbox(o *options) (sandbox.View, error) {
	switch o.Sandbox {
	case sandbox.ModeNamespace:
		return o.Namespace.Enter(o.SharedDir)
	case sandbox.ModeChroot:
		return sandbox.Chroot(o.SharedDir)
	}
	return sandbox.Open(o.SharedDir)
}

// openLinks opens the share of --readonly for symbolic links, whose access times reading would
// change; 0 where that can't be had or the sandbox's mount is read-only anyway.
func openLinks(o *options, v sandbox.View) int {
	if !o.ReadOnly || o.Sandbox == sandbox.ModeNamespace {
		return 0
	}
	fd, err := sandbox.OpenNoAtime(v.Root)
	if err != nil {
		return 0
	}
	return fd
}

// dropPrivileges leaves the process what it needs to act for the guest's users.
func dropPrivileges(o *options) error {
	if err := sandbox.DropGroups(); err != nil {
		return err
	}
	if err := sandbox.NoNewPrivileges(); err != nil {
		return err
	}
	return sandbox.SetCapabilities(o.Capabilities)
}

// service serves the front-ends of the acceptor, until ctx ends.
type service func(ctx context.Context, a *acceptor) error

// newService joins file system and server, and a device or a server of streams.
func newService(o *options, p *process, v sandbox.View, files *vsockFiles, log *logrus.Logger) (service, error) {
	process, err := host.New(host.Options{
		Descriptors: o.guestFiles, ShareDescriptors: o.guestFiles, // there is one share
		Processors: func(n int) { runtime.GOMAXPROCS(n) }, MaxProcessors: processors(),
	})
	if err != nil {
		return nil, err
	}
	lines := slog.New(libraryHandler{log: log})
	if o.relay != nil {
		return newRelay(o, p, files, server.Options{ReadOnly: o.ReadOnly, Host: process, Log: lines, ThreadState: tasks.Dir(v.Tasks).Text}, log)
	}
	cfg := o.FileSystem()
	cfg.Host = process
	cfg.RootFD, cfg.ProcFD, cfg.MaxFDs = v.Root, v.Proc, o.guestFiles
	cfg.LinksFD = o.linksFD
	cfg.Landlocked, cfg.DAX = o.landlocked, o.daxConfig(p.long)
	if p.ledger != nil && !o.Streams() {
		cfg.Ledger, cfg.Keeper = p.ledger, p.client
	}
	inner, err := passthrough.New(cfg)
	if err != nil {
		return nil, err
	}
	o.usesFileHandles = inner.UsesFileHandles()
	o.reportFileHandles(inner, log)
	fs, err := o.withEvents(inner, cfg.Ledger, lines)
	if err != nil {
		return nil, err
	}
	settings := server.Options{ReadOnly: o.ReadOnly, Host: process, Log: lines, Ledger: cfg.Ledger,
		RequestTimeout: uint16(o.RequestTimeout), ThreadState: tasks.Dir(v.Tasks).Text}
	if o.Streams() {
		settings.MaxWrite = stream.DefaultMaxWrite
	}
	s := server.New(fs, settings)
	opts := virtiofs.Options{Recovery: p.recovery(o)}
	if cfg.DAX != nil {
		process.Want(runtime.NumCPU()) // mappings are made on goroutines, which wait
		opts.Window, opts.FSMap = cfg.DAX.Table, o.DAXProtocol
	}
	return newServer(o, p, files, s, settings, opts, log)
}

// newServer serves s on the device of opts, or on streams.
func newServer(o *options, p *process, files *vsockFiles, s *server.Server, settings server.Options, opts virtiofs.Options, log *logrus.Logger) (service, error) {
	logAtSignal(s)
	if o.Streams() {
		return newStreams(o, s, files, stream.Options{Share: o.Tag, Admit: o.admit, Host: settings.Host, Log: settings.Log}, log)
	}
	if err := s.Resume(); err != nil {
		return nil, err
	}
	if !p.again && p.generation > 1 {
		s.Disconnected() // nobody proves to be the guest of before
	}
	opts.Tag, opts.RequestQueues, opts.ConfigQueues, opts.BusyPoll = o.Tag, o.RequestQueues, o.ConfigQueues, o.BusyPoll
	opts.Host, opts.Log = settings.Host, settings.Log
	if o.KeepListening {
		opts.Reconnect = reconnectWait
	}
	device, err := virtiofs.New(s, opts)
	return func(ctx context.Context, a *acceptor) error { return serveAll(ctx, o, p, a, device, log) }, err
}

// within runs f. When ctx has ended f gets endGrace to return; a request that hangs
// in a system call of a dead file server would keep it for ever.
func within(ctx context.Context, log *logrus.Logger, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(endGrace):
		log.Warn("a request does not end: leaving it")
		return context.Cause(ctx)
	}
}

// serveAll serves one front-end, or one after the other.
func serveAll(ctx context.Context, o *options, p *process, a *acceptor, d *virtiofs.Device, log *logrus.Logger) error {
	for {
		conn, serve, err := p.frontend(ctx, o, a, d, log)
		if errors.Is(err, io.EOF) {
			log.Info("Client disconnected, shutting down")
			return nil
		}
		if err != nil {
			return signalOr(ctx, err)
		}
		if !o.KeepListening {
			a.close()
		}
		if o.onConnection != nil {
			o.onConnection()
		}
		if err := p.connected(conn, o.KeepListening); err != nil {
			log.WithError(err).Warn("If the daemon dies, this front-end is lost")
		}
		err = serve(ctx, conn)
		p.disconnected()
		if err != nil {
			if !o.KeepListening || ctx.Err() != nil {
				return signalOr(ctx, err)
			}
			log.WithError(err).Error("Front-end dropped")
		}
		if !o.KeepListening {
			log.Info("Client disconnected, shutting down")
			return nil
		}
		log.Info("Client disconnected")
	}
}

// signalOr returns what has ended ctx, or else err.
func signalOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
