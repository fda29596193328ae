package passthrough

import (
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestResumeOtherName: the client has removed the name by which it has used a file last. A successor finds the file by
// its handle, and by its other name, also if the kernel does not tell that one: because it has it not in its cache, or, as
// here, because a descriptor is still of the name that is removed.
func TestResumeOtherName(t *testing.T) {
	needRoot(t)
	l := newLine(t, func(c *Config) { c.FileHandles = HandlesPrefer }, 0)
	g := l.first(t)
	if !g.fs.UsesFileHandles() {
		t.Skip("no file handles here")
	}
	if err := unix.Mkdir(g.path("d"), 0o755); err != nil {
		t.Fatal(err)
	}
	g.write("d/f", "content")
	d := g.lookup(fp.RootID, "d")
	f := g.lookup(d, "f")
	var entry fp.EntryOut
	wantErrno(t, "link", g.fs.Link(g.on(fp.RootID), &fp.LinkIn{OldNodeID: f}, name("g"), &entry), 0)
	host, err := unix.Open(g.path("g"), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	g.lookup(fp.RootID, "g")
	wantErrno(t, "unlink", g.fs.Unlink(g.on(fp.RootID), name("g")), 0)
	g = l.next(t, g)
	n := g.fs.nodes.Acquire(f)
	defer g.fs.nodes.release(n)
	if errno := g.fs.fds.count(); errno != 0 {
		t.Fatal(errno)
	}
	fd, errno := g.fs.find.proven(threadOf(g.on(f)), n, host)
	wantErrno(t, "the file by its other name", errno, 0)
	if errno == 0 {
		g.fs.fds.close(fd)
	}
	var attr fp.AttrOut
	wantErrno(t, "getattr", g.fs.Getattr(g.on(f), &fp.GetattrIn{}, &attr), 0)
	fh := g.open(f, unix.O_RDONLY)
	if s, errno := g.readAt(f, fh, 0, 20); s != "content" || errno != 0 {
		t.Errorf("it has %q, %v", s, errno)
	}
}
