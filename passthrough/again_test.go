package passthrough

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/storing"
	"github.com/govirtiofs/govirtiofs/server"
)

// againCase is a request that a process has died of, and that another one serves. Requests are
// about the root, which both know.
type againCase struct {
	name   string
	before func(s *share) // what there is
	// failed says that the process died before it had done anything but to note its intent.
	failed  bool
	certain bool           // it died after it had noted that the change was made
	between func(s *share) // what somebody else does before the successor comes
	call    func(g *guest, r *server.Request) unix.Errno
	want    unix.Errno
	after   string // the tree as it must be in the end
}

func (s *share) mkdir(name string) {
	if err := os.Mkdir(s.path(name), 0o755); err != nil {
		s.t.Fatal(err)
	}
}

func (s *share) remove(name string) {
	if err := os.RemoveAll(s.path(name)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *share) move(from, to string) {
	if err := os.Rename(s.path(from), s.path(to)); err != nil {
		s.t.Fatal(err)
	}
}

// aged are files that were there before: their time of birth is before any intent that follows.
func aged(s *share, names ...string) {
	for _, n := range names {
		s.write(n, n)
	}
	tick()
}

// tick waits until all intents that follow have a later time than the files of now, also where a
// thread does not read the clock again.
func tick() {
	for range 3 {
		for now := coarseTime(); coarseTime() == now; {
			time.Sleep(time.Millisecond)
		}
	}
}

// listing is the names of a directory with the contents of files.
func (s *share) listing() string {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			list = append(list, e.Name()+"="+s.content(e.Name()))
		} else {
			list = append(list, e.Name()+"/")
		}
	}
	return strings.Join(list, " ")
}

func callMkdir(g *guest, r *server.Request) unix.Errno {
	var out fp.EntryOut
	return g.fs.Mkdir(r, &fp.MkdirIn{Mode: 0o755, Umask: 0o22}, name("d"), &out)
}

func callCreate(flags uint32) func(g *guest, r *server.Request) unix.Errno {
	return func(g *guest, r *server.Request) unix.Errno {
		var out fp.CreateOut
		errno := g.fs.Create(r, &fp.CreateIn{Flags: unix.O_RDWR | unix.O_CREAT | flags, Mode: 0o444}, name("f"), &out)
		if errno == 0 {
			g.release(out.Entry.NodeID, out.Open.Fh)
		}
		return errno
	}
}

func callUnlink(g *guest, r *server.Request) unix.Errno { return g.fs.Unlink(r, name("f")) }

func callRename(flags uint32) func(g *guest, r *server.Request) unix.Errno {
	return func(g *guest, r *server.Request) unix.Errno {
		return g.fs.Rename(r, &fp.Rename2In{NewDir: fp.RootID, Flags: flags}, name("a"), name("b"))
	}
}

func callSymlink(g *guest, r *server.Request) unix.Errno {
	var out fp.EntryOut
	return g.fs.Symlink(r, name("l"), name("target"), &out)
}

const appended = "a part, and the rest"

func callAppend(g *guest, r *server.Request) unix.Errno {
	node := g.lookup(fp.RootID, "f")
	fh := g.open(node, unix.O_WRONLY|unix.O_APPEND)
	defer g.release(node, fh)
	in := &fp.WriteIn{Fh: fh, Size: uint32(len(appended)), Flags: unix.O_WRONLY | unix.O_APPEND}
	n, errno := g.fs.Write(r, in, fuse.Buffers(nil).Append([]byte(appended)))
	if errno == 0 && n != len(appended) {
		g.t.Errorf("%d bytes are appended, want %d", n, len(appended))
	}
	return errno
}

var againCases = []againCase{
	{name: "append made", before: func(s *share) { aged(s, "f") }, call: callAppend, after: "f=f" + appended},
	{name: "append not made", before: func(s *share) { aged(s, "f") }, failed: true, call: callAppend, after: "f=f" + appended},
	{name: "append made in part", before: func(s *share) { aged(s, "f") }, failed: true, between: func(s *share) { s.write("f", "f"+appended[:6]) },
		call: callAppend, after: "f=f" + appended},

	{name: "mkdir made", call: callMkdir, after: "d/"},
	{name: "mkdir made for certain", certain: true, call: callMkdir, after: "d/"},
	{name: "mkdir not made", failed: true, call: callMkdir, after: "d/"},
	{name: "mkdir of what was there", before: func(s *share) { aged(s); s.mkdir("d"); tick() }, failed: true,
		call: callMkdir, want: unix.EEXIST, after: "d/"},
	{name: "mkdir, and a file instead", failed: true, between: func(s *share) { s.write("d", "x") }, call: callMkdir, want: unix.EEXIST, after: "d=x"},
	{name: "mkdir by another who uses it", failed: true, between: func(s *share) { s.mkdir("d"); s.write("d/x", "") },
		call: callMkdir, want: unix.EEXIST, after: "d/"},
	{name: "mkdir made and removed by another", between: func(s *share) { s.remove("d") }, call: callMkdir, after: "d/"},
	{name: "symlink made", call: callSymlink, after: "l/"},
	{name: "symlink to elsewhere", failed: true, between: func(s *share) { _ = os.Symlink("other", s.path("l")) }, call: callSymlink, want: unix.EEXIST, after: "l/"},

	{name: "create made", call: callCreate(unix.O_EXCL), after: "f="},
	{name: "create not made", failed: true, call: callCreate(unix.O_EXCL), after: "f="},
	{name: "create of what was there", before: func(s *share) { aged(s, "f") }, failed: true, call: callCreate(unix.O_EXCL), want: unix.EEXIST, after: "f=f"},
	{name: "create by another with content", failed: true, between: func(s *share) { s.write("f", "x") }, call: callCreate(unix.O_EXCL), want: unix.EEXIST, after: "f=x"},
	{name: "create that opens what another has made", failed: true, between: func(s *share) { s.write("f", "x") }, call: callCreate(0), after: "f=x"},

	{name: "unlink made", before: func(s *share) { aged(s, "f") }, call: callUnlink},
	{name: "unlink not made", before: func(s *share) { aged(s, "f") }, failed: true, call: callUnlink},
	{name: "unlink of nothing", failed: true, call: callUnlink, want: unix.ENOENT},
	{name: "unlink, and a younger file", before: func(s *share) { aged(s, "f") }, between: func(s *share) { s.write("f", "new") }, call: callUnlink, after: "f=new"},
	{name: "unlink not made, and a younger file", before: func(s *share) { aged(s, "f") }, failed: true,
		between: func(s *share) { s.remove("f"); s.write("f", "new") }, call: callUnlink, after: "f=new"},
	{name: "unlink, and an older file", before: func(s *share) { aged(s, "f", "g") }, failed: true,
		between: func(s *share) { s.move("g", "f") }, call: callUnlink},

	{name: "rename made", before: func(s *share) { aged(s, "a", "b") }, call: callRename(0), after: "b=a"},
	{name: "rename not made", before: func(s *share) { aged(s, "a", "b") }, failed: true, call: callRename(0), after: "b=a"},
	{name: "rename of nothing", failed: true, call: callRename(0), want: unix.ENOENT},
	{name: "rename made, and a younger file", before: func(s *share) { aged(s, "a", "b") }, between: func(s *share) { s.write("a", "new") },
		call: callRename(0), after: "a=new b=a"},
	{name: "rename made, and moved on", before: func(s *share) { aged(s, "a", "b") }, between: func(s *share) { s.move("b", "c") },
		call: callRename(0), want: unix.ENOENT, after: "c=a"},
	{name: "rename made for certain, and moved on", before: func(s *share) { aged(s, "a", "b") }, certain: true, between: func(s *share) { s.move("b", "c") },
		call: callRename(0), after: "c=a"},
	{name: "rename not made, and the file is gone", before: func(s *share) { aged(s, "a", "b") }, failed: true, between: func(s *share) { s.remove("a") },
		call: callRename(0), want: unix.ENOENT, after: "b=b"},
	{name: "rename not made, and a younger file", before: func(s *share) { aged(s, "a", "b") }, failed: true,
		between: func(s *share) { s.remove("a"); s.write("a", "new") }, call: callRename(0), want: unix.ENOENT, after: "a=new b=b"},
	{name: "rename noreplace made", before: func(s *share) { aged(s, "a") }, call: callRename(unix.RENAME_NOREPLACE), after: "b=a"},
	{name: "rename exchange made", before: func(s *share) { aged(s, "a", "b") }, call: callRename(unix.RENAME_EXCHANGE), after: "a=b b=a"},
	{name: "rename exchange not made", before: func(s *share) { aged(s, "a", "b") }, failed: true, call: callRename(unix.RENAME_EXCHANGE), after: "a=b b=a"},
	{name: "rename of two names of a file", before: func(s *share) { aged(s, "a"); _ = os.Link(s.path("a"), s.path("b")) }, call: callRename(0), after: "a=a b=a"},
}

// again has a successor of g's share serve the request of c.
func (g *guest) again(c *fuse.Cell, node uint64, call func(g *guest, r *server.Request) unix.Errno) unix.Errno {
	g.t.Helper()
	next := shareDir(g.t, g.dir, nil, 0).guest()
	c.TakeAgain(0)
	r := next.on(node)
	r.Cell = c
	r.Again = &server.Again{Step: c.Step()}
	r.Again.Stamp, r.Again.Evidence, r.Again.Intended = c.Intent()
	return call(next, r)
}

// TestAgain serves requests again whose first process has died somewhere, with somebody else
// about who changes the same names.
func TestAgain(t *testing.T) {
	for _, c := range againCases {
		t.Run(c.name, func(t *testing.T) {
			g := newShare(t, nil, 0).guest()
			if c.before != nil {
				c.before(g.share)
			}
			var cell fuse.Cell
			cell.Take(&fp.InHeader{Unique: 4, NodeID: fp.RootID}, 1, 0, 0)
			g.die(&cell, &c)
			if c.between != nil {
				c.between(g.share)
			}
			wantErrno(t, "again", g.again(&cell, fp.RootID, c.call), c.want)
			if got := g.listing(); got != c.after {
				t.Errorf("there is %q, want %q", got, c.after)
			}
		})
	}
}

// die serves the request and leaves its cell as a process does that dies of it.
func (g *guest) die(cell *fuse.Cell, c *againCase) {
	g.t.Helper()
	if !c.failed {
		r := g.on(fp.RootID)
		r.Cell = cell
		wantErrno(g.t, "the first time", c.call(g, r), 0)
		r.Cell = nil
		if !c.certain {
			cell.SetStep(0)
		}
		return
	}
	// It stands still for good where the intent is noted.
	noted := make(chan struct{})
	go func() {
		storing.SetHook(func() {
			if _, _, ok := cell.Intent(); ok {
				close(noted)
				select {}
			}
		})
		dying := makeShare(g.t, g.dir, nil, 0).guest()
		r := dying.on(fp.RootID)
		r.Cell = cell
		_ = c.call(dying, r)
	}()
	<-noted
	storing.SetHook(nil)
}
