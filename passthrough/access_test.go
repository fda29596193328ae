package passthrough

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/server"
)

// recorder is a policy that notes what it is asked, and refuses one of the questions.
type recorder struct {
	names  map[uint64]string // of nodes
	asked  []string
	refuse int // which question, from 1 on; 0 is none
}

const refused = unix.EHWPOISON // an errno that nothing else here answers

func (p *recorder) answer(question string) unix.Errno {
	if p.asked = append(p.asked, question); len(p.asked) == p.refuse {
		return refused
	}
	return 0
}

func (p *recorder) node(n *inode, want intent) unix.Errno {
	what, ok := p.names[n.ID()]
	if !ok { // one that the request has found
		what = n.Name().String()
	}
	return p.answer(what + ": " + want.String())
}

func (p *recorder) name(dir *inode, name fp.Name, want intent) unix.Errno {
	return p.answer(p.names[dir.ID()] + "/" + name.String() + ": " + want.String())
}

// accessTest is a guest that knows some nodes and has some of them open.
type accessTest struct {
	*guest
	policy             *recorder
	file, other        uint64 // regular files f and g
	dir, link          uint64 // directory d, with a file x; symbolic link l
	fh, otherFh, dirFh uint64
}

func newAccessTest(t *testing.T, dax bool) *accessTest {
	t.Helper()
	a := &accessTest{}
	if dax {
		a.guest, _ = withWindow(t, &window{}, nil)
	} else {
		a.guest = newShare(t, nil, 0).guest()
	}
	a.file, a.fh = a.openName("f", "content", unix.O_RDWR)
	a.other, a.otherFh = a.openName("g", "", unix.O_RDWR)
	if err := os.Mkdir(a.path("d"), 0o755); err != nil {
		t.Fatal(err)
	}
	a.write("d/x", "")
	if err := os.Symlink("f", a.path("l")); err != nil {
		t.Fatal(err)
	}
	a.dir, a.link = a.lookup(fp.RootID, "d"), a.lookup(fp.RootID, "l")
	a.dirFh = a.open(a.dir, unix.O_DIRECTORY)
	for _, id := range []uint64{fp.RootID, a.file, a.other, a.dir, a.link} { // the descriptors are there
		n, errno := a.fs.get(id)
		if errno != 0 {
			t.Fatal(errno)
		}
		if _, errno = a.fs.find.fdOf(threadOf(a.on(id)), n); errno != 0 {
			t.Fatal(errno)
		}
		a.fs.nodes.release(n)
	}
	a.policy = &recorder{names: map[uint64]string{fp.RootID: "root", a.file: "f", a.other: "g", a.dir: "d", a.link: "l"}}
	a.fs.policy = a.policy
	return a
}

// req is a request about a node that may wait, so that it comes once.
func (a *accessTest) req(node uint64) *server.Request {
	r := a.on(node)
	r.MayWait, r.Canceled = true, make(chan struct{})
	return r
}

// accessRow is a request and what it asks for, in this order.
type accessRow struct {
	what string
	call func(a *accessTest) unix.Errno
	want []string
	// quiet is the first question, from 1 on, after which the request goes on without what
	// it is refused. late is the first that comes after system calls, as it is about what
	// they have found. 0 is none.
	quiet, late int
	window      bool // for a share with DAX
}

// errnoOf is the errno of a call that returns a length too.
func errnoOf[T any](_ T, errno unix.Errno) unix.Errno { return errno }

// nowhere is for opcodes whose requests are about no node.
func nowhere(call func(a *accessTest) unix.Errno) []accessRow { return []accessRow{{call: call}} }

var accessRows = map[fp.Opcode][]accessRow{
	fp.OpLookup: {{call: func(a *accessTest) unix.Errno { return a.fs.Lookup(a.req(fp.RootID), name("f"), &fp.EntryOut{}) },
		want: []string{"root/f: lookup", "f: lookup"}, late: 2}},
	fp.OpGetattr: {
		{what: "node", call: func(a *accessTest) unix.Errno { return a.fs.Getattr(a.req(a.file), &fp.GetattrIn{}, &fp.AttrOut{}) },
			want: []string{"f: stat"}},
		{what: "open file", call: func(a *accessTest) unix.Errno {
			return a.fs.Getattr(a.req(a.file), &fp.GetattrIn{GetattrFlags: fp.GetattrFh, Fh: a.fh}, &fp.AttrOut{})
		}, want: []string{"f: stat"}},
	},
	fp.OpStatx: {{call: func(a *accessTest) unix.Errno { return a.fs.Statx(a.req(a.dir), &fp.StatxIn{}, &fp.StatxOut{}) },
		want: []string{"d: stat"}}},
	fp.OpSetattr: {
		{what: "mode", call: func(a *accessTest) unix.Errno {
			return a.fs.Setattr(a.req(a.file), &fp.SetattrIn{Valid: fp.FattrMode, Mode: 0o600}, &fp.AttrOut{})
		}, want: []string{"f: setattr"}},
		{what: "size", call: func(a *accessTest) unix.Errno {
			return a.fs.Setattr(a.req(a.file), &fp.SetattrIn{Valid: fp.FattrSize | fp.FattrFh, Fh: a.fh}, &fp.AttrOut{})
		}, want: []string{"f: write, setattr"}},
	},
	fp.OpReadlink: {{call: func(a *accessTest) unix.Errno { return errnoOf(a.fs.Readlink(a.req(a.link), make([]byte, 4096))) },
		want: []string{"l: read"}}},
	fp.OpSymlink: {{call: func(a *accessTest) unix.Errno {
		return a.fs.Symlink(a.req(a.dir), name("new"), name("target"), &fp.EntryOut{})
	}, want: []string{"d/new: create"}}},
	fp.OpMknod: {{call: func(a *accessTest) unix.Errno {
		return a.fs.Mknod(a.req(a.dir), &fp.MknodIn{Mode: unix.S_IFREG | 0o644}, name("new"), &fp.EntryOut{})
	}, want: []string{"d/new: create"}}},
	fp.OpMkdir: {{call: func(a *accessTest) unix.Errno {
		return a.fs.Mkdir(a.req(fp.RootID), &fp.MkdirIn{Mode: 0o755}, name("new"), &fp.EntryOut{})
	}, want: []string{"root/new: create"}}},
	fp.OpUnlink: {{call: func(a *accessTest) unix.Errno { return a.fs.Unlink(a.req(fp.RootID), name("g")) },
		want: []string{"root/g: remove"}}},
	fp.OpRmdir: {{call: func(a *accessTest) unix.Errno {
		_ = os.Remove(a.path("d/x"))
		return a.fs.Rmdir(a.req(fp.RootID), name("d"))
	}, want: []string{"root/d: remove"}}},
	fp.OpRename: {{call: func(a *accessTest) unix.Errno {
		return a.fs.Rename(a.req(fp.RootID), &fp.Rename2In{NewDir: a.dir}, name("f"), name("new"))
	}, want: []string{"root/f: rename from", "d/new: rename to"}}},
	fp.OpRename2: {
		{what: "exchange", call: func(a *accessTest) unix.Errno {
			return a.fs.Rename(a.req(fp.RootID), &fp.Rename2In{NewDir: a.dir, Flags: unix.RENAME_EXCHANGE}, name("f"), name("x"))
		}, want: []string{"root/f: rename from, rename to", "d/x: rename from, rename to"}},
		{what: "whiteout", call: func(a *accessTest) unix.Errno {
			errno := a.fs.Rename(a.req(fp.RootID), &fp.Rename2In{NewDir: a.dir, Flags: unix.RENAME_WHITEOUT}, name("f"), name("x"))
			if errno == unix.EPERM || errno == unix.EINVAL {
				return 0 // the file system has none, or this user may not make one
			}
			return errno
		}, want: []string{"root/f: create, rename from", "d/x: rename to"}},
	},
	fp.OpLink: {{call: func(a *accessTest) unix.Errno {
		return a.fs.Link(a.req(a.dir), &fp.LinkIn{OldNodeID: a.file}, name("new"), &fp.EntryOut{})
	}, want: []string{"d/new: link", "f: link"}}},
	fp.OpOpen: {
		{what: "read", call: openCall(unix.O_RDONLY), want: []string{"f: read"}},
		{what: "write", call: openCall(unix.O_WRONLY), want: []string{"f: write"}},
		{what: "both", call: openCall(unix.O_RDWR), want: []string{"f: read, write"}},
		{what: "truncate", call: openCall(unix.O_RDONLY | unix.O_TRUNC), want: []string{"f: read, write"}},
	},
	fp.OpRead: {{call: func(a *accessTest) unix.Errno {
		return errnoOf(a.fs.Read(a.req(a.file), &fp.ReadIn{Fh: a.fh, Size: 10}, vector(make([]byte, 10), 10)))
	}, want: []string{"f: read"}}},
	fp.OpWrite: {{call: func(a *accessTest) unix.Errno {
		return errnoOf(a.fs.Write(a.req(a.file), &fp.WriteIn{Fh: a.fh, Size: 4}, vector([]byte("data"), 10)))
	}, want: []string{"f: write"}}},
	fp.OpStatfs: {{call: func(a *accessTest) unix.Errno { return a.fs.Statfs(a.req(a.dir), &fp.Kstatfs{}) },
		want: []string{"d: stat"}}},
	fp.OpRelease: {{call: func(a *accessTest) unix.Errno { return a.fs.Release(a.req(a.file), &fp.ReleaseIn{Fh: a.fh}) },
		want: []string{"f: close"}}},
	fp.OpFsync: {{call: func(a *accessTest) unix.Errno { return a.fs.Fsync(a.req(a.file), &fp.FsyncIn{Fh: a.fh}) },
		want: []string{"f: sync"}}},
	fp.OpSetxattr: {{call: func(a *accessTest) unix.Errno {
		return a.fs.Setxattr(a.req(a.file), &fp.SetxattrIn{Size: 1}, name("user.a"), []byte("v"))
	}, want: []string{"f: setattr"}}},
	fp.OpGetxattr: {{call: func(a *accessTest) unix.Errno {
		return absent(errnoOf(a.fs.Getxattr(a.req(a.file), name("user.a"), make([]byte, 10))))
	}, want: []string{"f: read"}}},
	fp.OpListxattr: {{call: func(a *accessTest) unix.Errno { return errnoOf(a.fs.Listxattr(a.req(a.file), make([]byte, 1000))) },
		want: []string{"f: read"}}},
	fp.OpRemovexattr: {{call: func(a *accessTest) unix.Errno { return absent(a.fs.Removexattr(a.req(a.file), name("user.a"))) },
		want: []string{"f: setattr"}}},
	fp.OpFlush: {{call: func(a *accessTest) unix.Errno { return a.fs.Flush(a.req(a.file), &fp.FlushIn{Fh: a.fh}) },
		want: []string{"f: close"}}},
	fp.OpOpendir: {{call: func(a *accessTest) unix.Errno { return a.fs.Opendir(a.req(a.dir), &fp.OpenIn{}, &fp.OpenOut{}) },
		want: []string{"d: read"}}},
	fp.OpReaddir: {{call: func(a *accessTest) unix.Errno { return errnoOf(a.list(a.dir, a.dirFh, 0, 4096, false)) },
		want: []string{"d: read", "d/x: list"}, quiet: 2}},
	fp.OpReaddirplus: {{call: func(a *accessTest) unix.Errno { return errnoOf(a.list(a.dir, a.dirFh, 0, 4096, true)) },
		want: []string{"d: read", "d/x: lookup, list", "x: lookup"}, quiet: 2}},
	fp.OpReleasedir: {{call: func(a *accessTest) unix.Errno { return a.fs.Releasedir(a.req(a.dir), &fp.ReleaseIn{Fh: a.dirFh}) },
		want: []string{"d: close"}}},
	fp.OpFsyncdir: {{call: func(a *accessTest) unix.Errno { return a.fs.Fsyncdir(a.req(a.dir), &fp.FsyncIn{Fh: a.dirFh}) },
		want: []string{"d: sync"}}},
	fp.OpGetlk: {{call: func(a *accessTest) unix.Errno {
		return a.fs.Getlk(a.req(a.file), a.lock(unix.F_WRLCK), &fp.LkOut{})
	}, want: []string{"f: lock"}}},
	fp.OpSetlk: {{call: func(a *accessTest) unix.Errno { return a.fs.Setlk(a.req(a.file), a.lock(unix.F_WRLCK), false) },
		want: []string{"f: lock"}}},
	fp.OpSetlkw: {{call: func(a *accessTest) unix.Errno { return a.fs.Setlk(a.req(a.file), a.lock(unix.F_RDLCK), true) },
		want: []string{"f: lock"}}},
	fp.OpAccess: {
		{what: "exists", call: accessCall(unix.F_OK), want: []string{"f: stat"}},
		{what: "read", call: accessCall(unix.R_OK), want: []string{"f: stat, read"}},
		{what: "write", call: accessCall(unix.W_OK), want: []string{"f: stat, write"}},
	},
	fp.OpCreate: {
		{what: "new", call: createCall("new"), want: []string{"d/new: create"}},
		{what: "existing", call: createCall("x"), want: []string{"d/x: create", "x: read, write"}, late: 2},
	},
	fp.OpTmpfile: {{call: func(a *accessTest) unix.Errno {
		return a.fs.Tmpfile(a.req(a.dir), &fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o600}, &fp.CreateOut{})
	}, want: []string{"d: tmpfile"}}},
	fp.OpIoctl: {
		{what: "get", call: func(a *accessTest) unix.Errno { return a.ioctl(fsIocGetflags) }, want: []string{"f: stat"}},
		{what: "set", call: func(a *accessTest) unix.Errno { return a.ioctl(fsIocSetflags) }, want: []string{"f: setattr"}},
	},
	fp.OpFallocate: {{call: func(a *accessTest) unix.Errno {
		return a.fs.Fallocate(a.req(a.file), &fp.FallocateIn{Fh: a.fh, Length: 100})
	}, want: []string{"f: write"}}},
	fp.OpLseek: {{call: func(a *accessTest) unix.Errno {
		return a.fs.Lseek(a.req(a.file), &fp.LseekIn{Fh: a.fh, Whence: unix.SEEK_HOLE}, &fp.LseekOut{})
	}, want: []string{"f: read"}}},
	fp.OpCopyFileRange:   {{call: copyCall, want: []string{"f: read", "g: write"}}},
	fp.OpCopyFileRange64: {{call: copyCall, want: []string{"f: read", "g: write"}}},
	fp.OpSetupMapping: {
		{what: "read", call: func(a *accessTest) unix.Errno { return a.fs.SetupMapping(a.req(a.file), ptr(linux(0, 0, false))) },
			window: true, quiet: 2, want: []string{"f: read", "f: write"}}, // to be writable from the start
		{what: "write", call: func(a *accessTest) unix.Errno { return a.fs.SetupMapping(a.req(a.file), ptr(linux(0, 0, true))) },
			window: true, want: []string{"f: read, write"}},
	},
	fp.OpSyncfs: {{call: func(a *accessTest) unix.Errno { return a.fs.Syncfs(a.req(fp.RootID)) },
		want: []string{"root: sync"}}},

	// Of these the file system is told nothing, or nothing about a node.
	fp.OpForget:      nowhere(func(a *accessTest) unix.Errno { a.fs.Forget(nil, a.link, 1); return 0 }),
	fp.OpBatchForget: nowhere(func(a *accessTest) unix.Errno { a.fs.Forget(nil, a.link, 1); return 0 }),
	fp.OpInit:        nowhere(func(a *accessTest) unix.Errno { return a.fs.Init(&server.InitParams{}) }),
	fp.OpDestroy:     nowhere(func(a *accessTest) unix.Errno { a.fs.Destroy(); return a.fs.Unmount(a.req(0)) }),
	fp.OpPoll: nowhere(func(a *accessTest) unix.Errno {
		return unimplemented(a.fs.Poll(a.req(a.file), &fp.PollIn{}, &fp.PollOut{}))
	}),
	fp.OpRemoveMapping: {{window: true, call: func(a *accessTest) unix.Errno { return a.remove(0) }}},
	fp.OpInterrupt:     {},
	fp.OpBmap:          {},
	fp.OpNotifyReply:   {},
}

func openCall(flags uint32) func(*accessTest) unix.Errno {
	return func(a *accessTest) unix.Errno {
		return a.fs.Open(a.req(a.file), &fp.OpenIn{Flags: flags}, &fp.OpenOut{})
	}
}

func accessCall(mask uint32) func(*accessTest) unix.Errno {
	return func(a *accessTest) unix.Errno { return a.fs.Access(a.req(a.file), &fp.AccessIn{Mask: mask}) }
}

// createCall makes or opens a file in d.
func createCall(file string) func(*accessTest) unix.Errno {
	return func(a *accessTest) unix.Errno {
		in := &fp.CreateIn{Flags: unix.O_RDWR, Mode: 0o600}
		return a.fs.Create(a.req(a.dir), in, name(file), &fp.CreateOut{})
	}
}

func copyCall(a *accessTest) unix.Errno {
	in := &fp.CopyFileRangeIn{FhIn: a.fh, NodeIDOut: a.other, FhOut: a.otherFh, Len: 3}
	return errnoOf(a.fs.CopyFileRange(a.req(a.file), in))
}

func (a *accessTest) lock(typ uint32) *fp.LkIn {
	return &fp.LkIn{Fh: a.fh, Owner: 1, Lk: fp.FileLock{Type: typ, End: 1 << 62}}
}

func (a *accessTest) ioctl(cmd uint32) unix.Errno {
	errno := errnoOf(a.fs.Ioctl(a.req(a.file), &fp.IoctlIn{Fh: a.fh, Cmd: cmd}, make([]byte, 4), &fp.IoctlOut{}, make([]byte, 4)))
	if errno == unix.ENOTTY || errno == unix.EOPNOTSUPP {
		return 0 // the host's file system has no flags
	}
	return errno
}

// absent and unimplemented take the answers that are expected for success.
func absent(errno unix.Errno) unix.Errno {
	if errno == unix.ENODATA {
		return 0
	}
	return errno
}

func unimplemented(errno unix.Errno) unix.Errno {
	if errno == unix.ENOSYS {
		return 0
	}
	return errno
}

func ptr[T any](v T) *T { return &v }

// TestEveryRequestEnters has every opcode say what it wants, and that before it does
// anything on the host.
func TestEveryRequestEnters(t *testing.T) {
	for op := fp.Opcode(1); op < fp.NumOpcodes; op++ {
		if strings.HasPrefix(op.String(), "opcode ") {
			continue // there is none with this number
		}
		rows, ok := accessRows[op]
		if !ok {
			t.Errorf("%v has no row", op)
		}
		for _, row := range rows {
			t.Run(op.String()+" "+row.what, func(t *testing.T) { row.run(t) })
		}
	}
}

func (row *accessRow) run(t *testing.T) {
	a := newAccessTest(t, row.window)
	wantErrno(t, "allowed", row.call(a), 0)
	if !slices.Equal(a.policy.asked, row.want) {
		t.Errorf("asked for %q, want %q", a.policy.asked, row.want)
	}
	a.fs.policy = nil
	for i := range row.want {
		question := i + 1
		t.Run("refused "+strconv.Itoa(question), func(t *testing.T) {
			a := newAccessTest(t, row.window)
			a.policy.refuse = question
			var errno unix.Errno
			calls := countCalls(func() { errno = row.call(a) })
			if row.quiet > 0 && question >= row.quiet {
				wantErrno(t, row.want[i], errno, 0)
				return
			}
			wantErrno(t, row.want[i], errno, refused)
			if calls != 0 && (row.late == 0 || question < row.late) {
				t.Errorf("%d system calls before it was refused", calls)
			}
			if n := len(a.policy.asked); n != question {
				t.Errorf("%d questions, and the one with number %d was refused", n, question)
			}
		})
	}
}

// TestRefusedNamesAreNotListed: a listing goes on behind a name that is refused.
func TestRefusedNamesAreNotListed(t *testing.T) {
	for _, plus := range []bool{false, true} {
		a := newAccessTest(t, false)
		a.fs.policy = nil
		for i := range 300 {
			a.write("d/"+strconv.Itoa(i), "")
		}
		a.fs.policy = hides("x")
		seen := map[string]int{}
		for off := uint64(0); ; {
			list, errno := a.list(a.dir, a.dirFh, off, 1000, plus)
			if errno != 0 {
				t.Fatal(errno)
			}
			if len(list) == 0 {
				break
			}
			for _, e := range list {
				seen[e.name]++
			}
			off = list[len(list)-1].off
		}
		if seen["x"] != 0 || len(seen) != 302 || seen["299"] != 1 {
			t.Errorf("plus %v: %d names, x %d times", plus, len(seen), seen["x"])
		}
	}
}

// hides is a policy that refuses one name.
type hides string

func (hides) node(*inode, intent) unix.Errno { return 0 }

func (h hides) name(_ *inode, name fp.Name, _ intent) unix.Errno {
	if string(name.Bytes()) == string(h) {
		return refused
	}
	return 0
}

// TestRefusedNodesAreNotTold: a node that is refused when a lookup has found it, as another
// name of a hidden file, is not told of, and is not kept.
func TestRefusedNodesAreNotTold(t *testing.T) {
	g := newShare(t, nil, 0).guest()
	g.write("f", "")
	dh := g.open(fp.RootID, unix.O_DIRECTORY)
	g.fs.policy = unknowable{}
	var out fp.EntryOut
	wantErrno(t, "lookup", g.fs.Lookup(g.on(fp.RootID), name("f"), &out), refused)
	list, errno := g.list(fp.RootID, dh, 0, 4096, true)
	if len(list) != 2 || errno != 0 || out.NodeID != 0 {
		t.Errorf("listed %+v, %v, looked up %+v", list, errno, out)
	}
	for n := range g.fs.nodes.All {
		if n.ID() != fp.RootID {
			t.Errorf("node %d is kept", n.ID())
		}
	}
}

// unknowable is a policy that refuses to tell of any node.
type unknowable struct{}

func (unknowable) name(*inode, fp.Name, intent) unix.Errno { return 0 }

func (unknowable) node(_ *inode, want intent) unix.Errno {
	if want == intentLookup {
		return refused
	}
	return 0
}

// TestRebindingEnters: a node that has lost its descriptor is not found again in a place,
// or by a handle, that is refused.
func TestRebindingEnters(t *testing.T) {
	stat := func(g *guest, node uint64) unix.Errno {
		return g.fs.Statfs(g.on(node), &fp.Kstatfs{})
	}
	closed := func(g *guest) uint64 {
		g.write("f", "")
		node := g.lookup(fp.RootID, "f")
		if g.fs.nodes.Get(node).fd.Load() >= 0 {
			t.Fatal("the node has a descriptor")
		}
		return node
	}
	g := newShare(t, nil, 0).guest()
	node := closed(g)
	p := &recorder{names: map[uint64]string{fp.RootID: "root", node: "f"}, refuse: 2}
	g.fs.policy = p
	wantErrno(t, "by name", stat(g, node), refused)
	if want := []string{"f: stat", "root/f: rebind"}; !slices.Equal(p.asked, want) {
		t.Errorf("asked for %q, want %q", p.asked, want)
	}
	g.hostRename("f", "moved")
	g.fs.policy = hides("moved")
	wantErrno(t, "renamed to a name that is refused", stat(g, node), unix.ESTALE)
	g.fs.policy = hides("another")
	wantErrno(t, "renamed", stat(g, node), 0)

	g = withHandles(t, HandlesMandatory, 0)
	node = closed(g)
	p = &recorder{names: map[uint64]string{fp.RootID: "root", node: "f"}, refuse: 2}
	g.fs.policy = p
	wantErrno(t, "by handle", stat(g, node), 0) // it is found by name
	if want := []string{"f: stat", "f: rebind", "root/f: rebind"}; !slices.Equal(p.asked, want) {
		t.Errorf("asked for %q, want %q", p.asked, want)
	}
}

// TestOpenlessEnters: a client that opens nothing asks with every read.
func TestOpenlessEnters(t *testing.T) {
	g := immutable(t, 1, 0, openlessFlags)
	node := g.lookup(fp.RootID, "f0")
	p := &recorder{names: map[uint64]string{fp.RootID: "root", node: "f0"}, refuse: 3}
	g.fs.policy = p
	_, errno := g.readAt(node, 0, 0, 10)
	wantErrno(t, "allowed", errno, 0)
	_, errno = g.readAt(node, 0, 0, 10)
	wantErrno(t, "refused", errno, refused)
	if want := []string{"f0: read", "root/f0: rebind", "f0: read"}; !slices.Equal(p.asked, want) {
		t.Errorf("asked for %q, want %q", p.asked, want)
	}
}
