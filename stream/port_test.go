package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"

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
