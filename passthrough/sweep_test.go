package passthrough

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// clock has sweeps come when the test says so.
type clock struct {
	t    testing.TB
	mu   sync.Mutex
	next []func()
}

func (s *share) clock() *clock {
	c := &clock{t: s.t}
	s.fs.sweeper.after = func(d time.Duration, f func()) {
		if d != sweepEvery {
			s.t.Errorf("a sweep after %v, want %v", d, sweepEvery)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.next = append(c.next, f)
	}
	s.fs.sweeper.armed.Store(false)
	return c
}

// step has the time for a sweep come, and reports whether there was one to be.
func (c *clock) step() bool {
	c.t.Helper()
	c.mu.Lock()
	now := c.next
	c.next = nil
	c.mu.Unlock()
	if len(now) > 1 {
		c.t.Errorf("%d sweeps at the same time", len(now))
	}
	for _, f := range now {
		f()
	}
	return len(now) > 0
}

// run sweeps until there is nothing to sweep, which takes few rounds.
func (c *clock) run() {
	c.t.Helper()
	for rounds := 0; c.step(); rounds++ {
		if rounds > 3 {
			c.t.Fatal("sweeps do not end")
		}
	}
}

// TestSweep: space of what the host deletes is free soon, and what the client uses is
// left alone.
func TestSweep(t *testing.T) {
	for _, mode := range []FileHandles{HandlesNever, HandlesPrefer} {
		g := newShare(t, func(c *Config) { c.FileHandles = mode }, 0).guest()
		clock := g.clock()
		g.mkdirs("d", "used")
		f, fh := g.openName("f", "content", unix.O_RDWR)
		open, openFh := g.openName("open", "content", unix.O_RDWR)
		used := g.lookup(fp.RootID, "used")
		d := g.lookup(fp.RootID, "d")
		wantErrno(t, "release", g.release(f, fh), 0)
		for range 5 {
			if _, errno := g.getattr(used); errno != 0 {
				t.Fatal(errno)
			}
			clock.step()
		}
		if fd := g.fs.nodes.Get(used).fd.Load(); fd < 0 {
			t.Error("the descriptor of a directory in use was closed")
		}
		if fd := g.fs.nodes.Get(d).fd.Load(); fd >= 0 {
			t.Error("the descriptor of a directory that is only known is open")
		}
		clock.run()
		if n := g.fs.fds.used.Load(); n != 2 {
			t.Errorf("%d descriptors, want those of the root and the open file", n)
		}
		for _, name := range []string{"f", "d", "open"} {
			if err := os.Remove(g.path(name)); err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range []uint64{f, d} {
			_, errno := g.getattr(n)
			wantErrno(t, "getattr of what the host has deleted", errno, unix.ESTALE)
		}
		if got, errno := g.readAt(open, openFh, 0, 10); got != "content" || errno != 0 {
			t.Errorf("the open file: %q, %v", got, errno)
		}
		if attr, errno := g.getattr(open); errno != 0 || attr.Nlink != 0 {
			t.Errorf("the open file: %d links, %v", attr.Nlink, errno)
		}
		wantErrno(t, "release", g.release(open, openFh), 0)
		clock.run()
		if n := g.fs.fds.used.Load(); n != 1 {
			t.Errorf("%d descriptors, want the root's", n)
		}
		if _, errno := g.getattr(used); errno != 0 {
			t.Errorf("a directory that was swept: %v", errno)
		}
	}
}

// TestSweepOfPins: a node that could not be found again keeps its descriptor, and nothing
// wakes up for it, until the client forgets it or gives it a name.
func TestSweepOfPins(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	clock := g.clock()
	pin := g.mkdir(fp.RootID, "d")
	wantErrno(t, "rmdir", g.fs.Rmdir(g.on(fp.RootID), name("d")), 0)
	clock.run()
	if attr, errno := g.getattr(pin); errno != 0 || attr.Mode&unix.S_IFMT != unix.S_IFDIR {
		t.Errorf("mode %o, %v", attr.Mode, errno)
	}
	if g.fs.sweeper.armed.Load() {
		t.Error("the use of a node that keeps its descriptor has armed a sweep")
	}
	g.fs.Forget(nil, pin, 1)
	if n := g.fs.fds.used.Load(); n != 1 {
		t.Errorf("%d descriptors, want the root's", n)
	}

	// A file that has other names keeps no descriptor: a client that comes back looks one of them up.
	a := g.mknod(fp.RootID, "a")
	if err := os.Link(g.path("a"), g.path("b")); err != nil {
		t.Fatal(err)
	}
	wantErrno(t, "unlink", g.fs.Unlink(g.on(fp.RootID), name("a")), 0)
	clock.run()
	if n := g.fs.fds.used.Load(); n != 1 {
		t.Errorf("%d descriptors, want the root's", n)
	}
	_, errno := g.getattr(a)
	wantErrno(t, "getattr without a known name", errno, unix.ESTALE)
	if again := g.lookup(fp.RootID, "b"); again != a {
		t.Errorf("node %d under its other name, want %d", again, a)
	}
	if attr, errno := g.getattr(a); errno != 0 || attr.Nlink != 1 {
		t.Errorf("under its other name: %d links, %v", attr.Nlink, errno)
	}
}

// TestLetGo: a file without a name is gone when it is closed, whatever the client
// remembers.
func TestLetGo(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	clock := g.clock()
	node, fh := g.openName("f", "content", unix.O_RDWR)
	out, errno := g.tryOpen(node, unix.O_RDONLY)
	wantErrno(t, "open", errno, 0)
	g.use(node)
	wantErrno(t, "unlink", g.fs.Unlink(g.on(fp.RootID), name("f")), 0)
	wantErrno(t, "release", g.release(node, fh), 0)
	if attr, errno := g.getattr(node); errno != 0 || attr.Nlink != 0 {
		t.Errorf("still open: %d links, %v", attr.Nlink, errno)
	}
	clock.run()
	if attr, errno := g.getattr(node); errno != 0 || attr.Nlink != 0 {
		t.Errorf("still open, after a sweep: %d links, %v", attr.Nlink, errno)
	}
	wantErrno(t, "release", g.release(node, out.Fh), 0)
	if n := g.fs.fds.used.Load(); n != 1 {
		t.Errorf("%d descriptors, want the root's", n)
	}
	_, errno = g.getattr(node)
	wantErrno(t, "getattr of a file that is gone", errno, unix.ESTALE)

	var tmp fp.CreateOut
	wantErrno(t, "tmpfile", g.fs.Tmpfile(g.on(fp.RootID), &fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o600}, &tmp), 0)
	g.use(tmp.Entry.NodeID)
	wantErrno(t, "release", g.release(tmp.Entry.NodeID, tmp.Open.Fh), 0)
	if n := g.fs.fds.used.Load(); n != 1 {
		t.Errorf("%d descriptors after TMPFILE, want the root's", n)
	}
}

// TestRemovedWorkingDirectory: who is in a directory that was removed can list it as often
// as he likes, as on a local disk. Nothing else than its descriptor leads to it.
func TestRemovedWorkingDirectory(t *testing.T) {
	for _, handles := range []FileHandles{HandlesNever, HandlesPrefer} {
		g := newShare(t, func(c *Config) { c.FileHandles = handles }, 0).guest()
		clock := g.clock()
		dir := g.mkdir(fp.RootID, "d")
		wantErrno(t, "rmdir", g.fs.Rmdir(g.on(fp.RootID), name("d")), 0)
		for range 3 {
			var out fp.OpenOut
			wantErrno(t, "opendir", g.fs.Opendir(g.on(dir), &fp.OpenIn{}, &out), 0)
			wantErrno(t, "releasedir", g.fs.Releasedir(g.on(dir), &fp.ReleaseIn{Fh: out.Fh}), 0)
			clock.run()
			if attr, errno := g.getattr(dir); errno != 0 || attr.Nlink != 0 {
				t.Errorf("%d links, %v", attr.Nlink, errno)
			}
		}
		g.fs.Forget(nil, dir, 1)
		if n := g.fs.fds.used.Load(); n != 1 {
			t.Errorf("%d descriptors, want the root's", n)
		}
	}
}

// TestSweepOpenless: files that are read without being opened are closed soon, too.
func TestSweepOpenless(t *testing.T) {
	g := immutable(t, 10, 0, noOpen)
	clock := g.clock()
	for round := range 2 {
		for i := range 10 {
			n := g.lookup(fp.RootID, fmt.Sprint("f", i))
			if got, errno := g.readAt(n, 0, 0, 100); got != fmt.Sprint("content ", i) || errno != 0 {
				t.Fatalf("round %d: read %q, %v", round, got, errno)
			}
		}
		if n := g.fs.fds.kept.Load(); n != 10 {
			t.Errorf("%d files are open, want 10", n)
		}
		clock.run()
		if fds, opens := g.fs.fds.used.Load(), g.fs.fds.kept.Load(); fds != 1 || opens != 0 {
			t.Errorf("%d descriptors, %d open files are left", fds, opens)
		}
	}
}

// TestSweepWhileUsed: a sweep never takes a descriptor away from a request.
func TestSweepWhileUsed(t *testing.T) {
	s := newShare(t, func(c *Config) { c.FileHandles = HandlesPrefer }, 0)
	var stop = make(chan struct{})
	var sweeps, users sync.WaitGroup
	for i := range 8 {
		s.write(fmt.Sprint("f", i), fmt.Sprint("content ", i))
		if err := os.Mkdir(s.path(fmt.Sprint("d", i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sweeps.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				s.fs.sweeper.sweep()
			}
		}
	})
	for q := range 2 {
		users.Go(func() {
			g := s.guest()
			for i := range 3000 {
				file, dir := fmt.Sprint("f", i%8), fmt.Sprint("d", (i+q)%8)
				var e, d fp.EntryOut
				if errno := g.fs.Lookup(g.on(fp.RootID), name(dir), &d); errno != 0 {
					t.Errorf("lookup: %v", errno)
				}
				if errno := g.fs.Lookup(g.on(fp.RootID), name(file), &e); errno != 0 {
					t.Errorf("lookup: %v", errno)
					return
				}
				out, errno := g.tryOpen(e.NodeID, unix.O_RDONLY)
				if errno != 0 {
					t.Errorf("open: %v", errno)
					return
				}
				if got, errno := g.readAt(e.NodeID, out.Fh, 0, 100); got != fmt.Sprint("content ", i%8) || errno != 0 {
					t.Errorf("read %q, %v", got, errno)
				}
				if errno := g.release(e.NodeID, out.Fh); errno != 0 {
					t.Errorf("release: %v", errno)
				}
				file = fmt.Sprintf("new-%d-%d", q, i)
				var made fp.CreateOut
				r := g.on(d.NodeID)
				if errno := g.fs.Create(r, &fp.CreateIn{Flags: unix.O_RDWR | unix.O_CREAT, Mode: 0o644}, name(file), &made); errno != 0 {
					t.Errorf("create: %v", errno)
					return
				}
				if errno := g.fs.Unlink(g.on(d.NodeID), name(file)); errno != 0 {
					t.Errorf("unlink: %v", errno)
				}
				if errno := g.release(made.Entry.NodeID, made.Open.Fh); errno != 0 {
					t.Errorf("release: %v", errno)
				}
				g.fs.Forget(nil, made.Entry.NodeID, 1)
			}
		})
	}
	users.Wait()
	close(stop)
	sweeps.Wait()
}
