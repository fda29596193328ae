package program_test

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/relay"
	"github.com/govirtiofs/govirtiofs/relay/program"
)

// channel makes both ends of a channel.
func channel(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "channel")
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		conns[i] = c.(*net.UnixConn)
		t.Cleanup(func() { _ = c.Close() })
	}
	return conns[0], conns[1]
}

// TestRemote: another process gets what the program has mounted, again when it asks again, and hears of its end.
func TestRemote(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p, _ := start(t, program.Options{}, "serve", "{mount}")
	first, err := p.Mount(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := channel(t)
	served := make(chan error, 1)
	go func() { served <- program.Serve(ctx, ours, p, first) }()
	r := program.NewRemote(theirs)
	m := mountOf(t, ctx, r)
	if m.Type != "fuse.test" || m.Source != "nowhere" || !strings.HasSuffix(m.Options, "max_read=4096") || m.Flags == 0 {
		t.Errorf("mounted %+v", *m)
	}
	again := mountOf(t, ctx, r)
	waitClosed(t, "end of the first", m.Done)
	_ = again.Socket.Close()
	waitClosed(t, "end of the second", again.Done)
	killed := mountOf(t, ctx, r)
	kill(t, p)
	waitClosed(t, "end of the third", killed.Done)
	if err := killed.Err(); err == nil || !strings.HasSuffix(err.Error(), ": the program was ended by a signal (killed)") {
		t.Errorf("a program that was killed: %v", err)
	}
	_ = r.Close()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := r.Mount(ctx); err == nil {
		t.Error("a closed channel has a program")
	}
}

func mountOf(t *testing.T, ctx context.Context, r *program.Remote) *relay.Mounted {
	t.Helper()
	m, err := r.Mount(ctx)
	if err != nil {
		t.Fatal(err)
	}
	speak(t, m)
	return m
}

// TestRemoteErrors: errors arrive in the same words, and a hopeless one ends Serve.
func TestRemoteErrors(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p, _ := start(t, program.Options{}, "status", "{mount}")
	ours, theirs := channel(t)
	go func() { _ = program.Serve(ctx, ours, p, nil) }()
	r := program.NewRemote(theirs)
	defer r.Close()
	if _, err := r.Mount(ctx); err == nil || !strings.Contains(err.Error(), "the image is broken") {
		t.Errorf("error %v", err)
	}

	p2, _ := start(t, program.Options{}, "twice", "{mount}")
	ours2, theirs2 := channel(t)
	served := make(chan error, 1)
	go func() { served <- program.Serve(ctx, ours2, p2, nil) }()
	r2 := program.NewRemote(theirs2)
	defer r2.Close()
	if m, err := r2.Mount(ctx); err == nil {
		waitClosed(t, "end of the program", m.Done)
		_, _ = r2.Mount(ctx)
	}
	if err := <-served; !errors.Is(err, program.ErrTwice) {
		t.Errorf("Serve: %v, want %v", err, program.ErrTwice)
	}
}
