package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/mdlayher/vsock"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/share"
	"github.com/govirtiofs/govirtiofs/internal/token"
	"github.com/govirtiofs/govirtiofs/keeper"
	"github.com/govirtiofs/govirtiofs/ledger"
	"github.com/govirtiofs/govirtiofs/notify"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/sandbox"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/stream"
)

// vsockEndpoint listens on a port of the host's vsock.
func vsockEndpoint(port uint32) (*endpoint, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		if err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}); err == nil {
			err = unix.Listen(fd, unix.SOMAXCONN)
		}
		if err != nil {
			_ = unix.Close(fd)
		}
	}
	switch {
	case errors.Is(err, unix.EAFNOSUPPORT):
		return nil, fmt.Errorf("vsock: this kernel has none: load it with 'modprobe vhost_vsock': %w", err)
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("vsock: another program listens on port %d: %w", port, err)
	case errors.Is(err, unix.EACCES):
		return nil, fmt.Errorf("vsock: port %d is below 1024, which only root may use: %w", port, err)
	case err != nil:
		return nil, fmt.Errorf("vsock: port %d: %w", port, err)
	}
	return &endpoint{file: os.NewFile(uintptr(fd), "vsock socket")}, nil
}

// isVsock tells a vsock socket from others.
func isVsock(f *os.File) bool {
	domain, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_DOMAIN)
	return err == nil && domain == unix.AF_VSOCK
}

// readToken reads the file that says what a guest has to know; nil is nothing.
func readToken(path string) ([]byte, error) {
	if path == "" || path == share.NoToken {
		return nil, nil
	}
	b, err := token.Read(path)
	if err != nil {
		return nil, fmt.Errorf("--vsock-token: %w", err)
	}
	return b, nil
}

// vsockFiles are what the daemon reads and writes outside of its sandbox.
type vsockFiles struct {
	token  []byte              // nil is none
	states map[string]*os.File // by the names of the shares; nil is none
}

// openVsockFiles opens them, and makes those of states that are not there.
func openVsockFiles(o *options) (f *vsockFiles, err error) {
	f = &vsockFiles{}
	if f.token, err = readToken(o.VsockToken); err != nil || o.VsockState == "" {
		return f, err
	}
	f.states = make(map[string]*os.File)
	for _, s := range o.Shares() {
		path := o.VsockState
		if len(o.VsockShares) > 0 {
			path += "." + s.Name
		}
		if f.states[s.Name], err = openState(path); err != nil {
			delete(f.states, s.Name)
			f.close()
			return nil, err
		}
	}
	return f, nil
}

// openState opens the file of a session's state.
func openState(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--vsock-state: %w", err)
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(f.Fd()), &st); err == nil && (st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o077 != 0 || int(st.Uid) != os.Geteuid()) {
		err = errors.New("it must be a regular file of the daemon's user that nobody else can read or change: remove it, the daemon makes one")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("--vsock-state %s: %w", path, err)
	}
	return f, nil
}

func (f *vsockFiles) close() {
	for _, state := range f.states {
		state.Close()
	}
}

// loadState has s go on with the session that was saved. It can do so once.
func loadState(s *stream.Server, state *os.File, renews bool, log *logrus.Logger) error {
	if state == nil {
		return nil
	}
	if err := s.Load(bufio.NewReader(state)); err != nil {
		then := "the guest begins another session; what it has open is stale"
		if !renews {
			then = "the guest has to mount again"
		}
		log.Errorf("The saved session in %s can't be used: %v: %s", state.Name(), err, then)
	}
	err := state.Truncate(0)
	if err == nil {
		_, err = state.Seek(0, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("--vsock-state: %w", err)
	}
	return nil
}

// maxPrivileged is the last port that only a guest's root can connect from.
const maxPrivileged = 1023

// admit decides who may connect, by the address.
func (o *options) admit(a net.Addr) (guest string, err error) {
	v, ok := a.(*vsock.Addr)
	if !ok {
		return "", nil // a VMM's Unix socket, which its permissions guard
	}
	switch {
	case o.VsockGuest != 0 && v.ContextID != o.VsockGuest:
		return "", fmt.Errorf("only the guest with CID %d may connect", o.VsockGuest)
	case o.VsockGuest == 0 && v.ContextID == vsock.Local:
		return "", errors.New("programs of this host may connect only with --vsock=1:PORT")
	case o.VsockToken == "" && v.Port > maxPrivileged:
		return "", fmt.Errorf("source port %d: without a token it must be below 1024, which only the guest's root can have", v.Port)
	}
	return fmt.Sprintf("CID %d", v.ContextID), nil
}

// newStream makes the server of a share's guests.
func (o *options) newStream(p *process, cfg passthrough.Config, index int, files *vsockFiles, settings server.Options, log *logrus.Logger) (*stream.Server, error) {
	recovery, err := p.streamRecovery(o, index)
	if err != nil {
		return nil, err
	}
	if recovery != nil {
		cfg.Ledger, cfg.Keeper = recovery.Ledger, p.client.Share(index)
		settings.Ledger = recovery.Ledger
	}
	cfg.FirstGeneration = randomGeneration()
	inner, err := o.newFileSystem(cfg, log)
	if err != nil {
		return nil, err
	}
	var fs server.FileSystem = inner
	var notifies *notify.FS
	if o.Events == share.EventsAuto {
		notifies = notify.New(inner, settings.Log) // the transport carries notifications, and needs no helper for them
		notifies.Inotify = sandbox.FanotifyForbidden()
		fs = notifies
	}
	settings.ReadOnly = cfg.ReadOnly
	h := server.New(fs, settings)
	s, err := o.streamServer(p, h, o.Shares()[index].Name, files, recovery, true, settings)
	if err != nil {
		return nil, err
	}
	if notifies != nil {
		notifies.Connect(s)
	}
	return s, p.resumeStream(h, s)
}

// randomGeneration is what the numbers of nodes begin with: a guest may have those of a process before this one.
// A generation is used up by each new node in the place of one that was forgotten, so an earlier process has used one or a few
// after its first one. That this process begins just there has a chance of 1 in 2^30 for each of them, each time that a guest comes back without its session.
// Only then may a number that the guest still has be another file's, of the same share. The time instead would not be better: generations
// may be used up faster than seconds.
func randomGeneration() uint32 {
	var b [4]byte
	_, _ = unix.Getrandom(b[:], 0) // never fails for so few bytes
	return binary.LittleEndian.Uint32(b[:])>>2 + 1
}

// streamServer makes a server of guests over vsock. renew says that numbers of nodes are not those of another process.
func (o *options) streamServer(p *process, h *server.Server, name string, files *vsockFiles, recovery *stream.Recovery, renew bool, settings server.Options) (*stream.Server, error) {
	p.logAtSignal(h)
	opts := stream.Options{Share: name, Token: files.token, Admit: o.admit, Renew: renew, Recovery: recovery, Host: settings.Host, Log: settings.Log}
	if state := files.states[name]; state != nil {
		opts.Save = state
	}
	return stream.New(h, opts)
}

// recoversStreams reports whether another process can go on with guests that come over vsock.
func (o *options) recoversStreams() bool { return o.Streams() && o.Recover == share.RecoveryAuto }

// holdStreams has the keeper hold for each share the memory of the requests of a guest that comes over vsock, and a
// ledger for each share but the first, which has the keeper's.
func holdStreams(k *keeper.Keeper, o *options) error {
	if !o.recoversStreams() {
		return nil
	}
	for i := range o.Shares() {
		fd, err := stream.NewMemory()
		if err == nil {
			err = k.Hold(keeper.Stream().Of(i), fd)
		}
		if err == nil && i > 0 {
			err = holdLedger(k, i)
		}
		if err != nil {
			return fmt.Errorf("recovery of share %d: %w", i+1, err)
		}
	}
	return nil
}

func holdLedger(k *keeper.Keeper, share int) error {
	l, err := ledger.Create()
	if err != nil {
		return err
	}
	defer l.Close()
	fd, err := unix.FcntlInt(uintptr(l.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	return k.Hold(keeper.Ledger().Of(share), fd)
}

// shareLedger is the ledger of one of several shares; nil is none.
func (p *process) shareLedger(share int) (*ledger.Ledger, error) {
	if share == 0 {
		return p.ledger, nil
	}
	fd, ok := p.client.Take(keeper.Ledger().Of(share))
	if !ok {
		return nil, nil
	}
	l, err := ledger.Open(fd)
	if err == nil {
		l.Begin()
		p.more = append(p.more, l)
	}
	return l, err
}

// streamRecovery is where the server of a share's streams leaves what a successor needs; nil is nowhere.
func (p *process) streamRecovery(o *options, share int) (*stream.Recovery, error) {
	if p.ledger == nil || !o.recoversStreams() {
		return nil, nil
	}
	l, err := p.shareLedger(share)
	if err != nil || l == nil {
		return nil, err
	}
	fd, ok := p.client.Take(keeper.Stream().Of(share))
	if !ok {
		return nil, nil
	}
	return &stream.Recovery{
		Ledger: l, Memory: fd, Fail: p.start.Fail, Killed: p.start.Killed,
		Ended:   p.client.Share(share).DropPins,
		Replied: p.client.Replied,
	}, nil
}

// resumeStream goes on with what another process has left.
func (p *process) resumeStream(h *server.Server, s *stream.Server) error {
	if err := p.resume(h); err != nil {
		return err
	}
	resumed, err := s.Resume()
	if err == nil && !resumed && p.generation > 1 {
		h.Disconnected() // nobody proves to be the guest of before
	}
	return err
}

// streams serves guests over vsock, each share by its server.
func (o *options) streams(servers []*stream.Server, files *vsockFiles, log *logrus.Logger) service {
	return func(ctx context.Context, a *acceptor) error {
		var l net.Listener = a.listener
		if a.vsock != nil {
			l = a.vsock
		}
		o.connected()
		for i, sh := range o.Shares() { // a state that was taken is empty
			if err := loadState(servers[i], files.states[sh.Name], o.relay == nil, log); err != nil {
				return err
			}
		}
		log.Info("Waiting for guests on vsock...")
		log.Info(o.describe(nil))
		return signalOr(ctx, stream.ServeAll(ctx, l, servers...))
	}
}
