package main

import (
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/clientmodel"
	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestIntegrationReconnectDriven cuts the front-end's connection and kills workers, in any order and at random moments,
// under the clients of TestIntegrationDriven. They notice nothing: each request is answered once, and locks stay.
func TestIntegrationReconnectDriven(t *testing.T) {
	guest.NeedRoot(t)
	rounds, seed := howOften(25, 400), randomSeed(t)
	for name, opts := range map[string]frontend.Options{
		"as QEMU, 2 queues":             {Queues: 2},
		"as cloud-hypervisor, 4 queues": {Queues: 4, CloudHypervisor: true},
	} {
		t.Run(name, func(t *testing.T) { reconnectDriven(t, opts, rounds, seed) })
	}
}

func reconnectDriven(t *testing.T, opts frontend.Options, rounds int, seed uint64) {
	share, socket := tempDir(t), filepath.Join(tempDir(t), "s")
	d := startDaemon(t, nil, "--shared-dir="+share, "--socket-path="+socket, "--keep-listening", "--xattr", "--locks=host")
	d.waitLine(waitingLine)
	f, err := frontend.Dial(socket, opts)
	if err != nil {
		t.Fatal(err)
	}
	c := handshake(t, f)
	var served atomic.Int64
	users := startUsers(t, c, share, 2+2*opts.Queues, seed, clientmodel.Options{Xattr: true, Nodes: true, Locks: true}, &served)
	r := rand.New(rand.NewPCG(seed, 5))
	pause := func() { time.Sleep(time.Duration(r.IntN(15_000)) * time.Microsecond) }
	kill := func() {
		if all := daemontest.Children(t, d.cmd.Process.Pid); len(all) == 1 {
			_ = unix.Kill(all[0], unix.SIGKILL)
		}
	}
	for round := 0; round < rounds && !users.stop.Load(); round++ {
		before := served.Load()
		for end := time.Now().Add(60 * time.Second); served.Load() <= before+2 && !users.stop.Load(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				users.stop.Store(true)
				t.Fatalf("nothing is served after %d rounds", round)
			}
		}
		pause()
		how := r.IntN(5)
		if how == 1 {
			kill()
		}
		if how == 2 {
			pause()
		}
		f.Cut()
		switch how {
		case 2:
			kill()
		case 3: // while the session waits, and perhaps again while it is taken over
			pause()
			kill()
			pause()
			kill()
		}
		if err := comeBack(f, socket); err != nil {
			users.stop.Store(true)
			t.Fatalf("round %d: %v", round, err)
		}
		if how == 4 {
			kill()
		}
	}
	users.end(t, share)
	c.Close()
	_ = d.cmd.Process.Signal(unix.SIGTERM)
	d.wantStatus(exitOK)
	wantNoFiles(t, socket)
	t.Logf("%d rounds, %d requests", rounds, served.Load())
}

// comeBack connects again, once: a worker that dies in the moment in which it has got the connection does not cost it.
func comeBack(f *frontend.Frontend, socket string) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	_ = conn.SetDeadline(time.Now().Add(60 * time.Second))
	if err := f.Reconnect(conn); err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

// TestIntegrationAcceptDeath kills workers around the moment in which a front-end connects. No connection is closed, and
// each front-end is served over its first one. In between processes connect to see whether the daemon is ready.
func TestIntegrationAcceptDeath(t *testing.T) {
	guest.NeedRoot(t)
	share, socket := tempDir(t), filepath.Join(tempDir(t), "s")
	d := startDaemon(t, nil, "--shared-dir="+share, "--socket-path="+socket, "--keep-listening")
	d.waitLine(waitingLine)
	r := rand.New(rand.NewPCG(randomSeed(t), 6))
	for round := range howOften(40, 1000) {
		if r.IntN(4) == 0 {
			if c, err := net.Dial("unix", socket); err == nil {
				_ = c.Close()
			}
		}
		killed := make(chan struct{})
		pause := time.Duration(r.IntN(3000)) * time.Microsecond // any moment will do
		go func() {
			defer close(killed)
			time.Sleep(pause)
			for _, pid := range daemontest.Children(t, d.cmd.Process.Pid) {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}()
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		_ = conn.SetDeadline(time.Now().Add(60 * time.Second))
		f, err := frontend.New(conn, frontend.Options{})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		_ = conn.SetDeadline(time.Time{})
		c := handshake(t, f)
		<-killed
		if _, err := c.Getattr(fp.RootID); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		c.Close()
	}
	_ = d.cmd.Process.Signal(unix.SIGTERM)
	d.wantStatus(exitOK)
	wantNoFiles(t, socket)
}
