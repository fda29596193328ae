package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/govirtiofs/govirtiofs/sandbox"
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
	// cloud-hypervisor connects again at once, or tries it ten times a second.
	reconnectWait = 10 * time.Second
	// minGuestFiles is what must be left for the guest.
	minGuestFiles = 128
)

// serve confines this process, then serves front-ends until it is told to end.
func serve(o *options, p *process, log *logrus.Logger, signals <-chan os.Signal) error {
	ctx, cancel := p.untilSignal(signals)
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
	p.phases.end("view")
	links := o.openLinks(view)
	if err := dropPrivileges(o); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	p.phases.end("privileges")
	if err := o.enterLandlock(view, p.endpoint, log); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	if err := allowHugePages(maps); err != nil {
		log.WithError(err).Debug("No huge pages")
	}
	if err := sandbox.Filter(sandbox.FilterOptions{Action: o.Seccomp, Accept: true, Extra: o.watchCalls()}); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	p.phases.end("filter")
	a, err := p.takeOver()
	if err != nil {
		return err
	}
	p.phases.end("take over")
	serveClients, err := newService(o, p, view, links, files, log)
	if err != nil {
		return err
	}
	p.phases.end("ledger")
	if !p.again { // otherwise when the front-end's rings go on
		if err := p.ready(); err != nil {
			return err
		}
	}
	err = within(ctx, log, func() error { return serveClients(ctx, a) })
	for _, l := range p.more {
		l.End()
	}
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
	shares := len(o.Shares())
	own := len(open) + filesOfProcess + shares*filesOfQueue*(o.RequestQueues+1)
	if need := uint64(own + shares*minGuestFiles); limit < need {
		return 0, fmt.Errorf("limit of open files is %d: at least %d are needed for %d request queues (--rlimit-nofile, or raise the hard limit)",
			limit, need, o.RequestQueues)
	}
	return int(min(limit, 1<<30)) - own, nil
}

// enterSandbox limits what can be reached by name.
func enterSandbox(o *options) (sandbox.View, error) {
	var shares []sandbox.Share
	for _, s := range o.Shares() {
		shares = append(shares, sandbox.Share{Path: s.Dir, ReadOnly: s.ReadOnly})
	}
	switch o.Sandbox {
	case sandbox.ModeNamespace:
		return o.Namespace.EnterAll(shares)
	case sandbox.ModeChroot:
		return sandbox.Chroot(shares[0].Path)
	}
	return sandbox.OpenAll(shares)
}

// roots are the directories of the view, in the order of Config.Shares.
func roots(v sandbox.View) []int { return append([]int{v.Root}, v.More...) }

// openLinks opens each read-only share once more, for symbolic links, whose access times reading would
// change; 0 where that can't be had or the sandbox's mount is read-only anyway.
func (o *options) openLinks(v sandbox.View) []int {
	shares := o.Shares()
	links := make([]int, len(shares))
	for i, root := range roots(v) {
		if !shares[i].ReadOnly || o.Sandbox == sandbox.ModeNamespace {
			continue
		}
		if fd, err := sandbox.OpenNoAtime(root); err == nil {
			links[i] = fd
		}
	}
	return links
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
		log.Warn("a request does not end: the daemon ends without waiting for it")
		return context.Cause(ctx)
	}
}

// serveAll serves one front-end, or one after the other.
func serveAll(ctx context.Context, o *options, p *process, a *acceptor, d *virtiofs.Device, log *logrus.Logger) error {
	a.frontends()
	for {
		again := p.again
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
		if again { // the guest waits; left has it done before the keeper is told that this process serves
			go o.connected()
		} else {
			o.connected()
		}
		if err := p.connected(conn, o.KeepListening); err != nil {
			log.WithError(err).Warn("If the daemon dies, this front-end is lost")
		}
		err = serve(ctx, conn)
		p.disconnected(d.Waits())
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
