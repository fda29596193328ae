package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/daemontest"
)

// startPort serves several shares, each with a recorder, on one socket.
func startPort(t *testing.T, o Options, names ...string) (handlers []*recorder, path string) {
	t.Helper()
	var servers []*Server
	for _, name := range names {
		h := newRecorder()
		o.Share = name
		if o.Log == nil {
			o.Log = quiet()
		}
		s, err := New(h, o)
		if err != nil {
			t.Fatal(err)
		}
		handlers, servers = append(handlers, h), append(servers, s)
	}
	path = filepath.Join(t.TempDir(), "s")
	l := listenUnix(t, path)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- ServeAll(ctx, l, servers...) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return handlers, path
}

// TestShares: a guest gets the share that it asks for, several at the same time; one that is not there
// is an error that says which are, but not to who does not know the token.
func TestShares(t *testing.T) {
	handlers, path := startPort(t, Options{Token: []byte("secret")}, "data", "src")
	for i, name := range []string{"data", "src"} {
		g := dialGuest(t, path)
		if _, err := g.greet(hello{Channel: 1}, name, "secret"); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Write(message(fp.OpGetattr, uint64(10+i), make([]byte, 16))); err != nil {
			t.Fatal(err)
		}
		if _, err := g.receive(); err != nil {
			t.Fatal(err)
		}
		handlers[i].mu.Lock()
		if handlers[i].times[uint64(10+i)] != 1 || len(handlers[i].times) != 1 {
			t.Errorf("share %q has got %v", name, handlers[i].times)
		}
		handlers[i].mu.Unlock()
	}
	for _, c := range []struct{ share, token, says string }{
		{"dat", "secret", `no share "dat" here: there are "data", "src"`},
		{"data/", "secret", `no share "data/" here`},
		{"", "secret", `which share? There are "data", "src"`},
		{"dat", "", "a token is needed"},
		{"dat", "guess", "the token is wrong"},
		{"data", "guess", "the token is wrong"},
	} {
		_, err := dialGuest(t, path).greet(hello{}, c.share, c.token)
		if !errors.Is(err, ErrRefused) || !strings.Contains(strings.ReplaceAll(err.Error(), `\"`, `"`), c.says) {
			t.Errorf("share %q with token %q: %v, want %q", c.share, c.token, err, c.says)
		}
		if c.token != "secret" && strings.Contains(err.Error(), "src") {
			t.Errorf("the names of the shares are told to one without the token: %v", err)
		}
	}
	if _, err := dialGuest(t, path).greet(hello{Session: id{1}}, "data", "secret"); !errors.Is(err, ErrBusy) {
		t.Errorf("a second mount of a share: %v", err)
	}
}

// TestManyShares: 10,000 shares cost a guest that asks for another one no long answer, and its guesses
// cost the host a few lines of its log.
func TestManyShares(t *testing.T) {
	names := make([]string, 10000)
	for i := range names {
		names[i] = fmt.Sprintf("share-%d-%s", i, strings.Repeat("x", 200))
	}
	var log daemontest.Log
	_, path := startPort(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, names...)
	for i := range 1000 {
		_, err := dialGuestOnce(path, fmt.Sprintf("guess-%d", i))
		if !errors.Is(err, ErrRefused) {
			t.Fatal(err)
		}
		if n := len(err.Error()); n > 4*maxText { // it is quoted
			t.Fatalf("the answer has %d bytes", n)
		}
	}
	if _, err := dialGuest(t, path).greet(hello{}, names[9999], ""); err != nil {
		t.Error(err)
	}
}

// dialGuestOnce says hello over a connection that is closed again.
func dialGuestOnce(path, share string) (welcome, error) {
	c, err := net.Dial("unix", path)
	if err != nil {
		return welcome{}, err
	}
	defer c.Close()
	if err := writeHello(c, hello{Channels: 2}, share, nil); err != nil {
		return welcome{}, err
	}
	return readWelcome(c)
}

// TestSharesRefused: shares that could not be told apart are refused at the start.
func TestSharesRefused(t *testing.T) {
	for names, says := range map[string]string{"a a": "two shares", "a ": "without a name", "-": "no share"} {
		var servers []*Server
		for _, name := range strings.Split(names, " ") {
			s, err := New(newRecorder(), Options{Share: name, Log: quiet()})
			if err != nil {
				t.Fatal(err)
			}
			servers = append(servers, s)
		}
		if names == "-" {
			servers = nil
		}
		l := listenUnix(t, filepath.Join(t.TempDir(), "s"))
		if err := ServeAll(context.Background(), l, servers...); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", names, err, says)
		}
	}
}

// stuck serves no request until it is let go.
type stuck struct {
	recorder
	begun, wait chan struct{}
}

func (h *stuck) StartThread(fuse.Hooks) (fuse.Thread, error) { return &stuckThread{h: h}, nil }

type stuckThread struct {
	fuse.Thread
	h *stuck
}

func (*stuckThread) Stop()        {}
func (*stuckThread) Broken() bool { return false }

func (t *stuckThread) Handle(m *fuse.Message) (fuse.Reply, fuse.Pending) {
	close(t.h.begun)
	<-t.h.wait
	return respond(m.Header, m.In, m.Out), nil
}

// TestManyHellos: while one hello waits for the end of a channel's last connection, others of the same guest are told to come
// again: they would keep descriptors.
func TestManyHellos(t *testing.T) {
	h := &stuck{recorder: recorder{times: make(map[uint64]int)}, begun: make(chan struct{}), wait: make(chan struct{})}
	_, path := startServer(t, h, Options{})
	defer close(h.wait)
	g := dialGuest(t, path)
	m, err := g.greet(hello{Channel: 1}, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Write(message(fp.OpGetattr, 2, make([]byte, 16))); err != nil {
		t.Fatal(err)
	}
	<-h.begun
	const many = 40 // one after the other they would take 200 s
	answers := make(chan error, many)
	for range many {
		c := dialGuest(t, path)
		go func() {
			_, err := c.greet(hello{Mode: modeResume, Ticket: m.Ticket, Channel: 1, At: position{Sent: 1}}, "", "")
			answers <- err
		}()
	}
	for range many - 2 { // two wait until the end of the test
		if err := <-answers; !errors.Is(err, errLater) && !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
			t.Fatalf("a hello: %v", err)
		}
	}
}
