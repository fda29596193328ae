package passthrough

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/storing"
	"github.com/govirtiofs/govirtiofs/ledger"
	"github.com/govirtiofs/govirtiofs/server"
)

// changer is a request that changes something.
type changer struct {
	op   fp.Opcode
	node uint64 // 0 is the root
	call func(g *guest, r *server.Request) unix.Errno
}

func (c *changer) at() uint64 {
	if c.node == 0 {
		return fp.RootID
	}
	return c.node
}

// cells are the cells of a line's requests, one after the other.
type cells struct {
	queue *ledger.Queue
	next  uint16
}

func (l *line) cells(t *testing.T) *cells {
	t.Helper()
	q, err := l.ledger.Queue(1, 64)
	if err != nil {
		t.Fatal(err)
	}
	return &cells{queue: q}
}

// serve has a request served, and leaves its cell as it is.
func (c *cells) serve(g *guest, x changer) (*fuse.Cell, unix.Errno) {
	cell := c.queue.Cell(c.next % 64)
	r := g.on(x.at())
	r.Header.Unique, r.Header.Opcode = uint64(c.next)*2+2, uint32(x.op)
	cell.Take(&r.Header, c.queue.Order(), c.next, 0)
	c.next++
	r.Cell = cell
	defer func() { r.Cell = nil }()
	return cell, x.call(g, r)
}

// answered has a request served and answered.
func (c *cells) answered(t *testing.T, g *guest, x changer, want unix.Errno) {
	t.Helper()
	cell, errno := c.serve(g, x)
	wantErrno(t, x.op.String(), errno, want)
	cell.Done(0, 0)
	cell.Free()
}

// dies has a request served by a process that dies before it has noted what became of it.
func (c *cells) dies(t *testing.T, g *guest, x changer) (*fuse.Cell, unix.Errno) {
	t.Helper()
	cell := c.queue.Cell(c.next % 64)
	var stamp int64
	var e fuse.Evidence
	noted := false
	storing.SetHook(func() {
		if s, ev, ok := cell.Intent(); ok && !noted {
			stamp, e, noted = s, ev, true
		}
	})
	_, errno := c.serve(g, x)
	storing.SetHook(nil)
	if noted {
		cell.Intend(stamp, e)
	}
	return cell, errno
}

// serveAgain has g serve a request that a predecessor has died of.
func (g *guest) serveAgain(c *fuse.Cell, x changer) unix.Errno {
	c.TakeAgain(0)
	r := g.on(x.at())
	r.Header.Unique, r.Header.Opcode = c.Unique(), uint32(x.op)
	r.Cell = c
	r.Again = &server.Again{Step: c.Step()}
	r.Again.Stamp, r.Again.Evidence, r.Again.Intended = c.Intent()
	defer func() { r.Cell, r.Again = nil, nil }()
	return x.call(g, r)
}

func entry(f func(g *guest, r *server.Request, out *fp.EntryOut) unix.Errno) func(g *guest, r *server.Request) unix.Errno {
	return func(g *guest, r *server.Request) unix.Errno { return f(g, r, new(fp.EntryOut)) }
}

func mkdirOf(n string) changer {
	return changer{op: fp.OpMkdir, call: entry(func(g *guest, r *server.Request, out *fp.EntryOut) unix.Errno {
		return g.fs.Mkdir(r, &fp.MkdirIn{Mode: 0o755}, name(n), out)
	})}
}

func mknodOf(n string) changer {
	return changer{op: fp.OpMknod, call: entry(func(g *guest, r *server.Request, out *fp.EntryOut) unix.Errno {
		return g.fs.Mknod(r, &fp.MknodIn{Mode: unix.S_IFREG | 0o644}, name(n), out)
	})}
}

func symlinkOf(n string) changer {
	return changer{op: fp.OpSymlink, call: entry(func(g *guest, r *server.Request, out *fp.EntryOut) unix.Errno {
		return g.fs.Symlink(r, name(n), name("target"), out)
	})}
}

func createOf(n string, flags uint32) changer {
	return changer{op: fp.OpCreate, call: func(g *guest, r *server.Request) unix.Errno {
		var out fp.CreateOut
		errno := g.fs.Create(r, &fp.CreateIn{Flags: unix.O_RDWR | unix.O_CREAT | flags, Mode: 0o644}, name(n), &out)
		if errno == 0 {
			defer func(c *fuse.Cell) { r.Cell = c }(r.Cell)
			r.Cell = nil
			g.release(out.Entry.NodeID, out.Open.Fh)
		}
		return errno
	}}
}

func linkOf(node uint64, n string) changer {
	return changer{op: fp.OpLink, call: entry(func(g *guest, r *server.Request, out *fp.EntryOut) unix.Errno {
		return g.fs.Link(r, &fp.LinkIn{OldNodeID: node}, name(n), out)
	})}
}

func unlinkOf(n string) changer {
	return changer{op: fp.OpUnlink, call: func(g *guest, r *server.Request) unix.Errno { return g.fs.Unlink(r, name(n)) }}
}

func rmdirOf(n string) changer {
	return changer{op: fp.OpRmdir, call: func(g *guest, r *server.Request) unix.Errno { return g.fs.Rmdir(r, name(n)) }}
}

func renameOf(from, to string, flags uint32) changer {
	return changer{op: fp.OpRename2, call: func(g *guest, r *server.Request) unix.Errno {
		return g.fs.Rename(r, &fp.Rename2In{NewDir: fp.RootID, Flags: flags}, name(from), name(to))
	}}
}

func setxattrOf(node uint64, flags uint32) changer {
	return changer{fp.OpSetxattr, node, func(g *guest, r *server.Request) unix.Errno {
		return g.fs.Setxattr(r, &fp.SetxattrIn{Size: 1, Flags: flags}, name("user.a"), []byte("v"))
	}}
}

func removexattrOf(node uint64) changer {
	return changer{fp.OpRemovexattr, node, func(g *guest, r *server.Request) unix.Errno { return g.fs.Removexattr(r, name("user.a")) }}
}

func appendOf(node, fh uint64) changer {
	return changer{fp.OpWrite, node, func(g *guest, r *server.Request) unix.Errno {
		_, errno := g.fs.Write(r, &fp.WriteIn{Fh: fh, Size: 1, Flags: unix.O_RDWR | unix.O_APPEND}, fuse.Buffers(nil).Append([]byte("a")))
		return errno
	}}
}

func collapseOf(node, fh uint64) changer {
	return changer{fp.OpFallocate, node, func(g *guest, r *server.Request) unix.Errno {
		return g.fs.Fallocate(r, &fp.FallocateIn{Fh: fh, Mode: unix.FALLOC_FL_COLLAPSE_RANGE, Length: 1 << 12})
	}}
}

// TestTurns: of two requests that change the same name, attribute or end of a file the second one begins when the
// first is done, whatever becomes of both. All pairs are tried.
func TestTurns(t *testing.T) {
	l := newLine(t, func(c *Config) { c.Xattr = true }, 0)
	g := l.first(t)
	g.write("file", "file")
	file := g.lookup(fp.RootID, "file")
	fh := g.open(file, unix.O_RDWR|unix.O_APPEND)
	for what, all := range map[string][]changer{
		"a name": {
			mkdirOf("x"), mknodOf("x"), symlinkOf("x"), createOf("x", 0), createOf("x", unix.O_EXCL), linkOf(file, "x"), unlinkOf("x"), rmdirOf("x"),
			renameOf("x", "y", 0), renameOf("y", "x", 0), renameOf("y", "x", unix.RENAME_NOREPLACE), renameOf("x", "y", unix.RENAME_EXCHANGE),
		},
		"an attribute":      {setxattrOf(file, 0), setxattrOf(file, unix.XATTR_CREATE), setxattrOf(file, unix.XATTR_REPLACE), removexattrOf(file)},
		"the end of a file": {appendOf(file, fh), collapseOf(file, fh)},
	} {
		c := l.cells(t)
		for _, first := range all {
			for _, second := range all {
				cell, _ := c.serve(g, first)
				waited := false
				g.fs.again.turns.pause = func(int) {
					waited = true
					cell.Done(0, 0)
				}
				other, _ := c.serve(g, second)
				if !waited {
					t.Errorf("%s: %s did not wait for %s", what, second.op, first.op)
				}
				other.Done(0, 0)
				cell.Free()
				other.Free()
			}
			waited := false
			cell, _ := c.serve(g, first)
			g.fs.again.turns.pause = func(int) { waited = true; cell.Done(0, 0) }
			c.answered(t, g, mkdirOf("another"), 0)
			c.answered(t, g, rmdirOf("another"), 0)
			if waited {
				t.Errorf("%s: a request for another name waited for %s", what, first.op)
			}
			cell.Done(0, 0)
			cell.Free()
		}
	}
}

// TestTurnsOnQueue: the thread of a queue does not wait for a request that takes long. It may be the one that notes its
// reply. The request that has to wait changes nothing until then.
func TestTurnsOnQueue(t *testing.T) {
	l := newLine(t, func(c *Config) { c.Xattr = true }, 0)
	g := l.first(t)
	g.write("file", "file")
	file := g.lookup(fp.RootID, "file")
	fh := g.open(file, unix.O_RDWR|unix.O_APPEND)
	pauses := 0
	g.fs.again.turns.pause = func(int) { pauses++ }
	c := l.cells(t)
	for _, pair := range [][2]changer{
		{mkdirOf("a"), rmdirOf("a")}, {mkdirOf("b"), mkdirOf("b")}, {mknodOf("c"), symlinkOf("c")}, {mknodOf("d"), createOf("d", 0)},
		{mknodOf("e"), linkOf(file, "e")}, {mknodOf("f"), unlinkOf("f")}, {mknodOf("g"), renameOf("g", "h", 0)}, {mknodOf("i"), renameOf("file", "i", 0)},
		{setxattrOf(file, 0), setxattrOf(file, 0)}, {setxattrOf(file, 0), removexattrOf(file)},
		{appendOf(file, fh), appendOf(file, fh)}, {appendOf(file, fh), collapseOf(file, fh)},
	} {
		pauses = 0
		first, errno := c.serve(g, pair[0])
		wantErrno(t, pair[0].op.String(), errno, 0)
		before := g.listing()
		second, errno := c.serve(g, pair[1])
		if errno != server.WouldBlock || pauses > shortPauses || second.Phase() != fuse.PhaseTaken || g.listing() != before {
			t.Errorf("%s beside %s: %v after %d pauses, %d; want WouldBlock", pair[1].op, pair[0].op, errno, pauses, second.Phase())
		}
		first.Done(0, 0)
		first.Free()
		r := g.on(pair[1].at())
		r.MayWait, r.Canceled, r.Cell = true, make(chan struct{}), second
		if errno := pair[1].call(g, r); errno == server.WouldBlock {
			t.Errorf("%s with leave to wait: WouldBlock", pair[1].op)
		}
		r.Cell = nil
		second.Done(0, 0)
		second.Free()
	}
}

// TestTurnsLeft: a request that was under way when its process died, and may have changed something, has its turn in the next
// process from the start on. If nobody serves it, others do not wait for good.
func TestTurnsLeft(t *testing.T) {
	const file, dir = "file", "dir"
	for _, served := range []bool{true, false} {
		for _, pair := range [][2]changer{
			{mkdirOf("x"), unlinkOf("x")}, {mknodOf("x"), mkdirOf("x")}, {symlinkOf("x"), symlinkOf("x")},
			{createOf("x", unix.O_EXCL), unlinkOf("x")}, {linkOf(0, "x"), unlinkOf("x")}, {unlinkOf(file), unlinkOf(file)},
			{rmdirOf(dir), rmdirOf(dir)}, {renameOf(file, "x", 0), mkdirOf("x")}, {renameOf(file, "x", 0), unlinkOf(file)},
			{renameOf(file, dir, unix.RENAME_EXCHANGE), renameOf(dir, file, unix.RENAME_EXCHANGE)},
			{setxattrOf(fp.RootID, unix.XATTR_CREATE), removexattrOf(fp.RootID)}, {setxattrOf(fp.RootID, 0), removexattrOf(fp.RootID)},
		} {
			l := newLine(t, func(c *Config) { c.Xattr = true }, 0)
			g := l.first(t)
			aged(g.share, file)
			g.mkdir(fp.RootID, dir)
			if pair[0].op == fp.OpLink {
				pair[0] = linkOf(g.lookup(fp.RootID, file), "x")
			}
			c := l.cells(t)
			cell, errno := c.dies(t, g, pair[0])
			wantErrno(t, pair[0].op.String(), errno, 0)
			next := l.next(t, g)
			waited := false
			next.fs.again.turns.pause = func(int) {
				if waited = true; served { // by another thread
					cell.Done(0, 0)
				}
			}
			next.fs.again.turns.most = time.Millisecond
			_, _ = c.serve(next, pair[1])
			if !waited {
				t.Errorf("%s did not wait for %s", pair[1].op, pair[0].op)
			}
		}
	}
}

// followed is a request that a process dies of. Those before it were answered.
type followed struct {
	name     string
	answered []changer
	again    func(g *guest) // what the client has done that the ledger does not decide
	last     changer
	want     unix.Errno
	after    string // names of the root
}

// TestFollowed: a request is under way when the process dies, and one that was answered has done what looks as if this one
// had done it.
func TestFollowed(t *testing.T) {
	forgetAll := func(g *guest) {
		for n := range g.fs.nodes.All {
			if n.ID() != fp.RootID {
				g.fs.Forget(nil, n.ID(), g.fs.nodes.Lookups(n))
			}
		}
	}
	for _, c := range []followed{
		{"MKDIR twice", []changer{mkdirOf("x")}, nil, mkdirOf("x"), unix.EEXIST, "x/"},
		{"MKDIR twice, forgotten", []changer{mkdirOf("x")}, forgetAll, mkdirOf("x"), unix.EEXIST, "x/"},
		{"MKNOD twice, forgotten", []changer{mknodOf("x")}, forgetAll, mknodOf("x"), unix.EEXIST, "x="},
		{"SYMLINK twice, forgotten", []changer{symlinkOf("x")}, forgetAll, symlinkOf("x"), unix.EEXIST, "x/"},
		{"CREATE and MKDIR", []changer{createOf("x", unix.O_EXCL)}, nil, mkdirOf("x"), unix.EEXIST, "x="},
		{"CREATE twice, forgotten", []changer{createOf("x", unix.O_EXCL)}, forgetAll, createOf("x", unix.O_EXCL), unix.EEXIST, "x="},
		{"MKNOD, UNLINK, MKNOD", []changer{mknodOf("x"), unlinkOf("x")}, nil, mknodOf("x"), 0, "x="},
		{"UNLINK twice", []changer{mknodOf("x"), unlinkOf("x")}, nil, unlinkOf("x"), unix.ENOENT, ""},
		{"RMDIR twice", []changer{mkdirOf("x"), rmdirOf("x")}, nil, rmdirOf("x"), unix.ENOENT, ""},
		{"UNLINK of what was made again", []changer{mknodOf("x"), unlinkOf("x"), mknodOf("x")}, nil, unlinkOf("x"), 0, ""},
		{"RENAME twice", []changer{mknodOf("x"), renameOf("x", "y", 0)}, nil, renameOf("x", "y", 0), unix.ENOENT, "y="},
		{"RENAME and UNLINK of the source", []changer{mknodOf("x"), renameOf("x", "y", 0)}, nil, unlinkOf("x"), unix.ENOENT, "y="},
		{"RENAME there and back", []changer{mknodOf("x"), renameOf("x", "y", 0)}, nil, renameOf("y", "x", 0), 0, "x="},
		{"RENAME_NOREPLACE twice", []changer{mknodOf("x"), renameOf("x", "y", unix.RENAME_NOREPLACE), mknodOf("x")}, nil,
			renameOf("x", "y", unix.RENAME_NOREPLACE), unix.EEXIST, "x= y="},
		{"RENAME_EXCHANGE twice", []changer{mknodOf("x"), mkdirOf("y"), renameOf("x", "y", unix.RENAME_EXCHANGE)}, nil,
			renameOf("x", "y", unix.RENAME_EXCHANGE), 0, "x= y/"},
		{"RENAME_EXCHANGE once", []changer{mknodOf("x"), mkdirOf("y")}, nil, renameOf("x", "y", unix.RENAME_EXCHANGE), 0, "x/ y="},
		{"SETXATTR twice", []changer{setxattrOf(fp.RootID, unix.XATTR_CREATE)}, nil, setxattrOf(fp.RootID, unix.XATTR_CREATE), unix.EEXIST, ""},
		{"REMOVEXATTR twice", []changer{setxattrOf(fp.RootID, 0), removexattrOf(fp.RootID)}, nil, removexattrOf(fp.RootID), unix.ENODATA, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLine(t, func(c *Config) { c.Xattr = true }, 0)
			g := l.first(t)
			cells := l.cells(t)
			for _, x := range c.answered {
				cells.answered(t, g, x, 0)
			}
			if c.again != nil {
				c.again(g)
			}
			cell, errno := cells.dies(t, g, c.last)
			wantErrno(t, "before the death", errno, c.want)
			next := l.next(t, g)
			wantErrno(t, "served again", next.serveAgain(cell, c.last), c.want)
			if got := next.listing(); got != c.after {
				t.Errorf("there is %q, want %q", got, c.after)
			}
		})
	}
}

// TestFollowedLink: a LINK of a file to a name that it has, while the file has just been changed.
func TestFollowedLink(t *testing.T) {
	l := newLine(t, nil, 0)
	g := l.first(t)
	aged(g.share, "file")
	file := g.lookup(fp.RootID, "file")
	c := l.cells(t)
	c.answered(t, g, linkOf(file, "x"), 0)
	g.lookup(fp.RootID, "file") // by which it is found from now on
	cell, errno := c.dies(t, g, linkOf(file, "x"))
	wantErrno(t, "before the death", errno, unix.EEXIST)
	next := l.next(t, g)
	wantErrno(t, "served again", next.serveAgain(cell, linkOf(file, "x")), unix.EEXIST)
}

// TestMadeAndChanged: the client finds what a request has made before that is answered, and changes it. The request is
// served again by the next process, and has made it.
func TestMadeAndChanged(t *testing.T) {
	for _, c := range []struct {
		x      changer
		change func(g *guest, node uint64)
	}{
		{createOf("x", unix.O_EXCL), func(g *guest, _ uint64) { g.write("x", "content") }},
		{mkdirOf("x"), func(g *guest, node uint64) { g.mkdir(node, "in it") }},
		{mknodOf("x"), func(g *guest, node uint64) {
			var out fp.AttrOut
			wantErrno(t, "chmod", g.fs.Setattr(g.on(node), &fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o600}, &out), 0)
		}},
	} {
		l := newLine(t, nil, 0)
		g := l.first(t)
		cell, errno := l.cells(t).dies(t, g, c.x)
		wantErrno(t, "before the death", errno, 0)
		c.change(g, g.lookup(fp.RootID, "x"))
		next := l.next(t, g)
		wantErrno(t, c.x.op.String()+", served again", next.serveAgain(cell, c.x), 0)
	}
}
