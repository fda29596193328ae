package stream

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/host"
)

// Options of a Server.
type Options struct {
	// Share is the name that a guest has to ask for; "" lets it ask for any. Servers that
	// ServeAll serves together need names.
	Share string
	// Token is what a guest has to know, at most 1024 bytes. Without one everybody may
	// connect whom Admit lets in.
	Token []byte
	// Admit decides about an address. The string identifies the guest: only the same guest
	// may continue a session or replace it. nil lets every address in, as one guest.
	Admit func(net.Addr) (guest string, err error)
	// MaxWrite is how many bytes of data a request has at most, up to 1 MiB; 0 is
	// DefaultMaxWrite. The Handler's must not be larger.
	MaxWrite uint32
	// Save, if not nil, gets the session when Serve ends, for the Load of another Server. Otherwise
	// it ends.
	Save io.Writer
	// Renew lets a guest whose session is gone begin another one without mounting again. The Handler must not
	// know numbers of nodes and open files that the one of another process has given out, but for the root's.
	Renew bool
	// Recovery, if not nil, is where the Server leaves the session in case its process dies. The caller then
	// calls Resume before Serve.
	Recovery *Recovery
	// Host is what this server has in common with others of the process; nil is nothing.
	Host *host.Host
	// Log is where messages go; nil is slog.Default().
	Log *slog.Logger
}

const (
	// endTime is how long a hello waits for the end of the channel's last connection.
	endTime = 5 * time.Second
	// keepTime is how long a session without a connection is kept.
	keepTime = 10 * time.Minute
)

// Server is the host's end: it answers one session at a time with a fuse.Handler.
type Server struct {
	handler fuse.Handler
	opts    Options
	log     *slog.Logger
	journal *journal   // nil without recovery
	apart   sync.Mutex // of requests that processes may have died of
	// stopTime is how long save waits; tests on a busy machine have more.
	stopTime time.Duration

	mu      sync.Mutex // guards the following > session.mu
	session *session   // nil if there is none
	closed  bool
}

// New returns a server of h. The Handler is the caller's.
func New(h fuse.Handler, o Options) (*Server, error) {
	if o.MaxWrite == 0 {
		o.MaxWrite = DefaultMaxWrite
	}
	if o.MaxWrite > maxMaxWrite {
		return nil, fmt.Errorf("%d bytes of data in a request: at most %d are possible", o.MaxWrite, maxMaxWrite)
	}
	if len(o.Token) > maxToken {
		return nil, fmt.Errorf("the token has %d bytes: at most %d are possible", len(o.Token), maxToken)
	}
	if len(o.Share) > maxShare {
		return nil, fmt.Errorf("the share's name has %d bytes: at most %d are possible", len(o.Share), maxShare)
	}
	if o.Admit == nil {
		o.Admit = func(net.Addr) (string, error) { return "", nil }
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	s := &Server{handler: h, opts: o, log: o.Log, stopTime: stopTime}
	if o.Recovery != nil {
		var err error
		if s.journal, err = newJournal(o.Recovery, o.MaxWrite); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Serve accepts connections until ctx ends or the listener fails, and ends the session then.
// The listener is closed.
func (s *Server) Serve(ctx context.Context, l net.Listener) error { return ServeAll(ctx, l, s) }

// finish saves the session if it is to be saved, and ends everything.
func (s *Server) finish() {
	if s.opts.Save != nil {
		if err := s.save(s.opts.Save); err != nil {
			s.log.Error(fmt.Sprintf("The session can't be saved: %v: %s", err, s.lost()))
		}
	}
	s.close()
}

// join gives the connection to its channel, unless the hello is refused.
func (s *Server) join(c net.Conn, guest string, h hello, share string, token []byte) (status, error) {
	if err := s.checkToken(token); err != nil {
		return statusRefused, err
	}
	if s.opts.Share != "" && share != "" && share != s.opts.Share { // one share needs no name
		return statusRefused, fmt.Errorf("no share %q here: it is %q", share, s.opts.Share)
	}
	if h.Channels < minChannels || h.Channels > maxChannels || h.Channel >= h.Channels {
		return statusRefused, fmt.Errorf("channel %d of %d: %d to %d are possible", h.Channel, h.Channels, minChannels, maxChannels)
	}
	n, why, err := s.find(guest, h)
	if err != nil {
		return why, err
	}
	why, err = n.channels[h.Channel].connect(c, h)
	if err != nil {
		s.left(n) // it may have been made for this hello
	}
	return why, err
}

// checkToken decides whether this is what a guest has to know.
func (s *Server) checkToken(token []byte) error {
	switch {
	case len(s.opts.Token) == 0 || subtle.ConstantTimeCompare(token, s.opts.Token) == 1:
		return nil
	case len(token) == 0:
		return errors.New("a token is needed (in the guest: -o token=FILE)")
	}
	return errors.New("the token is wrong")
}

// find returns the session of a hello: the present one, or a new one in its place.
func (s *Server) find(guest string, h hello) (*session, status, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, statusLater, errors.New("the server ends")
	}
	if n := s.session; n != nil && n.id == h.Session && n.guest == guest && len(n.channels) == int(h.Channels) {
		return n, statusOK, nil
	}
	if h.Mode != modeNew && (h.Mode != modeRenew || !s.opts.Renew) {
		return nil, statusStale, errors.New("there is no such session any more: unmount and mount again")
	}
	if n := s.session; n != nil {
		if n.connected() {
			return nil, statusBusy, errors.New(busyText)
		}
		if n.guest != guest {
			return nil, statusBusy, fmt.Errorf("the share is kept for the guest that has mounted it (%s)", n.guest)
		}
		s.end("another mount takes its place")
	}
	s.journal.begin()
	s.session = newSession(s, guest, h)
	s.session.note()
	s.handler.Started()
	if h.Mode == modeRenew {
		s.log.Info(fmt.Sprintf("The session of %s is not known here (the daemon was restarted, or has ended it): it begins a new one; files that it had open are stale", s.session.name()))
	} else {
		s.log.Info(fmt.Sprintf("Session with %s begins", s.session.name()))
	}
	return s.session, statusOK, nil
}

// lost is what it means for the guest that a session can't continue.
func (s *Server) lost() string {
	if s.opts.Renew {
		return "the guest begins another session; what it has open is stale"
	}
	return "the guest has to mount again"
}

// end ends the session; s.mu is held.
func (s *Server) end(why string) {
	n := s.session
	if n == nil {
		return
	}
	s.session = nil
	n.unnoted.Store(true)
	if s.journal != nil {
		_ = s.journal.note(nil)
	}
	n.close()
	s.handler.Disconnected()
	if s.journal != nil && s.journal.Ended != nil {
		s.journal.Ended()
	}
	s.log.Info(fmt.Sprintf("Session with %s ends: %s", n.name(), why))
}

// close ends everything.
func (s *Server) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.end("the server ends")
}

// left is told that a session has lost its last connection. The guest has said DESTROY before
// if it has unmounted; otherwise it may come back.
func (s *Server) left(n *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session != n || n.connected() {
		return
	}
	if n.destroyed.Load() {
		s.end("unmounted")
		return
	}
	s.keep(n)
}

// keep keeps a session without a connection for a while. s.mu is held.
func (s *Server) keep(n *session) {
	s.log.Info(fmt.Sprintf("Session with %s has no connection; it is kept for %v", n.name(), keepTime))
	n.expiry(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.session == n && !n.connected() {
			s.end("nobody has come back")
		}
	})
}

// ErrNobody means that a notification has no receiver: there is no session, or its
// connection does not take messages. A file system that has promised notifications must
// then not rely on the client's caches.
var ErrNobody = errors.New("there is no client that takes the notification")

// Notify sends a notification to the client's kernel: code and body as /dev/fuse takes
// them. It arrives after the replies that were given before, so that data which was read
// before a change is never kept after the notification of it.
func (s *Server) Notify(code fp.NotifyCode, body ...[]byte) error {
	s.mu.Lock()
	n := s.session
	s.mu.Unlock()
	if n == nil {
		return ErrNobody
	}
	return n.notify(code, body)
}

func newID() (i id) {
	_, _ = unix.Getrandom(i[:], 0) // never fails for so few bytes, and is less code than crypto/rand
	return i
}
