package main

import (
	"context"
	"log/slog"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/govirtiofs/govirtiofs/host"
	"github.com/govirtiofs/govirtiofs/internal/share"
	"github.com/govirtiofs/govirtiofs/internal/tasks"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/sandbox"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/stream"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// newService joins file systems and servers, and a device or a server of streams.
func newService(o *options, p *process, v sandbox.View, links []int, files *vsockFiles, log *logrus.Logger) (service, error) {
	shares := o.Shares()
	process, err := host.New(host.Options{
		Descriptors: o.guestFiles, ShareDescriptors: o.guestFiles / len(shares),
		Processors: func(n int) { runtime.GOMAXPROCS(n) }, MaxProcessors: processors(),
	})
	if err != nil {
		return nil, err
	}
	if p.generation > 1 {
		process.Want(resumeProcessors)
	}
	settings := server.Options{Host: process, Log: slog.New(libraryHandler{log: log}), ThreadState: tasks.Dir(v.Tasks).Text}
	if o.relay != nil {
		settings.ReadOnly = o.ReadOnly
		return newRelay(o, p, files, settings, log)
	}
	settings.RequestTimeout = uint16(o.RequestTimeout)
	if !o.Streams() {
		return newDevice(o, p, v, links[0], settings, log)
	}
	settings.MaxWrite = stream.DefaultMaxWrite
	var servers []*stream.Server
	for i, root := range roots(v) {
		cfg := o.fileSystem(v, root, links[i], process, shares[i])
		s, err := o.newStream(p, cfg, i, files, settings, log)
		if err != nil {
			return nil, err
		}
		servers = append(servers, s)
	}
	return o.streams(servers, files, log), nil
}

// fileSystem is the configuration of a share's file system.
func (o *options) fileSystem(v sandbox.View, root, links int, process *host.Host, s share.Shared) passthrough.Config {
	cfg := o.FileSystem()
	cfg.Host = process
	cfg.RootFD, cfg.ProcFD, cfg.MaxFDs = root, v.Proc, o.guestFiles
	cfg.LinksFD, cfg.ReadOnly = links, s.ReadOnly
	cfg.Landlocked = o.landlocked
	return cfg
}

// newFileSystem makes a share's file system.
func (o *options) newFileSystem(cfg passthrough.Config, log *logrus.Logger) (*passthrough.FS, error) {
	fs, err := passthrough.New(cfg)
	if err == nil {
		o.usesFileHandles = fs.UsesFileHandles()
		o.reportFileHandles(fs, log)
	}
	return fs, err
}

// newDevice serves the share on a vhost-user device.
func newDevice(o *options, p *process, v sandbox.View, links int, settings server.Options, log *logrus.Logger) (service, error) {
	cfg := o.fileSystem(v, v.Root, links, settings.Host, o.Shares()[0])
	cfg.DAX = o.daxConfig(p.long)
	if p.ledger != nil {
		cfg.Ledger, cfg.Keeper = p.ledger, p.client
	}
	inner, err := o.newFileSystem(cfg, log)
	if err != nil {
		return nil, err
	}
	fs, err := o.withEvents(inner, cfg.Ledger, settings.Log)
	if err != nil {
		return nil, err
	}
	settings.ReadOnly, settings.Ledger = cfg.ReadOnly, cfg.Ledger
	opts := virtiofs.Options{Recovery: p.recovery()}
	if cfg.DAX != nil {
		settings.Host.Want(runtime.NumCPU()) // mappings are made on goroutines, which wait
		opts.Window, opts.FSMap = cfg.DAX.Table, o.DAXProtocol
	}
	return o.serveDevice(p, server.New(fs, settings), settings, opts, log)
}

// resumeTime is longer than from a successor's start to its first replies.
const resumeTime = time.Second

// resumeProcessors is one for the goroutine that starts the rings, and one for the thread of the first of them. That thread
// sleeps in a system call as soon as it has started. With one processor the other rings would wait until Go's monitor thread has
// taken it away, which looks every ten milliseconds at most, and takes it at its second look.
const resumeProcessors = 2

// resume takes over what a predecessor has left. The garbage collector would look at nodes meanwhile, all of which are
// needed, while the guest waits. It would also keep queues from starting: their processors can't be added before a
// collection ends (runtime.GOMAXPROCS), which takes 20 ms with 100,000 nodes. A new ledger has nothing to take over, for
// which the server would start a thread.
func (p *process) resume(s *server.Server) error {
	if p.generation <= 1 {
		return nil
	}
	p.pauseCollector(resumeTime)
	return s.Resume()
}

// pauseCollector has no garbage collected for some time. All shares of a process have one such time: the second one would
// take the first one's pause for the user's choice, and keep it.
func (p *process) pauseCollector(d time.Duration) {
	p.paused.Do(func() {
		percent := debug.SetGCPercent(-1)
		time.AfterFunc(d, func() { debug.SetGCPercent(percent) })
	})
}

// serveDevice serves s on the device of opts.
func (o *options) serveDevice(p *process, s *server.Server, settings server.Options, opts virtiofs.Options, log *logrus.Logger) (service, error) {
	p.logAtSignal(s)
	if err := p.resume(s); err != nil {
		return nil, err
	}
	opts.Tag, opts.RequestQueues, opts.ConfigQueues, opts.BusyPoll = o.Tag, o.RequestQueues, o.ConfigQueues, o.BusyPoll
	opts.Host, opts.Log = settings.Host, settings.Log
	if o.KeepListening {
		opts.Reconnect = reconnectWait
	}
	device, err := virtiofs.New(s, opts)
	if err == nil && !p.again && p.generation > 1 {
		device.ResumeWait(connectionKeeper{p.client}.left()) // for a guest that has to prove that it is the one of before
	}
	return func(ctx context.Context, a *acceptor) error { return serveAll(ctx, o, p, a, device, log) }, err
}
