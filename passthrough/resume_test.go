package passthrough

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/keeper"
	"github.com/govirtiofs/govirtiofs/ledger"
)

// safe is a Keeper that outlives the shares of a test.
type safe struct {
	t      testing.TB
	mu     sync.Mutex
	held   map[keeper.Key]int
	left   map[keeper.Key]bool // not taken by the present process yet
	refuse error               // of Keep
}

func newSafe(t testing.TB) *safe {
	s := &safe{t: t, held: map[keeper.Key]int{}}
	t.Cleanup(func() {
		for _, fd := range s.held {
			_ = unix.Close(fd)
		}
	})
	return s
}

func (s *safe) Keep(k keeper.Key, fd int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return s.refuse
	}
	copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if old, ok := s.held[k]; ok {
		_ = unix.Close(old)
	}
	s.held[k] = copied
	return nil
}

func (s *safe) Drop(k keeper.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if fd, ok := s.held[k]; ok {
		_ = unix.Close(fd)
		delete(s.held, k)
	}
	delete(s.left, k)
}

// next is the keeper of a successor.
func (s *safe) next() {
	s.left = map[keeper.Key]bool{}
	for k := range s.held {
		s.left[k] = true
	}
}

func (s *safe) Kept() (list []keeper.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.left {
		list = append(list, k)
	}
	return list
}

func (s *safe) Take(k keeper.Key) (int, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.left[k] {
		return -1, false
	}
	delete(s.left, k)
	fd, err := unix.FcntlInt(uintptr(s.held[k]), unix.F_DUPFD_CLOEXEC, 0)
	return fd, err == nil
}

func (s *safe) keys() (list []string) {
	for k := range s.held {
		list = append(list, k.String())
	}
	slices.Sort(list)
	return list
}

// line is a row of processes that serve one client, one after the other.
type line struct {
	ledger *ledger.Ledger
	safe   *safe
	edit   func(*Config)
	flags  fp.InitFlags
}

func newLine(t testing.TB, edit func(*Config), flags fp.InitFlags) *line {
	t.Helper()
	l, err := ledger.Create()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return &line{ledger: l, safe: newSafe(t), edit: edit, flags: flags}
}

func (l *line) config(c *Config) {
	c.Ledger, c.Keeper = l.ledger, l.safe
	if l.edit != nil {
		l.edit(c)
	}
}

// first is the first process, with a new directory.
func (l *line) first(t testing.TB) *guest {
	return makeShare(t, t.TempDir(), l.config, l.flags).guest()
}

// next is a process that takes over from g's, which stays as it is, as if it had died.
func (l *line) next(t testing.TB, g *guest) *guest {
	t.Helper()
	l.safe.next()
	next := makeShare(t, g.dir, l.config, l.flags).guest()
	before := countCalls(func() {
		warning, err := next.fs.Resume(&next.thread, true)
		if err != nil || warning != "" {
			t.Fatal(warning, err)
		}
	})
	if pins := int64(len(l.safe.keys())); before > 4*pins {
		t.Errorf("%d system calls to take over, with %d descriptors kept", before, pins)
	}
	return next
}

// known is all that a process knows of its client.
func (g *guest) known() (list []string) {
	for n := range g.fs.nodes.All {
		parent, name := n.locationOf()
		list = append(list, fmt.Sprintf("node %#x %d %v %v in %#x as %q", n.ID(), g.fs.nodes.Lookups(n), n.Key(), n.birth(), parent, name))
	}
	for f := range g.fs.openFiles.All {
		list = append(list, fmt.Sprintf("open %#x of %#x, %#x", f.ID(), f.node.ID(), f.flags))
	}
	slices.Sort(list)
	return list
}

func (n *inode) locationOf() (parent uint64, name string) {
	n.Lock()
	defer n.Unlock()
	if p := n.Parent(); p != nil {
		return p.ID(), n.Name().String()
	}
	return 0, ""
}

func sameLines(t testing.TB, what string, got, want []string) {
	t.Helper()
	for _, s := range want {
		if !slices.Contains(got, s) {
			t.Errorf("%s: %s is missing", what, s)
		}
	}
	for _, s := range got {
		if !slices.Contains(want, s) {
			t.Errorf("%s: there is %s", what, s)
		}
	}
}

// TestResume has a client with nodes, open files and a directory half read go on with another
// process, and with a third one.
func TestResume(t *testing.T) {
	l := newLine(t, nil, fp.InitPosixLocks|fp.InitFlockLocks)
	g := l.first(t)
	if err := os.MkdirAll(g.path("a/b/c"), 0o755); err != nil {
		t.Fatal(err)
	}
	g.write("a/b/c/f", "0123456789")
	g.write("a/gone", "gone")
	a := g.lookup(fp.RootID, "a")
	b := g.lookup(a, "b")
	c := g.lookup(b, "c")
	f := g.lookup(c, "f")
	if g.lookup(c, "f") != f {
		t.Fatal("another number")
	}
	gone := g.lookup(a, "gone")
	fh := g.open(f, unix.O_RDWR)
	goneFh := g.open(gone, unix.O_RDONLY)
	dirFh := g.open(c, unix.O_DIRECTORY)
	for i := range 40 {
		g.write(fmt.Sprintf("a/b/c/%02d", i), "")
	}
	var tmp fp.CreateOut
	wantErrno(t, "tmpfile", g.fs.Tmpfile(g.on(a), &fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o600}, &tmp), 0)
	if _, errno := g.writeAt(tmp.Entry.NodeID, fp.WriteIn{Fh: tmp.Open.Fh}, "nameless"); errno != 0 {
		t.Fatal(errno)
	}
	var cell fuse.Cell
	g.r.Cell = &cell
	wantErrno(t, "unlink", g.fs.Unlink(g.on(a), name("gone")), 0)
	g.r.Cell = nil
	half, _ := g.list(c, dirFh, 0, 400, false)
	for range 2 {
		want := g.known()
		g = l.next(t, g)
		sameLines(t, "taken over", g.known(), want)
		for what, read := range map[string]struct {
			node, fh uint64
			want     string
		}{"a file": {f, fh, "0123456789"}, "one that was removed": {gone, goneFh, "gone"}, "a nameless one": {tmp.Entry.NodeID, tmp.Open.Fh, "nameless"}} {
			if s, errno := g.readAt(read.node, read.fh, 0, 20); s != read.want || errno != 0 {
				t.Errorf("%s has %q, %v", what, s, errno)
			}
		}
		rest, _ := g.list(c, dirFh, half[len(half)-1].off, 8192, false)
		if len(half)+len(rest) != 43 {
			t.Errorf("the listing has %d and %d names", len(half), len(rest))
		}
	}
	wantErrno(t, "link of the nameless file", g.fs.Link(g.on(a), &fp.LinkIn{OldNodeID: tmp.Entry.NodeID}, name("named"), &fp.EntryOut{}), 0)
	if s := g.content("a/named"); s != "nameless" {
		t.Errorf("the nameless file has %q", s)
	}
	for node, fh := range map[uint64]uint64{f: fh, gone: goneFh, tmp.Entry.NodeID: tmp.Open.Fh} {
		wantErrno(t, "release", g.release(node, fh), 0)
	}
	wantErrno(t, "releasedir", g.fs.Releasedir(g.on(c), &fp.ReleaseIn{Fh: dirFh}), 0)
	if keys := l.safe.keys(); len(keys) > 0 {
		t.Errorf("kept in the end: %v", keys)
	}
	g.fs.Destroy()
	if n := g.fs.fds.kept.Load(); n != 0 {
		t.Errorf("%d open files are counted in the end", n)
	}
	sameLines(t, "in the end", l.next(t, g).known(), []string{g.known()[0]})
}
